"""What the default strategy gains over a global-only search, from what two other benchmarks have measured.

    python benchmarks/gain_of_default.py

The strategies' benchmark begins from the global trials of the gain benchmark's per-module studies and judges
on the same fresh seeds as its global-only studies of 200 runs, on the report split: so the two can be paired.
After 100 per-module trials a search has taken 162 runs (46 global, 100, 16 to confirm), after 150 it has 212.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from completedp import files
from completedp.config import SearchConfig
from completedp.stats import compare

RESULTS = Path(__file__).parent / "results"
RUNS = {"100": 162, "150": 212}


def main() -> None:
    gains = json.loads((RESULTS / "search_gain.json").read_text())["rows"]
    strategies = json.loads((RESULTS / "search_strategies.json").read_text())["rows"]
    default = SearchConfig().strategy
    searched = {r["search_seed"]: r for r in strategies if r["strategy"] == default}
    rows = [
        {"search_seed": gain["search_seed"], "runs": runs, **row(gain, searched, number)}
        for gain in gains
        for number, runs in RUNS.items()
    ]
    for one in rows:
        low, high = one["percent_interval"]
        print(
            f"seed {one['search_seed']}, {one['runs']} runs against 200: {one['global_only']:.4f} to "
            f"{one['per_module']:.4f}, {one['percent']:+.2f} % [{low:+.2f}, {high:+.2f}]"
        )
    content = {"command": "python benchmarks/gain_of_default.py", "rows": rows}
    files.write_json(RESULTS / "gain_of_default.json", content)


def row(gain: dict[str, Any], searched: dict[int, Any], number: str) -> dict[str, Any]:
    """One search seed after so many per-module trials, on the seeds of both."""
    tuned = searched[gain["search_seed"]]
    by_seed = dict(zip(map(str, tuned["seeds"]), tuned["losses"][number], strict=True))
    confirmed = gain["global_only"]["summary"]["confirmed"]["global"]["losses"]
    shared = {seed: confirmed[seed] for seed in by_seed}
    comparison = compare(
        {int(seed): loss for seed, loss in shared.items()},
        {int(seed): loss for seed, loss in by_seed.items()},
    )
    assert comparison is not None, "eight pairs"
    mean = sum(shared.values()) / len(shared)
    percent = [100 * x / mean for x in (comparison.mean, comparison.low, comparison.high)]
    return {
        "pairs": comparison.pairs,
        "global_only": mean,
        "per_module": mean + comparison.mean,
        "percent": percent[0],
        "percent_interval": percent[1:],
    }


if __name__ == "__main__":
    main()
