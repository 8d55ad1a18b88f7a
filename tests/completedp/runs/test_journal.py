from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from completedp.errors import UserError
from completedp.runs.job import Outcome
from completedp.runs.journal import (
    JOURNAL_SCHEMA,
    Journal,
    exists,
    finished_record,
    read_records,
    studies,
    trials,
)

STUDY = {"event": "study", "schema": JOURNAL_SCHEMA, "name": "s"}
OUTCOME = Outcome(
    trial=0,
    status="completed",
    loss=2.5,
    steps=9,
    tokens=90,
    seconds=0.5,
    seed=3,
    curve=((9, 2.0),),
)


def proposed(trial: int, **extra: object) -> dict[str, object]:
    return {
        "event": "proposed",
        "trial": trial,
        "values": {"lr": 1.0},
        "phase": "global",
        "seed": 3,
        **extra,
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "studies" / "s" / "journal.jsonl"


def test_created_appended_read_and_gone_on_with(path: Path) -> None:
    with Journal.create(path, {"name": "s"}) as journal:
        journal.append(proposed(0))
    with Journal.open(path) as journal:
        journal.append({"event": "done"})
    assert read_records(path) == [STUDY, proposed(0), {"event": "done"}]


def test_a_study_exists_exactly_when_its_first_line_does(path: Path) -> None:
    assert not exists(path)
    assert read_records(path) == []
    path.parent.mkdir(parents=True)
    path.write_text('{"event": "study", "sche')
    assert not exists(path)
    assert read_records(path) == []
    with pytest.raises(UserError, match="no study"):
        Journal.open(path)
    Journal.create(path, {"name": "s"}).close()
    assert read_records(path) == [STUDY]
    with pytest.raises(UserError, match="a study already"):
        Journal.create(path, {"name": "s"})


def test_the_studies_of_a_root(tmp_path: Path, path: Path) -> None:
    assert studies(tmp_path) == []
    for name in ("s", "a"):
        Journal.create(path.parents[1] / name / "journal.jsonl", {"name": name}).close()
    (path.parents[1] / "begun").mkdir()
    (path.parents[1] / "begun" / "journal.jsonl").write_text('{"event": "stu')
    (path.parents[1] / "file").write_text("")
    assert [folder.name for folder in studies(tmp_path)] == ["a", "s"]


def test_a_torn_line_neither_counts_nor_swallows_the_next_record(path: Path) -> None:
    Journal.create(path, {"name": "s"}).close()
    with path.open("ab") as file:
        file.write(b'{"event": "proposed", "tri')
    before = path.read_bytes()
    assert read_records(path) == [STUDY]
    assert path.read_bytes() == before  # reading never writes
    with Journal.open(path) as journal:
        journal.append({"event": "done"})
    assert read_records(path) == [STUDY, {"event": "done"}]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_cut_anywhere_a_journal_holds_exactly_the_whole_records(data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s" / "journal.jsonl"
        records = [proposed(i, note="é\n\u2028") for i in range(3)]
        with Journal.create(path, {"name": "s"}) as journal:
            for record in records:
                journal.append(record)
        content = path.read_bytes()
        cut = data.draw(st.integers(0, len(content)))
        path.write_bytes(content[:cut])
        whole = [STUDY, *records][: content[:cut].count(b"\n")]
        assert read_records(path) == whole
        if whole:
            with Journal.open(path) as journal:
                journal.append({"event": "done"})
            assert read_records(path) == [*whole, {"event": "done"}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b"", "a blank line; 'completedp doctor --repair' takes it out"),
        (b"[1]", r"expected an object, got \[1\]"),
        (b'{"event": "guess"}', "event is 'guess'; expected one of budget, done"),
        (b'{"event": ["done"]}', r"event is \['done'\]; expected one of"),
        (b'{"event": "done", "loss": NaN}', "NaN is no number"),
        (b"[" * 20_000 + b"]" * 20_000, "more than 60 levels deep"),
    ],
    ids=range(8),
)
def test_a_damaged_line_is_named(path: Path, line: bytes, message: str) -> None:
    Journal.create(path, {"name": "s"}).close()
    path.write_bytes(path.read_bytes() + line + b"\n" + b'{"event": "done"}\n')
    for read in (read_records, Journal.open):
        with pytest.raises(
            UserError, match=rf"journal\.jsonl, line 2: the journal is damaged: {message}"
        ):
            read(path)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("loss", "1e400", "loss is inf; expected a finite number or null"),
        ("loss", "9" * 400, "loss is 9999.*; expected a finite number or null"),
        ("loss", "9" * 5000, "not JSON .Exceeds the limit"),
        ("loss", '"low"', "loss is 'low'; expected a finite number or null"),
        ("loss", "true", "loss is True; expected a finite number or null"),
        ("loss", "null", "a completed trial without its loss"),
        ("status", '"guessed"', "status is 'guessed'; expected 'completed' or"),
        ("status", "[]", r"status is \[\]; expected"),
        ("trial", "-1", "trial is -1; expected a whole number of 0 or more"),
        ("trial", "[0]", r"trial is \[0\]; expected a whole number"),
        ("steps", "1.5", "steps is 1.5; expected a whole number"),
        ("seconds", "-1", "seconds is -1; expected seconds, 0 or more"),
        ("seed", '"x"', "seed is 'x'; expected"),
        ("reason", "7", "reason is 7; expected text or null"),
        ("ratios", '{"width": 0}', "ratios is {'width': 0}; expected an object of width, depth"),
        ("metrics", '{"a": "b"}', r"metrics is .*; expected an object of finite numbers"),
    ],
)
def test_a_field_of_another_kind_is_named(path: Path, field: str, value: str, says: str) -> None:
    """Where such a value gets through, `report` and `track` fail on it much later."""
    with Journal.create(path, {"name": "s"}) as journal:
        journal.append(proposed(0))
    record = {**finished_record(OUTCOME), "reason": "r", "metrics": {"a": 1.0}, field: "VALUE"}
    line = json.dumps(record).replace('"VALUE"', value)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=f"line 3: the journal is damaged: {says}"):
        read_records(path)


@pytest.mark.parametrize("missing", ["trial", "values", "phase", "seed"])
def test_a_proposal_says_all_of_it(path: Path, missing: str) -> None:
    Journal.create(path, {"name": "s"}).close()
    record = {name: value for name, value in proposed(0).items() if name != missing}
    path.write_text(path.read_text() + json.dumps(record) + "\n")
    with pytest.raises(UserError, match=f"line 2: the journal is damaged: {missing} is missing"):
        read_records(path)


@pytest.mark.parametrize("how", ["deleted", "replaced", "moved"])
def test_a_writer_whose_file_has_gone_says_so(path: Path, how: str) -> None:
    journal = Journal.create(path, {"name": "s"})
    journal.append(proposed(0))
    if how == "deleted":
        path.unlink()
    elif how == "replaced":
        other = path.with_name("other")
        other.write_bytes(path.read_bytes())
        other.replace(path)
    else:
        path.parents[1].rename(path.parents[2] / "elsewhere")
    with pytest.raises(
        UserError, match="was deleted, replaced or moved while it was being written"
    ):
        journal.append(proposed(1))
    journal.close()
    if how == "moved":  # and what was recorded last is there
        moved = path.parents[2] / "elsewhere" / path.parent.name / path.name
        assert [r["event"] for r in read_records(moved)] == ["study", "proposed", "proposed"]


def test_another_schema_says_which(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**STUDY, "schema": 99}) + "\n")
    with pytest.raises(UserError, match=r"schema is 99; .* reads schema 1"):
        read_records(path)


def test_a_journal_begins_with_its_study(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text('{"event": "done"}\n')
    with pytest.raises(UserError, match=r"line 1: event is 'done'; expected 'study'"):
        read_records(path)


def test_a_number_that_is_not_finite_is_refused_and_nothing_written(path: Path) -> None:
    with Journal.create(path, {"name": "s"}) as journal:
        with pytest.raises(UserError, match="loss is inf"):
            journal.append({"event": "done", "loss": float("inf")})
        journal.append({"event": "done"})
    assert read_records(path) == [STUDY, {"event": "done"}]


def test_a_full_disk_leaves_whole_records(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write

    def full(fd: int, data: bytes) -> int:
        if len(data) > 5:
            return real(fd, data[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal.create(path, {"name": "s"}) as journal:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(UserError, match="No space left"):
            journal.append({"event": "done"})
        monkeypatch.undo()
        journal.append({"event": "done"})
    assert read_records(path) == [STUDY, {"event": "done"}]


def test_each_record_is_synced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), real(fd))[1])
    with Journal.create(path, {"name": "s"}) as journal:
        assert len(synced) == 3  # the record, its folder, the folder of studies
        journal.append({"event": "done"})
        assert len(synced) == 4


def test_a_folder_where_none_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "journal.jsonl"
    assert not exists(path)
    with pytest.raises(UserError, match="cannot be written"):
        Journal.create(path, {})


def test_trials_by_number() -> None:
    ended = finished_record(OUTCOME)
    records = [
        STUDY,
        proposed(0, arm="global"),
        proposed(1),
        {**ended, "metrics": {"bits": 1.0}},
        proposed(2),
        {"event": "set_aside", "trial": 2, "reason": "killed"},
    ]
    found = trials(records)
    assert list(found) == [0, 1, 2]
    first = found[0]
    assert (first.status, first.loss, first.steps, first.tokens) == ("completed", 2.5, 9, 90)
    assert first.values == {"lr": 1.0}
    assert first.extra == {"arm": "global", "metrics": {"bits": 1.0}}
    assert found[1].status is None
    assert (found[2].status, found[2].reason, found[2].loss) == ("set_aside", "killed", None)


def test_a_finished_record_has_all_but_the_curve() -> None:
    assert finished_record(OUTCOME) == {
        "event": "finished",
        "trial": 0,
        "status": "completed",
        "loss": 2.5,
        "steps": 9,
        "tokens": 90,
        "seconds": 0.5,
        "seed": 3,
    }


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([proposed(0), proposed(0)], "line 3: the journal is damaged: trial 0 is proposed twice"),
        ([finished_record(OUTCOME)], "line 2: .*an end of trial 0, which was never proposed"),
        ([proposed(0), *[finished_record(OUTCOME)] * 2], "line 4: .*trial 0 ends twice"),
        (
            [proposed(0), {"event": "set_aside", "trial": 0}, finished_record(OUTCOME)],
            "trial 0 ends twice",
        ),
    ],
)
def test_a_trial_ends_at_most_once(records: list[dict[str, object]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        trials([STUDY, *records])
