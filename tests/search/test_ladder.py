"""The ladder: its rungs, who climbs them, and what the recipe keeps of it."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from studies import Killed, KilledAfter, study_of

from completedp.cli.report import show_summary
from completedp.config import ExternalModel, SearchConfig, StudyConfig
from completedp.errors import UserError
from completedp.models import parameter_count
from completedp.recipe import Recipe
from completedp.runs.job import Job
from completedp.runs.journal import read_records
from completedp.runs.local import InProcessExecutor
from completedp.scale import Ratios
from search import study_run
from search.display import display_on, trial_line
from search.ladder import FINALISTS, winner
from search.rungs import ladder, ladder_cost, rung_from, rungs_of
from search.scales import PROXY, at_scale
from search.study import Study, confirmation_runs
from search.study_folder import StudyFolder, create
from transfer.expected import expected

BUDGET = 130


@pytest.fixture
def quick(config: StudyConfig) -> StudyConfig:
    """A strategy that proposes in no time, and enough tokens for whole steps at every rung."""
    return dataclasses.replace(
        config,
        search=SearchConfig(strategy="trust-region"),
        train=dataclasses.replace(config.train, tokens=1024 * 64),
    )


class Jobs:
    """Jobs on the bowl. At larger scales the finalist `module` diverges if `cliff` is true."""

    def __init__(self, config: StudyConfig) -> None:
        self.config = config
        self.made: dict[int, Job] = {}

    def __call__(self, trial: int, hparams: Any, seed: int, split: Any, ratios: Ratios) -> Job:
        job = study_run.language_model_job(
            self.config, Path("unused"), "cpu", trial, hparams, seed, split, ratios
        )
        self.made[trial] = job
        return dataclasses.replace(job, task="bowl:bowl", arguments={"pause": 0.0})


def begun(root: Path, config: StudyConfig, budget: int = BUDGET) -> StudyFolder:
    spec = dataclasses.replace(study_of(config, budget=budget), rungs=rungs_of(config))
    return create(StudyFolder(root=root, name="s"), spec)


def run(folder: StudyFolder, config: StudyConfig, executor: Any = None) -> Jobs:
    quiet, jobs = display_on(Console(quiet=True)), Jobs(config)
    study_run.run(folder, executor or InProcessExecutor(), jobs, display=quiet)
    return jobs


def test_rungs_cost_what_they_say_and_keep_the_tokens_a_parameter(quick: StudyConfig) -> None:
    first, second, third = rungs_of(quick)
    assert (first.ratios, first.cost) == (PROXY, 1)
    for rung in (second, third):
        assert abs(float(rung.cost) / rung.flops - 1) < 0.05
        at = at_scale(quick, rung.ratios)
        assert at.train.tokens % at.train.batch == 0
        grown = parameter_count(at.model) / parameter_count(quick.model)
        assert 0.4 < at.train.tokens / quick.train.tokens / grown < 2.5
        assert at.train.batch >= quick.train.batch
        assert rung_from(rung.to_record()) == rung


def test_a_budget_pays_for_two_seeds_a_finalist_or_for_no_rung(quick: StudyConfig) -> None:
    rungs = rungs_of(quick)
    seeds = {b: [r.seeds(b) for r in ladder(rungs, b)] for b in (12, 110, 130, 200, 400, 2000)}
    assert seeds == {12: [], 110: [], 130: [4, 2], 200: [4, 3], 400: [4, 4, 2], 2000: [4, 4, 4]}
    for budget in seeds:
        assert ladder_cost(rungs, budget) <= Fraction(3, 5) * budget
    assert ladder_cost(rungs, 110) == 0


def test_a_model_that_knows_no_base_has_no_ladder(quick: StudyConfig) -> None:
    model = ExternalModel(source="mine:make", width=32, depth=2, vocab_size=256, context=64)
    train = dataclasses.replace(quick.train, loop="mine:loop")
    assert rungs_of(dataclasses.replace(quick, model=model, train=train)) == ()


def test_a_study_climbs_its_ladder(
    tmp_path: Path, quick: StudyConfig, no_view: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = begun(tmp_path, quick)
    jobs = run(folder, quick)
    study = folder.read()
    assert study.done
    assert study.cost(study.trials.values()) <= BUDGET
    assert study.cost(study.trials.values()) > BUDGET - 1
    groups: dict[int, list[Any]] = {}
    for t in study.judged:
        groups.setdefault(t.extra["rung"], []).append(t)
    assert {rung: len(found) for rung, found in groups.items()} == {1: 12, 4: 6}
    # Each seed trains every finalist, no seed of the search's is among them.
    for found in groups.values():
        for seed in {t.seed for t in found}:
            assert [t.extra["finalist"] for t in found if t.seed == seed] == list(FINALISTS)
        assert not {t.seed for t in found} & {t.seed for t in study.searched}
    by_name = {t.extra["finalist"]: t.values for t in study.judged}
    for name, octaves in by_name["half"].items():
        ends = by_name["global"].get(name, 0.0) + by_name["module"][name]
        assert octaves == pytest.approx(ends / 2, abs=1e-6)
    # The larger rung trains larger models on more tokens, with carried values.
    for t in groups[4]:
        arguments = jobs.made[t.trial].arguments
        model, train = arguments["model"], arguments["train"]
        assert model["width"] * model["depth"] * train["tokens"] > 2 * 32 * 2 * quick.train.tokens
        assert arguments["split"] == "select"
        assert "x 4 FLOPs" in trial_line(t, BUDGET)
    # The confirmation takes the survivor.
    best = winner(study)
    assert best in ("module", "half")
    confirmed = {t.extra["arm"]: t.values for t in study.confirmations}
    assert confirmed == {"global": by_name["global"], "module": by_name[best]}
    assert len(study.confirmations) == confirmation_runs(BUDGET)
    recipe = Recipe.read(folder.recipe)
    rows = recipe.provenance["ladder"]["rows"]
    assert [row["scale"] for row in rows] == [1, 4]
    assert recipe.provenance["finalist"] == best
    summary = study_run.report(folder, warn=print)
    show_summary(summary, folder.recipe, False)
    shown = capsys.readouterr().out
    assert f"finalist {best}" in shown
    for row in rows:
        assert f"x {row['scale']} {row['difference']['mean']:+.4f}" in shown
    found = expected(recipe, rows[1]["flops"] * 4)
    assert found is not None
    assert found.beyond == pytest.approx(4)


@pytest.mark.parametrize("events", [84, 90, 97, 103, 109])
def test_a_killed_ladder_goes_on_to_the_same_bytes(
    tmp_path: Path, quick: StudyConfig, no_view: None, events: int
) -> None:
    whole, folder = begun(tmp_path / "whole", quick), begun(tmp_path / "killed", quick)
    run(whole, quick)
    with pytest.raises(Killed):
        run(folder, quick, KilledAfter(events))
    run(folder, quick)
    assert folder.recipe.read_bytes() == whole.recipe.read_bytes()


def test_a_finalist_that_diverges_on_the_last_rung_is_not_handed_over(
    tmp_path: Path, quick: StudyConfig, no_view: None
) -> None:
    folder = begun(tmp_path, quick)
    run(folder, quick)
    records = read_records(folder.journal)
    last = Study.from_records(records, "s").rung(4)
    for loser, other in (("module", "half"), ("half", "module")):
        lost = {t.trial for t in last if t.extra["finalist"] == loser}
        damaged = [
            r | {"status": "diverged", "loss": None, "reason": "inf"}
            if r["event"] == "finished" and r["trial"] in lost
            else r
            for r in records
        ]
        assert winner(Study.from_records(damaged, "s")) == other


def test_a_raised_budget_climbs_again(tmp_path: Path, quick: StudyConfig, no_view: None) -> None:
    from search import study_folder

    folder = begun(tmp_path, quick, budget=60)
    run(folder, quick)
    assert folder.read().judged == []
    study_folder.raise_budget(folder, 200)
    run(folder, quick)
    study = folder.read()
    assert study.done
    assert len(study.judged) == 12 + 9
    assert study.cost(study.trials.values()) <= 200


@pytest.mark.parametrize(
    "damage", [{"cost": "0"}, {"cost": "x"}, {"ratios": {"width": -1}}, {"flops": 0}]
)
def test_damaged_rungs_are_refused(quick: StudyConfig, damage: dict[str, Any]) -> None:
    record = rungs_of(quick)[1].to_record() | damage
    with pytest.raises(UserError):
        rung_from(record)
