"""Is a proxy good enough for a search? `measure` trains what `search.proxy_result` judges.

The first runs are a grid of batches and learning rates at the preset's tokens, carried by the batch rule. The
others are random per-module moves around the best of the grid, on the same seeds.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from completedp import files, reading, root_layout
from completedp.config import StudyConfig
from completedp.errors import UserError, located
from completedp.hparams import HParams
from completedp.lm.preset_files import load_preset
from completedp.models import content_of, training_flops
from completedp.reading import Field
from completedp.runs.job import Executor, Job, Outcome
from completedp.scale import Ratios
from completedp.seeds import derive_seed
from search.proxy_result import (
    BUDGET,
    EFFECTS,
    FEWEST_STEPS,
    Cell,
    Measurement,
    Moves,
    listed,
    moves_of,
)
from search.rungs import rungs_of
from search.scales import at_scale
from search.space import Space
from search.strategies.trust_region_bo import steps
from search.study import Study, StudySpec

if TYPE_CHECKING:
    from completedp.lm.data import Corpus

DOCUMENT = "proxy.json"
# Random moves around the best of the grid. With 3 seeds the noise of a trial has 12 degrees of freedom.
MOVES = 6


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The grid: ratios to the preset's batch, factors of the carried learning rate, and seeds."""

    batches: tuple[float, ...]
    factors: tuple[float, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("batches", "factors", "seeds"):
            values = getattr(self, name)
            usable = name == "seeds" or all(math.isfinite(v) and v > 0 for v in values)
            if len(set(values)) < max(2, len(values)) or not usable:
                given = ", ".join(f"{value:g}" for value in values) or "none"
                raise UserError(f"{name} are {given}; expected two or more, above 0, each once")
        if 1.0 not in self.batches:
            raise UserError("batches are without 1, the preset's own; expected 1 among them")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training: its cell of the grid and its seed. A move has a number, and octaves by coordinate too."""

    ratio: float
    factor: float
    seed: int
    move: int | None = None
    values: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        moved = "" if self.move is None else f", move {self.move + 1}"
        return f"batch x {self.ratio:g}, lr x {self.factor:g}{moved}, seed {self.seed}"

    def hparams(self, space: Space) -> HParams:
        """The values at the preset's own scale."""
        point = space.to_hparams(self.values)
        lr = point.global_.lr * self.factor
        return dataclasses.replace(point, global_=dataclasses.replace(point.global_, lr=lr))


def grid(config: StudyConfig, setting: Setting) -> list[Run]:
    """Every run of the grid. Raises `UserError` for batches that the training cannot have.

    Seeds are the outer loop, so that an interrupted measurement has whole pairs.
    """
    tokens = [at_scale(config, Ratios(batch=ratio)).train.batch for ratio in setting.batches]
    if len(set(tokens)) < len(tokens) or max(tokens) > config.train.tokens:
        raise UserError(
            f"batches {listed(setting.batches)} give {', '.join(map(str, tokens))} tokens a "
            f"step; expected different multiples of {_unit(config)}, at most train.tokens = "
            f"{config.train.tokens}"
        )
    return [
        Run(ratio=ratio, factor=factor, seed=seed)
        for seed in setting.seeds
        for ratio in setting.batches
        for factor in setting.factors
    ]


def move_runs(
    space: Space, ratio: float, factor: float, seeds: Sequence[int], seed: int
) -> list[Run]:
    """Random steps of the default strategy in every per-module coordinate, around a cell of the grid."""
    names = [c.name for c in space.part("type", "depth")]
    rng = np.random.default_rng(derive_seed(seed, "proxy-moves"))
    drawn = [map(float, steps(len(names), rng)) for _ in range(MOVES)]
    moves = [space.project(dict(zip(names, step, strict=True))) for step in drawn]
    return [
        Run(ratio=ratio, factor=factor, seed=one, move=i, values=values)
        for one in seeds
        for i, values in enumerate(moves)
    ]


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The runs of one measurement, as jobs and as their result. Outcomes are by a run's place in its list."""

    config: StudyConfig
    setting: Setting
    corpus: Corpus | None
    root: Path
    device: str
    seed: int

    @cached_property
    def first(self) -> list[Run]:
        """The grid."""
        return grid(self.config, self.setting)

    @cached_property
    def space(self) -> Space:
        return Space.from_config(self.config)

    def second(self, outcomes: Mapping[int, Outcome]) -> list[Run]:
        """The moves around the best of the grid, none if nothing trained.

        Until the grid is whole they are around the largest batch. These cost the same, and a β that cannot be
        carried so far is refused before anything trains.
        """
        ratio, factor = max(self.setting.batches), 1.0
        if len(outcomes) == len(self.first):
            if (best := self.result(outcomes, None).best) is None:
                return []
            ratio, factor = best.ratio, best.factor
        return move_runs(self.space, ratio, factor, self.setting.seeds, self.seed)

    def at(self, run: Run) -> StudyConfig:
        """The configuration with the batch of a run."""
        return at_scale(self.config, Ratios(batch=run.ratio))

    def jobs(self, runs: Sequence[Run]) -> list[Job]:
        """The runs as jobs, numbered by place."""
        return [self._job(i, run) for i, run in enumerate(runs)]

    def _job(self, number: int, run: Run) -> Job:
        from search.study_run import language_model_job

        with located(run.name):  # the rules carry no β as far as one likes
            return language_model_job(
                self.config,
                root_layout.data_cache(self.root),
                self.device,
                number,
                run.hparams(self.space),
                run.seed,
                "select",
                Ratios(batch=run.ratio),
                digest=self.corpus.digest if self.corpus else None,
            )

    def result(self, outcomes: Mapping[int, Outcome], moves: Moves | None) -> Measurement:
        """The grid's outcomes, with the moves around the best of them."""
        cells: dict[tuple[float, float], list[Outcome]] = {
            (ratio, factor): [] for ratio in self.setting.batches for factor in self.setting.factors
        }
        for i, outcome in outcomes.items():
            cells[self.first[i].ratio, self.first[i].factor].append(outcome)
        return Measurement(
            cells=tuple(self._cell(*key, ended) for key, ended in cells.items()),
            moves=moves,
            seeds=len(self.setting.seeds),
            unit=_unit(self.config),
            module_trials=module_trials(_study(self.config)),
        )

    def _cell(self, ratio: float, factor: float, ended: Sequence[Outcome]) -> Cell:
        train = at_scale(self.config, Ratios(batch=ratio)).train
        losses = tuple(outcome.loss for outcome in ended if outcome.loss is not None)
        return Cell(
            ratio=ratio,
            factor=factor,
            batch=train.batch,
            steps=train.steps,
            losses=losses,
            diverged=len(ended) - len(losses),
        )


def moves(center: Cell, runs: Sequence[Run], outcomes: Mapping[int, Outcome]) -> Moves | None:
    """The result of the moves around `center`. None if too few trained on every seed."""
    losses: dict[int | None, list[float]] = {run.move: [] for run in runs}
    for i, outcome in outcomes.items():
        if outcome.loss is not None:
            losses[runs[i].move].append(outcome.loss)
    octaves = np.array([list(run.values.values()) for run in runs])
    length = float(np.sqrt(np.mean(octaves**2)))
    return moves_of(center, list(losses.values()), length, octaves.shape[1])


def measure(
    config: StudyConfig | str | Path,
    *,
    batches: Sequence[float] = (0.5, 1, 2),
    factors: Sequence[float] = (0.5, 0.71, 1, 1.41),
    seeds: int = 3,
    seed: int = 0,
    device: str = "auto",
    workers: int | None = None,
    executor: Executor | None = None,
    root: Path | str = "mlruns",
    dry_run: bool = False,
    yes: bool = False,
    on_line: Callable[[str], object] = print,
) -> dict[str, Any] | None:
    """Measure whether a proxy can tell what a search asks of it.

    `config` is a configuration, the name of a preset, or the path of a YAML file. `batches` are ratios to its
    batch, 1 among them; the tokens stay. `factors` multiply the learning rate that the rules carry. `seeds`
    is the number of paired seeds, derived from `seed`. Losses are of the select split, as a search sees them.
    Runs are kept under `root` (in `proxies/`), and a second call goes on. `executor` trains the runs in place
    of `workers` processes here, and is closed at the end. `yes` allows a long measurement. Each line of
    progress goes to `on_line`.

    Returns the document that `search` reads before it starts, in nats a token; None if `dry_run`. An
    interruption leaves runs out: `runs_missing` counts them, and the verdict is None. Raises
    `completedp.UserError` for a setting that measures nothing, and as `search.run` does.
    """
    from completedp.lm.data import prepare
    from completedp.runs.sweep import finished, run_all
    from completedp.training.sweeps import Countdown, announce, machine_for, progress

    if not isinstance(config, StudyConfig):
        config = load_preset(str(config))
    setting = Setting(
        batches=tuple(map(float, batches)),
        factors=tuple(map(float, factors)),
        seeds=tuple(derive_seed(seed, "proxy", i) for i in range(seeds)),
    )
    first, root, corpus = grid(config, setting), Path(root), None
    machine = machine_for(device, workers)
    if config.train.loop is None:
        cache = root_layout.data_cache(root)
        corpus = prepare(config.data, config.model.vocab_size, config.train.eval_tokens, cache)
        on_line(f"data: {corpus.summary(config.data.source)}")
    digest = identity(config, corpus)
    folder = folder_of(root, digest)
    plan = _Plan(
        config=config, setting=setting, corpus=corpus, root=root, device=machine.kind, seed=seed
    )
    known = finished(plan.jobs(first), folder)
    second = plan.second(known)
    moved = finished(plan.jobs(second), folder)
    on_line(f"{len(first) + len(second)} runs, {len(known) + len(moved)} of them finished before")
    left = [plan.at(run) for i, run in enumerate(first) if i not in known]
    left += [plan.at(run) for i, run in enumerate(second) if i not in moved]
    longest = announce(
        [(one.model, one.train) for one in left],
        corpus,
        machine,
        accepted=yes or dry_run,
        say=on_line,
    )
    if dry_run:
        return None
    countdown = Countdown([_flops(one) for one in left])
    with closing(executor or machine.executor(config.model, config.train, folder)) as pool:

        def train(runs: Sequence[Run]) -> dict[int, Outcome]:
            names, flops = [run.name for run in runs], [_flops(plan.at(run)) for run in runs]
            shown = progress(names, flops, countdown, on_line)
            return run_all(plan.jobs(runs), pool, folder, forecast=longest, on_event=shown)

        known = train(first)
        second = plan.second(known)
        moved = train(second) if len(known) == len(first) else {}
    missing = len(first) + len(second) - len(known) - len(moved)
    best = plan.result(known, None).best
    result = plan.result(known, moves(best, second, moved) if best and moved else None)
    document = {
        "schema": 1,
        "kind": "proxy",
        "digest": digest,
        "corpus": corpus.digest if corpus else None,
        "seeds": list(setting.seeds),
        "runs_missing": missing,
        **result.to_dict(),
    }
    if missing:
        return {**document, "verdict": None}
    files.write_json(folder / DOCUMENT, document)
    return document


def _flops(config: StudyConfig) -> float:
    return training_flops(config.model, config.train.tokens)


def folder_of(root: Path, digest: str) -> Path:
    """The folder of a measurement's runs and its document."""
    return root / root_layout.PROXIES / digest.partition(":")[2][:12]


def identity(config: StudyConfig, corpus: Corpus | None) -> str:
    """A digest of all that a measurement holds for: model, data, training and values."""
    return files.digest(
        {
            "model": content_of(config.model),
            "data": dataclasses.asdict(config.data),
            "train": dataclasses.asdict(config.train),
            "values": dataclasses.asdict(config.values),
            "corpus": corpus.digest if corpus else None,
        }
    )


def module_trials(study: Study) -> int:
    """Number of trials with which a study searches the per-module multipliers."""
    return int(study.search_limit - study.global_limit)


# What `warnings_for` reads of a document.
_EXCESS = ("mean", "low", "high")
_DOCUMENT = {
    "kind": reading.one_of("proxy"),
    "best": Field(
        lambda best: (
            best is None or (isinstance(best, dict) and reading.is_count(best.get("batch")))
        ),
        "null or an object with a batch",
    ),
    "excess": Field(
        lambda excess: (
            excess is None
            or (isinstance(excess, dict) and all(reading.is_number(excess.get(k)) for k in _EXCESS))
        ),
        f"null or an object with {', '.join(_EXCESS)}",
    ),
    "trials_to_see": reading.NUMBERS,
}


def warnings_for(study: Study, corpus: Corpus | None, root: Path) -> list[str]:
    """Reasons to doubt that a search on this proxy can tell what it is asked, one line each.

    Besides the steps of a run, they are from the measurement of exactly this proxy, if `root` has one.
    """
    config, warnings = study.spec.config, []
    if (taken := config.train.steps) < FEWEST_STEPS:
        warnings.append(
            f"a run has {taken} steps, fewer than {FEWEST_STEPS:,}: tunings found in so few fade when "
            "carried; see completedp proxy"
        )
    path = folder_of(root, identity(config, corpus)) / DOCUMENT
    if not os.path.exists(path):
        return warnings
    try:
        document = reading.read_object(path)
        reading.check_fields(document, _DOCUMENT, tuple(_DOCUMENT), str(path))
    except UserError as error:
        return [*warnings, f"{error}; completedp proxy writes it again"]
    best, excess = document["best"], document["excess"]
    if best is not None and excess is not None and excess["low"] > 0:
        warnings.append(
            f"batches of {config.train.batch} tokens end {excess['mean']:.3f} nats higher than batches of "
            f"{best['batch']} ([{excess['low']:.3f}, {excess['high']:.3f}], measured by completedp proxy): "
            f"set train.batch to {best['batch']}"
        )
    effect = f"{EFFECTS[0]:g}"
    trials, have = document["trials_to_see"].get(effect, 0), module_trials(study)
    if trials > have:
        warnings.append(
            f"a multiplier worth {effect} nats an octave shows after about {trials:,} trials (measured by "
            f"completedp proxy), and this budget has {have} per-module trials: raise --budget, or take a "
            "proxy whose seeds differ less"
        )
    return warnings


def _unit(config: StudyConfig) -> int:
    """The tokens that a batch is a multiple of."""
    return config.train.microbatch or config.model.context


def _study(config: StudyConfig) -> Study:
    """A study of this proxy with README's budget."""
    spec = StudySpec(name="", config=config, seed=0, budget=BUDGET, data={}, rungs=rungs_of(config))
    return Study(spec=spec, records=[])
