"""`doctor --repair`: the faults that it mends, those that it leaves alone, and its copies."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from completedp import doctor, files, repair
from completedp.cli.app import app
from completedp.errors import UserError
from completedp.runs.journal import Journal, read_records
from completedp.runs.lock import Lock

STUDY = {
    "name": "t",
    "config": {},
    "digest": "sha256:0",
    "seed": 0,
    "budget": 12,
    "data": {},
    "versions": {},
}


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "studies" / "s" / "journal.jsonl"
    with Journal.create(path, {"name": "s"}) as journal:
        journal.append({"event": "done"})
    return path


def said(root: Path) -> dict[str, str]:
    return {done.subject: done.message for done in repair.repair(root)}


def test_blank_and_torn_lines_are_taken_out_and_a_copy_is_kept(
    journal: Path, tmp_path: Path
) -> None:
    whole = journal.read_bytes()
    first, second = whole.splitlines(keepends=True)
    damaged = first + b"\n  \n" + second + b'{"event": "prop'
    journal.write_bytes(damaged)
    with pytest.raises(UserError, match=r"line 2: .*a blank line"):
        read_records(journal)
    done = said(tmp_path)
    assert done == {
        str(journal): "2 blank lines and a last line torn by a kill taken out; the copy is "
        "journal.jsonl.before-repair-1"
    }
    assert journal.read_bytes() == whole
    assert journal.with_name("journal.jsonl.before-repair-1").read_bytes() == damaged
    assert not said(tmp_path)


def test_a_damaged_record_is_left_for_its_reader_to_name(journal: Path, tmp_path: Path) -> None:
    journal.write_bytes(journal.read_bytes() + b'{"event": "done", "loss": "low"}\n')
    before = journal.read_bytes()
    assert not said(tmp_path)
    assert journal.read_bytes() == before


def test_a_journal_that_is_being_written_is_left_alone(journal: Path, tmp_path: Path) -> None:
    journal.write_bytes(journal.read_bytes() + b"\n")
    before = journal.read_bytes()
    with Lock(journal.parent / "lock"):
        assert "left alone: study s is being written" in said(tmp_path)[str(journal)]
    assert journal.read_bytes() == before


def test_what_a_killed_writer_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    study = tmp_path / "studies" / "s"
    old = [study / ".recipe.yaml.x1y2.tmp", tmp_path / "data" / ".preparing-abc" / "train.bin"]
    old.append(tmp_path / "runs" / "r" / "checkpoints" / ".writing" / "model.safetensors")
    kept = [study / "recipe.yaml", study / ".hidden", tmp_path / "artifacts" / ".a.tmp"]
    for path in (*old, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert not said(tmp_path), "it may still be written"
    for path in tmp_path.rglob("*"):
        os.utime(path, (0, 0))
    assert len(said(tmp_path)) == 3
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in kept)


def test_the_names_of_half_made_files_are_those_that_files_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    with pytest.raises(KeyboardInterrupt):
        files.write_text(tmp_path / "recipe.yaml", "half")
    (left,) = tmp_path.iterdir()
    assert list(repair._found(tmp_path, repair._HALF_MADE)) == [left]


def test_a_lock_that_is_a_link_is_removed_and_its_target_stays(
    journal: Path, tmp_path: Path
) -> None:
    target = tmp_path / "important"
    target.write_text("mine")
    (journal.parent / "lock").symlink_to(target)
    with pytest.raises(UserError, match="is a symbolic link"), Lock(journal.parent / "lock"):
        pass
    assert "was a link to" in said(tmp_path)[str(journal.parent / "lock")]
    assert target.read_text() == "mine"


def test_a_link_is_never_followed_to_make_a_lock(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is a symbolic link"), Lock(tmp_path / "lock"):
        pass
    assert not (tmp_path / "nowhere").exists()


def test_a_broken_view_is_set_aside_and_rebuilt(
    journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_training", lambda _: iter(()))  # seconds of two workers
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    with Journal.create(tmp_path / "studies" / "t" / "journal.jsonl", STUDY):
        pass
    ended = CliRunner().invoke(app, ["doctor", "--repair", "--root", str(tmp_path), "--json"])
    findings = json.loads(ended.stdout)
    mended = [f for f in findings if f["state"] == "mended"]
    assert len(mended) == 1
    assert "mlflow.db.broken-1" in mended[0]["said"]
    assert next(f for f in findings if f["what"] == "mlflow")["state"] == "ok"
    assert (tmp_path / "mlflow.db.broken-1").read_bytes().startswith(b"no database")


def test_a_root_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    assert not said(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
