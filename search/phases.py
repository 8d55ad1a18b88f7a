"""The phases of a study, in the order in which they spend its budget: global, per module, confirmation.

Light: a phase chooses the next trial from the study alone. It asks its caller for the values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, Protocol

from completedp.errors import UserError
from completedp.runs.journal import TrialRecord
from completedp.scale import Ratios
from completedp.seeds import derive_seed
from search.confirm import ARMS
from search.scales import PROXY
from search.space import Part
from search.study import Study, confirmation_runs

# More seeds than a round of confirmation has, so that no two rounds share one.
MOST_SEEDS = 1000

Split = Literal["select", "report"]
Ask = Callable[["SearchPhase"], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """A trial to be trained: its number, values in octaves, seed, evaluation split and scale.

    `ratios` are width, depth, batch and tokens over the study's own. `extra` goes into the journal unchanged.
    """

    trial: int
    phase: str
    values: Mapping[str, float]
    seed: int
    split: Split
    ratios: Ratios = PROXY
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_record(self) -> dict[str, Any]:
        """The journal's record of the proposal. A trial at the study's own scale has no `ratios` in it."""
        scale = {} if self.ratios == PROXY else {"ratios": dataclasses.asdict(self.ratios)}
        return {
            "event": "proposed",
            "trial": self.trial,
            "values": dict(self.values),
            "phase": self.phase,
            "seed": self.seed,
            **self.extra,
            **scale,
        }

    @classmethod
    def of(cls, record: TrialRecord) -> TrialSpec:
        """The specification of a trial that the journal holds."""
        return cls(
            trial=record.trial,
            phase=record.phase,
            values=record.values,
            seed=record.seed,
            split=phase_named(record.phase).split,
            ratios=record.ratios,
            extra=record.extra,
        )


class Phase(Protocol):
    """A part of the budget: it hands out trials until it is over."""

    name: str  # in the journal
    title: str
    split: Split

    def runs(self, study: Study) -> Fraction:
        """The part of the budget that the phase may spend, in proxy runs."""

    def over(self, study: Study) -> bool:
        """Whether the phase hands out no more trials."""

    def next(self, study: Study, ask: Ask) -> TrialSpec | None:
        """The next trial, with values from `ask`. None if there is nothing to hand out now.

        Raises `UserError` if there is nothing to go on from.
        """


class SearchPhase:
    """A phase whose trials a strategy proposes.

    The trials share one seed, so that only their hyperparameters differ. `free` are the parts of the space
    that the strategy moves.
    """

    name: str
    title: str
    split: Split = "select"
    free: tuple[Part, ...]

    def center(self, study: Study) -> TrialRecord | None:
        """The trial that the strategy moves around. None stands for the preset's own values."""
        return None

    def ratios(self, study: Study) -> Ratios:
        """The scale of the next trial."""
        return PROXY

    def over(self, study: Study) -> bool:
        """Whether the confirmation has begun, or the next trial would spend a part of its budget."""
        spent = study.cost(study.searched)
        return bool(study.confirmations) or spent + self._next_cost(study) > study.search_limit

    def _next_cost(self, study: Study) -> Fraction:
        return study.cost_at(self.ratios(study))

    def next(self, study: Study, ask: Ask) -> TrialSpec | None:
        return TrialSpec(
            trial=len(study.trials),
            phase=self.name,
            values=ask(self),
            seed=derive_seed(study.spec.seed, "search"),
            split=self.split,
            ratios=self.ratios(study),
        )


class Global(SearchPhase):
    """Searches the global values around the preset's."""

    name, title = "global", "global values"
    free: tuple[Part, ...] = ("global",)

    def runs(self, study: Study) -> Fraction:
        return Fraction(study.global_limit)

    def over(self, study: Study) -> bool:
        spent = study.cost(study.of_phase(self.name))
        return super().over(study) or spent + self._next_cost(study) > self.runs(study)


class Module(SearchPhase):
    """Searches multipliers by module type and depth around the best global configuration."""

    name, title = "module", "per-module multipliers"
    free: tuple[Part, ...] = ("type", "depth")

    def runs(self, study: Study) -> Fraction:
        return study.search_limit - study.global_limit

    def center(self, study: Study) -> TrialRecord | None:
        return study.center

    def next(self, study: Study, ask: Ask) -> TrialSpec | None:
        if not study.of_phase(self.name):
            if any(trial.phase == "global" for trial in study.pending):
                return None  # the center is not known yet
            incumbents(study)  # refuses to go on from nothing
        return super().next(study, ask)


class Confirm:
    """Trains both arms on fresh seeds, one after the other on each seed, and judges on the report split.

    So an interrupted study has whole pairs.
    """

    name, title = "confirm", "confirmation on fresh seeds"
    split: Split = "report"

    def runs(self, study: Study) -> Fraction:
        return Fraction(confirmation_runs(study.budget))

    def over(self, study: Study) -> bool:
        return len(study.confirmations) >= self.runs(study)

    def next(self, study: Study, ask: Ask) -> TrialSpec | None:
        if self.over(study) or any(trial.phase != self.name for trial in study.pending):
            return None  # the incumbents are not known yet
        arms = incumbents(study)
        pair, place = divmod(len(study.confirmations), len(arms))
        arm = list(arms)[place]
        return TrialSpec(
            trial=len(study.trials),
            phase=self.name,
            values=arms[arm].values,
            seed=derive_seed(study.spec.seed, "confirm", MOST_SEEDS * study.round + pair),
            split=self.split,
            extra={"arm": arm, "of": arms[arm].trial, "round": study.round},
        )


PHASES: tuple[Phase, ...] = (Global(), Module(), Confirm())


def phase_named(name: str) -> Phase:
    """The phase of that name."""
    return next(phase for phase in PHASES if phase.name == name)


def current_phase(study: Study) -> Phase:
    """The first phase that is not over, or the last phase."""
    return next((phase for phase in PHASES if not phase.over(study)), PHASES[-1])


def all_over(study: Study) -> bool:
    """Whether no phase hands out another trial."""
    return all(phase.over(study) for phase in PHASES)


def incumbents(study: Study) -> dict[str, TrialRecord]:
    """The best trial of each arm. Without a completed per-module trial there is only the global one.

    Raises `UserError` if no global trial completed.
    """
    arms = {arm: best for arm in ARMS if (best := study.best(arm)) is not None}
    if "global" not in arms:
        tried = study.of_phase("global")
        diverged = [t.reason for t in tried if t.status == "diverged"]
        if diverged:
            reason = diverged[0]
            advice = (
                "begin a new study from a preset with a lower values.lr or narrower "
                "search.global_octaves: this one keeps its own"
            )
        else:
            reason = tried[0].reason
            advice = "their workers died: mend that, then begin a new study"
        raise UserError(
            f"none of the {len(tried)} global trials completed (the first: {reason}); {advice}"
        )
    return arms
