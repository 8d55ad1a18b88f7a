"""The phases of a study, in the order in which they spend its budget.

Light: a phase chooses the next trial from the study alone. It asks its caller for the values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, Protocol

from completedp.errors import UserError
from completedp.runs.journal import TrialRecord
from completedp.scale import Ratios
from completedp.seeds import derive_seed
from search.confirm import ARMS
from search.ladder import HALF, arms_of, climbed, finalists_of, survivors
from search.scales import PROXY
from search.space import Part
from search.study import Study, confirmation_runs

# More seeds than a round of confirmation or a rung has, so that no two rounds share one.
MOST_SEEDS = 1000
# Training seeds that the search's trials take in turn. A seed moves all its trials alike, which the
# strategy's model takes out, but it also has slopes of its own: with four seeds, searches learned those
# (docs/log.md, 2026-11-28). With many more, a seed has too few trials to tell its offset.
SEARCH_SEEDS = 16

Split = Literal["select", "report"]
Values = Mapping[str, float]


class Ask(Protocol):
    """Gives a phase the octaves that it moves. Both see the trials of the phase's own view."""

    def propose(self, phase: SearchPhase, seed: int) -> Values:
        """The next trial's values. The trial has the training seed `seed`."""

    def best(self, phase: SearchPhase) -> Values:
        """The values to hand over."""


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

    `free` are the parts of the space that the strategy moves. It sees the trials of the phases `seen`.
    """

    name: str
    title: str
    split: Split = "select"
    free: tuple[Part, ...]
    seen: tuple[str, ...]

    def ratios(self, study: Study) -> Ratios:
        """The scale of the next trial."""
        return PROXY

    def over(self, study: Study) -> bool:
        """Whether a later phase has begun, or the next trial would spend a part of its budget."""
        spent = study.cost(study.searched)
        begun = study.judged or study.confirmations
        return bool(begun) or spent + self._next_cost(study) > study.search_limit

    def _next_cost(self, study: Study) -> Fraction:
        return study.cost_at(self.ratios(study))

    def next(self, study: Study, ask: Ask) -> TrialSpec | None:
        number = len(study.trials)
        seed = derive_seed(study.spec.seed, "search", number % SEARCH_SEEDS)
        return TrialSpec(
            trial=number,
            phase=self.name,
            values=ask.propose(self, seed),
            seed=seed,
            split=self.split,
            ratios=self.ratios(study),
        )


class Global(SearchPhase):
    """Searches the global values around the preset's."""

    name, title = "global", "global values"
    free: tuple[Part, ...] = ("global",)
    seen = ("global",)

    def runs(self, study: Study) -> Fraction:
        return Fraction(study.global_limit)

    def over(self, study: Study) -> bool:
        spent = study.cost(study.of_phase(self.name))
        return super().over(study) or spent + self._next_cost(study) > self.runs(study)


class Module(SearchPhase):
    """Searches multipliers by module type and depth, and goes on moving the global values."""

    name, title = "module", "per-module multipliers"
    free: tuple[Part, ...] = ("global", "type", "depth")
    seen = ("global", "module")

    def runs(self, study: Study) -> Fraction:
        return study.search_limit - study.global_limit

    def next(self, study: Study, ask: Ask) -> TrialSpec | None:
        if not study.of_phase(self.name):
            if study.pending and not study.completed("global"):
                return None  # nothing is known yet
            check_trained(study)
        return super().next(study, ask)


class Ladder:
    """Trains the finalists at growing scales on fresh seeds. The best survive to the next rung.

    The finalists are what each arm's search would hand over, and the point halfway between them. A rung's
    seeds come one after the other, so an interrupted study has whole groups.
    """

    name, title = "ladder", "finalists at larger scales"
    split: Split = "select"

    def runs(self, study: Study) -> Fraction:
        return study.ladder_limit

    def over(self, study: Study) -> bool:
        return climbed(study) is None

    def next(self, study: Study, ask: Ask) -> TrialSpec | None:
        rung = climbed(study)
        if rung is None or any(trial.phase != self.name for trial in study.pending):
            return None  # the finalists are not known yet
        check_trained(study)
        names = survivors(study, rung)
        if names is None:
            return None  # the rung below is still being trained
        group, place = divmod(len(study.rung(rung.flops)), len(names))
        finalist = names[place]
        known = finalists_of(study)
        return TrialSpec(
            trial=len(study.trials),
            phase=self.name,
            values=known.get(finalist) or self._values(finalist, known, study, ask),
            seed=derive_seed(study.spec.seed, "ladder", MOST_SEEDS * study.round + group),
            split=self.split,
            ratios=rung.ratios,
            extra={"finalist": finalist, "rung": rung.flops, "round": study.round},
        )

    def _values(self, finalist: str, known: Mapping[str, Values], study: Study, ask: Ask) -> Values:
        if finalist == HALF:
            ends = known["global"], known["module"]
            return {name: sum(end.get(name, 0.0) for end in ends) / 2 for name in known["module"]}
        return handed_over(study, ask, finalist)


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
            return None  # the arms are not known yet
        check_trained(study)
        arms = [arm for arm in ARMS if arm == "global" or study.completed("module")]
        pair, place = divmod(len(study.confirmations), len(arms))
        arm = arms[place]
        return TrialSpec(
            trial=len(study.trials),
            phase=self.name,
            values=self._values(arm, study, ask),
            seed=derive_seed(study.spec.seed, "confirm", MOST_SEEDS * study.round + pair),
            split=self.split,
            extra={"arm": arm, "round": study.round},
        )

    def _values(self, arm: str, study: Study, ask: Ask) -> Values:
        """The arm's values: of its first confirmation run, else of the ladder, else of its search."""
        before = next((t for t in study.confirmations if t.extra["arm"] == arm), None)
        return before.values if before else arms_of(study).get(arm) or handed_over(study, ask, arm)


PHASES: tuple[Phase, ...] = (Global(), Module(), Ladder(), Confirm())


def phase_named(name: str) -> Phase:
    """The phase of that name."""
    return next(phase for phase in PHASES if phase.name == name)


def current_phase(study: Study) -> Phase:
    """The first phase that is not over, or the last phase."""
    return next((phase for phase in PHASES if not phase.over(study)), PHASES[-1])


def all_over(study: Study) -> bool:
    """Whether no phase hands out another trial."""
    return all(phase.over(study) for phase in PHASES)


def handed_over(study: Study, ask: Ask, arm: str) -> Values:
    """The values that an arm's search hands over."""
    phase = phase_named(arm)
    assert isinstance(phase, SearchPhase), "an arm has the name of its phase"
    return ask.best(phase)


def check_trained(study: Study) -> None:
    """Raises `UserError` if no global trial completed, so that there is nothing to go on from."""
    if study.completed("global"):
        return
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
