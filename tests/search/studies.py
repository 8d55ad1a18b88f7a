"""Studies on the bowl, for the tests of the search."""

from __future__ import annotations

import functools
import json
import lzma
from pathlib import Path
from typing import Any

from completedp.config import StudyConfig
from completedp.hparams import HParams
from completedp.resolved import resolve
from completedp.runs.job import Event, Job
from completedp.runs.local import InProcessExecutor
from completedp.scale import Ratios
from search.proposer import JobFactory
from search.study import StudySpec

RECORDS = Path(__file__).parents[2] / "benchmarks" / "records"


class Killed(Exception):
    """The coordinator's death between two events."""


class KilledAfter(InProcessExecutor):
    def __init__(self, events: int) -> None:
        super().__init__()
        self.left = events

    def poll(self, timeout: float) -> list[Event]:
        if self.left == 0:
            raise Killed
        self.left -= 1
        return super().poll(timeout)


def recorded(name: str) -> list[dict[str, Any]]:
    """The journal of a search that really trained (benchmarks/search/strategies.py)."""
    text = lzma.decompress((RECORDS / f"{name}.jsonl.xz").read_bytes())
    lines = (json.loads(line) for line in text.splitlines())
    return [{key: value for key, value in line.items() if key != "curve"} for line in lines]


def study_of(config: StudyConfig, *, budget: int = 40, seed: int = 0, name: str = "s") -> StudySpec:
    data = {"digest": "sha256:0", "tokens": {}, "bytes_per_token": {"report": 1.0}}
    return StudySpec(name=name, config=config, seed=seed, budget=budget, data=data)


def bowl_job(
    config: StudyConfig,
    pause: float,
    trial: int,
    hparams: HParams,
    seed: int,
    split: str,
    ratios: Ratios,
) -> Job:
    return Job(
        trial=trial,
        task="bowl:bowl",
        arguments={"pause": pause},
        resolved=resolve(hparams, config.model.inventory(config.model), Ratios()),
        seed=seed,
    )


def job_factory(config: StudyConfig, pause: float = 0.0) -> JobFactory:
    return functools.partial(bowl_job, config, pause)
