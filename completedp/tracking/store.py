"""The root's MLflow database: where it is, how it is made, its locks, and how views read and write it."""

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

from completedp.errors import UserError, first_line
from completedp.runs.lock import locked
from completedp.tracking import database

DATABASE = "mlflow.db"
EXPERIMENT = "completedp"
# Else MLflow's pages take it for an experiment with prompts and agents.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}

# An outcome's status → MLflow's run status; anything else (diverged, set aside) is FAILED.
RUN_STATUS = {"completed": "FINISHED", "stopped": "KILLED"}
ENDED = ("FINISHED", "FAILED", "KILLED")

# MLflow refuses more than 1000 metrics, 100 params or 100 tags a batch, and 1000 of all together.
METRICS_A_BATCH = 800
PARAMS_A_BATCH = 100
# The shortest limit on a parameter's value among the releases we accept.
LONGEST_VALUE = 500
LONGEST_KEY = 250
# What MLflow imports when a store is opened; the last in some of its releases alone.
_ON_FIRST_USE = (
    "alembic.command",
    "alembic.config",
    "sqlalchemy.dialects.sqlite",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_workspace_store",
)
_BAD_KEY_CHARACTERS = re.compile(r"[^\w./ -]")


class Store:
    """The root's database and its one experiment, made if need be.

    A database that is broken is set aside, as `warn` is told: a new one has `replaced` it, and holds no run.
    A broken page or table shows in use alone; they are looked for, which takes longer, if it is `suspect`.
    Raises `UserError` if the root cannot be written, or the database cannot be opened for a reason that is
    not its own.
    """

    def __init__(
        self, root: Path, warn: Callable[[str], object] = warnings.warn, *, suspect: bool = False
    ) -> None:
        self._client_class = import_mlflow()
        root = Path(os.path.realpath(root))
        if bad := set("?#%") & set(str(root)):
            # These mean something else in a database URI: MLflow would write somewhere else.
            raise UserError(f"the root {root} has a {bad.pop()!r} in its path; give one without")
        self.database = root / DATABASE
        self.uri = _uri(self.database)
        self.artifacts = (root / "artifacts").as_uri()
        try:
            root.mkdir(parents=True, exist_ok=True)
            # Two processes that create the tables at once both fail in the migration.
            with locked(root / "mlflow.lock"):
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
        """Open a database that is whole; whether it has replaced a broken one."""
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
        # First, so that where none can be made the old one stays.
        new = self._made()
        aside = database.set_aside(self.database) if why else None
        database.put_in_place(new, self.database)
        self._open()
        if aside is not None:
            warn(
                f"{self.database} was broken ({why}); it is now {aside.name}, and 'completedp track' "
                "rebuilds all that was in it from the journals"
            )
        return aside is not None

    def _made(self) -> Path:
        """A new database under another name: a kill leaves none half made under its own."""
        new = database.new_name(self.database)
        try:
            client = self._client_class(tracking_uri=_uri(new), registry_uri=_uri(new))
            client.create_experiment(
                EXPERIMENT, artifact_location=self.artifacts, tags=EXPERIMENT_TAGS
            )
        except BaseException:
            database.remove_unfinished(self.database)
            raise
        return new

    def _open(self) -> None:
        self.client = self._client_class(tracking_uri=self.uri, registry_uri=self.uri)
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            self.client.create_experiment(
                EXPERIMENT, artifact_location=self.artifacts, tags=EXPERIMENT_TAGS
            )
        elif experiment.lifecycle_stage != "active":
            self.client.restore_experiment(experiment.experiment_id)
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        self.experiment_id = str(experiment.experiment_id)

    def check(self) -> None:
        """Raises `FileNotFoundError` if the database is not the one that was opened: another has none of the
        runs that a view remembers."""
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
            token = page.token
            if not token:
                return

    def log(
        self,
        run_id: str,
        *,
        params: Mapping[str, object] | None = None,
        metrics: Sequence[tuple[str, float, int, int]] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """In as few batches as MLflow allows, the tags in the last; non-finite metrics are left out.

        A metric is its key, value, time in ms and step.
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
    """Raises what SQLite or MLflow has against a database. Changes nothing of it, and takes seconds."""
    client_class = import_mlflow()
    with tempfile.TemporaryDirectory() as folder:
        copy, new = Path(folder) / "copy.db", Path(folder) / "new.db"
        database.copy_schema(path, copy)
        for made in (copy, new):
            client_class(tracking_uri=_uri(made), registry_uri=_uri(made))
        # MLflow makes up for a table that is missing by what it was in the first release.
        if lacks := database.columns(new) - database.columns(copy):
            raise sqlite3.DatabaseError("no column {}.{}".format(*min(lacks)))


def import_mlflow() -> Any:
    """`MlflowClient`, with telemetry, progress lines and the advice about git off.

    Imports what MLflow would import on first use too: that may be in the tracker's thread, and no thread of
    ours imports beside another.
    """
    os.environ.update(
        MLFLOW_DISABLE_TELEMETRY="true",
        DO_NOT_TRACK="true",
        MLFLOW_LOGGING_LEVEL="CRITICAL",
        GIT_PYTHON_REFRESH="quiet",
        # A connection that is kept goes on writing into a database that was deleted or replaced.
        MLFLOW_SQLALCHEMYSTORE_POOLCLASS="NullPool",
    )
    for name in ("MLFLOW_SQLALCHEMYSTORE_POOL_SIZE", "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW"):
        os.environ.pop(name, None)  # of a pool that keeps connections
    import mlflow.store.db
    from mlflow.tracking import MlflowClient

    # Migrations import from this package.
    modules = pkgutil.iter_modules(mlflow.store.db.__path__, "mlflow.store.db.")
    for name in [*_ON_FIRST_USE, *(module.name for module in modules)]:
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)

    # They log the traceback of what they then raise.
    for name in ("mlflow", "alembic", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return MlflowClient


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Leaves of a nested mapping by dotted path; a list is a leaf."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def milliseconds(seconds: float) -> int:
    # MLflow takes no date before 1970, where a file that has lost its own would begin.
    return max(0, round(seconds * 1000))


def text(value: object) -> str:
    """What SQLite can hold of a value: what is not Unicode, as in a file's name, is escaped."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")[:LONGEST_VALUE]


def _key(name: str) -> str:
    """MLflow reads a key as a path, which must be no other's."""
    parts = _BAD_KEY_CHARACTERS.sub("_", name).split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))[:LONGEST_KEY] or "_"


def _uri(path: Path) -> str:
    return f"sqlite:///{path}"
