"""The training curve of a trial as a file: one `{"step", "loss"}` a line, losses in nats a token."""

from __future__ import annotations

import json
from pathlib import Path

from completedp import files
from completedp.runs.job import Outcome
from completedp.runs.journal import sync


def write_curve(folder: Path, outcome: Outcome) -> None:
    """Write `<folder>/<trial>.jsonl` atomically; it is on the disk when this returns."""
    lines = (
        json.dumps({"step": step, "loss": loss}, allow_nan=False) for step, loss in outcome.curve
    )
    files.write_text(_path(folder, outcome.trial), "".join(f"{line}\n" for line in lines))
    sync(folder)


def read_curve(folder: Path, trial: int) -> tuple[tuple[int, float], ...]:
    """The (step, loss) pairs of a trial that finished; none for one without a file."""
    path = _path(folder, trial)
    if not path.exists():
        return ()
    points = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return tuple((point["step"], point["loss"]) for point in points)


def _path(folder: Path, trial: int) -> Path:
    return folder / f"{trial}.jsonl"
