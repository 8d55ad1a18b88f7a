"""The journal of a study: append-only lines of JSON, from which everything else can be rebuilt.

Each line is one object with an `event`: `study` (the first: schema, resolved config, digest), `budget`,
`proposed` (trial, values, phase, seed; `ratios` unless all are 1), `finished` (trial, status, loss, steps,
tokens, seconds, seed), `set_aside` (trial, reason), `done`. A study exists exactly when its first complete
line does.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from completedp import reading, root_layout
from completedp.errors import UserError, shown
from completedp.reading import Field
from completedp.records import build
from completedp.runs.job import Outcome, Status
from completedp.scale import Ratios

JOURNAL_SCHEMA = 1
# Bytes of a journal that is read: a million trials.
LARGEST = 1 << 30
# The fields that the record of each event must have.
EVENTS: Mapping[str, tuple[str, ...]] = {
    "study": (),
    "budget": ("budget",),
    "proposed": ("trial", "values", "phase", "seed"),
    "finished": ("trial", "status"),
    "set_aside": ("trial",),
    "done": (),
}
# Fields that the first record of a search must have. A sweep's has none.
STUDY_FIELDS = ("name", "config", "digest", "seed", "budget", "data", "versions")


def _are_ratios(value: object) -> bool:
    try:
        return bool(build(Ratios, value, "the ratios"))
    except UserError:
        return False


# The rule for each field, the same in every event.
_FIELDS: Mapping[str, Field] = {
    "name": reading.TEXT,
    "config": reading.OBJECT,
    "digest": reading.TEXT,
    "data": reading.OBJECT,
    "versions": reading.OBJECT,
    "budget": reading.COUNT,
    "trial": reading.COUNT,
    "seed": reading.COUNT,
    "values": reading.NUMBERS,
    "phase": reading.TEXT,
    "status": reading.one_of("completed", "diverged", "stopped"),
    "loss": reading.NUMBER_OR_NULL,
    "steps": reading.COUNT,
    "tokens": reading.COUNT,
    "seconds": reading.SECONDS,
    "reason": reading.TEXT_OR_NULL,
    "metrics": reading.NUMBERS,
    "arm": reading.TEXT,
    "of": reading.COUNT,
    "round": reading.COUNT,
    "job": reading.TEXT,
    "ratios": Field(
        _are_ratios, "an object of width, depth, batch and tokens over the study's own"
    ),
}

Record = Mapping[str, Any]


class Journal:
    """A journal open for writing. It has one writer at a time, who must hold the study's lock."""

    def __init__(self, path: Path) -> None:
        """Open an existing file and cut it back to its last newline: a torn line would swallow the next
        record."""
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND)
        except OSError as error:
            raise UserError(f"{path}: cannot be opened for writing ({error.strerror})") from None
        content = path.read_bytes()
        self._size = content.rfind(b"\n") + 1
        if self._size < len(content):
            os.ftruncate(self._fd, self._size)
            os.fsync(self._fd)

    @classmethod
    def create(cls, path: Path, study: Record) -> Journal:
        """Begin a study with its first record. The event and the schema are added to it.

        Raises `UserError` if there is a study already.
        """
        assert study.get("schema", JOURNAL_SCHEMA) == JOURNAL_SCHEMA
        if exists(path):
            raise UserError(f"{path}: there is a study already; resume it, or give another name")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from None
        journal = cls(path)
        journal.append({"event": "study", "schema": JOURNAL_SCHEMA, **study})
        for folder in (path.parent, path.parent.parent):
            sync(folder)
        return journal

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Go on with a study. Raises `UserError` if there is none, or if `read_records` refuses it."""
        if not read_records(path):
            raise UserError(f"{path}: there is no study to go on with")
        return cls(path)

    def append(self, record: Record) -> None:
        """Write one record. It is on the disk when this returns.

        A number that is not finite is refused. Raises `UserError` for a disk that is full or gone, with the
        journal as it was before, and as `check` does: records in a file that was deleted, replaced or moved
        would not be found again.
        """
        _check_record(record, "a record to be written")
        line = json.dumps(dict(record), allow_nan=False).encode() + b"\n"
        try:
            rest = line
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            os.fsync(self._fd)
        except OSError as error:
            os.ftruncate(self._fd, self._size)
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); make room, then resume the study"
            ) from None
        self._size += len(line)
        self.check()

    def check(self) -> None:
        """Raises `UserError` if the file that was opened no longer has its name."""
        own = os.fstat(self._fd)
        try:
            found = os.stat(self.path)
        except OSError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != (own.st_dev, own.st_ino):
            raise UserError(
                f"{self.path}: was deleted, replaced or moved while it was being written; nothing more is "
                "recorded. Put it back in its place (a moved one holds all that was recorded), then go on "
                "as after an interruption"
            )

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def exists(path: Path) -> bool:
    """Whether there is a study, that is, a journal with a complete first line."""
    try:
        with path.open("rb") as file:
            return file.readline(reading.LONGEST_LINE).endswith(b"\n")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False
    except OSError:
        return True  # it cannot be read, and its readers will say so


def studies(root: Path) -> list[Path]:
    """The folders of a root's studies, sorted by name."""
    return sorted(
        path.parent
        for path in root.glob(f"{root_layout.STUDIES}/*/{root_layout.JOURNAL}")
        if exists(path)
    )


def read_records(path: Path) -> list[dict[str, Any]]:
    """Every complete record, from the study's first one on. A torn last line is ignored. Never writes.

    Empty if there is no study. Raises `UserError` for another schema, and for a line that is not a record.
    """
    if not exists(path):
        return []
    records = [
        _record(line, f"{path}, line {i}")
        for i, line in enumerate(reading.read_bytes(path, LARGEST).split(b"\n")[:-1], 1)
    ]
    first = records[0]
    if first["event"] != "study":
        raise UserError(f"{path}, line 1: event is {first['event']!r}; expected 'study'")
    if first.get("schema") != JOURNAL_SCHEMA:
        raise UserError(
            f"{path}: the journal's schema is {shown(first.get('schema'))}; this version of completedp reads "
            f"schema {JOURNAL_SCHEMA}; use the version that wrote it, or begin a new study"
        )
    return records


def _record(line: bytes, where: str) -> dict[str, Any]:
    where = f"{where}: the journal is damaged"
    if not line.strip():
        raise UserError(f"{where}: a blank line; 'completedp doctor --repair' takes it out")
    data = reading.parsed(reading.decoded(line, where), where, quick=True)
    record = reading.as_object(data, where)
    _check_record(record, where)
    return record


def _check_record(record: Record, where: str) -> None:
    event = record.get("event")
    if not isinstance(event, str) or event not in EVENTS:
        raise UserError(
            f"{where}: event is {shown(event)}; expected one of {', '.join(sorted(EVENTS))}"
        )
    reading.check_fields(record, _FIELDS, EVENTS[event], where)
    if record.get("status") == "completed" and record.get("loss") is None:
        raise UserError(f"{where}: a completed trial without its loss")


def check_study(first: Record, path: Path | str) -> None:
    """Raises `UserError` if the first record of the journal at `path` lacks a field of a search."""
    where = f"{path}, line 1: the journal is damaged"
    reading.check_fields(first, _FIELDS, STUDY_FIELDS, where)


def sync(path: Path) -> None:
    """Make a file's content, or a folder's entries, durable. A new file needs both."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def finished_record(outcome: Outcome) -> dict[str, Any]:
    """The record of an outcome: everything but its curve, which has its own file."""
    data = outcome.to_dict()
    del data["curve"]
    return {
        "event": "finished",
        **{
            name: value for name, value in data.items() if name == "loss" or value not in (None, {})
        },
    }


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial in the journal.

    `status` is None while the trial is open. `ratios` are its scale over that of the study. `extra` holds the
    fields of its records that have no attribute here.
    """

    trial: int
    values: Mapping[str, Any]
    phase: str
    seed: int
    status: Status | Literal["set_aside"] | None = None
    loss: float | None = None
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    reason: str | None = None
    ratios: Ratios = field(default_factory=Ratios)
    extra: Mapping[str, Any] = field(default_factory=dict)


_OWN_FIELDS = {f.name for f in dataclasses.fields(TrialRecord)} - {"extra"}


def trials(records: Iterable[Record], path: Path | str = "journal") -> dict[int, TrialRecord]:
    """Every trial in the order of the proposals.

    Raises `UserError` for a trial that is proposed twice, ended twice, or ended without a proposal. The
    message begins with `path`.
    """
    found: dict[int, TrialRecord] = {}
    for line, record in enumerate(records, 1):
        try:
            take(found, record)
        except UserError as error:
            raise UserError(f"{path}, line {line}: the journal is damaged: {error}") from None
    return found


def take(found: dict[int, TrialRecord], record: Record) -> None:
    """Update the trials with the next record. Raises `UserError` as `trials` does, without the place."""
    event = record["event"]
    if event == "proposed":
        if record["trial"] in found:
            raise UserError(f"trial {record['trial']} is proposed twice")
        found[record["trial"]] = _merged({"status": None}, record)
    elif event in ("finished", "set_aside"):
        before = found.get(record["trial"])
        if before is None:
            raise UserError(f"an end of trial {record['trial']}, which was never proposed")
        if before.status is not None:
            raise UserError(f"trial {before.trial} ends twice")
        status = {"status": "set_aside"} if event == "set_aside" else {}
        known = {name: getattr(before, name) for name in _OWN_FIELDS}
        found[before.trial] = _merged({**known, **before.extra, **status}, record)


def _merged(known: Record, record: Record) -> TrialRecord:
    merged = {**known, **{name: v for name, v in record.items() if name != "event"}}
    if isinstance(ratios := merged.get("ratios"), dict):
        merged["ratios"] = Ratios(**ratios)
    own = {name: value for name, value in merged.items() if name in _OWN_FIELDS}
    extra = {name: value for name, value in merged.items() if name not in _OWN_FIELDS}
    return TrialRecord(**own, extra=extra)
