"""How early does a run's training loss tell its final rank? Replayed on the curves of finished studies.

    python benchmarks/search/replay.py <study folder> [<study folder> ...]

For each study, phase and fraction of the run: Spearman's correlation of the training loss there (mean of
the last 5 % of the run) with the final loss on the select split. Then the places at that fraction of the
tenth of the trials that end best (0 is the lowest loss, 1 the highest): their mean place, and the last of
them. Stopping every trial beyond the last place would have cost nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import result
from completedp.runs.curves import read_curve
from completedp.runs.journal import TrialRecord, read_records, trials

FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# One step's loss scatters by more than what trials differ in, the mean of 20 steps of 384 does not.
WINDOW = 0.05
BEST = 0.1
FEWEST = 20


def main() -> None:
    parser = result.parser(__doc__, "rank_agreement.json")
    parser.add_argument("studies", type=Path, nargs="+")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for folder in arguments.studies:
        found = list(trials(read_records(folder / "journal.jsonl")).values())
        for phase in ("global", "module"):
            done = [t for t in found if t.phase == phase and t.loss is not None]
            if len(done) >= FEWEST:
                rows.append({"study": folder.name, "phase": phase, **agreement(folder, done)})
                print(json.dumps(rows[-1]))
    result.write(arguments.out, {"rows": rows})


def agreement(folder: Path, done: Sequence[TrialRecord]) -> dict[str, Any]:
    from scipy.stats import spearmanr

    curves = [read_curve(folder / "curves", t.trial) for t in done]
    final = np.array([t.loss for t in done], dtype=float)
    best = final.argsort()[: max(3, round(BEST * len(final)))]
    by_fraction = {}
    for fraction in FRACTIONS:
        loss = np.array([loss_at(curve, fraction) for curve in curves])
        place = loss.argsort().argsort() / (len(loss) - 1)
        by_fraction[str(fraction)] = {
            "spearman": round(float(spearmanr(loss, final)[0]), 3),
            "best_tenth_mean_place": round(float(place[best].mean()), 3),
            "best_tenth_last_place": round(float(place[best].max()), 3),
        }
    return {"trials": len(done), "by_fraction": by_fraction}


def loss_at(curve: Sequence[tuple[int, float]], fraction: float) -> float:
    """The mean training loss just before a fraction of a completed run."""
    steps = curve[-1][0]
    end = fraction * steps
    return float(np.mean([loss for step, loss in curve if end - WINDOW * steps < step <= end]))


if __name__ == "__main__":
    main()
