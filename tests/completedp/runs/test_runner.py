from __future__ import annotations

import dataclasses
import json
import math

import pytest
from toy_tasks import job

from completedp.errors import UserError
from completedp.runs import runner
from completedp.runs.job import Died, Outcome, Progress
from completedp.runs.runner import run_job


@pytest.fixture(autouse=True)
def _fresh() -> None:
    runner._made.cache_clear()


def test_a_completed_run() -> None:
    progress: list[Progress] = []
    outcome = run_job(job(7, n=4, seed=1), on_progress=progress.append)
    assert (outcome.trial, outcome.status, outcome.loss, outcome.seed) == (7, "completed", 1.0, 1)
    assert (outcome.steps, outcome.tokens) == (4, 40)
    assert outcome.curve[0] == (1, 3.0)
    assert [p.step for p in progress] == [1, 2, 3, 4]
    assert progress[0] == Progress(trial=7, step=1, steps=4, loss=3.0)
    assert 0 < outcome.seconds < 10


def test_divergence_is_an_outcome_with_its_step_and_tokens_spent() -> None:
    outcome = run_job(job(1, "explode", at=3))
    assert (outcome.status, outcome.loss, outcome.steps) == ("diverged", None, 3)
    assert outcome.tokens == 30
    assert outcome.reason == "the training loss is nan"
    assert outcome.curve == ((1, 1.0), (2, 1.0))


@pytest.mark.parametrize("final", [math.nan, math.inf])
def test_an_evaluation_that_is_not_finite_is_divergence_at_the_last_step(final: float) -> None:
    outcome = run_job(job(1, n=5, final=str(final)))
    assert (outcome.status, outcome.loss, outcome.steps) == ("diverged", None, 5)
    assert "evaluation loss" in (outcome.reason or "")


def test_an_outcome_holds_no_number_that_json_has_not() -> None:
    outcome = run_job(job(1))
    assert "broken" not in outcome.metrics
    again = Outcome.from_dict(json.loads(json.dumps(outcome.to_dict(), allow_nan=False)))
    assert again == outcome


def test_other_exceptions_pass() -> None:
    with pytest.raises(RuntimeError, match="no memory left"):
        run_job(job(1, "raises"))


def test_functions_are_kept_for_the_same_arguments_whatever_their_order() -> None:
    first = run_job(job(1, n=3, first=1.0))
    same = run_job(job(2, first=1.0, n=3))
    other = run_job(job(3, n=2, first=1.0))
    assert [o.metrics["calls"] for o in (first, same, other)] == [1, 2, 1]


def test_few_functions_are_kept() -> None:
    for n in range(1, 9):
        run_job(job(n, n=n))
    assert runner._made.cache_info().currsize == runner.KEPT_FUNCTIONS


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("toy_tasks", r"'toy_tasks'; expected package\.module:factory"),
        ("toy_tasks:stepz", "has no 'stepz'"),
        ("no_such_module.at_all:f", "no module 'no_such_module'"),
    ],
)
def test_a_task_that_names_nothing(task: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_job(dataclasses.replace(job(1), task=task))


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("returns_nothing", {}, "returned NoneType; expected a completedp"),
        ("is_a_number", {}, "returned int; expected a training function"),
        ("explode", {"cache": 1}, "does not take the keywords cache"),
    ],
)
def test_mistakes_of_a_training_function_are_told_as_such(
    name: str, arguments: dict[str, object], said: str
) -> None:
    end = runner.attempt(job(1, name, **arguments))
    assert isinstance(end, Died)
    assert end.mistake
    assert said in end.reason
