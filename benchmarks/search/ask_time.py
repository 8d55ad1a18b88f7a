"""How long does one proposal take with 200 observations of the full space, while two workers train?

    python benchmarks/search/ask_time.py --strategies trust-region-bo ax --asks 20

The whole way is timed: strategy, Ax, projection. The observations are uniform points near the start; their
losses are a few slopes and noise, because only their number matters here. Printed: the median and the worst
seconds of each strategy.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics
import tempfile
import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import result
from completedp.config import StudyConfig
from completedp.hparams import HParams
from completedp.lm.data import prepare
from completedp.lm.preset_files import load_preset
from completedp.runs.job import Died, Finished, Job, Outcome
from completedp.runs.journal import finished_record
from completedp.runs.local import LocalExecutor
from search.space import Space
from search.study import Study, StudySpec, confirmation_runs

OBSERVED, GLOBAL = 200, 2
WORKERS = 2
# A study's record of its corpus. No ask reads it.
DATA = {"digest": "sha256:0", "tokens": {}, "bytes_per_token": {"report": 1.0}}


def main() -> None:
    parser = result.parser(__doc__, "ask_time.json")
    parser.add_argument("--strategies", nargs="+", default=["trust-region-bo"])
    parser.add_argument("--asks", type=int, default=20)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)  # as `completedp search` does
    times: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, Training(Path(folder)):
        for strategy in arguments.strategies:
            seconds = asked(strategy, arguments.asks)
            times[strategy] = {
                "median": statistics.median(seconds),
                "worst": max(seconds),
                "asks": len(seconds),
            }
            print(strategy, json.dumps(times[strategy]), flush=True)
    result.write(arguments.out, {"observations": OBSERVED, "seconds": times})


class Training:
    """Two workers that train `tiny` until the block ends."""

    def __init__(self, folder: Path) -> None:
        self._config = load_preset("tiny")
        train = self._config.train
        prepare(self._config.data, self._config.model.vocab_size, train.eval_tokens, folder)
        self._folder = folder
        self._started = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()
        while self._started < 2 * WORKERS:  # until each worker has trained once and is warm
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        running = 0
        with LocalExecutor(WORKERS, logs=self._folder / "logs") as executor:
            while not self._ending.is_set():
                while running < WORKERS:
                    executor.submit(self._next())
                    running += 1
                events = executor.poll(0.5)
                running -= sum(isinstance(event, Finished | Died) for event in events)

    def _next(self) -> Job:
        from search.study_run import language_model_job

        self._started += 1
        hparams = HParams(global_=self._config.values)
        return language_model_job(
            self._config, self._folder, "cpu", self._started, hparams, 0, "select"
        )


def asked(strategy: str, asks: int) -> list[float]:
    """Seconds of each ask, beginning with 200 observations. Each asked trial ends before the next ask."""
    from search.proposer import Proposer
    from search.study_run import language_model_job

    tiny = load_preset("tiny")
    share = GLOBAL / (OBSERVED + asks)
    search = dataclasses.replace(tiny.search, strategy=strategy, global_share=share)
    config = dataclasses.replace(tiny, search=search)
    make_job = functools.partial(language_model_job, config, Path("unused"), "cpu")
    study = Study.from_records(observed(config, asks), "memory")
    source = Proposer(study, lambda _: None, make_job)
    rng = np.random.default_rng(1)
    seconds = []
    for _ in range(asks):
        began = time.perf_counter()
        job = source.next()
        seconds.append(time.perf_counter() - began)
        assert job is not None
        source.finished(outcome(job.trial, job.seed, 1.7 + float(rng.normal(0, 0.015))))
    return seconds


def observed(config: StudyConfig, asks: int) -> list[dict[str, Any]]:
    """A journal with two global trials and 200 per-module ones."""
    searching = GLOBAL + OBSERVED + asks
    budget = next(b for b in count(searching) if b - confirmation_runs(b) >= searching)
    study = StudySpec(name="asks", config=config, seed=0, budget=budget, data=DATA)
    records = [{"event": "study", **study.to_record()}]
    rng = np.random.default_rng(0)
    coordinates = Space.from_config(config).part("type", "depth")
    slopes_D = rng.standard_t(2, len(coordinates)) * 0.003
    for trial in range(GLOBAL + OBSERVED):
        x_D = rng.uniform(-1, 1, len(coordinates)) * (trial >= GLOBAL)
        values = {c.name: float(x) for c, x in zip(coordinates, x_D, strict=True)}
        loss = 1.7 + 0.1 * (trial < GLOBAL) + float(x_D @ slopes_D + rng.normal(0, 0.015))
        proposed = {"trial": trial, "values": values, "seed": 1}
        phase = "module" if trial >= GLOBAL else "global"
        records.append({"event": "proposed", "phase": phase, **proposed})
        records.append(finished_record(outcome(trial, 1, loss)))
    return records


def outcome(trial: int, seed: int, loss: float) -> Outcome:
    return Outcome(
        trial=trial, status="completed", loss=loss, steps=1, tokens=1, seconds=5.0, seed=seed
    )


if __name__ == "__main__":
    main()
