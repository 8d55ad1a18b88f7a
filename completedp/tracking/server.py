"""MLflow's own pages on the root's database, served by this very process.

`mlflow server` starts children that outlive a kill -9 of their parent. One process is enough for one person
and leaves nothing behind, however it ends.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from completedp import root_layout
from completedp.errors import UserError
from completedp.tracking.database import is_missing
from completedp.tracking.store import Store
from completedp.tracking.tracker import track


def serve(
    root: Path,
    *,
    host: str,
    port: int,
    ready: Callable[[str], None],
    warn: Callable[[str], object] = warnings.warn,
) -> None:
    """Serve until Ctrl-C or SIGTERM. `ready` gets the address of the page of studies.

    A missing database is made first, and a broken one is replaced with a call of `warn`. Raises `UserError`
    for a root without studies, a database that cannot be opened, and an address that is taken or not ours.
    """
    if is_missing(root / root_layout.DATABASE):
        track(root, warn=warn)
    store = Store(root, warn)
    if store.replaced:
        track(root, warn=warn)
    _check_address(host, port)
    import uvicorn  # before mlflow.server, which guards its pages only if a server is loaded
    from mlflow.server import ARTIFACT_ROOT_ENV_VAR, BACKEND_STORE_URI_ENV_VAR

    # The environment that `mlflow server` gives to its workers.
    os.environ[BACKEND_STORE_URI_ENV_VAR] = store.uri
    os.environ[ARTIFACT_ROOT_ENV_VAR] = store.artifacts
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    # Without this query the pages open on MLflow's view of prompts and agents.
    page = f"#/experiments/{store.experiment_id}/runs?workflowType=machine_learning"
    ready(f"http://{f'[{host}]' if ':' in host else host}:{port}/{page}")
    # Deprecations between MLflow and its own libraries, on which a reader cannot act.
    warnings.simplefilter("ignore")
    with suppress(KeyboardInterrupt):
        uvicorn.run(
            "mlflow.server.fastapi_app:app", host=host, port=port, workers=1, log_level="warning"
        )


def _check_address(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UserError(
            f"cannot serve on {host}:{port} ({error.strerror}); give another --port or --host"
        ) from None
