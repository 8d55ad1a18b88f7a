"""The root's MLflow database: its place, how it is made and locked, and how views read and write it."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import os
import pkgutil
import re
import sqlite3
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from completedp import root_layout
from completedp.errors import UserError, first_line
from completedp.runs.lock import locked
from completedp.tracking import database

EXPERIMENT = "completedp"
# Without this tag MLflow's pages take it for an experiment with prompts and agents.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}

# MLflow's run status by an outcome's status. Any other status (diverged, set aside) is FAILED.
RUN_STATUS = {"completed": "FINISHED", "stopped": "KILLED"}
ENDED = ("FINISHED", "FAILED", "KILLED")

# MLflow refuses a batch of more than 1000 metrics, 100 params or 100 tags, and of more than 1000 in all.
METRICS_A_BATCH = 800
PARAMS_A_BATCH = 100
# The shortest limit on a parameter's value among the releases we accept.
LONGEST_VALUE = 500
LONGEST_KEY = 250
# Modules that MLflow imports when a store is opened. The last one exists only in some releases.
_ON_FIRST_USE = (
    "alembic.command",
    "alembic.config",
    "sqlalchemy.dialects.sqlite",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_workspace_store",
)
_BAD_KEY_CHARACTERS = re.compile(r"[^\w./ -]")


class Store:
    """The root's database and its one experiment. Both are made if they are missing.

    A broken database is set aside with a call of `warn`; a new one without runs has then `replaced` it. A
    broken page or table shows only in use: with `suspect` every page is read first, which takes longer.
    Raises `UserError` if the root cannot be written, or if the database cannot be opened and is not to blame.
    """

    def __init__(
        self, root: Path, warn: Callable[[str], object] = warnings.warn, *, suspect: bool = False
    ) -> None:
        self._client_class = import_mlflow()
        root = Path(os.path.realpath(root))
        if bad := set("?#%") & set(str(root)):
            # These are special in a database URI: MLflow would write somewhere else.
            raise UserError(f"the root {root} has a {bad.pop()!r} in its path; give one without")
        self.database = root / root_layout.DATABASE
        self.uri = _uri(self.database)
        self.artifacts = (root / root_layout.ARTIFACTS).as_uri()
        try:
            root.mkdir(parents=True, exist_ok=True)
            # Two processes that create the tables at once both fail in the migration.
            with locked(root / root_layout.DATABASE_LOCK):
                self.replaced = self._provide(warn, suspect)
        except UserError:
            raise
        except OSError as error:
            raise UserError(
                f"{root}: cannot be written ({error.strerror}); make it so, or give another --root"
            ) from error
        except Exception as error:
            raise UserError(
                f"{self.database}: MLflow cannot open it ({first_line(error)}); end what holds it, or make "
                "it readable, and run 'completedp track'"
            ) from error
        self._inode = self.database.stat().st_ino

    def _provide(self, warn: Callable[[str], object], suspect: bool) -> bool:
        """Open a whole database; returns whether it has replaced a broken one."""
        database.remove_unfinished(self.database)
        why = ""
        if not database.is_missing(self.database):
            try:
                if suspect:
                    judge(self.database)
                database.relocate(self.database, EXPERIMENT, self.artifacts)
                self._open()
                return False
            except Exception as error:
                if not database.says_broken(error):
                    raise
                why = first_line(error)
        # Made first, so that the old one stays if that fails, and under another name, so that a kill leaves
        # none half made under its own.
        new = database.new_name(self.database)
        try:
            self._create_experiment(_connected(self._client_class, new))
        except BaseException:
            database.remove_unfinished(self.database)
            raise
        aside = database.set_aside(self.database) if why else None
        database.put_in_place(new, self.database)
        self._open()
        if aside is not None:
            warn(
                f"{self.database} was broken ({why}); it is now {aside.name}, and 'completedp track' "
                "rebuilds all that was in it from the journals"
            )
        return aside is not None

    def _open(self) -> None:
        self.client = _connected(self._client_class, self.database)
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            self.experiment_id = self._create_experiment(self.client)
            return
        self.experiment_id = str(experiment.experiment_id)
        if experiment.lifecycle_stage != "active":
            self.client.restore_experiment(self.experiment_id)

    def _create_experiment(self, client: Any) -> str:
        created = client.create_experiment(
            EXPERIMENT, artifact_location=self.artifacts, tags=EXPERIMENT_TAGS
        )
        return str(created)

    def check(self) -> None:
        """Raises `FileNotFoundError` if another database has replaced the opened one, or none: it would have
        none of the runs that a view remembers."""
        if not self.database.exists() or self.database.stat().st_ino != self._inode:
            raise FileNotFoundError(f"{self.database} was deleted or replaced")

    def runs(self, tag: str, value: str) -> Iterator[Any]:
        """The runs whose `tag` is `value`, oldest first."""
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id],
                filter_string=f"tags.`{tag}` = '{value}'",
                order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
                page_token=token,
            )
            yield from page
            if not (token := page.token):
                return

    def log(
        self,
        run_id: str,
        *,
        params: Mapping[str, object] | None = None,
        metrics: Sequence[tuple[str, float, int, int]] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log in as few batches as MLflow allows, with the tags in the last one.

        A metric is (key, value, time in ms, step). Metrics that are not finite are left out.
        """
        from mlflow.entities import Metric, Param, RunTag

        finite = [Metric(_key(k), v, at, step) for k, v, at, step in metrics if math.isfinite(v)]
        all_params = [Param(_key(k), text(v)) for k, v in (params or {}).items()]
        all_tags = [RunTag(k, text(v)) for k, v in (tags or {}).items()]
        while finite or all_params or all_tags:
            batch_metrics, finite = finite[:METRICS_A_BATCH], finite[METRICS_A_BATCH:]
            batch_params, all_params = all_params[:PARAMS_A_BATCH], all_params[PARAMS_A_BATCH:]
            last = not (finite or all_params)
            self.client.log_batch(
                run_id, batch_metrics, batch_params, all_tags if last else (), synchronous=True
            )
            if last:
                return


def judge(path: Path) -> None:
    """Raises SQLite's or MLflow's error if a database is broken. Takes seconds and changes nothing in it."""
    client_class = import_mlflow()
    with tempfile.TemporaryDirectory() as folder:
        copy, new = Path(folder) / "copy.db", Path(folder) / "new.db"
        database.copy_schema(path, copy)
        for made in (copy, new):
            _connected(client_class, made)
        # In place of a missing table MLflow makes the table of its first release.
        if lacks := database.columns(new) - database.columns(copy):
            raise sqlite3.DatabaseError("no column {}.{}".format(*min(lacks)))


def import_mlflow() -> Any:
    """`MlflowClient`, with telemetry, progress lines and the advice about git off.

    It also imports all that MLflow would import on first use: that may be in the tracker's thread, and no two
    of our threads import at the same time. Raises `UserError` if MLflow is not installed.
    """
    os.environ.update(
        MLFLOW_DISABLE_TELEMETRY="true",
        DO_NOT_TRACK="true",
        MLFLOW_LOGGING_LEVEL="CRITICAL",
        GIT_PYTHON_REFRESH="quiet",
        # A pooled connection would go on writing into a database that was deleted or replaced.
        MLFLOW_SQLALCHEMYSTORE_POOLCLASS="NullPool",
    )
    for name in ("MLFLOW_SQLALCHEMYSTORE_POOL_SIZE", "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW"):
        os.environ.pop(name, None)  # options of a pool
    try:
        import mlflow.store.db
        from mlflow.tracking import MlflowClient
    except ModuleNotFoundError as error:
        raise UserError(
            f"MLflow is not installed ({error}): pip install mlflow; the files of studies and runs have all "
            "that it would show"
        ) from error

    # Migrations import the modules of this package.
    modules = pkgutil.iter_modules(mlflow.store.db.__path__, "mlflow.store.db.")
    for name in [*_ON_FIRST_USE, *(module.name for module in modules)]:
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)

    # These log the tracebacks of errors that they then raise.
    for name in ("mlflow", "alembic", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return MlflowClient


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """The leaves of a nested mapping by dotted path. A list is a leaf."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def milliseconds(seconds: float) -> int:
    # A file that has lost its date may be older than 1970, and MLflow takes no such date.
    return max(0, round(seconds * 1000))


def text(value: object) -> str:
    """A value as text for SQLite, at most `LONGEST_VALUE` long. A file name's stray bytes are escaped."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")[:LONGEST_VALUE]


def _key(name: str) -> str:
    """A name as a key of MLflow, which reads it as a path that must not leave its folder."""
    parts = _BAD_KEY_CHARACTERS.sub("_", name).split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))[:LONGEST_KEY] or "_"


def _uri(path: Path) -> str:
    return f"sqlite:///{path}"


def _connected(client_class: Any, path: Path) -> Any:
    """A client of the database at `path`. MLflow makes its tables if they are missing."""
    return client_class(tracking_uri=_uri(path), registry_uri=_uri(path))
