"""Who writes the MLflow view: a thread beside a running search, or `completedp track`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from completedp.errors import UserError, nearest
from completedp.runs.journal import studies
from completedp.tracking.store import Store, first_line, import_mlflow, locked
from completedp.tracking.view import StudyView, Synced

# A database locked by another study's writer is free again within a second; a broken one is not.
ATTEMPTS = 3
RETRY_SECONDS = 1.0


def track(root: Path, name: str | None = None) -> list[Synced]:
    """Bring the view of one study, or of all, in line with their journals.

    Raises `UserError` for an unknown name, a root without studies, or a database that cannot be opened.
    """
    found = {study.name: study for study in studies(root)}
    if not found:
        raise UserError(
            f"{root} holds no study; start one with 'completedp search', or give --root"
        )
    if name is not None and name not in found:
        raise UserError(f"{root} has no study {name!r}{nearest(name, found)}")
    store = Store(root)
    from mlflow.exceptions import MlflowException

    try:
        return [_track_one(store, found[n]) for n in found if name in (None, n)]
    except (MlflowException, OSError) as error:
        raise UserError(
            f"{store.database}: MLflow cannot write it ({first_line(error)}); free it or its disk, and "
            "run 'completedp track' again"
        ) from error


def _track_one(store: Store, study: Path) -> Synced:
    with _writer(study, wait=False) as held:
        if not held:
            return Synced(study=study.name, busy=True)
        return StudyView(store, study).sync("ended")


class Tracker:
    """Keeps MLflow in line with a study's growing journal, from one background thread.

    Nothing here raises or makes the search wait: a failure is one call of `warn`, later updates try again,
    and what is missing at the end `completedp track` adds. `warn` is called from the thread.
    """

    def __init__(self, root: Path, study: Path, warn: Callable[[str], None]) -> None:
        self._root, self._study, self._warn = root, study, warn
        self._changed, self._closing = threading.Event(), threading.Event()
        self._warned = self._complete = False
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        try:
            # Not in the thread: two threads that import one package can meet half-made modules.
            import_mlflow()
        except Exception as error:
            self._failed(error)
            return
        self._changed.set()  # a resumed study may have trials that MLflow lacks
        self._thread.start()

    def update(self) -> None:
        """The journal has grown. Returns at once."""
        self._changed.set()

    def close(self, timeout: float = 60.0) -> bool:
        """Write what is missing and end the parent run, waiting up to `timeout` seconds; whether it did."""
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
            with _writer(self._study, wait=True):
                self._follow()
        except Exception as error:
            self._failed(error)

    def _follow(self) -> None:
        view: StudyView | None = None
        while True:
            self._changed.wait()
            self._changed.clear()
            closing = self._closing.is_set()
            for attempt in range(ATTEMPTS):
                try:
                    view = view or StudyView(Store(self._root), self._study)
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
            f"MLflow is not following ({first_line(error)}); the search goes on, and "
            f"'completedp track {self._study.name}' fills it in later"
        )


def _writer(study: Path, *, wait: bool) -> AbstractContextManager[bool]:
    """The right to write a study's view: `track` beside a running search would double its runs."""
    return locked(study / ".mlflow.lock", wait=wait)
