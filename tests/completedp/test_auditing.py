"""The values in force against the planned ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import completedp
from completedp.config import ModelConfig
from completedp.errors import UserError
from completedp.hparams import HParams
from completedp.lm.model import LanguageModel
from completedp.optimizer import adamw, param_groups
from completedp.resolved import Resolved

SHAPE = ModelConfig(width=32, depth=2, head_dim=16, ffn=48, vocab_size=64, context=16)
HPARAMS = HParams.from_dict(
    {"global": {"lr": 0.01}, "types": {"lr": {"q": 3.0}, "eps": {"k": 5.0}, "beta2": {"v": 2.0}}}
)
HALF = torch.optim.lr_scheduler.LambdaLR


@pytest.fixture
def model() -> LanguageModel:
    return LanguageModel(SHAPE)


@pytest.fixture
def planned() -> Resolved:
    return completedp.resolve(HPARAMS, SHAPE.inventory(SHAPE), completedp.Ratios())


def test_what_is_as_planned_has_no_difference(model: LanguageModel, planned: Resolved) -> None:
    optimizer = adamw(model, planned)
    found = completedp.audit(model, optimizer, planned)
    assert found.ok
    assert (found.tensors, found.schedule) == (len(planned.tensors), 1.0)
    found.check()
    HALF(optimizer, lambda step: 0.5)
    assert completedp.audit(model, optimizer, planned).schedule == pytest.approx(0.5)
    assert completedp.audit(model, optimizer, planned, schedule=0.5).ok
    assert not completedp.audit(model, optimizer, planned, schedule=0.25).ok


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("lr", {"lr": 0.02}),
        ("weight_decay", {"weight_decay": 0.0}),
        ("beta1", {"betas": (0.8, 0.95)}),
        ("beta2", {"betas": (0.9, 0.96)}),
        ("eps", {"eps": 1e-9}),
    ],
)
def test_each_value_that_differs_is_named(
    model: LanguageModel, planned: Resolved, what: str, change: dict[str, Any]
) -> None:
    optimizer = adamw(model, planned)
    group = next(g for g in optimizer.param_groups if "unembedding.weight" in g["param_names"])
    group.update(change)
    found = completedp.audit(model, optimizer, planned, schedule=1.0)
    assert {d.what for d in found.differences} == {what}
    assert {d.tensor for d in found.differences} == set(group["param_names"])
    with pytest.raises(UserError, match=rf"embedding.weight: {what} is .*, planned"):
        found.check()


def test_a_scheduler_that_writes_one_lr_everywhere(model: LanguageModel, planned: Resolved) -> None:
    optimizer = adamw(model, planned)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    found = completedp.audit(model, optimizer, planned)
    assert {d.tensor for d in found.differences} == {
        f"layers.{i}.attention.q.weight" for i in (0, 1)
    }


def test_a_scheduler_of_other_peaks(model: LanguageModel, planned: Resolved) -> None:
    """All learning rates twice too high look like a schedule's multiplier; `initial_lr` tells."""
    optimizer = adamw(model, planned)
    for group in optimizer.param_groups:
        group["lr"] *= 2
    HALF(optimizer, lambda step: 1.0)
    found = completedp.audit(model, optimizer, planned)
    own = [d for d in found.differences if d.tensor != "every tensor"]
    assert {d.what for d in own} == {"initial_lr"}
    assert len(own) == len(planned.tensors)


@pytest.mark.parametrize("multiplier", [0.0, 100.0])
def test_what_no_schedule_makes_of_a_peak(
    model: LanguageModel, planned: Resolved, multiplier: float
) -> None:
    """At 0 all learning rates look alike; a hundredfold is no schedule, where nothing else tells."""
    optimizer = adamw(model, planned)
    for group in optimizer.param_groups:
        group["lr"] *= multiplier
    with pytest.raises(UserError, match=rf"every tensor: lr is {multiplier:g} x the peak"):
        completedp.audit(model, optimizer, planned).check()
    assert completedp.audit(model, optimizer, planned, schedule=multiplier).ok


def test_groups_some_of_which_are_at_0(model: LanguageModel, planned: Resolved) -> None:
    """The most of them may be: those are named, and not the one that trains."""
    optimizer = adamw(model, planned)
    trains, *others = optimizer.param_groups
    for group in others:
        group["lr"] = 0.0
    found = completedp.audit(model, optimizer, planned)
    assert found.schedule == 1.0
    assert {d.in_force for d in found.differences} == {0.0}
    assert {d.tensor for d in found.differences}.isdisjoint(trains["param_names"])


def test_a_long_schedule_on_learning_rates_that_are_tensors(
    model: LanguageModel, planned: Resolved
) -> None:
    """Each step rounds each group's own: no difference, though larger than other values may have."""
    groups = [{**group, "lr": torch.tensor(group["lr"])} for group in param_groups(model, planned)]
    optimizer = torch.optim.AdamW(groups, foreach=False)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20_000)
    optimizer.step()
    for _ in range(10_000):
        scheduler.step()
    assert completedp.audit(model, optimizer, planned).ok
    rows = {row.name: row.lr for row in planned.tensors}
    ratios = [float(g["lr"]) / rows[g["param_names"][0]] for g in optimizer.param_groups]
    assert max(ratios) / min(ratios) > 1 + 1e-6
    optimizer.param_groups[-1]["lr"] *= 1.01
    assert {d.what for d in completedp.audit(model, optimizer, planned).differences} == {"lr"}


def test_one_group_for_all(model: LanguageModel, planned: Resolved) -> None:
    found = completedp.audit(model, torch.optim.AdamW(model.parameters(), lr=0.01), planned)
    assert {"lr", "eps", "beta2"} <= {d.what for d in found.differences}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda m: torch.optim.SGD(m.parameters(), lr=0.01),
            "optimizer is SGD, planned torch.optim.AdamW",
        ),
        (lambda m: torch.optim.Adam(m.parameters(), lr=0.01), "optimizer is Adam, planned"),
        (lambda m: torch.optim.AdamW(m.parameters(), lr=0.01, amsgrad=True), "amsgrad is True"),
        (
            lambda m: torch.optim.AdamW(m.embedding.parameters(), lr=0.01),
            "group is none, planned one",
        ),
    ],
)
def test_other_optimizers(
    model: LanguageModel, planned: Resolved, make: Callable[[nn.Module], Any], said: str
) -> None:
    assert said in " ".join(map(str, completedp.audit(model, make(model), planned).differences))


def test_tensors_of_another_model(model: LanguageModel, planned: Resolved) -> None:
    fewer = dataclasses.replace(planned, tensors=planned.tensors[1:])
    found = completedp.audit(model, adamw(model, planned), fewer)
    assert [str(d) for d in found.differences] == ["embedding.weight: row is trained, planned none"]
    optimizer = adamw(model, planned)
    model.embedding.requires_grad_(False)
    found = completedp.audit(model, optimizer, planned)
    assert [str(d) for d in found.differences] == [
        "embedding.weight: parameter is not in the model, planned trained"
    ]


class Wrapped(nn.Module):
    def __init__(self, name: str, inner: nn.Module) -> None:
        super().__init__()
        self.add_module(name, inner)


@pytest.mark.parametrize("name", ["module", "_orig_mod", "_fsdp_wrapped_module"])
def test_wrappers_are_seen_through(name: str, model: LanguageModel, planned: Resolved) -> None:
    groups = param_groups(model, planned)
    model.layers[0] = Wrapped(name, model.layers[0])  # inside as well as around
    assert completedp.audit(Wrapped("module", model), torch.optim.AdamW(groups), planned).ok


def test_under_torch_compile(model: LanguageModel, planned: Resolved) -> None:
    optimizer = adamw(model, planned)
    assert completedp.audit(torch.compile(model), optimizer, planned).ok  # type: ignore[arg-type]
