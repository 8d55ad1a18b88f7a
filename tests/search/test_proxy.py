"""The measurement of a proxy on a training function whose best batch and noise are known."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import bowl
import numpy as np
import pytest
from studies import Killed, KilledAfter, study_of

from completedp import files, root_layout
from completedp.config import StudyConfig
from completedp.errors import UserError
from completedp.hparams import GlobalValues
from completedp.runs.journal import read_records
from completedp.runs.local import InProcessExecutor
from search import proxy
from search.proxy_result import FEWEST_STEPS
from search.space import Space
from search.study import Study

GRID: dict[str, Any] = {"batches": (0.25, 0.5, 1), "factors": (0.5, 1, 2), "seeds": 3}
RUNS = 3 * 3 * 3 + proxy.MOVES * 3


@pytest.fixture
def config(config: StudyConfig) -> StudyConfig:
    return dataclasses.replace(
        config, train=dataclasses.replace(config.train, loop="bowl:batch_bowl")
    )


def measured(config: StudyConfig, root: Path, **changes: Any) -> dict[str, Any]:
    given = {**GRID, "executor": InProcessExecutor(), "device": "cpu", **changes}
    document = proxy.measure(config, root=root, on_line=lambda _: None, **given)
    assert document is not None
    return document


def finished(root: Path) -> list[dict[str, Any]]:
    (journal,) = root.glob("proxies/*/journal.jsonl")
    return [record for record in read_records(journal) if record["event"] == "finished"]


def test_the_best_batch_is_found_and_the_presets_is_held_against_it(
    config: StudyConfig, tmp_path: Path
) -> None:
    document = measured(config, tmp_path)
    assert (document["best"]["batch"], document["best"]["factor"]) == (512, 1)
    assert document["excess"]["mean"] == pytest.approx(0.04, abs=4 * bowl.NOISE)
    assert document["excess"]["low"] > 0
    assert document["next_batches"] is None
    assert [row["n"] for row in document["rows"]] == [3] * 9
    assert [row["steps"] for row in document["rows"]] == [32] * 3 + [16] * 3 + [8] * 3
    assert "set train.batch to 512" in document["verdict"][0]
    by_batch = Counter(record["tokens"] for record in finished(tmp_path))
    assert by_batch == {256: 9, 512: 9 + 3 * proxy.MOVES, 1024: 9}  # the moves are around the best


def test_the_noise_is_that_of_a_run_without_its_seeds_effect(
    config: StudyConfig, tmp_path: Path
) -> None:
    document = measured(config, tmp_path, seeds=8)
    moves, spread = document["moves"], document["seed_spread"]
    assert moves["noise"] == pytest.approx(bowl.NOISE, rel=0.5)
    assert moves["df"] == proxy.MOVES * 7
    assert spread["sd"] > 5 * moves["noise"]  # seeds differ by up to .09
    assert spread["df"] == 9 * 7
    space = Space.from_config(config)
    assert moves["coordinates"] == len(space.part("type", "depth"))
    assert moves["octaves"] == pytest.approx(0.7 * np.sqrt(37 / moves["coordinates"]), rel=1e-3)
    wanted = (2 * moves["noise"] / (0.003 * moves["octaves"])) ** 2
    assert document["trials_to_see"]["0.003"] == int(np.ceil(wanted))
    assert (document["budget"], document["module_trials"]) == (200, 103)


def test_a_second_call_trains_nothing_and_says_the_same(
    config: StudyConfig, tmp_path: Path
) -> None:
    first = measured(config, tmp_path)
    assert len(finished(tmp_path)) == RUNS
    lines: list[str] = []
    again = proxy.measure(
        config,
        root=tmp_path,
        device="cpu",
        executor=InProcessExecutor(),
        on_line=lines.append,
        **GRID,
    )
    assert again == first
    assert lines == [f"{RUNS} runs, {RUNS} of them finished before"]
    assert len(finished(tmp_path)) == RUNS
    (written,) = tmp_path.glob("proxies/*/proxy.json")
    assert json.loads(written.read_text()) == json.loads(json.dumps(first))


@pytest.mark.parametrize("events", [5, 30])
def test_a_measurement_that_was_killed_goes_on(
    config: StudyConfig, tmp_path: Path, events: int
) -> None:
    """In the grid, or among the moves; what was finished is not trained again."""
    with pytest.raises(Killed):
        measured(config, tmp_path, executor=KilledAfter(events))
    assert len(finished(tmp_path)) == events
    assert not list(tmp_path.glob("proxies/*/proxy.json"))
    document = measured(config, tmp_path)
    assert document["runs_missing"] == 0
    done = finished(tmp_path)
    assert len(done) == len({record["job"] for record in done}) == RUNS
    assert document == measured(config, tmp_path / "whole")


def test_a_run_that_dies_leaves_the_result_open(
    config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bowl.BatchBowl.__call__
    with monkeypatch.context() as patch:

        def dies(self: bowl.BatchBowl, resolved: Any, seed: int, report: Any) -> Any:
            assert len(finished(tmp_path)) != 7, "broken"
            return whole(self, resolved, seed, report)

        patch.setattr(bowl.BatchBowl, "__call__", dies)
        with pytest.raises(Killed):
            measured(config, tmp_path, executor=KilledAfter(6))
        document = measured(config, tmp_path)
    assert document["verdict"] is None
    assert document["runs_missing"] > 0
    assert not list(tmp_path.glob("proxies/*/proxy.json"))
    assert measured(config, tmp_path)["verdict"]


def test_a_wider_grid_trains_only_what_is_new(config: StudyConfig, tmp_path: Path) -> None:
    measured(config, tmp_path, batches=(0.5, 1))
    before = len(finished(tmp_path))
    document = measured(config, tmp_path)
    assert len(finished(tmp_path)) - before == 3 * 3
    assert document["best"]["batch"] == 512


def test_a_dry_run_trains_and_writes_nothing(config: StudyConfig, tmp_path: Path) -> None:
    lines: list[str] = []
    assert proxy.measure(config, root=tmp_path, dry_run=True, on_line=lines.append, **GRID) is None
    assert lines[0] == f"{RUNS} runs, 0 of them finished before"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batches": (0.5, 2)}, "batches are without 1"),
        ({"batches": (1, 1)}, "batches are 1, 1; expected two or more"),
        ({"batches": (1, 1.01)}, "give 1024, 1024 tokens a step"),
        ({"batches": (1, 16)}, "at most train.tokens = 8192"),
        ({"factors": (0.5, 0)}, "factors are 0.5, 0"),
        ({"seeds": 1}, "seeds are"),
    ],
)
def test_a_setting_that_measures_nothing_is_refused(
    config: StudyConfig, tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        measured(config, tmp_path, **given)
    assert list(tmp_path.iterdir()) == []


def test_a_beta_that_cannot_be_carried_is_refused_before_anything_trains(
    config: StudyConfig, tmp_path: Path
) -> None:
    low = dataclasses.replace(config, values=GlobalValues(lr=2**-8, beta1=0.8))
    with pytest.raises(UserError, match=r"batch x 4, lr x 1, move 1, .*: embedding\.weight: beta"):
        measured(low, tmp_path, batches=(1, 4))
    assert not list(tmp_path.rglob("journal.jsonl"))


def warnings_of(config: StudyConfig, root: Path, budget: int = 200) -> list[str]:
    study = Study(spec=study_of(config, budget=budget), records=[])
    return proxy.warnings_for(study, None, root)


def test_a_search_is_warned_of_short_runs(config: StudyConfig, tmp_path: Path) -> None:
    (line,) = warnings_of(config, tmp_path)
    assert line.startswith("a run has 8 steps, fewer than 1,500: ")
    assert line.endswith("see completedp proxy")


def long_enough(config: StudyConfig) -> StudyConfig:
    tokens = FEWEST_STEPS * config.train.batch
    return dataclasses.replace(config, train=dataclasses.replace(config.train, tokens=tokens))


def write(config: StudyConfig, root: Path, **changes: Any) -> Path:
    document = {
        "kind": "proxy",
        "best": {"batch": 512},
        "excess": {"mean": 0.035, "low": 0.02, "high": 0.05},
        "trials_to_see": {"0.01": 139},
    }
    path = proxy.folder_of(root, proxy.identity(config, None)) / proxy.DOCUMENT
    files.write_json(path, {**document, **changes})
    return path


def test_a_search_is_warned_of_what_was_measured(config: StudyConfig, tmp_path: Path) -> None:
    config = long_enough(config)
    assert warnings_of(config, tmp_path) == []
    write(config, tmp_path)
    batch, trials = warnings_of(config, tmp_path)
    assert batch.startswith("batches of 1024 tokens end 0.035 nats higher than batches of 512")
    assert batch.endswith("set train.batch to 512")
    assert "0.01 nats an octave shows after about 139 trials" in trials
    assert "has 138 per-module trials" in trials


def test_a_search_is_not_warned_of_what_is_uncertain_or_can_be_seen(
    config: StudyConfig, tmp_path: Path
) -> None:
    config = long_enough(config)
    write(config, tmp_path, excess={"mean": 0.035, "low": -0.001, "high": 0.05})
    (trials,) = warnings_of(config, tmp_path)
    assert "per-module trials" in trials
    write(config, tmp_path, excess=None, trials_to_see={"0.01": 138})
    assert warnings_of(config, tmp_path) == []
    assert len(warnings_of(config, tmp_path, budget=100)) == 1
    write(config, tmp_path, best=None, excess=None, trials_to_see={})
    assert warnings_of(config, tmp_path) == []


@pytest.mark.parametrize(
    "part", [{"values": GlobalValues(lr=2**-7)}, {"train": {"clip": 0.5}}, {"model": {"ffn": 96}}]
)
def test_a_measurement_holds_for_exactly_what_was_measured(
    config: StudyConfig, tmp_path: Path, part: dict[str, Any]
) -> None:
    config = long_enough(config)
    write(config, tmp_path)
    ((name, value),) = part.items()
    if isinstance(value, dict):
        value = dataclasses.replace(getattr(config, name), **value)
    assert warnings_of(dataclasses.replace(config, **{name: value}), tmp_path) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "speedup"},
        {"excess": {"mean": 1}},
        {"best": {}},
        {"trials_to_see": {"0.01": "many"}},
    ],
)
def test_a_damaged_measurement_is_a_warning(
    config: StudyConfig, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = long_enough(config)
    path = write(config, tmp_path, **changes)
    (line,) = warnings_of(config, tmp_path)
    assert line.startswith(str(path))
    assert line.endswith("completedp proxy writes it again")


def test_the_folder_is_named_by_the_digest(tmp_path: Path) -> None:
    assert proxy.folder_of(tmp_path, f"sha256:{'0123456789abcdef' * 4}") == (
        tmp_path / root_layout.PROXIES / "0123456789ab"
    )
