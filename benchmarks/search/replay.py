"""How early does a run's training loss tell its final rank? Rank agreement on the curves of finished studies.

    python benchmarks/rank_agreement.py <study folder> [<study folder> ...]

For each phase and fraction of the run: Spearman's correlation of the training loss there (mean of the last
5 % of the run) with the final loss on the select split, and where the tenth of the trials that end best
stand by then (0 is the lowest loss, 1 the highest): their mean place and the last of them. Stopping all
beyond the last one would have cost nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from completedp import files
from completedp.runs.curves import read_curve
from completedp.runs.divergence import loss_at
from completedp.runs.journal import TrialRecord, read_records, trials

RESULTS = Path(__file__).parent / "results"
FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
BEST = 0.1
FEWEST = 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("studies", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=RESULTS / "rank_agreement.json")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for folder in arguments.studies:
        found = list(trials(read_records(folder / "journal.jsonl")).values())
        for phase in ("global", "module"):
            done = [t for t in found if t.phase == phase and t.loss is not None]
            if len(done) >= FEWEST:
                rows.append({"study": folder.name, "phase": phase, **agreement(folder, done)})
                print(json.dumps(rows[-1]))
    names = " ".join(folder.name for folder in arguments.studies)
    files.write_json(
        arguments.out,
        {"command": f"python benchmarks/rank_agreement.py {names}", "rows": rows},
    )


def agreement(folder: Path, done: list[TrialRecord]) -> dict[str, Any]:
    curves = [read_curve(folder / "curves", t.trial) for t in done]
    final = np.array([t.loss for t in done], dtype=float)
    best = final.argsort()[: max(3, round(BEST * len(final)))]
    by_fraction = {}
    for fraction in FRACTIONS:
        loss = np.array([loss_at(curve, fraction, curve[-1][0]) for curve in curves], dtype=float)
        place = loss.argsort().argsort() / (len(loss) - 1)
        by_fraction[str(fraction)] = {
            "spearman": round(float(spearmanr(loss, final)[0]), 3),
            "best_tenth_mean_place": round(float(place[best].mean()), 3),
            "best_tenth_last_place": round(float(place[best].max()), 3),
        }
    return {"trials": len(done), "by_fraction": by_fraction}


if __name__ == "__main__":
    main()
