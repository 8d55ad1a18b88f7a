"""How long does `completedp --help` take?

    python benchmarks/engine/startup.py

Printed: the median, least and greatest seconds of 15 fresh processes.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time

from benchmarks import result

RUNS = 15


def main() -> None:
    arguments = result.parser(__doc__, "startup.json").parse_args()
    times = []
    for _ in range(RUNS + 1):
        began = time.perf_counter()
        subprocess.run(["completedp", "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    times = times[1:]  # the first fills the file cache
    seconds = {"median": statistics.median(times), "min": min(times), "max": max(times)}
    result.write(arguments.out, {"seconds": seconds, "runs": RUNS})
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
