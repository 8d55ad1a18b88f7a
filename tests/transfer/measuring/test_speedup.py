"""The speed-up: exact on laws that are known, honest at its bounds, and by the command line."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import transfer
from completedp.cli.app import main
from completedp.config import DataConfig
from completedp.errors import UserError
from completedp.models import training_flops
from completedp.recipe import Recipe
from completedp.runs.job import Outcome
from transfer.measuring.speedup import Setting, report, runs, speedup, table
from transfer.planning.planner import base_plan

FRACTIONS = (0.25, 0.35, 0.5, 0.7, 1.0)


def law(fraction: float, factor: float = 1.0) -> float:
    """The loss after a fraction of the tokens, each worth `factor` tokens."""
    return 1.5 + 0.4 * (fraction * factor) ** -0.3


def arms(
    factor: float, noise: float = 0.0, seed: int = 0, seeds: int = 4
) -> tuple[dict[int, float], dict[float, dict[int, float]]]:
    rng = np.random.default_rng(seed)
    numbers = range(seeds)
    baseline = {s: law(1.0) + float(rng.normal(0, noise)) for s in numbers}
    tuned = {
        f: {s: law(f, factor) + float(rng.normal(0, noise)) for s in numbers} for f in FRACTIONS
    }
    return baseline, tuned


@given(factor=st.floats(1.02, 3.9))
def test_a_known_factor_is_found(factor: float) -> None:
    """The error is that of a line between two horizons against the curve."""
    found = speedup(*arms(factor))
    assert found is not None
    assert found.factor == pytest.approx(factor, rel=0.02)
    assert found.low == pytest.approx(found.factor) == pytest.approx(found.high)
    assert found.bound == ""


def test_beyond_the_horizons_it_is_a_bound() -> None:
    most, none = speedup(*arms(6.0)), speedup(*arms(0.8))
    assert most is not None
    assert none is not None
    assert (most.factor, most.bound, most.high) == (4.0, "at least", None)
    assert (none.factor, none.bound, none.low, none.high) == (1.0, "below", None, 1.0)


def test_one_horizon_that_is_better_is_a_bound_and_not_a_tie() -> None:
    found = speedup({0: 2.0, 1: 2.1}, {1.0: {0: 1.5, 1: 1.6}})
    assert found is not None
    assert (found.factor, found.bound, found.high) == (1.0, "at least", None)


def test_what_the_table_says_of_a_bound() -> None:
    losses: dict[str, Any] = {"baseline": {"1.0": {"0": 2.0}}, "tuned": {"1.0": {"0": 2.0}}}
    target = {"width": 1, "depth": 1, "tokens": 1}
    row = {"scale": 1.0, "flops": 1.0, "target": target, "losses": losses, "diverged": {}}

    def said(least: float, **found: Any) -> str:
        difference = {"mean": 0.0, "low": least, "high": 0.1}
        rows = table({"rows": [{**row, "difference": difference, "speedup": found}]})[1]
        return rows[0][-1]

    at_least = {"factor": 4.0, "low": 1.55, "high": None, "bound": "at least"}
    assert said(-0.1, **at_least) == "at least 4.00 on the mean [1.55, beyond]"
    wide = {"factor": 1.4, "low": None, "high": 2.5, "bound": ""}
    assert said(-0.1, **wide) == "1.40 [under 1, 2.50]"
    below = {"factor": 1.0, "low": None, "high": None, "bound": "below"}
    assert said(0.01, **below) == "below 1"
    assert said(-0.01, **below) == "1 not reached"  # a tie, or too few seeds


def test_the_share_of_the_tokens_is_that_of_whole_steps(recipe: Recipe) -> None:
    """24 steps: .35 of them are 8, a third."""
    setting = Setting(scales=(1.0,), fractions=(0.35, 1.0), seeds=(0, 1))
    wanted = runs(recipe, recipe.baseline, setting)
    outcomes = {
        i: Outcome(trial=i, status="completed", loss=2.0 - (run.arm == "tuned"), steps=1, tokens=1,
                   seconds=1.0, seed=run.seed)
        for i, run in enumerate(wanted)
    }  # fmt: skip
    (row,) = report(recipe, recipe.baseline, setting, wanted, outcomes)["rows"]
    assert row["speedup"]["factor"] == pytest.approx(3.0)
    assert set(row["losses"]["tuned"]) == {str(1 / 3), "1.0"}


def test_tokens_that_are_no_whole_batch_are_not_trained_and_do_not_count(recipe: Recipe) -> None:
    """Five steps and most of a sixth: half of five steps is rounded to two."""
    train = dataclasses.replace(recipe.train, tokens=256 * 5 + 200)
    uneven = dataclasses.replace(recipe, train=train)
    setting = Setting(scales=(1.0,), fractions=(0.5, 1.0), seeds=(0, 1))
    wanted = runs(uneven, uneven.baseline, setting)
    (row,) = report(uneven, uneven.baseline, setting, wanted, {})["rows"]
    assert set(row["losses"]["tuned"]) == {str(2 / 5), "1.0"}


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    found = [speedup(*arms(2.0, noise=0.01, seed=i)) for i in range(200)]
    held = [f.low < 2.0 < f.high for f in found if f and f.low and f.high]
    assert len(held) == 200
    assert 0.88 < np.mean(held) < 0.995


@pytest.mark.parametrize(("factor", "seeds"), [(3.8, 3), (3.8, 8), (4.2, 3), (1.05, 4)])
def test_near_the_ends_of_what_is_measured_it_does_too(factor: float, seeds: int) -> None:
    """Cut off at the shortest horizon, all seeds would agree there and `low` would be its factor."""
    found = [speedup(*arms(factor, noise=0.01, seed=i, seeds=seeds)) for i in range(300)]
    assert all(found)
    least = np.array([f.low or 0.0 for f in found if f])
    most = np.array([f.high or math.inf for f in found if f])
    assert np.mean((least <= factor) & (factor <= most)) > 0.9


def test_for_one_horizon_the_jackknife_is_students_interval() -> None:
    """The estimate is linear in the means if all crossings are on one straight piece."""
    from scipy.stats import t as student

    baseline = {s: 2.0 + d for s, d in enumerate((-0.01, 0.0, 0.02, 0.01))}
    tuned = {0.5: dict.fromkeys(range(4), 2.1), 1.0: dict.fromkeys(range(4), 1.9)}
    found = speedup(baseline, tuned)
    assert found is not None
    octaves = [(2.1 - b) / 0.2 for b in baseline.values()]
    reach = student.ppf(0.975, 3) * np.std(octaves, ddof=1) / 2
    assert found.high is not None
    assert math.log2(found.high / found.factor) == pytest.approx(reach)
    assert math.log2(found.factor) == pytest.approx(1 - np.mean(octaves))


@given(shift=st.floats(-1, 1), seed=st.integers(0, 3))
def test_one_seed_more_difficult_changes_nothing(shift: float, seed: int) -> None:
    """Pairing: a loss that a seed adds to both arms at every horizon is no gain."""
    baseline, tuned = arms(2.0, noise=0.003)
    before = speedup(baseline, tuned)
    baseline[seed] += shift
    for losses in tuned.values():
        losses[seed] += shift
    after = speedup(baseline, tuned)
    assert before is not None
    assert after is not None
    assert after.factor == pytest.approx(before.factor)


def test_a_seed_with_a_lost_run_does_not_count() -> None:
    baseline, tuned = arms(2.0)
    del tuned[0.5][1]
    found = speedup(baseline, tuned)
    assert found is not None
    assert found.seeds == 3
    assert speedup({0: 1.0}, {1.0: {0: 1.0}}) is None


def test_runs_are_whole_schedules_of_one_model(recipe: Recipe) -> None:
    setting = Setting(scales=(16.0, 1.0), fractions=(0.5, 1.0), seeds=(3, 4))
    wanted = runs(recipe, recipe.baseline, setting)
    assert [(r.scale, r.seed, r.arm, r.fraction) for r in wanted[:4]] == [
        (1.0, 3, "baseline", 1.0),
        (1.0, 3, "tuned", 1.0),
        (1.0, 3, "tuned", 0.5),
        (1.0, 4, "baseline", 1.0),
    ]
    assert len(wanted) == 12
    assert wanted[1].plan.resolved == base_plan(recipe).resolved
    half, whole = wanted[2].plan, wanted[1].plan
    assert half.model == whole.model
    assert half.train.steps == whole.train.steps / 2
    assert half.ratios.tokens == 0.5
    carried = wanted[6].plan
    base_flops = training_flops(recipe.model, recipe.train.tokens)
    assert carried.flops == pytest.approx(16 * base_flops, rel=0.02)
    assert carried.model.width > recipe.model.width
    # The baseline's values are global: all tensors are alike at the base.
    assert len({row.lr for row in wanted[0].plan.tensors}) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scales": ()}, "scales are none"),
        ({"scales": (1.0, 1.0)}, "each once"),
        ({"scales": (0.0,)}, "scales are 0"),
        ({"fractions": (0.5,)}, "expected 1 among them"),
        ({"fractions": (1.0, 1.5)}, "shares of the tokens"),
        ({"seeds": (0,)}, "seeds are 0; expected two or more"),
        ({"seeds": (3, 3)}, "seeds are 3, 3; expected two or more .*, each once"),
    ],
)
def test_settings_that_measure_nothing_are_refused(changes: dict[str, Any], said: str) -> None:
    whole: dict[str, Any] = {"scales": (1.0,), "fractions": (0.5, 1.0), "seeds": (0, 1)}
    Setting(**whole)
    with pytest.raises(UserError, match=said):
        Setting(**{**whole, **changes})


def test_nothing_run_yet_is_a_row_without_figures(recipe: Recipe) -> None:
    setting = Setting(scales=(1.0,), fractions=(1.0,), seeds=(0, 1, 2))
    wanted = runs(recipe, recipe.baseline, setting)
    document = report(recipe, recipe.baseline, setting, wanted, {})
    (row,) = document["rows"]
    assert (row["runs_missing"], row["difference"], row["speedup"]) == (6, None, None)


def test_by_the_command_line(
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A second call with one more scale trains only that scale, and gives the same for the first."""
    recipe.write(tmp_path / "mine" / "recipe.yaml")

    def call(*arguments: str) -> tuple[int, str, str]:
        command = ["completedp", "speedup", str(tmp_path / "mine" / "recipe.yaml"), *arguments]
        monkeypatch.setattr(
            "sys.argv", [*command, "--root", str(tmp_path / "runs"), "--device", "cpu"]
        )
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    few = ["--seeds", "2", "--fractions", "0.5,1"]
    status, out, _ = call("--scales", "1", *few)
    assert status == 0
    assert out.count(": loss ") == 6
    assert "speed-up" in out
    status, out, err = call("--scales", "1,2", *few, "--workers", "1", "--json")
    assert status == 0
    assert err.count(": loss ") == 6
    document = json.loads(out)
    assert [row["scale"] for row in document["rows"]] == [1.0, 2.0]
    assert document == json.loads(
        (tmp_path / "runs" / "speedups" / "mine" / "speedup.json").read_text()
    )
    said: list[str] = []
    asked = {
        "scales": (1, 2),
        "fractions": (0.5, 1),
        "seeds": 2,
        "device": "cpu",
        "on_line": said.append,
    }
    recipe_file, root = tmp_path / "mine" / "recipe.yaml", tmp_path / "runs"
    assert transfer.speedup(recipe_file, root=root, **asked) == document
    assert "12 runs, 12 of them finished before" in said
    assert transfer.speedup(recipe, root=root, dry_run=True, **asked) is None
    losses = document["rows"][0]["losses"]
    assert losses["tuned"]["1.0"] != losses["baseline"]["1.0"]
    status, out, err = call("--scales", "1,1e6", *few)
    assert status == 2
    assert "--yes" in err


def test_runs_on_two_texts_do_not_meet_in_one_mean(
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"line {i * i}\n" for i in range(12_000)))
    provenance = {**recipe.provenance, "data": {"digest": "sha256:of-another-text"}}
    own = dataclasses.replace(recipe, data=DataConfig(source=str(text)), provenance=provenance)
    own.write(tmp_path / "mine" / "recipe.yaml")

    def call() -> tuple[str, str]:
        command = ["completedp", "speedup", str(tmp_path / "mine" / "recipe.yaml"), "--scales", "1"]
        rest = ["--seeds", "2", "--fractions", "1", "--root", str(tmp_path / "runs")]
        monkeypatch.setattr("sys.argv", [*command, *rest, "--device", "cpu", "--workers", "1"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        said = capsys.readouterr()
        return said.out, said.err

    out, err = call()
    assert "4 runs, 0 of them finished before" in out
    assert "is not the one the recipe was tuned on" in err
    assert "4 runs, 4 of them finished before" in call()[0]
    text.touch()
    assert "4 runs, 4 of them finished before" in call()[0]
    text.write_text(text.read_text() + "one line more\n")
    assert "4 runs, 0 of them finished before" in call()[0]
