"""The two writers of the MLflow view: a thread beside a running search or training, and `track`."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path

from completedp import root_layout
from completedp.errors import UserError, first_line, nearest
from completedp.runs.journal import studies
from completedp.runs.lock import locked
from completedp.tracking.run_view import RunView
from completedp.tracking.store import Store, import_mlflow
from completedp.tracking.study_view import StudyView
from completedp.tracking.view import SyncResult, View
from completedp.training.run_folder import RUN, trained

# A database that another study's writer has locked is free again within a second. A broken one is not.
ATTEMPTS = 3
RETRY_SECONDS = 1.0


def track(
    root: Path, name: str | None = None, warn: Callable[[str], object] = warnings.warn
) -> list[SyncResult]:
    """Bring the view of one study or trained plan, or of all, in line with their folders.

    A broken database is set aside with a call of `warn`, and then all are rebuilt. Raises `UserError` for an
    unknown name, a root without studies and runs, or a database that cannot be opened.
    """
    folders = [*studies(root), *trained(root)]
    if not folders:
        raise UserError(
            f"{root} holds no study and no run; start one with 'completedp search', or give --root"
        )
    names = [folder.name for folder in folders]
    if name is not None and name not in names:
        raise UserError(f"{root} has no study or run {name!r}{nearest(name, names)}")
    import_mlflow()
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException, OSError):
        return _passes(root, folders, name, warn)
    try:
        # A broken page or table shows only in use. A lock may be free by now.
        return _passes(root, folders, name, warn, suspect=True)
    except (MlflowException, OSError) as error:
        raise UserError(
            f"{root / root_layout.DATABASE}: MLflow cannot write it ({first_line(error)}); free it or its "
            "disk, and run 'completedp track' again"
        ) from error


def _passes(
    root: Path,
    folders: Sequence[Path],
    name: str | None,
    warn: Callable[[str], object],
    *,
    suspect: bool = False,
) -> list[SyncResult]:
    store = Store(root, warn, suspect=suspect)
    alone = name is not None and not store.replaced
    results = []
    for folder in folders:
        if alone and folder.name != name:
            continue
        view = RunView if (folder / RUN).exists() else StudyView
        result = SyncResult(kind=view.kind, name=folder.name)
        try:
            with _writer(folder, wait=False) as held:
                result = view(store, folder).sync("ended") if held else replace(result, busy=True)
        except UserError as error:
            if alone:
                raise
            # A folder that cannot be read must not keep the others from MLflow.
            result = replace(result, fault=str(error))
        results.append(result)
    return results


class Tracker:
    """Keeps MLflow in line with the growing folder of a study or a trained plan, from a background thread.

    Nothing here raises or makes the work wait. A failure is one call of `warn`, from the thread. Later
    updates try again, and `completedp track` adds what is still missing at the end.

    Make a tracker after all imports, when nothing iterates over loggers, modules or warnings any more.
    MLflow's migrations add to these from the thread.
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
            # Not in the thread: two threads that import side by side can meet half-made modules, and change
            # tables that the other one iterates over.
            import_mlflow()
        except Exception as error:
            self._failed(error)
            return
        self._changed.set()  # a resumed study may have trials that MLflow lacks
        self._thread.start()

    def update(self) -> None:
        """Say that the folder has grown. Returns at once."""
        self._changed.set()

    def close(self, timeout: float = 60.0) -> bool:
        """Write what is missing and end the run; returns whether that was done within `timeout` seconds."""
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
                    if not self._folder.is_dir():  # a root that was moved away is not made again
                        raise FileNotFoundError(f"{self._folder} was deleted or moved")
                    if view is None:
                        store = Store(self._root, self._warn, suspect=attempt > 0)
                        view = self._view(store, self._folder)
                    view.sync("ended" if closing else "running")
                    self._complete = closing
                    break
                except Exception as error:
                    view = None  # its memory of the database may be wrong
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
    """The right to write a folder's view. Two writers at once would double its runs."""
    return locked(folder / ".mlflow.lock", wait=wait)
