"""How many more trials a second do two workers finish than one?

    python benchmarks/engine/workers.py --trials 8 --repeats 3

One and two workers run the same trials in turn, several times. The workers are warm (started, data read)
before the clock starts, as in a long search. Printed: trials a second of each, and the ratio.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks import result
from completedp.hparams import HParams
from completedp.lm.data import prepare
from completedp.lm.preset_files import load_preset
from completedp.models import own_inventory
from completedp.resolved import resolve
from completedp.runs.job import Job
from completedp.runs.local import LocalExecutor
from completedp.runs.sweep import run_all
from completedp.scale import Ratios
from completedp.training.jobs import training_job


def main() -> None:
    parser = result.parser(__doc__, "workers.json")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(arguments.repeats):
            pair = {w: rate(Path(folder) / f"{repeat}-{w}", w, arguments.trials) for w in (1, 2)}
            pairs.append(pair)
            print(json.dumps(pair), flush=True)
    ratios = [pair[2] / pair[1] for pair in pairs]
    ratio = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    result.write(arguments.out, {"trials_per_second": pairs, "ratio": ratio})
    print(json.dumps(ratio))


def rate(folder: Path, workers: int, count: int) -> float:
    """Trials a second; each worker trains `count` runs of `tiny`."""
    config = load_preset("tiny")
    cache = folder.parent / "data"
    prepare(config.data, config.model.vocab_size, config.train.eval_tokens, cache)
    resolved = resolve(HParams(global_=config.values), own_inventory(config.model), Ratios())

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
