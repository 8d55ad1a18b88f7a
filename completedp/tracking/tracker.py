"""Who writes the MLflow view: a thread beside a running search or training, or `completedp track`."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Literal, Protocol

from completedp.errors import UserError, first_line, nearest
from completedp.runs.journal import studies
from completedp.runs.lock import locked
from completedp.tracking.run_view import RunView, SyncedRun
from completedp.tracking.store import DATABASE, Store, import_mlflow
from completedp.tracking.view import StudyView, SyncedStudy
from completedp.training.run_folder import RUN, trained

# A database locked by another study's writer is free again within a second; a broken one is not.
ATTEMPTS = 3
RETRY_SECONDS = 1.0


class View(Protocol):
    """Keeps what a folder holds in the database."""

    def sync(self, state: Literal["running", "ended"]) -> object: ...


def track(
    root: Path, name: str | None = None, warn: Callable[[str], object] = warnings.warn
) -> list[SyncedStudy | SyncedRun]:
    """Bring the view of one study or trained plan, or of all, in line with their folders.

    Where a broken database had to be set aside, as `warn` is told, all are rebuilt. Raises `UserError` for an
    unknown name, a root without studies and runs, or a database that cannot be opened.
    """
    found = [*studies(root), *trained(root)]
    if not found:
        raise UserError(
            f"{root} holds no study and no run; start one with 'completedp search', or give --root"
        )
    names = [folder.name for folder in found]
    if name is not None and name not in names:
        raise UserError(f"{root} has no study or run {name!r}{nearest(name, names)}")
    import_mlflow()
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException, OSError):
        return _passes(root, found, name, warn)
    try:
        # A broken page or table shows in use alone; and what was locked may be free.
        return _passes(root, found, name, warn, suspect=True)
    except (MlflowException, OSError) as error:
        raise UserError(
            f"{root / DATABASE}: MLflow cannot write it ({first_line(error)}); free it or its disk, and run "
            "'completedp track' again"
        ) from error


def _passes(
    root: Path,
    found: Sequence[Path],
    name: str | None,
    warn: Callable[[str], object],
    *,
    suspect: bool = False,
) -> list[SyncedStudy | SyncedRun]:
    store = Store(root, warn, suspect=suspect)
    if name is not None and not store.replaced:
        return [_track_one(store, folder) for folder in found if name == folder.name]
    return [_tracked(store, folder) for folder in found]


def _tracked(store: Store, folder: Path) -> SyncedStudy | SyncedRun:
    """One among others: one that cannot be read must not keep them from being tracked."""
    try:
        return _track_one(store, folder)
    except UserError as error:
        return SyncedStudy(study=folder.name, fault=str(error))


def _track_one(store: Store, folder: Path) -> SyncedStudy | SyncedRun:
    is_run = (folder / RUN).exists()
    with _writer(folder, wait=False) as held:
        if is_run:
            return (
                RunView(store, folder).sync("ended")
                if held
                else SyncedRun(run=folder.name, busy=True)
            )
        return (
            StudyView(store, folder).sync("ended")
            if held
            else SyncedStudy(study=folder.name, busy=True)
        )


class Tracker:
    """Keeps MLflow in line with a growing folder, a study's or a trained plan's, from one background thread.

    Nothing here raises or makes the work wait: a failure is one call of `warn`, later updates try again,
    and what is missing at the end `completedp track` adds. `warn` is called from the thread.

    Make one when all is imported and nothing walks over loggers, modules or warnings any more: MLflow's
    migrations add to them from the thread.
    """

    def __init__(
        self,
        root: Path,
        folder: Path,
        warn: Callable[[str], None],
        view: Callable[[Store, Path], View] = StudyView,
    ) -> None:
        self._root, self._folder, self._warn, self._view = root, folder, warn, view
        self._changed, self._closing = threading.Event(), threading.Event()
        self._warned = self._complete = False
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        try:
            # Not in the thread: one that imports beside another can meet half-made modules, and changes
            # tables that the other may be walking over.
            import_mlflow()
        except Exception as error:
            self._failed(error)
            return
        self._changed.set()  # a resumed study may have trials that MLflow lacks
        self._thread.start()

    def update(self) -> None:
        """The folder has grown. Returns at once."""
        self._changed.set()

    def close(self, timeout: float = 60.0) -> bool:
        """Write what is missing and end the run, waiting up to `timeout` seconds; whether it did."""
        self._closing.set()
        self._changed.set()
        if self._thread.ident is None:
            return False
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._failed(TimeoutError(f"not finished after {timeout:g} s"))
        return self._complete

    def _run(self) -> None:
        try:
            with _writer(self._folder, wait=True):
                self._follow()
        except Exception as error:
            self._failed(error)

    def _follow(self) -> None:
        view: View | None = None
        while True:
            self._changed.wait()
            self._changed.clear()
            closing = self._closing.is_set()
            for attempt in range(ATTEMPTS):
                try:
                    if not self._folder.is_dir():  # a root that was moved away is not made anew
                        raise FileNotFoundError(f"{self._folder} was deleted or moved")
                    if view is None:
                        store = Store(self._root, self._warn, suspect=attempt > 0)
                        view = self._view(store, self._folder)
                    view.sync("ended" if closing else "running")
                    self._complete = closing
                    break
                except Exception as error:
                    view = None  # what it remembers of the database may be wrong
                    if attempt == ATTEMPTS - 1:
                        self._failed(error)
                    else:
                        time.sleep(RETRY_SECONDS)
            if closing:
                return

    def _failed(self, error: Exception) -> None:
        if self._warned:
            return
        self._warned = True
        self._warn(
            f"MLflow is not following ({first_line(error)}); the work goes on, and "
            f"'completedp track {self._folder.name}' fills it in later"
        )


def _writer(folder: Path, *, wait: bool) -> AbstractContextManager[bool]:
    """The right to write a folder's view: `track` beside what runs there would double its runs."""
    return locked(folder / ".mlflow.lock", wait=wait)
