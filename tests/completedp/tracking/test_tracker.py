import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from completedp.errors import UserError
from completedp.runs.lock import locked
from completedp.tracking import Tracker, track
from completedp.tracking import tracker as tracker_module
from completedp.tracking.store import Store
from completedp.tracking.study_view import StudyView

MakeStudy = Callable[..., Path]


def trial_runs(root: Path, name: str) -> dict[str, Any]:
    store = Store(root)
    found = store.client.search_runs(
        [store.experiment_id], f"tags.`completedp.study` = '{name}'", max_results=50_000
    )
    numbers = [r.data.tags.get("completedp.trial", "parent") for r in found]
    assert len(numbers) == len(set(numbers))
    return dict(zip(numbers, found, strict=True))


def test_follows_a_growing_journal(root: Path, make_study: MakeStudy) -> None:
    study = make_study("growing", 8)
    journal = study / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:3]))
    warnings: list[str] = []
    tracker = Tracker(root, study, warnings.append)
    deadline = time.monotonic() + 30
    while len(trial_runs(root, "growing")) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert trial_runs(root, "growing")["parent"].info.status == "RUNNING"
    for line in lines[3:]:
        with journal.open("a") as file:
            file.write(line)
        tracker.update()
    assert tracker.close()
    assert warnings == []
    runs = trial_runs(root, "growing")
    assert len(runs) == 9
    assert runs["parent"].info.status == "FINISHED"


def test_a_resumed_study_goes_on_in_the_same_run(root: Path, make_study: MakeStudy) -> None:
    study = make_study("resumed", 8)
    journal = study / "journal.jsonl"
    text = journal.read_text()
    journal.write_text("".join(text.splitlines(keepends=True)[:9]))
    assert Tracker(root, study, pytest.fail).close()
    before = trial_runs(root, "resumed")
    assert before["parent"].info.status == "KILLED"
    journal.write_text(text)
    assert Tracker(root, study, pytest.fail).close()
    after = trial_runs(root, "resumed")
    assert after["parent"].info.status == "FINISHED"
    assert before.keys() < after.keys()
    assert {n: r.info.run_id for n, r in before.items()}.items() <= {
        n: r.info.run_id for n, r in after.items()
    }.items()


def test_a_failing_database_is_one_warning_and_no_wait(
    root: Path, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study("failing")
    monkeypatch.setattr(tracker_module, "RETRY_SECONDS", 0.01)

    def sync(self: StudyView, state: str) -> None:
        raise OSError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(StudyView, "sync", sync)
        warnings: list[str] = []
        tracker = Tracker(root, study, warnings.append)
        started = time.monotonic()
        for _ in range(100):
            tracker.update()
        assert time.monotonic() - started < 0.1
        assert not tracker.close()
    (warning,) = warnings
    assert "database is locked" in warning
    assert "completedp track failing" in warning
    track(root, "failing")
    assert len(trial_runs(root, "failing")) == 11


def test_a_hanging_database_does_not_hold_the_search(
    root: Path, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study("hanging")
    release = threading.Event()
    monkeypatch.setattr(StudyView, "sync", lambda *_: release.wait(10))
    warnings: list[str] = []
    tracker = Tracker(root, study, warnings.append)
    assert not tracker.close(timeout=0.2)
    assert len(warnings) == 1
    release.set()
    tracker.close()


def test_without_mlflow_the_search_goes_on(
    root: Path, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise ImportError("No module named 'mlflow'")

    monkeypatch.setattr(tracker_module, "import_mlflow", missing)
    warnings: list[str] = []
    tracker = Tracker(root, make_study("missing"), warnings.append)
    tracker.update()
    assert not tracker.close()
    assert len(warnings) == 1


def test_without_mlflow_track_says_what_is_missing(
    root: Path, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_study("s")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UserError, match="MLflow is not installed"):
        track(root)


def test_track_leaves_a_study_with_a_running_search_alone(
    root: Path, make_study: MakeStudy
) -> None:
    study = make_study("busy")
    with locked(study / ".mlflow.lock"):
        (synced,) = track(root, "busy")
    assert synced.busy
    assert trial_runs(root, "busy") == {}


def test_a_deleted_database_is_noticed(make_study: MakeStudy, tmp_path: Path, root: Path) -> None:
    store = Store(root)
    store.check()
    store.database.rename(tmp_path / "aside.db")
    try:
        with pytest.raises(FileNotFoundError, match="deleted"):
            store.check()
    finally:
        (tmp_path / "aside.db").rename(store.database)


@pytest.mark.parametrize("part", ["what?", "no#1", "100%"])
def test_a_root_that_is_no_database_uri_is_refused(tmp_path: Path, part: str) -> None:
    with pytest.raises(UserError, match="in its path"):
        Store(tmp_path / part)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_through_a_symbolic_link_is_refused_and_makes_nothing(
    root: Path, make_study: MakeStudy, tmp_path: Path
) -> None:
    target = tmp_path / "not ours"
    link = tmp_path / "mlflow.lock"
    link.symlink_to(target)
    with pytest.raises(UserError, match=r"mlflow\.lock: is a symbolic link"):
        Store(tmp_path)
    assert not target.exists()
    study = make_study("linked", 6)
    (study / ".mlflow.lock").symlink_to(target)
    with pytest.raises(UserError, match=r"\.mlflow\.lock: is a symbolic link"):
        track(root, "linked")
    assert not target.exists()
    (study / ".mlflow.lock").unlink()
    with locked(study / ".mlflow.lock"):
        assert (study / ".mlflow.lock").stat().st_mode & 0o777 == 0o644


def deleted(root: Path) -> None:
    (root / "mlflow.db").unlink()


def replaced_by_garbage(root: Path) -> None:
    (root / "mlflow.db").write_bytes(b"not a database" * 1000)


def replaced_by_another(root: Path) -> None:
    (root / "mlflow.db").unlink()
    Store(root)


def emptied_of_tables(root: Path) -> None:
    (root / "mlflow.db").unlink()
    sqlite3.connect(root / "mlflow.db").execute("PRAGMA user_version = 1").connection.close()


def without_artifacts(root: Path) -> None:
    shutil.rmtree(root / "artifacts", ignore_errors=True)


@pytest.mark.parametrize(
    "fault",
    [deleted, replaced_by_garbage, replaced_by_another, emptied_of_tables, without_artifacts],
)
def test_what_befalls_the_view_in_mid_search_is_a_line_at_most_and_whole_at_the_end(
    tmp_path: Path,
    make_study: MakeStudy,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    fault: Callable[[Path], None],
) -> None:
    monkeypatch.setattr(tracker_module, "RETRY_SECONDS", 0.01)
    study = tmp_path / "studies" / "befallen"
    shutil.copytree(make_study("befallen", 8), study)
    (study / "summary.json").write_text("{}")
    journal = study / "journal.jsonl"
    text = journal.read_text()
    journal.write_text("".join(text.splitlines(keepends=True)[:9]))
    track(tmp_path)
    warnings: list[str] = []
    tracker = Tracker(tmp_path, study, warnings.append)
    deadline = time.monotonic() + 60
    while trial_runs(tmp_path, "befallen")["parent"].info.status != "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    fault(tmp_path)
    journal.write_text(text)
    tracker.update()
    assert tracker.close()
    broken = fault in (replaced_by_garbage, emptied_of_tables)
    assert [("is now mlflow.db.broken-1" in line) for line in warnings] == [True] * broken
    runs = trial_runs(tmp_path, "befallen")
    assert len(runs) == 9
    assert runs["parent"].info.status == "FINISHED"
    assert capfd.readouterr() == ("", "")


def test_a_database_that_stays_unusable_is_one_line_and_no_traceback(
    tmp_path: Path,
    make_study: MakeStudy,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tracker_module, "RETRY_SECONDS", 0.01)
    study = tmp_path / "studies" / "unusable"
    shutil.copytree(make_study("unusable", 6), study)
    (study / "summary.json").write_text("{}")
    track(tmp_path)
    (tmp_path / "mlflow.db").unlink()
    (tmp_path / "mlflow.db").mkdir()
    (tmp_path / "artifacts").rename(tmp_path / "away")
    (tmp_path / "artifacts").write_text("no folder")
    warnings: list[str] = []
    assert not Tracker(tmp_path, study, warnings.append).close()
    (warning,) = warnings
    assert "'completedp track unusable' fills it in later" in warning
    (tmp_path / "mlflow.db").rmdir()
    assert not Tracker(tmp_path, study, warnings.append).close()
    assert len(warnings) == 2
    (tmp_path / "artifacts").unlink()
    (synced,) = track(tmp_path)
    assert synced.unchanged == 6
    assert capfd.readouterr() == ("", "")


IMPORTS = """
import sys, threading
from pathlib import Path
from completedp.tracking import Tracker

before = set()
start = threading.Thread.start
def noted(thread):
    before.update(sys.modules)
    start(thread)
threading.Thread.start = noted
assert Tracker(Path(sys.argv[1]), Path(sys.argv[2]), print).close()
print(sorted(set(sys.modules) - before))
"""


def test_the_thread_imports_nothing(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study("imports", 6)
    command = [sys.executable, "-c", IMPORTS, str(tmp_path), str(study)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


STARTS = """
import os, sys, traceback
from pathlib import Path
from completedp.tracking.store import Store, import_mlflow

import_mlflow()
pids = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        try:
            print(Store(Path(sys.argv[1])).experiment_id, flush=True)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    pids.append(pid)
for pid in pids:
    os.waitpid(pid, 0)
"""


def test_three_processes_may_start_at_once(tmp_path: Path) -> None:
    """Forks of one that has imported MLflow: they begin closer together than processes that import it."""
    ended = subprocess.run(
        [sys.executable, "-c", STARTS, str(tmp_path)], capture_output=True, text=True
    )
    ids = ended.stdout.split()
    assert len(ids) == 3
    assert len(set(ids)) == 1
    # Neither INFO lines of the migration nor advice about git.
    assert ended.stderr == ""


def test_a_root_that_was_moved_away_is_not_made_anew(
    root: Path, make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker_module, "RETRY_SECONDS", 0.01)
    study = make_study("moved", 8)
    warnings: list[str] = []
    with locked(study / ".mlflow.lock"):  # the tracker waits, and then finds its root gone
        tracker = Tracker(root, study, warnings.append)
        time.sleep(0.2)
        root.rename(tmp_path / "elsewhere")
    tracker.close()
    assert not root.exists()
    assert len(warnings) == 1
