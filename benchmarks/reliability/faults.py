"""What is left of a search, and what does it say, when something it needs breaks?

    python benchmarks/reliability/faults.py

Each short search loses one thing: a worker, the coordinator, a Ray node, the disk's room, or the tracker's
database (locked by another program, or removed). Then the fault is mended and the study is resumed if it
had ended. Printed: what the search said, and whether each check holds. Every finished trial is there
unchanged, the budget is kept, and MLflow has one run a trial. The full disk is a small file system, which
only root may mount.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks import result
from benchmarks.reliability.kill_resume import mlflow_runs, outcomes, search, short_preset

BUDGET = 20
FINISHED_FIRST = 6  # trials before the fault
SECONDS = 240
Fault = Callable[[Path, "subprocess.Popen[bytes]"], None]


def main() -> None:
    parser = result.parser(__doc__, "faults.json")
    parser.add_argument(
        "--only", nargs="+", choices=FAULTS, help="some faults; printed, and not written to --out"
    )
    arguments = parser.parse_args()
    results = {}
    for name in arguments.only or FAULTS:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = FAULTS[name](Path(folder))
        print(name, json.dumps(results[name], indent=1), flush=True)
    if not arguments.only:
        result.write(arguments.out, {"faults": results})
    sys.exit(0 if all(all(r["checks"].values()) for r in results.values()) else 1)


def broken(
    root: Path,
    fault: Fault,
    mend: Callable[[], None] = lambda: None,
    logs: Path | None = None,
    how: Sequence[str] = (),
) -> dict[str, Any]:
    """A search that meets a fault after its first trials; it is mended, and resumed if it ended."""
    logs = logs or root
    begin = ["--preset", str(short_preset(root)), "--budget", str(BUDGET), "--workers", "2"]
    journal = root / "studies" / "broken" / "journal.jsonl"
    process = search(root, "broken", [*begin, *how], logs)
    try:
        until(lambda: len(outcomes(journal)) >= FINISHED_FIRST or process.poll() is not None)
        before = outcomes(journal)
        fault(root, process)
        status = process.wait(timeout=SECONDS)
    finally:  # when the benchmark fails, no process of the search may stay
        for pid in children(process, ""):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    after = outcomes(journal)
    mend()
    resumed = status != 0
    if resumed:
        assert search(root, "resumed", ["--resume", "broken", *how], logs).wait(SECONDS) == 0
    subprocess.run(
        [*result.COMPLETEDP, "track", "--root", str(root)], check=True, capture_output=True
    )
    end = outcomes(journal)
    lines = (logs / "broken.log").read_text().replace(str(logs), "<root>").splitlines()
    said = [line.split(" Node IP")[0] for line in lines if _tells(line)]
    return {
        "finished_before": len(before),
        "exit_status": status,
        "resumed": resumed,
        "said": said[:3],
        "checks": {
            "nothing finished lost or changed": all(
                end.get(trial) == outcome for trial, outcome in {**before, **after}.items()
            ),
            "budget kept": len(end) == BUDGET,
            "one MLflow run a trial": mlflow_runs(root, "broken") == list(range(BUDGET)),
        },
    }


def _tells(line: str) -> bool:
    return any(word in line for word in ("again", "resume", "MLflow", "room", "died", "lost"))


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < limit, "nothing happened"
        time.sleep(0.05)


def children(process: subprocess.Popen[bytes], words: str) -> list[int]:
    """Processes of the search's session whose command line holds these words."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if words in command and os.getsid(int(folder.name)) == process.pid:
                found.append(int(folder.name))
        except (OSError, UnicodeDecodeError):
            continue
    return found


def worker_killed(root: Path) -> dict[str, Any]:
    """kill -9 of one worker during a trial: the trial is tried again."""

    def fault(_: Path, process: subprocess.Popen[bytes]) -> None:
        os.kill(children(process, "completedp.runs.worker")[0], signal.SIGKILL)

    return broken(root, fault)


def coordinator_killed(root: Path) -> dict[str, Any]:
    """kill -9 of the coordinator alone: its workers end by themselves."""

    def fault(_: Path, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        until(lambda: not children(process, "completedp.runs.worker"))

    return broken(root, fault)


def disk_full(root: Path) -> dict[str, Any]:
    """A full file system: the search ends and says so. With room again it goes on."""
    with small_disk(root / "disk") as disk:
        filler = disk / "filler"

        def fault(*_: object) -> None:
            with filler.open("wb", buffering=0) as file, suppress(OSError):
                while file.write(b"0" * 4096):
                    pass

        return broken(disk, fault, mend=lambda: filler.unlink(), logs=root)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def tracker_locked(root: Path) -> dict[str, Any]:
    """Another program locks MLflow's database to the end: a warning, and `track` fills it in."""
    held: list[sqlite3.Connection] = []

    def fault(root: Path, _: subprocess.Popen[bytes]) -> None:
        connection = sqlite3.connect(root / "mlflow.db", timeout=60, isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        held.append(connection)

    return broken(root, fault, mend=lambda: held[0].close())


def tracker_vanished(root: Path) -> dict[str, Any]:
    """MLflow's database is removed while the search writes to it."""

    def fault(root: Path, _: subprocess.Popen[bytes]) -> None:
        for path in root.glob("mlflow.db*"):
            path.unlink()

    return broken(root, fault)


def ray_node_killed(root: Path) -> dict[str, Any]:
    """kill -9 of one node of a local cluster, with the trial on it: the other node goes on."""
    from ray.cluster_utils import Cluster

    store = {"object_store_memory": 80_000_000}
    head = {"num_cpus": 1, "include_dashboard": False, **store}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    node = cluster.add_node(num_cpus=1, **store)
    os.environ["RAY_ADDRESS"] = cluster.address

    def fault(*_: object) -> None:
        cluster.remove_node(node, allow_graceful=False)

    try:
        return broken(root, fault, how=["--executor", "ray"])
    finally:
        del os.environ["RAY_ADDRESS"]
        cluster.shutdown()


FAULTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "worker killed": worker_killed,
    "coordinator killed": coordinator_killed,
    "Ray node killed": ray_node_killed,
    "disk full": disk_full,
    "tracker locked": tracker_locked,
    "tracker vanished": tracker_vanished,
}


if __name__ == "__main__":
    main()
