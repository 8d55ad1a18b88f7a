"""The transfer check: the runs it asks for, its report on known curves, and the command line."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import transfer
from completedp.cli.app import main
from completedp.config import DataConfig
from completedp.errors import UserError
from completedp.hparams import HParams
from completedp.recipe import Recipe
from completedp.runs.job import Outcome
from completedp.runs.sweep import identity
from completedp.training.jobs import plan_jobs
from transfer.measuring.figure import draw
from transfer.measuring.report import report
from transfer.measuring.table import exponents, table
from transfer.measuring.transfer_check import Run, Setting, runs, times
from transfer.planning.planner import make_plan

OCTAVES = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
CURVATURE = 0.04
SEEDS = (3, 4, 5)
Law = Callable[[Run], float | None]


def setting(**changes: Any) -> Setting:
    whole: dict[str, Any] = {
        "axis": "width",
        "ratios": (1.0, 2.0, 4.0),
        "factors": tuple(2**octave for octave in OCTAVES),
        "seeds": SEEDS,
        "parameterizations": ("completed-p", "sp-fan-in"),
    }
    return Setting(**{**whole, **changes})


def moving(by: float, noise: float = 0.0) -> Law:
    """The optimum moves `by` octaves per doubling along the axis; seeds differ by .01."""

    def law(run: Run) -> float:
        optimum = 0.2 + by * math.log2(run.ratio)
        loss = 2 - 0.1 * math.log2(run.ratio)
        wobble = noise * math.sin(run.seed * 7 + run.factor)
        return (
            loss
            + CURVATURE * (math.log2(run.factor) - optimum) ** 2
            + (run.seed - 4) * 0.01
            + wobble
        )

    return law


def reported(recipe: Recipe, asked: Setting, law: Law) -> dict[str, Any]:
    wanted = runs(recipe, asked)
    outcomes = {
        i: Outcome(
            trial=i,
            status="diverged" if (loss := law(run)) is None else "completed",
            loss=loss,
            steps=1,
            tokens=1,
            seconds=0.0,
            seed=run.seed,
        )
        for i, run in enumerate(wanted)
    }
    document = report(recipe, asked, wanted, outcomes)
    json.dumps(document, allow_nan=False)
    return document


def test_runs_are_the_recipe_at_each_scale_with_its_learning_rates_multiplied(
    recipe: Recipe,
) -> None:
    asked = setting(which="tuned", factors=(0.5, 1.0, 2.0))
    wanted = runs(recipe, asked)
    assert len(wanted) == 3 * 2 * 3 * 3
    assert [(r.seed, r.factor) for r in wanted[:4]] == [(3, 0.5), (3, 1.0), (3, 2.0), (4, 0.5)]
    wide = [r for r in wanted if (r.parameterization, r.ratio, r.seed) == ("completed-p", 4.0, 3)]
    half, whole, _ = (r.plan for r in wide)
    assert whole.scale == dataclasses.replace(recipe.base, width=128)
    assert whole.resolved == make_plan(recipe, whole.scale, whole.model).resolved
    for few, many in zip(half.tensors, whole.tensors, strict=True):
        assert few == dataclasses.replace(many, lr=many.lr / 2)


def test_one_axis_moves_and_the_tokens_stay(recipe: Recipe) -> None:
    few = {"factors": (0.5, 1.0, 2.0), "parameterizations": ("completed-p",)}
    plans = {r.ratio: r.plan for r in runs(recipe, setting(axis="batch", ratios=(1, 0.25), **few))}
    assert plans[0.25].scale == dataclasses.replace(recipe.base, batch=64)
    assert plans[0.25].train.steps == 4 * plans[1].train.steps
    plans = {r.ratio: r.plan for r in runs(recipe, setting(axis="tokens", ratios=(1, 3), **few))}
    assert plans[3].scale == dataclasses.replace(recipe.base, tokens=3 * recipe.base.tokens)
    (flat,) = {r.plan.train.schedule for r in runs(recipe, setting(schedule="wsd", **few))}
    assert flat == "wsd"
    assert times(recipe.baseline, "lr", 3.0).global_.lr == 3 * recipe.baseline.global_.lr


@pytest.mark.parametrize("options", [{}, {"decay": "independent"}])
@pytest.mark.parametrize("swept", ["weight_decay", "eps"])
def test_another_value_than_the_learning_rate_is_swept_alone(
    recipe: Recipe, swept: str, options: dict[str, Any]
) -> None:
    asked = setting(
        which="tuned", swept=swept, factors=(0.5, 1.0, 2.0), seeds=(3, 4), options=options
    )
    wide = [r for r in runs(recipe, asked) if (r.parameterization, r.ratio) == ("sp-fan-in", 4.0)]
    half, whole, _ = (r.plan for r in wide[:3])
    for few, many in zip(half.tensors, whole.tensors, strict=True):
        assert getattr(few, swept) == pytest.approx(getattr(many, swept) / 2)
        assert dataclasses.replace(few, **{swept: getattr(many, swept)}) == many
    assert any(row.weight_decay for row in whole.tensors)
    undecayed = HParams.from_dict({"global": {"lr": 0.01, "weight_decay": 0.0}})
    with pytest.raises(UserError, match="0 times a factor is 0"):
        runs(
            dataclasses.replace(recipe, baseline=undecayed),
            dataclasses.replace(asked, swept="weight_decay", which="baseline"),
        )


def test_at_the_base_all_parameterizations_are_the_same_jobs(recipe: Recipe) -> None:
    wanted = [r for r in runs(recipe, setting(factors=(0.5, 1, 2))) if r.ratio == 1]
    jobs = plan_jobs([(r.plan, r.seed) for r in wanted], cache=Path("data"), device="cpu")
    assert len(wanted) == 18
    assert len({identity(job) for job in jobs}) == 9


def test_rule_options_go_where_they_are_known(recipe: Recipe) -> None:
    asked = setting(axis="tokens", options={"duration_exponent": 0.25, "decay": "independent"})
    of = {r.parameterization: r.plan.options for r in runs(recipe, asked)}
    assert of["completed-p"].duration_exponent == 0.25
    assert of["sp-fan-in"].duration_exponent == 0.5
    assert {options.decay for options in of.values()} == {"independent"}
    turned = dataclasses.replace(asked, parameterizations=("sp-fan-in", "completed-p"))
    with pytest.raises(UserError, match="no meaning under 'sp-fan-in'"):
        runs(recipe, turned)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"axis": "widht"}, "did you mean 'width'"),
        ({"which": "best"}, "unknown which 'best'"),
        ({"schedule": "wds"}, "did you mean 'wsd'"),
        ({"ratios": (2.0, 4.0)}, "expected 1 among them"),
        ({"ratios": (1.0,)}, "ratios are 1; expected 2 or more"),
        ({"ratios": (1.0, -2.0)}, "ratios are 1, -2"),
        ({"factors": (1.0, 2.0)}, "expected 3 or more"),
        ({"factors": (1.0, 1.0, 2.0)}, "each once"),
        ({"factors": (1.0, math.inf, 2.0)}, "finite numbers"),
        ({"seeds": (1,)}, "seeds are 1; expected two or more"),
        ({"parameterizations": ("sp", "sp")}, "each once"),
    ],
)
def test_settings_that_measure_nothing_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        setting(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ratios": (1.0, 1.3)}, "gives 41.6, the base's being 32"),
        ({"ratios": (1.0, 0.75)}, "width is 24"),
        ({"axis": "batch", "ratios": (1.0, 0.5, 0.375)}, "batch is 96 tokens"),
        ({"axis": "tokens", "ratios": (1.0, 0.001)}, "at least one batch"),
        ({"parameterizations": ("mu",)}, "unknown parameterization"),
    ],
)
def test_scales_that_cannot_be_are_refused(
    recipe: Recipe, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        runs(recipe, setting(**changes))


def test_the_loss_lost_of_a_known_curve(recipe: Recipe) -> None:
    document = reported(recipe, setting(), moving(by=0.7))
    rows = document["parameterizations"][0]["rows"]
    assert [row["optimum"]["octaves"]["value"] for row in rows] == pytest.approx([0.2, 0.9, 1.6])
    for row, moved in zip(rows, (0, 0.7, 1.4), strict=True):
        lost = CURVATURE * moved**2
        assert row["moved"]["value"] == pytest.approx(moved)
        assert row["moved"]["high"] == pytest.approx(moved)
        carried = row["carried"]
        assert carried["lost"]["value"] == pytest.approx(lost)
        best = row["optimum"]["loss"]
        assert carried["lost_percent"]["value"] == pytest.approx(100 * lost / best, abs=1e-9)
        assert carried["loss"] - best == pytest.approx(lost)
        assert carried["seed_spread"] == pytest.approx(0.01)


def test_the_verdict_is_on_the_first_parameterization(recipe: Recipe) -> None:
    def law(run: Run) -> float | None:
        return moving(by=0 if run.parameterization == "completed-p" else -0.7)(run)

    assert reported(recipe, setting(), law)["verdict"] == {"carries": True, "reasons": []}
    turned = setting(parameterizations=("sp-fan-in", "completed-p"))
    verdict = reported(recipe, turned, law)["verdict"]
    assert not verdict["carries"]
    assert [reason[:17] for reason in verdict["reasons"]] == [
        "width x 2: 0.0196",
        "width x 4: 0.0784",
    ]


@pytest.mark.parametrize(
    ("by", "seeds_apart", "carries"),
    [(0.49, 0.0, True), (0.55, 0.0, False), (0.55, 0.015, True)],
    ids=["half an octave", "more", "within a seed's spread"],
)
def test_what_passes(recipe: Recipe, by: float, seeds_apart: float, carries: bool) -> None:
    """The move by .55 octaves loses .0121 of 1.9, or 0.64 %: more than 0.3 %."""

    def law(run: Run) -> float:
        return moving(by)(run) + (run.seed - 4) * (seeds_apart - 0.01)

    asked = setting(ratios=(1.0, 2.0))
    assert reported(recipe, asked, law)["verdict"]["carries"] is carries


def test_an_optimum_at_the_edge_is_no_number(recipe: Recipe) -> None:
    document = reported(recipe, setting(), moving(by=1.2))
    row = document["parameterizations"][0]["rows"][2]
    assert row["optimum"] == {
        "place": "high edge",
        "octaves": None,
        "loss": None,
        "parabola": None,
    }
    assert row["candidates"] == list(setting().factors)
    assert row["moved"] is row["carried"]["lost"] is None
    assert row["carried"]["lost_to_edge"] == pytest.approx(CURVATURE * (2.4**2 - 0.6**2))
    lost = row["carried"]["lost_to_edge"]
    of_its_best = 100 * lost / (row["carried"]["loss"] - lost)
    assert any(f"{of_its_best:.2f} to the edge" in cells for cells in table(document)[1])
    assert document["parameterizations"][0]["exponent"] is None
    assert any("give higher --factors; to that edge" in r for r in document["verdict"]["reasons"])


def test_without_an_optimum_at_the_base_nothing_is_carried(recipe: Recipe) -> None:
    document = reported(recipe, setting(), lambda run: 2.0 - math.log2(run.factor))
    assert document["verdict"]["reasons"][0].startswith("at the base the optimum is at the highest")
    assert {row["carried"] for row in document["parameterizations"][0]["rows"]} == {None}


def test_a_factor_with_a_diverged_seed_is_no_candidate(recipe: Recipe) -> None:
    """It would have the lowest mean here. If it is beside the carried learning rate, the rule fails."""

    def law(run: Run) -> float | None:
        if run.ratio == 4 and run.factor > 2 and run.seed == 4:
            return None
        return moving(by=0)(run) - (run.factor > 2)

    document = reported(recipe, setting(factors=(0.25, 0.5, 0.707, 1, 1.414, 2, 2.5)), law)
    base, _, wide = document["parameterizations"][0]["rows"]
    assert base["optimum"]["place"] == "high edge"
    assert (wide["optimum"]["place"], wide["diverged"]) == ("inside", {"2.5": 1})
    assert len(wide["losses"]["2.5"]) == 2

    def falls(run: Run) -> float | None:
        return None if run.ratio == 4 and run.factor > 1 else moving(by=-1)(run)

    document = reported(recipe, setting(), falls)
    wide = document["parameterizations"][0]["rows"][2]
    assert wide["carried"] is None
    assert "runs diverge beside" in document["verdict"]["reasons"][-1]


def test_no_curve_is_drawn_over_runs_that_diverged(recipe: Recipe) -> None:
    """A higher factor that happens to complete does not count as a neighbor of the lowest mean."""

    def law(run: Run) -> float | None:
        hole = run.ratio == 2 and run.factor in (1.414, 2)
        return None if hole else moving(by=0.0)(run)

    asked = setting(ratios=(1.0, 2.0), factors=(0.25, 0.5, 0.707, 1, 1.414, 2, 4))
    document = reported(recipe, asked, law)
    row = document["parameterizations"][0]["rows"][1]
    assert row["candidates"] == [0.25, 0.5, 0.707, 1]
    assert row["optimum"]["place"] == "high edge"
    assert row["carried"] is None, "the base's optimum, .2 octaves up, is beside them"
    assert not document["verdict"]["carries"]


def test_an_edge_where_runs_diverge_asks_for_factors_between(recipe: Recipe) -> None:
    def law(run: Run) -> float | None:
        return None if run.factor > 2 else 2 - 0.1 * math.log2(run.factor)

    (reason,) = reported(recipe, setting(), law)["verdict"]["reasons"]
    assert "at factor 2 or between it and 2.82843, where runs diverge" in reason


@pytest.mark.parametrize(("name", "rule"), [("completed-p", 0.25), ("sp", 0.0)])
def test_the_duration_exponent_is_the_rules_less_the_power(
    recipe: Recipe, name: str, rule: float
) -> None:
    options = {"duration_exponent": 0.25} if name == "completed-p" else {}
    asked = setting(axis="tokens", parameterizations=(name,), options=options)
    document = reported(recipe, asked, moving(by=-0.2, noise=0.001))
    (part,) = document["parameterizations"]
    power, duration = part["exponent"], part["duration_exponent"]
    assert power["value"] == pytest.approx(-0.2, abs=0.03)
    assert power["low"] < power["value"] < power["high"]
    assert duration["rule"] == rule
    assert duration["fitted"]["value"] == pytest.approx(rule + 0.2, abs=0.03)
    assert duration["fitted"]["low"] == pytest.approx(rule - power["high"])
    assert f"where its rule has {rule:g}" in next(exponents(document))


def test_missing_runs_leave_no_verdict(recipe: Recipe, tmp_path: Path) -> None:
    asked = setting()
    wanted = runs(recipe, asked)
    document = report(recipe, asked, wanted, {})
    assert document["verdict"] is None
    assert [row["runs_missing"] for row in document["parameterizations"][0]["rows"]] == [27] * 3
    columns, rows = table(document)
    assert {len(row) for row in rows} == {len(columns)}
    draw(document, tmp_path / "empty.png")


def test_the_figure_and_table_take_every_case(recipe: Recipe, tmp_path: Path) -> None:
    def law(run: Run) -> float | None:
        if run.parameterization == "sp-fan-in" and run.factor * run.ratio > 4:
            return None
        return moving(by=0.6, noise=0.01)(run)

    document = reported(recipe, setting(), law)
    draw(document, tmp_path / "check.png")
    assert (tmp_path / "check.png").stat().st_size > 20_000
    _, rows = table(document)
    assert [row[0] for row in rows] == ["completed-p"] * 3 + ["sp-fan-in"] * 3
    assert float(rows[1][3].split()[0]) == pytest.approx(0.8, abs=0.05)
    assert [row[5].split()[-1] for row in rows[3:]] == ["base", "edge", "diverges"]
    with pytest.raises(UserError, match="cannot be written"):
        draw(document, tmp_path)


def test_by_the_command_line(
    recipe: Recipe,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A second call trains only new runs: none at the base for another parameterization."""
    mine = tmp_path / "mine" / "recipe.yaml"
    short = dataclasses.replace(recipe.train, tokens=256 * 12)
    data = DataConfig(source=str(text))
    dataclasses.replace(recipe, train=short, data=data).write(mine)
    folder = tmp_path / "runs" / "transfer-checks" / "mine"

    def call(*arguments: str) -> tuple[int, str, str]:
        command = ["completedp", "transfer-check", str(mine), "--axis", "tokens", *arguments]
        few = ["--ratios", "0.5,1", "--factors", "0.5,1,2", "--seeds", "2", "--device", "cpu"]
        monkeypatch.setattr("sys.argv", [*command, *few, "--root", str(tmp_path / "runs")])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    one = ["--parameterizations", "completed-p", "--workers", "1"]
    status, out, _ = call(*one, "--dry-run")
    assert (status, out.splitlines()[1]) == (0, "12 runs, 0 of them finished before")
    assert not folder.exists()
    status, out, _ = call(*one)
    first = json.loads((folder / "baseline-lr-tokens-cosine.json").read_text())
    assert status == (0 if first["verdict"]["carries"] else 1)
    assert out.count(": loss ") == 12
    assert "the learning rate" in out
    assert (folder / "baseline-lr-tokens-cosine.png").exists()
    status, out, err = call("--workers", "1", "--json")
    assert err.splitlines()[1] == "18 runs, 12 of them finished before"
    assert err.count(": loss ") == 6
    document = json.loads(out)
    both = document["parameterizations"]
    assert both[0] == first["parameterizations"][0]
    assert both[1]["rows"][1]["losses"] == both[0]["rows"][1]["losses"]
    assert both[1]["rows"][0]["losses"] != both[0]["rows"][0]["losses"]
    few: dict[str, Any] = {"ratios": (0.5, 1), "factors": (0.5, 1, 2), "seeds": 2, "device": "cpu"}
    found = transfer.transfer_check(
        mine, "tokens", **few, workers=1, root=tmp_path / "runs", on_line=lambda _: None
    )
    assert found == document
    status, out, _ = call("--workers", "1")
    assert "18 runs, 18 of them finished before" in out
    assert out.count(": loss ") == 0
