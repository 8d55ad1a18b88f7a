import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from completedp.errors import UserError
from completedp.tracking import serve

MakeStudy = Callable[..., Path]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, path: str) -> str:
    address = f"http://127.0.0.1:{port}{path}"
    with urllib.request.urlopen(address, timeout=10) as response:
        return str(response.read().decode())


@contextmanager
def served(root: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port = free_port()
    code = "from completedp.cli.app import main; main()"
    command = [sys.executable, "-c", code, "ui", "--root", str(root), "--port", str(port)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            try:
                get(port, "/health")
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        yield process, port
    finally:
        process.kill()
        process.communicate()


def test_shows_the_trials_in_one_process_and_ends_at_ctrl_c(
    root: Path, make_study: MakeStudy
) -> None:
    from completedp.tracking import track

    make_study("served")
    track(root, "served")
    with served(root) as (process, port):
        query = "experiments/get-by-name?experiment_name=completedp"
        experiment = json.loads(get(port, f"/ajax-api/2.0/mlflow/{query}"))["experiment"]
        assert experiment["artifact_location"] == (root / "artifacts").as_uri()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if children.exists():
            assert children.read_text() == ""
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 0
        page = f"#/experiments/{experiment['experiment_id']}/runs?workflowType=machine_learning"
        assert out == f"MLflow on http://127.0.0.1:{port}/{page} (Ctrl-C ends it)\n"
        assert err == ""


def test_a_taken_port_is_refused(root: Path, make_study: MakeStudy) -> None:
    make_study("port")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"127\.0\.0\.1:{port} .*give another --port"):
            serve(root, host="127.0.0.1", port=port, ready=pytest.fail)


def test_a_foreign_address_is_refused(root: Path, make_study: MakeStudy) -> None:
    make_study("address")
    with pytest.raises(UserError, match="give another --port or --host"):
        serve(root, host="192.0.2.1", port=free_port(), ready=pytest.fail)


def test_a_root_without_studies_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no study"):
        serve(tmp_path, host="127.0.0.1", port=free_port(), ready=pytest.fail)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_database_is_rebuilt_before_it_is_shown(
    tmp_path: Path, make_study: MakeStudy
) -> None:
    shutil.copytree(make_study("rebuilt", 6), tmp_path / "studies" / "rebuilt")
    (tmp_path / "mlflow.db").write_bytes(b"not a database" * 1000)
    with served(tmp_path) as (process, port):
        query = json.dumps({"experiment_ids": ["1"]}).encode()
        address = f"http://127.0.0.1:{port}/ajax-api/2.0/mlflow/runs/search"
        request = urllib.request.Request(
            address, query, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=20) as response:
            assert len(json.load(response)["runs"]) == 7
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert err.startswith(f"warning: {tmp_path / 'mlflow.db'} was broken (")
    assert err.count("\n") == 1
