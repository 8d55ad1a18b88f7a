"""A study as its journal tells it: configuration, budget, trials, incumbents and confirmation runs."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.metadata import version
from typing import Any

import completedp
from completedp import files, reading, validation
from completedp.config import StudyConfig, without_stopping
from completedp.errors import UserError, located, shown
from completedp.models import training_flops
from completedp.reading import Field
from completedp.runs.journal import TrialRecord, check_study, take, trials
from completedp.scale import Ratios
from search import rungs
from search.rungs import Rung
from search.scales import PROXY, cost_at

SMALLEST_BUDGET = 12  # 4 confirmation runs and 8 to search with


def _is_data(value: Any) -> bool:
    """Whether this is a corpus's digest and the report split's bytes per token. Both may be unknown."""
    if not isinstance(value, dict) or not isinstance(value.get("bytes_per_token"), dict):
        return False
    per_token = value["bytes_per_token"].get("report")
    digest = value.get("digest")
    return (digest is None or isinstance(digest, str)) and (
        per_token is None or (reading.is_number(per_token) and per_token > 0)
    )


_DATA = Field(_is_data, "an object with digest and bytes_per_token")


def confirmation_runs(budget: int) -> int:
    """Number of a budget's runs for the confirmation: both arms on 2 to 8 fresh seeds."""
    return 2 * max(2, min(8, budget // 20))


def global_runs(share: float, searching: Fraction) -> int:
    """Number of the global arm's search runs: its share, but at least two.

    One of the two trains the preset's own values.
    """
    return max(2, round(share * searching))


def versions_now() -> dict[str, str]:
    """The versions that a study's numbers may depend on."""
    packages = ("torch", "ax-platform", "botorch", "gpytorch", "scipy", "numpy")
    return {
        "completedp": completedp.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """The first record of a journal: everything about a study that never changes.

    `rungs` are the scales of its ladder. Studies of earlier versions have none.
    """

    name: str
    config: StudyConfig
    seed: int
    budget: int
    data: Mapping[str, Any]
    rungs: Sequence[Rung] = ()
    versions: Mapping[str, str] = field(default_factory=versions_now)

    def to_record(self) -> dict[str, Any]:
        """The journal's first record. The journal adds `event` and `schema`."""
        config = self.config.to_dict()
        return {
            "name": self.name,
            "config": config,
            "digest": files.digest(config),
            "seed": self.seed,
            "budget": self.budget,
            "data": dict(self.data),
            "rungs": [rung.to_record() for rung in self.rungs],
            "versions": dict(self.versions),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any], where: str) -> StudySpec:
        """The specification in a journal's first record.

        Raises `UserError` for a configuration that this version does not know, or that was edited.
        """
        with located(f"{where}, line 1: the journal is damaged"):
            # Validated first: unknown keys of the configuration tell that another version has written it.
            config = validation.validate(
                StudyConfig, without_stopping(record.get("config")), "config"
            )
            if files.digest(record["config"]) != (digest := record.get("digest")):
                raise UserError(
                    f"the configuration does not match its digest {shown(digest)}; it was edited: begin a "
                    "new study instead"
                )
            fields = {"data": _DATA, "rungs": rungs.RUNGS}
            reading.check_fields(record, fields, ("data",), "the study's record")
            ladder = tuple(map(rungs.rung_from, record.get("rungs", ())))
        check_study(record, where)
        names = ("name", "seed", "budget", "data", "versions")
        return cls(config=config, rungs=ladder, **{name: record[name] for name in names})


@dataclass
class Study:
    """A study and its trials so far: a view of the journal's records.

    The budget and all costs are in proxy runs: the training FLOPs of one run at the study's own scale.
    """

    spec: StudySpec
    records: list[dict[str, Any]]
    trials: dict[int, TrialRecord] = field(default_factory=dict)
    _costs: dict[Ratios, Fraction] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_records(cls, records: Sequence[Mapping[str, Any]], where: str) -> Study:
        """A study from its records. Raises `UserError` if they are not a whole, consistent study."""
        held = [dict(record) for record in records]
        spec = StudySpec.from_record(held[0], where)
        return cls(spec=spec, records=held, trials=trials(held, where))

    def add(self, record: Mapping[str, Any]) -> None:
        """Add a record that the journal has just taken."""
        take(self.trials, record)
        self.records.append(dict(record))

    def check_goes_on(self) -> None:
        """Raises `UserError` for a study of an earlier version that stops its trials early."""
        if not self.records:
            return
        stopping = self.records[0]["config"].get("search", {}).get("stopping", "none")
        if stopping != "none":
            raise UserError(
                f"study {self.spec.name!r} has search.stopping {shown(stopping)}, and this version no longer "
                "stops trials early; the study can be shown but not resumed: begin a new study"
            )

    @property
    def budget(self) -> int:
        """The total in force, in proxy runs: the first one, or the last raised one."""
        raised = [int(r["budget"]) for r in self.records if r["event"] == "budget"]
        return raised[-1] if raised else self.spec.budget

    @property
    def round(self) -> int:
        """Number of times that the budget was raised. Confirmations of an earlier round are stale."""
        return sum(r["event"] == "budget" for r in self.records)

    @property
    def done(self) -> bool:
        """Whether the study ended, and its budget was not raised since."""
        return bool(self.records) and self.records[-1]["event"] == "done"

    def cost_at(self, ratios: Ratios) -> Fraction:
        """The cost of one trial at that scale."""
        if not self._costs:
            # An external model's FLOPs take its own code to count, so the journal's are taken.
            self._costs = {rung.ratios: rung.cost for rung in self.spec.rungs}
        if ratios not in self._costs:
            self._costs[ratios] = cost_at(self.spec.config, ratios)
        return self._costs[ratios]

    @property
    def proxy_flops(self) -> int:
        """Training FLOPs of one run at the study's own scale."""
        return training_flops(self.spec.config.model, self.spec.config.train.tokens)

    def cost(self, records: Iterable[TrialRecord]) -> Fraction:
        """The cost of these trials together."""
        return sum((self.cost_at(t.ratios) for t in records), Fraction(0))

    def of_phase(self, *phases: str) -> list[TrialRecord]:
        """The trials of these phases in the order they were proposed."""
        return [t for t in self.trials.values() if t.phase in phases]

    @property
    def searched(self) -> list[TrialRecord]:
        """The trials that a strategy proposed."""
        return [t for t in self.trials.values() if t.phase not in ("ladder", "confirm")]

    @property
    def ladder(self) -> list[Rung]:
        """The rungs that the budget pays for."""
        return rungs.ladder(self.spec.rungs, self.budget)

    @property
    def ladder_limit(self) -> Fraction:
        """The part of the budget for the ladder, in proxy runs."""
        return rungs.ladder_cost(self.spec.rungs, self.budget)

    @property
    def judged(self) -> list[TrialRecord]:
        """The ladder's trials of the current round."""
        return [t for t in self.of_phase("ladder") if t.extra.get("round") == self.round]

    def rung(self, flops: int) -> list[TrialRecord]:
        """The trials of one rung of the current round."""
        return [t for t in self.judged if t.extra["rung"] == flops]

    @property
    def confirmations(self) -> list[TrialRecord]:
        """The confirmation trials of the current round."""
        return self.confirmations_of(self.round)

    def confirmations_of(self, number: int) -> list[TrialRecord]:
        """The confirmation trials of one round, counted from 0."""
        return [t for t in self.of_phase("confirm") if t.extra.get("round") == number]

    @property
    def search_limit(self) -> Fraction:
        """The part of the budget for search, in proxy runs."""
        judging = confirmation_runs(self.budget) + self.ladder_limit
        return self.budget - self._spent_before - judging

    @property
    def _spent_before(self) -> Fraction:
        """The cost of ladders and confirmations of earlier rounds."""
        stale = (
            t for t in self.of_phase("ladder", "confirm") if t.extra.get("round") != self.round
        )
        return self.cost(stale)

    def raised_to(self, budget: int) -> Study:
        """The study with its budget raised. Nothing is written."""
        return Study.from_records([*self.records, {"event": "budget", "budget": budget}], "raised")

    @property
    def global_limit(self) -> int:
        """The part of the search's budget for the global arm, in proxy runs."""
        return global_runs(self.spec.config.search.global_share, self.search_limit)

    def completed(self, phase: str) -> list[TrialRecord]:
        """The completed trials of a phase at the study's own scale, whose losses can be compared."""
        return [t for t in self.of_phase(phase) if t.loss is not None and t.ratios == PROXY]

    def best(self, phase: str) -> TrialRecord | None:
        """The completed trial with the lowest loss, and the earliest one of equals."""
        return min(self.completed(phase), key=lambda t: t.loss or 0.0, default=None)

    @property
    def pending(self) -> list[TrialRecord]:
        """The trials that are neither finished nor set aside."""
        return [t for t in self.trials.values() if t.status is None]

    @property
    def ended(self) -> list[TrialRecord]:
        """The trials that are finished or set aside."""
        return [t for t in self.trials.values() if t.status is not None]

    def check_raise(self, budget: int) -> None:
        """Raises `UserError` if the total `budget` leaves no run to search with."""
        if budget < (least := self.smallest_raise()):
            raise UserError(
                f"--budget is {budget}; study {self.spec.name!r} has {self.budget}, and the next useful "
                f"total is {least} (its confirmation runs again)"
            )

    def smallest_raise(self) -> int:
        """The smallest total above the present one that leaves a run to search with."""
        searched = self.cost(self.searched)
        budget = max(self.budget, math.floor(self.cost(self.trials.values()))) + 1
        while self.raised_to(budget).search_limit < searched + 1:
            budget += 1
        return budget
