"""Phases and trial scales, by a phase of this test's own that trains at half the width."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from studies import Killed, KilledAfter, study_of

from completedp.config import StudyConfig
from completedp.errors import UserError
from completedp.hparams import HParams
from completedp.models import grown_inventory, training_flops
from completedp.resolved import resolve
from completedp.runs.job import Job
from completedp.runs.journal import read_records
from completedp.runs.local import InProcessExecutor
from completedp.scale import Ratios
from search import phases, study_run
from search.display import PlainDisplay, display_on, status_in_words
from search.phases import Confirm, Global, Module
from search.scales import PROXY, at_scale, cost_at
from search.status import status_of
from search.study import Study, confirmation_runs
from search.study_folder import StudyFolder, create

HALF = Ratios(width=0.5)
BUDGET = 24


class HalfWidth(Module):
    """Two of three trials are of half the width."""

    def ratios(self, study: Study) -> Ratios:
        return PROXY if len(study.of_phase(self.name)) % 3 == 2 else HALF


@pytest.fixture(autouse=True, scope="module")
def _half_width(no_view: None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "PHASES", (Global(), HalfWidth(), Confirm()))
        yield


class Jobs:
    """Language-model jobs, kept, that train on the bowl."""

    def __init__(self, config: StudyConfig) -> None:
        self.config = config
        self.made: dict[int, Job] = {}

    def __call__(self, trial: int, hparams: HParams, seed: int, split: Any, ratios: Ratios) -> Job:
        job = study_run.language_model_job(
            self.config, Path("unused"), "cpu", trial, hparams, seed, split, ratios
        )
        self.made[trial] = job
        return dataclasses.replace(job, task="bowl:bowl", arguments={"pause": 0.0})


def begun(root: Path, config: StudyConfig) -> StudyFolder:
    return create(StudyFolder(root=root, name="s"), study_of(config, budget=BUDGET))


def run(folder: StudyFolder, jobs: Jobs, executor: Any = None) -> object:
    quiet = display_on(Console(quiet=True))
    return study_run.run(folder, executor or InProcessExecutor(), jobs, display=quiet)


def without_seconds(folder: StudyFolder) -> list[dict[str, Any]]:
    records = read_records(folder.journal)
    return [{k: v for k, v in r.items() if k not in ("seconds", "versions")} for r in records]


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, config: StudyConfig, _half_width: None
) -> tuple[StudyFolder, Jobs]:
    """A study that nothing interrupted, to be read."""
    folder, jobs = begun(tmp_path_factory.mktemp("whole"), config), Jobs(config)
    assert run(folder, jobs) is not None
    return folder, jobs


def test_a_study_with_trials_at_half_the_width(
    whole: tuple[StudyFolder, Jobs], config: StudyConfig
) -> None:
    folder, jobs = whole
    study = folder.read()
    half = [t for t in study.trials.values() if t.ratios == HALF]
    # The journal shows it, and of the others nothing.
    proposed = [r for r in read_records(folder.journal) if r["event"] == "proposed"]
    assert {r["trial"] for r in proposed if "ratios" in r} == {t.trial for t in half}
    assert {json.dumps(r["ratios"]) for r in proposed if "ratios" in r} == {
        '{"width": 0.5, "depth": 1.0, "batch": 1.0, "tokens": 1.0}'
    }
    # The budget counts their cost: more trials than units of it, and less than a unit left.
    narrow = at_scale(config, HALF).model
    tokens = config.train.tokens
    cost = Fraction(training_flops(narrow, tokens), training_flops(config.model, tokens))
    assert 0.2 < cost < 0.5
    spent = study.cost(study.trials.values())
    assert spent == len(study.trials) - len(half) + len(half) * cost
    assert BUDGET - 1 < spent <= BUDGET < len(study.trials)
    assert len(study.confirmations) == confirmation_runs(BUDGET)
    # The jobs are of half-width models, with the values that Complete(d)P carries there.
    for trial in half:
        job = jobs.made[trial.trial]
        assert job.arguments["model"]["width"] == config.model.width // 2
        assert job.arguments["train"] == dataclasses.asdict(config.train)
    job, values = jobs.made[half[-1].trial], half[-1].values
    hparams = phases_space(config, values)
    carried = resolve(hparams, grown_inventory(narrow, config.model), HALF)
    assert job.resolved == carried
    (q,) = (r for r in carried.tensors if r.name.startswith("layers.0") and r.module_type == "q")
    (own,) = (
        r
        for r in resolve(hparams, grown_inventory(config.model, config.model), PROXY).tensors
        if r.name == q.name
    )
    assert q.lr == pytest.approx(2 * own.lr)
    # No loss at another scale is an incumbent.
    best = study.best("module")
    assert best is not None
    assert best.ratios == PROXY
    assert all(jobs.made[t.trial].arguments["model"]["width"] == 32 for t in study.confirmations)


def phases_space(config: StudyConfig, values: Any) -> HParams:
    from search.space import Space

    return Space.from_config(config).to_hparams(values)


@pytest.mark.parametrize("events", [6, 9, 20])
def test_an_interrupted_one_goes_on_identically(
    tmp_path: Path, whole: tuple[StudyFolder, Jobs], config: StudyConfig, events: int
) -> None:
    folder = begun(tmp_path, config)
    with pytest.raises(Killed):
        run(folder, Jobs(config), KilledAfter(events))
    again = Jobs(config)
    assert run(folder, again) is not None
    assert without_seconds(folder) == without_seconds(whole[0])
    assert folder.recipe.read_bytes() == whole[0].recipe.read_bytes()
    halves = [t.trial for t in folder.read().trials.values() if t.ratios == HALF]
    assert {again.made[t].arguments["model"]["width"] for t in halves if t in again.made} == {16}


def test_displays_tell_runs_from_their_cost(tmp_path: Path, config: StudyConfig) -> None:
    folder = begun(tmp_path, config)
    with pytest.raises(Killed):
        run(folder, Jobs(config), KilledAfter(12))
    study = folder.read()
    state = status_of(study)
    assert state.done == 12 > state.spent > 5
    words = status_in_words(study)
    assert words["runs"].startswith(f"12 done, as costly as {state.spent:.1f} of 24 proxy runs")
    assert words["phase"].startswith("per-module multipliers, ")
    json.dumps(state.to_dict())
    with PlainDisplay(study, Console(quiet=True)):
        pass


def test_the_cost_is_in_runs_of_the_study(config: StudyConfig) -> None:
    assert cost_at(config, PROXY) == 1
    assert cost_at(config, Ratios(tokens=4)) == 4
    assert cost_at(config, Ratios(batch=2)) == 1
    assert 2 > cost_at(config, Ratios(depth=2)) > 1.5


def test_batch_and_tokens_are_rounded_to_what_can_be_trained(config: StudyConfig) -> None:
    assert at_scale(config, PROXY) is config
    third = at_scale(config, Ratios(batch=1 / 3, tokens=0.7)).train
    assert third.batch == 320  # of 341.3, in sequences of 64
    assert third.tokens == round(0.7 * 8192)
    parts = dataclasses.replace(config, train=dataclasses.replace(config.train, microbatch=512))
    assert at_scale(parts, Ratios(batch=1.6)).train.batch == 1536
    assert at_scale(parts, Ratios(batch=0.1)).train.batch == 512
    assert at_scale(config, Ratios(tokens=0.01)).train.tokens == config.train.batch
    with pytest.raises(
        UserError, match=r"the depth ratio 0\.75 gives 1\.5 of a model with depth 2"
    ):
        at_scale(config, Ratios(depth=0.75))
    with pytest.raises(UserError, match="multiple of head_dim"):
        at_scale(config, Ratios(width=0.25))
