"""Two workers against one: the same runs, in turn, several times; the ratio of trials per second.

    python benchmarks/workers.py --trials 8 --repeats 3

Workers are warm (started, data read) before the clock starts, as in a long search.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from completedp import files
from completedp.hparams import HParams
from completedp.lm.data import prepare
from completedp.lm.preset_files import load_preset
from completedp.resolved import resolve
from completedp.runs.job import Job
from completedp.runs.local import LocalExecutor
from completedp.runs.sweep import run_all
from completedp.scale import Ratios
from completedp.training.jobs import training_job

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "workers.json")
    arguments = parser.parse_args()
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(arguments.repeats):
            pair = {w: rate(Path(folder) / f"{repeat}-{w}", w, arguments.trials) for w in (1, 2)}
            pairs.append(pair)
            print(json.dumps(pair), flush=True)
    ratios = [pair[2] / pair[1] for pair in pairs]
    result = {
        "command": f"python benchmarks/workers.py --trials {arguments.trials} --repeats {arguments.repeats}",
        "trials_per_second": pairs,
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
    }
    files.write_json(arguments.out, result)
    print(json.dumps(result["ratio"]))


def rate(folder: Path, workers: int, count: int) -> float:
    """Trials per second of `count` runs a worker at `tiny`."""
    config = load_preset("tiny")
    cache = folder.parent / "data"
    prepare(config.data, config.model.vocab_size, config.train.eval_tokens, cache)
    resolved = resolve(
        HParams(global_=config.values), config.model.inventory(config.model), Ratios()
    )

    def jobs(first: int, number: int) -> list[Job]:
        return [
            training_job(
                config.model,
                config.data,
                config.train,
                resolved,
                trial=i,
                seed=i,
                split="select",
                cache=cache,
                device="cpu",
            )
            for i in range(first, first + number)
        ]

    with LocalExecutor(workers, logs=folder / "logs") as executor:
        run_all(jobs(0, workers), executor, folder / "warm")
        began = time.monotonic()
        run_all(jobs(100, count * workers), executor, folder / "timed")
        return count * workers / (time.monotonic() - began)


if __name__ == "__main__":
    main()
