import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from completedp.errors import UserError
from completedp.tracking import track
from completedp.tracking.store import Store
from completedp.tracking.study_view import StudyView

MakeStudy = Callable[..., Path]


def runs_of(root: Path, name: str) -> tuple[list[Any], dict[int, Any]]:
    """The active parents and, asserting one each, the trials."""
    store = Store(root)
    found = store.client.search_runs(
        [store.experiment_id], f"tags.`completedp.study` = '{name}'", max_results=50_000
    )
    children = [r for r in found if "completedp.trial" in r.data.tags]
    numbers = [int(r.data.tags["completedp.trial"]) for r in children]
    assert sorted(numbers) == sorted(set(numbers))
    parents = [r for r in found if "completedp.trial" not in r.data.tags]
    return parents, dict(zip(numbers, children, strict=True))


def test_layout(root: Path, make_study: MakeStudy) -> None:
    study = make_study("layout", 12)
    (study / "recipe.yaml").write_text("kind: recipe\n")
    summary = {"confirmed": {"global": {"mean": 2.5}, "difference": None}, "chosen": "global"}
    (study / "summary.json").write_text(json.dumps(summary))
    (study / "figures").mkdir()
    (study / "figures" / "loss.png").write_bytes(b"png")
    (synced,) = track(root, "layout")
    assert (synced.written, synced.unchanged, synced.removed) == (12, 0, 0)
    (parent,), trials = runs_of(root, "layout")
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == "layout"
    assert parent.data.params["model.width"] == "32"
    assert parent.data.tags["completedp.budget"] == "12"
    assert parent.data.tags["completedp.status"] == "done"
    assert sorted(trials) == list(range(12))
    assert {t.data.tags["mlflow.parentRunId"] for t in trials.values()} == {parent.info.run_id}
    artifacts = root / "artifacts" / parent.info.run_id / "artifacts"
    assert sorted(str(p.relative_to(artifacts)) for p in artifacts.rglob("*.*")) == [
        "figures/loss.png",
        "recipe.yaml",
        "summary.json",
    ]
    assert parent.data.metrics["confirmed.global.mean"] == 2.5


def test_a_trial_has_its_multipliers_curve_and_times(root: Path, make_study: MakeStudy) -> None:
    study = make_study("curve")
    os.utime(study / "curves" / "7.jsonl", (1_700_000_000, 1_700_000_000))
    track(root, "curve")
    run = runs_of(root, "curve")[1][7]
    # Coordinates are octaves: one at 0 is left out, one at 1 is a factor of 2.
    multipliers = {"global.lr": "1.414", "type.lr.q": "0.5", "global.beta1": "2"}
    assert run.data.params == {"phase": "confirm", "seed": "7"} | multipliers
    assert run.data.metrics["loss"] == 2.43
    assert run.info.end_time == 1_700_000_000_000
    assert run.info.end_time - run.info.start_time == 7500
    curve = Store(root).client.get_metric_history(run.info.run_id, "train_loss")
    lines = (study / "curves" / "7.jsonl").read_text().splitlines()
    assert [(m.step, m.value) for m in curve] == [
        (p["step"], p["loss"]) for p in map(json.loads, lines)
    ]
    times = [m.timestamp for m in curve]
    assert times == sorted(times)
    assert run.info.start_time < times[0] < times[-1] == run.info.end_time


def test_statuses(root: Path, make_study: MakeStudy) -> None:
    make_study("statuses")
    track(root, "statuses")
    trials = runs_of(root, "statuses")[1]
    assert [trials[n].info.status for n in range(7)] == [
        *("FINISHED", "FINISHED", "FINISHED", "FAILED", "KILLED", "FAILED", "FINISHED")
    ]
    assert trials[3].data.tags["reason"] == "loss above ln 256"
    assert trials[5].data.tags["completedp.status"] == "set_aside"
    assert trials[5].data.tags["reason"] == "killed by signal 9"
    assert "loss" not in trials[3].data.metrics


def test_best_loss_is_over_search_trials_and_logged_once(root: Path, make_study: MakeStudy) -> None:
    make_study("best")
    for _ in range(2):
        track(root, "best")
    (parent,), _ = runs_of(root, "best")
    history = Store(root).client.get_metric_history(parent.info.run_id, "best_loss")
    # Trials 0-5 search, 5 was set aside; the better losses of the confirmation are not comparable.
    assert [(m.step, m.value) for m in history] == [
        *((0, 2.5), (1, 2.49), (2, 2.48), (3, 2.48), (4, 2.48))
    ]


def test_a_second_pass_changes_nothing(root: Path, make_study: MakeStudy) -> None:
    make_study("twice")
    track(root, "twice")
    before = runs_of(root, "twice")
    (synced,) = track(root, "twice")
    assert (synced.written, synced.unchanged, synced.removed) == (0, 10, 0)
    after = runs_of(root, "twice")
    assert [r.info.run_id for r in after[0]] == [r.info.run_id for r in before[0]]
    for number, run in before[1].items():
        assert run.to_dictionary() == after[1][number].to_dictionary()


@pytest.mark.parametrize("call", ["create_run", "log_batch", "set_terminated"])
@pytest.mark.parametrize("before_it", [True, False])
def test_killed_at_any_call_is_repaired(
    root: Path,
    make_study: MakeStudy,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    before_it: bool,
) -> None:
    name = f"killed-{call}-{before_it}"
    study = make_study(name, 8)
    store = Store(root)
    original = getattr(store.client, call)
    calls = 0

    def dies(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5 and before_it:
            raise KeyboardInterrupt
        result = original(*args, **kwargs)
        if calls == 5:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(store.client, call, dies)
    with pytest.raises(KeyboardInterrupt):
        StudyView(store, study).sync("ended")
    monkeypatch.undo()
    (synced,) = track(root, name)
    assert 0 < synced.written < 8
    parents, trials = runs_of(root, name)
    assert len(parents) == 1
    assert sorted(trials) == list(range(8))
    curve = store.client.get_metric_history(trials[7].info.run_id, "train_loss")
    assert len(curve) == 50
    assert trials[7].info.status == "FINISHED"


def test_a_study_started_anew_under_its_name_replaces_the_old_runs(
    root: Path, make_study: MakeStudy
) -> None:
    study = make_study("anew")
    track(root, "anew")
    journal = study / "journal.jsonl"
    journal.write_text(journal.read_text().replace('"loss": 2.49', '"loss": 2.4'))
    (synced,) = track(root, "anew")
    assert (synced.written, synced.removed) == (10, 11)
    (parent,), trials = runs_of(root, "anew")
    assert trials[1].data.metrics["loss"] == 2.4
    assert parent.data.metrics["best_loss"] == 2.4


def test_runs_deleted_by_hand_come_back(root: Path, make_study: MakeStudy) -> None:
    make_study("deleted")
    track(root, "deleted")
    (parent,), trials = runs_of(root, "deleted")
    client = Store(root).client
    client.delete_run(parent.info.run_id)
    client.delete_run(trials[2].info.run_id)
    (synced,) = track(root, "deleted")
    assert synced.written == 1
    (parent,), trials = runs_of(root, "deleted")
    assert len(trials) == 10
    assert {t.data.tags["mlflow.parentRunId"] for t in trials.values()} == {parent.info.run_id}


def test_a_torn_journal_shows_an_interrupted_study(root: Path, make_study: MakeStudy) -> None:
    study = make_study("torn")
    journal = study / "journal.jsonl"
    lines = journal.read_text().splitlines()[:-4]
    journal.write_text("\n".join(lines) + '\n{"event": "fini')
    track(root, "torn")
    (parent,), trials = runs_of(root, "torn")
    assert parent.info.status == "KILLED"
    assert parent.data.tags["completedp.status"] == "interrupted"
    assert len(trials) == 8


def test_more_than_a_batch_of_everything(root: Path, make_study: MakeStudy) -> None:
    study = make_study("large", 5)
    journal = study / "journal.jsonl"
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    values = {f"depth.lr.{i}": 1.0 + i for i in range(230)}
    records[1]["values"] = values
    journal.write_text("".join(json.dumps(r) + "\n" for r in records))
    points = [{"step": i, "loss": 3.0} for i in range(1, 2402)]
    text = "".join(json.dumps(p) + "\n" for p in points)
    (study / "curves" / "0.jsonl").write_text(text)
    track(root, "large")
    run = runs_of(root, "large")[1][0]
    assert len(run.data.params) == 232
    history = Store(root).client.get_metric_history(run.info.run_id, "train_loss")
    assert len(history) == 2401
    assert "completedp.record" in run.data.tags


def test_unknown_name_and_empty_root(root: Path, make_study: MakeStudy, tmp_path: Path) -> None:
    make_study("known")
    with pytest.raises(UserError, match="did you mean 'known'"):
        track(root, "knwon")
    with pytest.raises(UserError, match="holds no study"):
        track(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_not_unicode_or_no_paths_are_shown_all_the_same(
    root: Path, make_study: MakeStudy
) -> None:
    name = os.fsdecode(b"caf\xe9")
    make_study(name, 6)
    track(root, name)
    store = Store(root)
    shown = "caf\\udce9"
    (parent,) = [r for r in store.runs("completedp.study", shown) if r.info.run_name == shown]
    odd = {"../up": 1, "/absolute//twice": 2, "": 3, "a" * 300: 4, name: 5}
    store.log(parent.info.run_id, params=odd, tags={"reason": name}, metrics=[(name, 1.5, 0, 0)])
    run = store.client.get_run(parent.info.run_id)
    kept = {"up": "1", "absolute/twice": "2", "_": "3", "a" * 250: "4", "caf_": "5"}
    assert kept.items() <= run.data.params.items()
    assert run.data.tags["reason"] == shown
    assert run.data.metrics["caf_"] == 1.5


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "not JSON"), ("[]", "expected an object"), ('{"a": 1e999}', "beyond every float")],
)
def test_a_damaged_summary_is_a_fault_of_its_study_alone(
    tmp_path: Path, make_study: MakeStudy, text: str, said: str
) -> None:
    for name in ("left", "right"):
        shutil.copytree(make_study(name, 6), tmp_path / "studies" / name)
    path = tmp_path / "studies" / "left" / "summary.json"
    path.write_text(text)
    left, right = track(tmp_path)
    assert left.fault.startswith(f"{path}: ")
    assert said in left.fault
    assert "'completedp report left' writes it again" in left.fault
    assert (right.written, right.removed) == (6, 0)
