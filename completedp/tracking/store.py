"""The root's MLflow database: where it is, how it is made, its locks, and how views read and write it."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from completedp.errors import UserError, first_line

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
_BAD_KEY_CHARACTERS = re.compile(r"[^\w./ -]")


class Store:
    """The root's database and its one experiment, made if need be."""

    def __init__(self, root: Path) -> None:
        client_class = import_mlflow()
        root = root.absolute()
        if bad := set("?#%") & set(str(root)):
            # These mean something else in a database URI: MLflow would write somewhere else.
            raise UserError(f"the root {root} has a {bad.pop()!r} in its path; give one without")
        self.database = root / "mlflow.db"
        self.uri = f"sqlite:///{self.database}"
        self.artifacts = (root / "artifacts").as_uri()
        try:
            root.mkdir(parents=True, exist_ok=True)
            # Two processes that create the tables at once both fail in the migration.
            with locked(root / "mlflow.lock"):
                self.client = client_class(tracking_uri=self.uri, registry_uri=self.uri)
                experiment = self.client.get_experiment_by_name(EXPERIMENT)
                if experiment is None:
                    self.client.create_experiment(
                        EXPERIMENT, artifact_location=self.artifacts, tags=EXPERIMENT_TAGS
                    )
                elif experiment.lifecycle_stage != "active":
                    self.client.restore_experiment(experiment.experiment_id)
                experiment = self.client.get_experiment_by_name(EXPERIMENT)
        except OSError as error:
            raise UserError(
                f"{root}: cannot be written ({error.strerror}); make it so, or give another --root"
            ) from error
        except Exception as error:
            raise UserError(
                f"{self.database}: MLflow cannot open it ({first_line(error)}); move it away and "
                "run 'completedp track': all in it is rebuilt from the journals"
            ) from error
        self.experiment_id = str(experiment.experiment_id)
        if experiment.artifact_location != self.artifacts:
            raise UserError(
                f"{self.database}: made for artifacts under {experiment.artifact_location}, but they are "
                f"now under {self.artifacts}; move it away and run 'completedp track': all in it is rebuilt "
                "from the journals"
            )
        self._inode = self.database.stat().st_ino

    def check(self) -> None:
        """SQLite goes on writing into a deleted file without a word."""
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
        all_params = [Param(_key(k), str(v)[:LONGEST_VALUE]) for k, v in (params or {}).items()]
        all_tags = [RunTag(k, v[:LONGEST_VALUE]) for k, v in (tags or {}).items()]
        while finite or all_params or all_tags:
            batch_metrics, finite = finite[:METRICS_A_BATCH], finite[METRICS_A_BATCH:]
            batch_params, all_params = all_params[:PARAMS_A_BATCH], all_params[PARAMS_A_BATCH:]
            last = not (finite or all_params)
            self.client.log_batch(
                run_id, batch_metrics, batch_params, all_tags if last else (), synchronous=True
            )
            if last:
                return


def import_mlflow() -> Any:
    """`MlflowClient`, with telemetry, progress lines and the advice about git off."""
    os.environ.update(
        MLFLOW_DISABLE_TELEMETRY="true",
        DO_NOT_TRACK="true",
        MLFLOW_LOGGING_LEVEL="ERROR",
        GIT_PYTHON_REFRESH="quiet",
    )
    # The client would import the store on first use, in the tracker's thread.
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a file's lock, which the kernel gives back however the process ends; False if it is taken."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Leaves of a nested mapping by dotted path; a list is a leaf."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _key(name: str) -> str:
    return _BAD_KEY_CHARACTERS.sub("_", name)
