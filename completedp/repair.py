"""The repairs of `completedp doctor --repair`: only safe ones, with a copy of every changed file.

A journal loses its blank lines, and a last line that a kill has torn. Half-made files and folders of a killed
writer are removed, and so are locks that are links to other files. A broken MLflow view is set aside and
rebuilt, because it is only a copy. A folder with a writer at work is left alone. Measurements are never
changed: a damaged record stays, and its readers name it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from completedp import files, root_layout
from completedp.doctor import Finding
from completedp.errors import UserError
from completedp.runs.journal import LARGEST, exists
from completedp.runs.lock import Held, Lock

# Age at which a half-made file counts as left over: preparing a large corpus takes minutes.
STALE_SECONDS = 3600.0
# Names of half-made files and folders under a root. MLflow's are removed when its database is opened.
_HALF_MADE = (f".*{files.TEMPORARY}", ".preparing-*", ".writing")
_LOCKS = (root_layout.LOCK, root_layout.DATABASE_LOCK, ".lock", ".mlflow.lock")


def repair(root: Path) -> Iterator[Finding]:
    """Repair everything under a root, with one finding of state `mended` for each repair.

    Raises `UserError` if something cannot be written.
    """
    if not root.is_dir():
        return
    for step in (_locks, _journals, _left_over, _view):
        try:
            yield from step(root)
        except OSError as error:
            raise UserError(
                f"{error.filename or root}: cannot be mended ({error.strerror}); make the root writable"
            ) from None


def _locks(root: Path) -> Iterator[Finding]:
    for path in _found(root, _LOCKS):
        if path.is_symlink():
            target = path.readlink()
            path.unlink()
            yield _mended(path, f"was a link to {target}; removed, the next writer makes it")


def _journals(root: Path) -> Iterator[Finding]:
    for path in _found(root, (root_layout.JOURNAL,)):
        if not exists(path):  # the study never began
            continue
        try:
            with Lock(path.parent / root_layout.LOCK):
                yield from _without_empty_lines(path)
        except Held as held:
            yield _mended(path, f"left alone: {held}")


def _without_empty_lines(path: Path) -> Iterator[Finding]:
    content = path.read_bytes() if path.stat().st_size <= LARGEST else b""
    *lines, torn = content.split(b"\n")
    kept = [line for line in lines if line.strip()]
    if len(kept) == len(lines) and not torn:
        return
    copy = files.free_name(path, "before-repair")
    shutil.copy2(path, copy)
    files.write_bytes(path, b"".join(line + b"\n" for line in kept))
    blank = len(lines) - len(kept)
    parts = [f"{blank} blank lines"] if blank else []
    parts += ["a last line torn by a kill"] if torn else []
    yield _mended(path, f"{' and '.join(parts)} taken out; the copy is {copy.name}")


def _left_over(root: Path) -> Iterator[Finding]:
    for path in _found(root, _HALF_MADE):
        if time.time() - path.lstat().st_mtime < STALE_SECONDS:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        yield _mended(path, "left half made by a writer that was killed; removed")


def _view(root: Path) -> Iterator[Finding]:
    from completedp.tracking import database, track
    from completedp.tracking.store import judge

    path = root.resolve() / root_layout.DATABASE
    if database.is_missing(path):
        return
    try:
        judge(path)
    except Exception as error:  # any error of MLflow or SQLite
        if not database.says_broken(error):
            return
        warnings: list[str] = []
        track(root, None, warnings.append)
        yield _mended(path, "; ".join([*warnings, "rebuilt"]))


def _found(root: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    """Everything with these names under a root, without following links or looking at MLflow's artifacts."""
    for folder, subfolders, names in os.walk(root):
        here = Path(folder)
        subfolders[:] = sorted(s for s in subfolders if here / s != root / root_layout.ARTIFACTS)
        for name in [*subfolders, *sorted(names)]:
            if any(Path(name).match(pattern) for pattern in patterns):
                yield here / name


def _mended(path: Path, message: str) -> Finding:
    return Finding(str(path), "mended", message)
