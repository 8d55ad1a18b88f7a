"""The journal of a study: append-only lines of JSON, the truth that everything else is rebuilt from.

One object a line, each with an `event`: `study` (the first: schema, resolved config, digest), `budget`,
`proposed` (trial, values, phase, seed), `finished` (trial, status, loss, steps, tokens, seconds, seed),
`set_aside` (trial, reason), `done`. A study exists exactly when its first complete line does.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from completedp.errors import UserError
from completedp.runs.job import Outcome, Status

JOURNAL_SCHEMA = 1
EVENTS = frozenset({"study", "budget", "proposed", "finished", "set_aside", "done"})

Record = Mapping[str, Any]


class Journal:
    """A journal open for writing. One writer at a time: hold the study's lock."""

    def __init__(self, path: Path) -> None:
        """Open an existing file and cut it back to its last newline: a torn line that stayed would
        swallow the next record."""
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
        """Begin a study with its first record, to which event and schema are added.

        Raises `UserError` where one exists already.
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
        """Go on with a study. Raises `UserError` for none, and for what `read_records` refuses."""
        if not read_records(path):
            raise UserError(f"{path}: there is no study to go on with")
        return cls(path)

    def append(self, record: Record) -> None:
        """Write one record; it is on the disk when this returns.

        A non-finite number is refused. Raises `UserError` where the disk is full or gone, with the
        journal as it was before.
        """
        assert record["event"] in EVENTS, record["event"]
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

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def exists(path: Path) -> bool:
    """Whether there is a study: a journal with a complete first line."""
    try:
        with path.open("rb") as file:
            return file.readline().endswith(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        return False


def studies(root: Path) -> list[Path]:
    """The folders of a root's studies, by name."""
    return sorted(path.parent for path in root.glob("studies/*/journal.jsonl") if exists(path))


def read_records(path: Path) -> list[dict[str, Any]]:
    """Every complete record, the study's first; a torn last line is ignored. Never writes.

    Empty where there is no study. Raises `UserError` for another schema, and for a line that is no record.
    """
    if not exists(path):
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    records = [_record(line, f"{path}, line {i}") for i, line in enumerate(lines, 1)]
    first = records[0]
    if first["event"] != "study":
        raise UserError(f"{path}, line 1: event is {first['event']!r}; expected 'study'")
    if first.get("schema") != JOURNAL_SCHEMA:
        raise UserError(
            f"{path}: the journal's schema is {first.get('schema')!r}; this version of completedp reads "
            f"schema {JOURNAL_SCHEMA}; use the version that wrote it, or begin a new study"
        )
    return records


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line, parse_constant=_refuse_constant)
    except ValueError as error:
        raise UserError(f"{where}: not a line of JSON ({error}); the journal is damaged") from None
    if not isinstance(record, dict) or record.get("event") not in EVENTS:
        raise UserError(f"{where}: expected an object with an event of {', '.join(sorted(EVENTS))}")
    return record


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def sync(path: Path) -> None:
    """Make a file's content durable, or the names in a folder: a new file is lost with its folder's
    entry."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def finished_record(outcome: Outcome) -> dict[str, Any]:
    """The record of an outcome: all but its curve, which has a file of its own."""
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
    """What the journal says of one trial. `status` is None while it is open; `extra` holds the fields
    of its records that have no place of their own."""

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
    extra: Mapping[str, Any] = field(default_factory=dict)


_OWN_FIELDS = {f.name for f in dataclasses.fields(TrialRecord)} - {"extra"}


def trials(records: Iterable[Record]) -> dict[int, TrialRecord]:
    """Every trial in order of its proposal.

    Raises `UserError` for a damaged journal: a trial proposed or ended twice, or ended unproposed.
    """
    found: dict[int, TrialRecord] = {}
    for line, record in enumerate(records, 1):
        event = record["event"]
        if event == "proposed":
            trial = record.get("trial")
            if trial in found:
                raise UserError(f"journal, line {line}: trial {trial} is proposed twice")
            new = _merged({"status": None}, record, line)
            found[new.trial] = new
        elif event in ("finished", "set_aside"):
            before = found.get(record.get("trial", -1))
            if before is None:
                raise UserError(f"journal, line {line}: an end of a trial never proposed")
            if before.status is not None:
                raise UserError(f"journal, line {line}: trial {before.trial} ends twice")
            status = {"status": "set_aside"} if event == "set_aside" else {}
            known = {name: getattr(before, name) for name in _OWN_FIELDS}
            found[before.trial] = _merged({**known, **before.extra, **status}, record, line)
    return found


def _merged(known: Record, record: Record, line: int) -> TrialRecord:
    merged = {**known, **{name: v for name, v in record.items() if name != "event"}}
    own = {name: value for name, value in merged.items() if name in _OWN_FIELDS}
    extra = {name: value for name, value in merged.items() if name not in _OWN_FIELDS}
    try:
        return TrialRecord(**own, extra=extra)
    except TypeError as error:
        raise UserError(f"journal, line {line}: {error}; the journal is damaged") from None
