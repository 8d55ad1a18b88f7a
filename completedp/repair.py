"""What `completedp doctor --repair` mends: what is safe to mend, with a copy of every file that it changes.

A journal loses lines that hold nothing: blank ones, and a last one that a kill has torn. Files and folders
that a killed writer left half made are removed, and so are locks that are links to other files. The MLflow
view is a copy, so a broken one is set aside and rebuilt. Whatever is being written by somebody else is left
alone. What was measured is never changed: a damaged record stays, and its readers name it.
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from completedp import files
from completedp.errors import UserError
from completedp.runs.journal import LARGEST, exists
from completedp.runs.lock import Held, Lock

# What is half made is only taken for left over after so long: preparing a large corpus takes minutes.
STALE_SECONDS = 3600.0
# Names of what is being made, under a root. MLflow's own are removed when its database is opened.
_HALF_MADE = (f".*{files.TEMPORARY}", ".preparing-*", ".writing")
_LOCKS = ("lock", "mlflow.lock", ".lock", ".mlflow.lock")


@dataclass(frozen=True, kw_only=True)
class Mended:
    """One thing that was mended; `said` is what was done, and where the copy is."""

    what: str
    said: str


def repair(root: Path) -> Iterator[Mended]:
    """Mend what is under a root, and say what was done, one thing at a time.

    Raises `UserError` where something cannot be written.
    """
    if not root.is_dir():
        return
    steps: tuple[Callable[[Path], Iterator[Mended]], ...] = (_locks, _journals, _left_over, _view)
    for step in steps:
        try:
            yield from step(root)
        except OSError as error:
            raise UserError(
                f"{error.filename or root}: cannot be mended ({error.strerror}); make the root writable"
            ) from None


def _locks(root: Path) -> Iterator[Mended]:
    for path in _found(root, _LOCKS):
        if path.is_symlink():
            target = path.readlink()
            path.unlink()
            yield Mended(
                what=str(path), said=f"was a link to {target}; removed, the next writer makes it"
            )


def _journals(root: Path) -> Iterator[Mended]:
    for path in _found(root, ("journal.jsonl",)):
        if not exists(path):  # of a study that never began
            continue
        try:
            with Lock(path.parent / "lock"):
                yield from _without_empty_lines(path)
        except Held as held:
            yield Mended(what=str(path), said=f"left alone: {held}")


def _without_empty_lines(path: Path) -> Iterator[Mended]:
    content = path.read_bytes() if path.stat().st_size <= LARGEST else b""
    *lines, torn = content.split(b"\n")
    kept = [line for line in lines if line.strip()]
    if len(kept) == len(lines) and not torn:
        return
    copy = _free(path, "before-repair")
    shutil.copy2(path, copy)
    files.write_bytes(path, b"".join(line + b"\n" for line in kept))
    blank = len(lines) - len(kept)
    parts = [f"{blank} blank lines"] if blank else []
    parts += ["a last line torn by a kill"] if torn else []
    yield Mended(what=str(path), said=f"{' and '.join(parts)} taken out; the copy is {copy.name}")


def _left_over(root: Path) -> Iterator[Mended]:
    for path in _found(root, _HALF_MADE):
        age = time.time() - path.lstat().st_mtime
        if age < STALE_SECONDS:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        yield Mended(what=str(path), said="left half made by a writer that was killed; removed")


def _view(root: Path) -> Iterator[Mended]:
    from completedp.tracking import database, track
    from completedp.tracking.store import DATABASE, judge

    path = root.resolve() / DATABASE
    if database.is_missing(path):
        return
    try:
        judge(path)
    except Exception as error:  # whatever MLflow and SQLite say of it
        if not database.says_broken(error):
            return
        said: list[str] = []
        track(root, None, said.append)
        yield Mended(what=str(path), said="; ".join([*said, "rebuilt"]))


def _found(root: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    """What has these names under a root, without following links; MLflow's artifacts are its own."""
    for folder, subfolders, names in os.walk(root):
        here = Path(folder)
        subfolders[:] = sorted(s for s in subfolders if not (here == root and s == "artifacts"))
        for name in [*subfolders, *sorted(names)]:
            if any(Path(name).match(pattern) for pattern in patterns):
                yield here / name


def _free(path: Path, word: str) -> Path:
    """The first free name for a copy beside a file."""
    names = (path.with_name(f"{path.name}.{word}-{n}") for n in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))
