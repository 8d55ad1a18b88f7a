"""The training curve of a trial as a file: one `{"step", "loss"}` a line, with the loss in nats a token."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from completedp import files, reading
from completedp.errors import UserError, shown
from completedp.runs.job import Outcome
from completedp.runs.journal import sync


def write_curve(folder: Path, outcome: Outcome) -> None:
    """Write `<folder>/<trial>.jsonl` atomically. It is on the disk when this returns.

    Raises `UserError` if the folder is gone: it was moved or deleted during the runs, and must not be made
    again in the old place.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder}: was deleted or moved while it was being written; put it back in its place, then go "
            "on as after an interruption"
        )
    lines = (
        json.dumps({"step": step, "loss": loss}, allow_nan=False) for step, loss in outcome.curve
    )
    files.write_text(_path(folder, outcome.trial), "".join(f"{line}\n" for line in lines))
    sync(folder)


def read_curve(folder: Path, trial: int) -> tuple[tuple[int, float], ...]:
    """The (step, loss) pairs of a finished trial, none if it has no file. Raises `UserError` for a damaged
    file."""
    return tuple(points_in(_path(folder, trial)))


def points_in(path: Path) -> Iterator[tuple[int, float]]:
    """The (step, loss) pairs of a curve's complete lines, none if there is no file.

    Raises `UserError` with the line if a step is below the one before it, or a loss is not finite.
    """
    try:
        yield from _points(path)
    except UserError as error:
        raise UserError(f"{error}; remove the file: with it only this curve is lost") from None


def _points(path: Path) -> Iterator[tuple[int, float]]:
    last = 0
    for where, point in reading.read_lines(path) if os.path.lexists(path) else ():
        if not (isinstance(point, dict) and point.keys() == {"step", "loss"}):
            raise _damaged(where, point, "an object with step and loss")
        step, loss = point["step"], point["loss"]
        if not (reading.is_count(step) and step >= last):
            raise _damaged(where, step, f"a step of {last} or later")
        if not reading.is_number(loss):
            raise _damaged(where, loss, "a finite loss")
        last = step
        yield step, loss


def _damaged(where: str, given: object, expected: str) -> UserError:
    return UserError(f"{where}: {shown(given)}; expected {expected}")


def _path(folder: Path, trial: int) -> Path:
    return folder / f"{trial}.jsonl"
