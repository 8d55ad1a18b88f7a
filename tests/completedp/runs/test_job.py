"""Jobs and outcomes survive JSON; what is none is refused by its field, never by a traceback."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from completedp.errors import UserError
from completedp.optimizer import TensorRow
from completedp.resolved import Resolved
from completedp.runs.job import Job, Outcome

ROW = TensorRow(
    name="a",
    module_type="q",
    layer=0,
    lr=0.1,
    weight_decay=0.0,
    beta1=0.9,
    beta2=0.99,
    eps=1e-8,
    init_std=None,
)
JOB = Job(
    trial=3,
    task="package.module:factory",
    arguments={"n": 3, "text": {"source": "x"}},
    resolved=Resolved(tensors=(ROW,), residual={"ffn": (1.0, 0.5)}),
    seed=5,
)
OUTCOME = Outcome(
    trial=3,
    status="completed",
    loss=1.5,
    steps=9,
    tokens=90,
    seconds=0.5,
    seed=5,
    metrics={"speed": 4.0},
    curve=((3, 2.5), (9, 1.75)),
)


def plain(value: Job | Outcome) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(value.to_dict(), allow_nan=False))
    return data


def test_both_survive_json() -> None:
    assert Job.from_dict(plain(JOB)) == JOB
    assert Outcome.from_dict(plain(OUTCOME)) == OUTCOME


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": "lost"}, "status is 'lost'; expected 'completed' or 'diverged' or 'stopped'"),
        ({"status": {}}, "status is {}"),
        ({"loss": "1.5"}, "loss is '1.5'; expected a finite number, or null"),
        ({"loss": float("inf")}, "loss is inf"),
        ({"loss": None}, "status is 'completed' and loss None"),
        ({"status": "diverged"}, "status is 'diverged' and loss 1.5"),
        ({"steps": 1.5}, "steps is 1.5; expected a whole number"),
        ({"tokens": -1}, "tokens is -1"),
        ({"seconds": -0.5}, "seconds is -0.5; expected seconds"),
        ({"seconds": 1e300}, "seconds is 1e\\+300"),
        ({"metrics": {"speed": "fast"}}, "metrics is .*; expected an object of finite numbers"),
        ({"curve": {"step": 1}}, "curve is .*; expected pairs of a step"),
        ({"curve": [[1, 2.0, 3]]}, "curve is"),
        ({"curve": [[9, 1.0], [3, 1.0]]}, "a step, which does not fall"),
        ({"curve": [[1, float("nan")]]}, "a finite loss"),
        ({"curve": [[1.5, 1.0]]}, "curve is"),
        ({"curve": [3]}, "curve is"),
        ({"reason": ["x"]}, "reason is"),
        ({"speed": 3}, "unknown key 'speed'"),
    ],
)
def test_an_outcome_of_another_form_is_refused_by_its_field(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=f"^place: .*{said}"):
        Outcome.from_dict({**plain(OUTCOME), **changes}, "place")


def test_an_outcome_is_checked_where_it_is_made() -> None:
    """A training loop of somebody's may report anything; a journal must be able to give it back."""
    with pytest.raises(UserError, match=r"outcome of trial 3: steps is 2\.5"):
        Outcome(
            trial=3,
            status="stopped",
            loss=None,
            steps=2.5,  # type: ignore[arg-type]
            tokens=1,
            seconds=1.0,
            seed=0,
        )


def changed(part: str, **changes: Any) -> dict[str, Any]:
    data = plain(JOB)
    inner = {
        "job": data,
        "resolved": data["resolved"],
        "row": data["resolved"]["tensors"][0],
    }[part]
    inner.update(changes)
    return data


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (changed("job", trial="3"), "trial is '3'"),
        (changed("job", task=None), "task is None; expected text"),
        (changed("job", arguments=[]), "arguments is \\[\\]; expected an object"),
        (changed("job", resolved=None), "resolved is None; expected an object"),
        (changed("job", steps=3), "unknown key 'steps'"),
        (changed("resolved", tensors={}), "resolved: tensors is {}; expected a list"),
        (changed("resolved", residual={"ffn": ["x"]}), "resolved: residual is"),
        (changed("resolved", residual={"ffn": 3}), "resolved: residual is"),
        (changed("resolved", output_multiplier=1e300), "output_multiplier is 1e\\+300"),
        (
            changed("resolved", tensors=[plain(JOB)["resolved"]["tensors"][0]] * 2),
            "a second row of 'a'",
        ),
        (changed("row", layer=-1), "tensors.0: layer is -1"),
        (changed("row", lr="0.1"), "tensors.0: lr is '0.1'"),
        (changed("row", lr=-0.1), "tensors.0: lr is -0.1; expected a finite number, 0 or more"),
        (changed("row", beta1=1), "tensors.0: beta1 is 1; expected a number in"),
        (changed("row", init_value=1e300), "tensors.0: init_value is 1e\\+300"),
        (changed("row", name=None), "tensors.0: name is None"),
        (changed("row", width=3), "tensors.0: unknown key 'width'"),
    ],
)
def test_a_job_of_another_form_is_refused_by_its_field(data: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=f"^job.json: .*{said}"):
        Job.from_dict(data, "job.json")


@pytest.mark.parametrize(("kind", "whole"), [(Job, JOB), (Outcome, OUTCOME)])
def test_whatever_stands_anywhere_it_is_read_or_refused(
    kind: type[Job] | type[Outcome], whole: Job | Outcome
) -> None:
    draw = random.Random(0)
    odd: list[Any] = [None, True, -1, 2.5, 1e308, 10**300, "", "x", [], [[]], {}, {"x": []}]

    def with_one_changed(value: Any) -> Any:
        if isinstance(value, dict | list) and value and draw.random() < 0.8:
            keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
            copy, key = value.copy(), draw.choice(keys)
            copy[key] = with_one_changed(copy[key])
            return copy
        return draw.choice(odd)

    read: Callable[[Any], Any] = kind.from_dict
    for _ in range(500):
        try:
            again = read(with_one_changed(plain(whole)))
        except UserError:
            continue
        json.dumps(again.to_dict(), allow_nan=False)
