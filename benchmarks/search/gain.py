"""What does a search gain over a global-only search of the same total budget, on fresh paired seeds?

    python benchmarks/search/gain.py --budget 200 --seeds 0 1 2 --root <folder>
    python benchmarks/search/gain.py --recorded

For each search seed two studies run one after the other: the default one, and one whose whole budget goes
to global values (`search.global_share: 1`). Both confirm their winner on the same fresh seeds and the
report split, so the losses pair. Interrupt it and start it again: finished studies are not repeated.

`--recorded` trains nothing. It pairs the global-only studies of results/search_gain.json with the default
strategy's rows of results/search_strategies.json: both have the same global trials at the start and the
same fresh seeds. After 100 per-module trials such a search has taken 162 runs (46 global, 100 per-module,
16 to confirm), after 150 it has taken 212. Printed: the difference in percent with its 95 % interval.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import result
from benchmarks.engine.watch import watch
from completedp import files
from completedp.config import SearchConfig
from completedp.lm.preset_files import load_preset
from completedp.stats import compare

RUNS = {"100": 162, "150": 212}


def main() -> None:
    parser = result.parser(__doc__)
    parser.add_argument("--budget", type=int, default=200)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--root", type=Path)
    parser.add_argument("--recorded", action="store_true", help="train nothing")
    parser.add_argument("--out", type=Path, help="the result file")
    arguments = parser.parse_args()
    if arguments.recorded:
        rows = recorded()
        print("\n".join(map(line, rows)))
        result.write(arguments.out or result.RESULTS / "gain_of_default.json", {"rows": rows})
    elif arguments.root is None:
        parser.error("give --root, or --recorded")
    else:
        searched(arguments)


def searched(arguments: argparse.Namespace) -> None:
    root = arguments.root.resolve()
    config = load_preset(arguments.preset)
    whole_global = dataclasses.replace(config.search, global_share=1.0)
    preset = root / "global_only.yaml"
    files.write_yaml(preset, dataclasses.replace(config, search=whole_global).to_dict())
    presets = {"per_module": arguments.preset, "global_only": str(preset)}
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        row: dict[str, Any] = {"search_seed": seed}
        for label, one in presets.items():
            row[label] = study(root, f"{label}-{seed}", one, arguments.budget, seed)
        tuned = row["per_module"]["summary"]["confirmed"]["module"]["losses"]
        row["comparison"] = paired(global_losses(row), tuned)
        rows.append(row)
        result.write(arguments.out or result.RESULTS / "search_gain.json", {"rows": rows})
        print(json.dumps(row["comparison"]), flush=True)


def study(root: Path, name: str, preset: str, budget: int, seed: int) -> dict[str, Any]:
    """Run or finish one study by the command line, as a user would."""
    folder = root / "studies" / name
    measured = root / f"{name}.watched.json"
    if not (folder / "summary.json").exists():
        begun = (folder / "journal.jsonl").exists()
        start = ["--budget", str(budget), "--preset", preset, "--seed", str(seed), "--name", name]
        how = ["--resume", name] if begun else start
        command = [*result.COMPLETEDP, "search", *how, "--root", str(root), "--yes"]
        watched = watch(command, root / f"{name}.log")
        assert watched.status == 0, (root / f"{name}.log").read_text()[-2000:]
        files.write_json(measured, {**dataclasses.asdict(watched), "resumed": begun})
    summary = json.loads((folder / "summary.json").read_text())
    process = json.loads(measured.read_text()) if measured.exists() else None
    return {"summary": summary, "process": process}


def global_losses(row: Mapping[str, Any]) -> dict[str, float]:
    """The global-only search's winner by fresh seed."""
    losses: dict[str, float] = row["global_only"]["summary"]["confirmed"]["global"]["losses"]
    return losses


def paired(baseline: Mapping[str, float], tuned: Mapping[str, float]) -> dict[str, Any]:
    """Per-module values against the global-only search's winner, over the seeds of both."""
    shared = {seed: loss for seed, loss in baseline.items() if seed in tuned}
    found = compare(
        {int(seed): loss for seed, loss in shared.items()},
        {int(seed): loss for seed, loss in tuned.items()},
    )
    assert found is not None, "expected two or more seeds in common"
    mean = statistics.fmean(shared.values())
    return {
        **found.to_dict(),
        "global_only": mean,
        "per_module": mean + found.mean,
        "percent": 100 * found.mean / mean,
        "percent_interval": [100 * found.low / mean, 100 * found.high / mean],
    }


def recorded() -> list[dict[str, Any]]:
    """A row for each search seed and number of runs, from the two result files."""
    gains, strategies = (
        json.loads((result.RESULTS / f"{name}.json").read_text())["rows"]
        for name in ("search_gain", "search_strategies")
    )
    default = SearchConfig().strategy
    searched = {row["search_seed"]: row for row in strategies if row["strategy"] == default}
    rows = []
    for gain in gains:
        tuned = searched[gain["search_seed"]]
        for number, runs in RUNS.items():
            losses = dict(zip(map(str, tuned["seeds"]), tuned["losses"][number], strict=True))
            found = paired(global_losses(gain), losses)
            rows.append({"search_seed": gain["search_seed"], "runs": runs, **found})
    return rows


def line(row: Mapping[str, Any]) -> str:
    low, high = row["percent_interval"]
    return (
        f"seed {row['search_seed']}, {row['runs']} runs against 200: {row['global_only']:.4f} to "
        f"{row['per_module']:.4f}, {row['percent']:+.2f} % [{low:+.2f}, {high:+.2f}]"
    )


if __name__ == "__main__":
    main()
