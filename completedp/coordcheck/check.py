"""The whole check: train at every ratio of every axis on every seed, then judge the slopes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from completedp.config import StudyConfig
from completedp.coordcheck.measure import PROBE_SEQUENCES, Key, Sizes, batch_sizes, trained_sizes
from completedp.coordcheck.reference import ReferenceSubject
from completedp.coordcheck.slopes import TOLERANCE, Axis, Slope, failures, slope, worst
from completedp.coordcheck.subject import Subject
from completedp.errors import UserError
from completedp.models import external_model
from completedp.rules import rule_options
from completedp.scale import Ratios
from completedp.seeds import derive_seed


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The runs of a check.

    Each axis takes every one of `ratios` while the other axes stay at 1. A run has `steps` training steps.
    """

    axes: tuple[Axis, ...]
    ratios: tuple[float, ...]
    steps: int
    seeds: tuple[int, ...]
    parameterization: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        different = len(set(self.ratios)) == len(self.ratios) > 1
        if not (different and all(ratio >= 1 for ratio in self.ratios)):
            raise UserError(
                f"--ratios is {', '.join(f'{r:g}' for r in self.ratios)}; expected two or more different "
                "numbers, none below 1: the base is the smallest model"
            )
        if self.steps < 2:
            raise UserError(f"--steps is {self.steps}; expected 2 or more")
        if len(self.seeds) < 3:
            raise UserError(f"--seeds is {len(self.seeds)}; expected 3 or more, for an interval")
        rule_options(self.options).check_for(self.parameterization)

    def runs(self) -> Iterator[tuple[Axis, int, float]]:
        """Axis, seed and ratio of every run, the largest ratio first: a model too large fails at once."""
        yield from itertools.product(self.axes, self.seeds, sorted(self.ratios, reverse=True))


Measured = dict[tuple[Axis, int, float], Sizes]


def subject_of(config: StudyConfig, cache: Path, device: torch.device) -> Subject:
    """The subject for the configuration's kind of model."""
    if external_model(config.model) is not None:
        from completedp.coordcheck.external import ExternalSubject

        return ExternalSubject(config, cache, device)
    return ReferenceSubject(config, cache, device)


def check_sizes(subject: Subject, setting: Setting) -> None:
    """Raises `UserError` if a run's model or batch cannot exist. Trains nothing."""
    for axis, _, ratio in setting.runs():
        subject.scale(Ratios(**{axis: ratio}))


def sizes_at(subject: Subject, setting: Setting, axis: Axis, seed: int, ratio: float) -> Sizes:
    """The sizes that one run measures."""
    ratios, base = Ratios(**{axis: ratio}), subject.base
    training = Ratios() if axis == "batch" else ratios
    ready = subject.ready(training, setting.parameterization, setting.options, seed)
    batches = subject.batches(base.batch, derive_seed(seed, "coordinates"))
    others = subject.batches(subject.scale(ratios).batch, derive_seed(seed, "probe"))
    if axis == "batch":
        eps = subject.ready(ratios, setting.parameterization, setting.options, seed).eps
        return batch_sizes(ready, batches, setting.steps, others, eps, base.depth)
    probe_BT = next(others)[:PROBE_SEQUENCES]
    return trained_sizes(ready, batches, probe_BT, setting.steps, base.depth)


def measure(
    subject: Subject, setting: Setting, on_run: Callable[[Axis, int, float], object]
) -> Measured:
    """The sizes of all runs. `on_run` is called before each."""
    check_sizes(subject, setting)
    measured: Measured = {}
    for run in setting.runs():
        on_run(*run)
        measured[run] = sizes_at(subject, setting, *run)
    return measured


def series(setting: Setting, measured: Measured, axis: Axis, key: Key) -> list[list[float]]:
    """One size, by seed and ratio in the setting's order."""
    return [
        [measured[axis, seed, ratio][key] for ratio in setting.ratios] for seed in setting.seeds
    ]


def slopes(setting: Setting, measured: Measured) -> list[Slope]:
    """The slope of every size, axis by axis in the order of the model."""
    options = rule_options(setting.options)
    return [
        slope(axis, key, setting.ratios, series(setting, measured, axis, key), options)
        for axis in setting.axes
        for key in measured[axis, setting.seeds[0], setting.ratios[0]]
    ]


def document(setting: Setting, measured: Measured) -> dict[str, Any]:
    """The result as plain JSON: the verdict, the failures, and every slope with its sizes."""
    every = slopes(setting, measured)
    failed, farthest = failures(every), worst(every)
    return {
        "parameterization": setting.parameterization,
        "options": dict(setting.options),
        "ratios": list(setting.ratios),
        "steps": setting.steps,
        "seeds": list(setting.seeds),
        "tolerance": TOLERANCE,
        "passes": not failed,
        "judged": sum(s.expected is not None for s in every),
        "hold": sum(s.verdict == "holds" for s in every),
        "farthest": farthest.to_dict(),
        "failures": [s.to_dict() for s in failed],
        "slopes": [
            s.to_dict()
            | {
                "sizes": [
                    [size if math.isfinite(size) else None for size in of_seed]
                    for of_seed in series(setting, measured, s.axis, s.key)
                ]
            }
            for s in every
        ],
    }
