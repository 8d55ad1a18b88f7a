"""The root's MLflow database: where it is, how it is made, and its locks."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from completedp.errors import UserError

EXPERIMENT = "completedp"
# Else MLflow's pages take it for an experiment with prompts and agents.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


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


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
