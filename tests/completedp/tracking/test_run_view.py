"""A trained plan in MLflow is what its folder says, whatever was there before."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from completedp import files
from completedp.errors import UserError
from completedp.recipe import Recipe
from completedp.runs.divergence import Monitor
from completedp.runs.job import Limits, Outcome
from completedp.runs.lock import locked
from completedp.tracking import RunView, SyncResult, Tracker, track
from completedp.tracking.store import Store
from completedp.training.run_folder import RUN, RunRecord
from transfer.planning.planner import base_plan

STEPS = 500


def losses(last: int) -> list[float]:
    return [5.0 - 0.01 * step for step in range(1, last + 1)]


def write_run(root: Path, recipe: Recipe, name: str, *, upto: int = STEPS) -> Path:
    """The folder of a run under way, `upto` steps of it reported."""
    folder = root / "runs" / name
    folder.mkdir(parents=True)
    tokens = dataclasses.replace(recipe.train, tokens=STEPS * recipe.train.batch)
    base_plan(dataclasses.replace(recipe, train=tokens)).write(folder / "plan.yaml")
    about = {
        "run": f"sha256:{name}",
        "plan": "sha256:plan",
        "seed": 4,
        "data": {"source": "mine.txt", "tokenizer": "bytes"},
        "device": "cpu",
        "processes": 2,
        "parallel": "fsdp",
    }
    files.write_json(folder / RUN, about)
    report(folder, upto)
    return folder


def report(folder: Path, upto: int) -> None:
    lines = [json.dumps({"step": i, "loss": loss}) for i, loss in enumerate(losses(upto), 1)]
    (folder / "curve.jsonl").write_text("\n".join(lines) + '\n{"step": 9')  # torn by a kill


def end(folder: Path, **changes: Any) -> Outcome:
    monitor = Monitor(Limits(steps=STEPS))
    for i, loss in enumerate(losses(STEPS), 1):
        monitor(i, loss)
    outcome = Outcome(
        trial=0,
        status="completed",
        loss=1.25,
        steps=STEPS,
        tokens=128_000,
        seconds=60.0,
        seed=4,
        metrics={"tokens_per_second": 1e4, "flops_per_second": 1e9, "mfu": 0.4},
        curve=monitor.curve,
    )
    outcome = dataclasses.replace(outcome, **changes)
    files.write_json(folder / "outcome.json", {"run": f"sha256:{folder.name}", **outcome.to_dict()})
    return outcome


def the_run(root: Path, name: str) -> Any:
    store = Store(root)
    (run,) = store.runs("completedp.run", name)
    return run


def curve_of(root: Path, name: str) -> list[tuple[int, float]]:
    run_id = the_run(root, name).info.run_id
    history = Store(root).client.get_metric_history(run_id, "train_loss")
    return sorted((metric.step, metric.value) for metric in history)


def test_a_growing_run_is_followed_to_its_end(root: Path, recipe: Recipe) -> None:
    folder = write_run(root, recipe, "run-grows", upto=200)
    view = RunView(Store(root), folder)
    view.sync("running")
    assert the_run(root, "run-grows").info.status == "RUNNING"
    assert [step for step, _ in curve_of(root, "run-grows")] == list(range(3, 200, 3))
    report(folder, 350)
    view.sync("running")
    report(folder, STEPS)
    outcome = end(folder)
    assert view.sync("ended") == SyncResult(kind="run", name="run-grows", written=1)
    assert curve_of(root, "run-grows") == [
        (step, pytest.approx(loss)) for step, loss in outcome.curve
    ]
    run = the_run(root, "run-grows")
    assert run.info.status == "FINISHED"
    assert run.info.end_time == pytest.approx(
        (folder / "outcome.json").stat().st_mtime * 1000, abs=2
    )
    metrics = {k: v for k, v in run.data.metrics.items() if k != "train_loss"}
    assert metrics == {
        "loss": 1.25,
        "tokens_per_second": 1e4,
        "flops_per_second": 1e9,
        "mfu": 0.4,
    }
    params = run.data.params
    assert (params["plan"], params["seed"]) == ("sha256:plan", "4")
    assert params["parameterization"] == "completed-p"
    assert (params["scale.width"], params["data.source"]) == ("32", "mine.txt")
    assert (run.data.tags["completedp.processes"], run.data.tags["completedp.parallel"]) == (
        "2",
        "fsdp",
    )
    (artifact,) = Store(root).client.list_artifacts(run.info.run_id)
    assert artifact.path == "plan.yaml"


def test_track_changes_nothing_that_is_right(root: Path, recipe: Recipe) -> None:
    folder = write_run(root, recipe, "run-whole")
    end(folder)
    assert track(root, "run-whole") == [SyncResult(kind="run", name="run-whole", written=1)]
    before = the_run(root, "run-whole")
    assert track(root, "run-whole") == [SyncResult(kind="run", name="run-whole", unchanged=1)]
    after = the_run(root, "run-whole")
    assert (after.info, after.data.metrics) == (before.info, before.data.metrics)


def test_what_a_killed_writer_left_is_completed(root: Path, recipe: Recipe) -> None:
    folder = write_run(root, recipe, "run-killed", upto=100)
    track(root, "run-killed")
    first = the_run(root, "run-killed")
    assert first.info.status == "KILLED"
    assert first.data.tags["completedp.status"] == "interrupted"
    about = json.loads((folder / RUN).read_text())
    files.write_json(folder / RUN, {**about, "processes": 1, "parallel": None})  # resumed alone
    report(folder, STEPS)
    outcome = end(folder)
    track(root, "run-killed")
    last = the_run(root, "run-killed")
    assert (last.info.run_id, last.info.status) == (first.info.run_id, "FINISHED")
    assert last.data.tags["completedp.processes"] == "1"
    assert len(curve_of(root, "run-killed")) == len(outcome.curve)


def test_a_run_trained_anew_replaces_the_old_one(root: Path, recipe: Recipe) -> None:
    folder = write_run(root, recipe, "run-anew")
    end(folder)
    track(root, "run-anew")
    shutil.rmtree(folder)
    write_run(root, recipe, "run-anew")
    end(folder, status="diverged", loss=None, reason="the training loss is inf", steps=7)
    assert track(root, "run-anew") == [
        SyncResult(kind="run", name="run-anew", written=1, removed=1)
    ]
    run = the_run(root, "run-anew")
    assert (run.info.status, run.data.tags["reason"]) == ("FAILED", "the training loss is inf")
    assert "loss" not in run.data.metrics


def test_a_followed_run_is_left_alone(root: Path, recipe: Recipe) -> None:
    folder = write_run(root, recipe, "run-busy", upto=10)
    with locked(folder / ".mlflow.lock"):
        assert track(root, "run-busy") == [SyncResult(kind="run", name="run-busy", busy=True)]
    assert Tracker(root, folder, pytest.fail, RunView).close()
    assert the_run(root, "run-busy").info.status == "KILLED"


def test_a_database_that_fails_is_one_warning(
    root: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(self: RunView, state: str) -> None:
        raise OSError("database is locked")

    monkeypatch.setattr("completedp.tracking.tracker.RETRY_SECONDS", 0.01)
    monkeypatch.setattr(RunView, "sync", sync)
    warnings: list[str] = []
    folder = write_run(root, recipe, "run-failing")
    assert not Tracker(root, folder, warnings.append, RunView).close()
    (warning,) = warnings
    assert "database is locked" in warning
    assert "'completedp track run-failing'" in warning


def test_a_folder_that_says_nothing_is_refused(tmp_path: Path, recipe: Recipe) -> None:
    folder = write_run(tmp_path, recipe, "run-broken")
    (folder / RUN).write_text("[]")
    with pytest.raises(UserError, match=r"run-broken.*not the folder of a run"):
        RunRecord.read(folder)


DAMAGES = [
    (RUN, "{", "not JSON"),
    (RUN, '{"run": 3}', "not the folder of a run .*plan is missing"),
    (RUN, "[" * 20_000, "levels deep"),
    ("plan.yaml", "", "not the folder of a run .*expected a mapping"),
    ("plan.yaml", "train: {tokens: 0, batch: 0}", "not the folder of a run"),
    ("outcome.json", "{", "not the outcome of a run"),
    ("outcome.json", '{"run": []}', "not the outcome of a run"),
    ("curve.jsonl", "{}\n", "with step and loss"),
    ("curve.jsonl", '{"step": 1, "loss": 1e400}\n', "line 1: .* beyond every float"),
]


def test_a_damaged_run_is_told_and_the_others_are_tracked(tmp_path: Path, recipe: Recipe) -> None:
    for i, (name, content, _) in enumerate(DAMAGES):
        (write_run(tmp_path, recipe, f"run-{i}") / name).write_text(content)
    end(write_run(tmp_path, recipe, "run-9"))
    *damaged, whole = track(tmp_path)
    assert whole == SyncResult(kind="run", name="run-9", written=1)
    for i, (found, (_, _, said)) in enumerate(zip(damaged, DAMAGES, strict=True)):
        fault = str(getattr(found, "fault", None))
        assert f"run-{i}/" in fault
        assert re.search(said, fault, re.DOTALL)


def test_numbers_that_no_database_holds_are_refused_by_their_name(
    tmp_path: Path, recipe: Recipe
) -> None:
    folder = write_run(tmp_path, recipe, "run-a")
    end(folder)
    whole = json.loads((folder / "outcome.json").read_text())
    for field, value in (("steps", 2**63), ("seconds", 1e300), ("curve", [[2**63, 1.0]])):
        files.write_json(folder / "outcome.json", whole | {field: value})
        with pytest.raises(UserError, match=f"outcome.json: {field} is "):
            track(tmp_path, "run-a")
    files.write_json(folder / "outcome.json", whole | {"curve": [[0, 1.0]], "steps": 0})
    os.utime(folder / "outcome.json", (0, 0))  # dates are lost with some copies
    assert [one.written for one in track(tmp_path, "run-a")] == [1]
