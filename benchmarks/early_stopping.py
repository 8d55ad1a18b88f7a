"""What stopping per-module trials at rungs would have saved and cost, replayed on finished studies.

    python benchmarks/early_stopping.py <study folder> [<study folder> ...]

A trial's curve does not depend on the others, so the rule can be replayed on studies that ran every trial
to its end: share of the phase's tokens saved, and regret: the best select loss among the trials that would
have ended less the best of all. What the strategy would then have proposed is not replayed; how much of the
best third it would have lost, which trust-region random search averages, is.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from completedp import files
from completedp.runs.curves import read_curve
from completedp.runs.divergence import loss_at
from completedp.runs.journal import read_records, trials
from completedp.stats import compare
from search.stopping import KeepShare

RESULTS = Path(__file__).parent / "results"
RUNGS = ((0.1,), (0.2,), (0.3,), (0.5,), (0.2, 0.4), (0.3, 0.6), (0.2, 0.4, 0.6))
KEPT = (0.3, 0.4, 0.5, 0.6, 0.7)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("studies", type=Path, nargs="+")
    parser.add_argument("--phase", default="module", choices=("module", "global"))
    parser.add_argument("--out", type=Path, default=RESULTS / "early_stopping.json")
    arguments = parser.parse_args()
    studies = [load(folder, arguments.phase) for folder in arguments.studies]
    rows = []
    for rungs in RUNGS:
        for kept in KEPT:
            found = [replay(*study, KeepShare(rungs, kept)) for study in studies]
            rows.append({"rungs": rungs, "kept": kept, **frontier_point(found)})
    rows.sort(key=lambda row: -row["saved"])
    for row in rows:
        print(json.dumps(row))
    names = " ".join(folder.name for folder in arguments.studies)
    files.write_json(
        arguments.out,
        {
            "command": f"python benchmarks/early_stopping.py {names} --phase {arguments.phase}",
            "rows": rows,
        },
    )


Curves = list[tuple[tuple[int, float], ...]]


def load(folder: Path, phase: str) -> tuple[Curves, list[float]]:
    """Curves and final losses of a phase's completed trials, in the journal's order."""
    found = trials(read_records(folder / "journal.jsonl")).values()
    done = [(t.trial, t.loss) for t in found if t.phase == phase and t.loss is not None]
    return [read_curve(folder / "curves", trial) for trial, _ in done], [loss for _, loss in done]


def replay(curves: Curves, losses: list[float], rule: KeepShare) -> tuple[float, float, float]:
    """(share of tokens saved, regret in nats, share of the best third stopped)."""
    steps = curves[0][-1][0]
    seen: Curves = []
    spent: list[float] = []
    for curve in curves:
        stops = [
            rung.fraction
            for rung in rule.rungs(seen)
            if (loss := loss_at(curve, rung.fraction, steps)) is not None and loss > rung.bound
        ]
        spent.append(min(stops, default=1.0))
        seen.append(tuple(point for point in curve if point[0] <= spent[-1] * steps))
    final, whole = np.array(losses), np.array(spent) == 1.0
    third = final.argsort()[: len(final) // 3]
    return (
        1 - float(np.mean(spent)),
        float(final[whole].min() - final.min()),
        float(1 - whole[third].mean()),
    )


def frontier_point(found: list[tuple[float, float, float]]) -> dict[str, Any]:
    saved, regret, lost = zip(*found, strict=True)
    interval = compare(dict.fromkeys(range(len(regret)), 0.0), dict(enumerate(regret)))
    return {
        "saved": round(statistics.fmean(saved), 3),
        "saved_least": round(min(saved), 3),
        "regret": round(statistics.fmean(regret), 5),
        "regret_most": round(max(regret), 5),
        "regret_95": None
        if interval is None
        else [round(interval.low, 5), round(interval.high, 5)],
        "best_third_stopped": round(statistics.fmean(lost), 3),
    }


if __name__ == "__main__":
    main()
