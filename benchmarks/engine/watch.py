"""What does a command cost, with all the processes it starts?

    python benchmarks/engine/watch.py -- completedp search --budget 200 --yes

Printed: the exit status, wall seconds, CPU seconds of the command's own process (not of its workers), and
the peak memory of the whole tree (PSS: a shared page counts once). The command's output goes to `--log`.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import result

_TICKS = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 0.5


def main() -> None:
    parser = result.parser(__doc__)
    parser.add_argument("--log", type=Path, default=Path("watch.log"))
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    print(json.dumps(asdict(watch(arguments.command, arguments.log))))


@dataclass(frozen=True, kw_only=True)
class Watched:
    """`coordinator_cpu_seconds` belongs to the command's own process. `peak_mib` is the tree's summed PSS."""

    status: int
    wall_seconds: float
    coordinator_cpu_seconds: float
    peak_mib: float


def watch(command: Sequence[str], log: Path) -> Watched:
    """Run the command to its end; its output is appended to `log`."""
    began = time.monotonic()
    cpu = peak = 0.0
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        while process.poll() is None:
            cpu = max(cpu, _cpu_seconds(process.pid))
            peak = max(peak, sum(_pss_mib(pid) for pid in _tree(process.pid)))
            time.sleep(SAMPLE_SECONDS)
    return Watched(
        status=process.returncode,
        wall_seconds=round(time.monotonic() - began, 1),
        coordinator_cpu_seconds=round(cpu, 1),
        peak_mib=round(peak),
    )


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat after the command's name."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return []


def _cpu_seconds(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS if fields else 0.0


def _tree(root: int) -> list[int]:
    parents = {int(p.name): _stat(int(p.name)) for p in Path("/proc").glob("[0-9]*")}
    tree = [root]
    for pid in tree:
        tree += [child for child, fields in parents.items() if fields and int(fields[1]) == pid]
    return tree


def _pss_mib(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


if __name__ == "__main__":
    main()
