"""Initial values and parameter groups by qualified name."""

import dataclasses
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import completedp
from completedp.config import ModelConfig
from completedp.hparams import GlobalValues, HParams
from completedp.lm.model import LanguageModel
from completedp.optimizer import TensorRow, adamw, initialize, param_groups
from completedp.resolved import Resolved

SHAPE = ModelConfig(width=32, depth=2, head_dim=16, ffn=48, vocab_size=64, context=16)


def resolved(**types: dict[str, float]) -> Resolved:
    hparams = HParams(global_=GlobalValues(lr=0.01), types=types)
    return completedp.resolve(hparams, SHAPE.inventory(SHAPE), completedp.Ratios())


def row(name: str, **values: float | None) -> TensorRow:
    given: dict[str, object] = {
        "lr": 0.1, "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "init_std": 1.0,
    } | values  # fmt: skip
    return TensorRow(name=name, module_type="q", layer=None, **given)  # type: ignore[arg-type]


def rows(*names: str) -> Resolved:
    return Resolved(tensors=tuple(map(row, names)), residual={})


def test_each_tensor_has_its_std_or_its_constant() -> None:
    model = LanguageModel(SHAPE)
    values = resolved(init_scale={"q": 0.5})
    initialize(model, values, seed=3)
    parameters = dict(model.named_parameters())
    for wanted in values.tensors:
        parameter = parameters[wanted.name].detach()
        if wanted.init_std is None:
            assert (parameter == wanted.init_value).all()
        else:
            # 5 standard errors of a standard deviation.
            tolerance = 5 / (2 * parameter.numel()) ** 0.5
            assert parameter.std().item() == pytest.approx(wanted.init_std, rel=tolerance)


def test_initial_values_depend_on_seed_and_name_alone() -> None:
    first, second = nn.Linear(8, 8), nn.Sequential()
    initialize(first, rows("weight", "bias"), seed=0)
    before = first.weight.clone()
    shuffled = rows("bias", "weight")
    initialize(first, shuffled, seed=0)
    assert torch.equal(before, first.weight)
    initialize(first, shuffled, seed=1)
    assert not torch.equal(before, first.weight)
    second.add_module("weight", nn.Linear(8, 8))
    initialize(second, rows("weight.weight", "weight.bias"), seed=0)
    assert not torch.equal(before, second[0].weight)


def test_wide_parameters_get_the_exact_product() -> None:
    narrow, wide = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False).double()
    third = dataclasses.replace(rows("weight"), tensors=(row("weight", init_std=1 / 3),))
    initialize(narrow, rows("weight"), seed=0)
    initialize(wide, third, seed=0)
    assert torch.equal(wide.weight, narrow.weight.double() * (1 / 3))


@pytest.mark.parametrize("call", [lambda m, r: initialize(m, r, 0), param_groups, adamw])
def test_rows_and_parameters_must_be_the_same_names(call: object) -> None:
    assert callable(call)
    model = nn.Linear(4, 4)
    with pytest.raises(completedp.UserError, match="without a row: bias"):
        call(model, rows("weight"))
    with pytest.raises(completedp.UserError, match=r"without a trainable parameter.*: gone"):
        call(model, rows("weight", "bias", "gone"))
    model.bias.requires_grad_(False)
    call(model, rows("weight"))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=14, max_size=14), st.integers(0, 100))
def test_groups_partition_the_parameters(multipliers: list[float], order: int) -> None:
    model = LanguageModel(SHAPE)
    types = dict(zip(SHAPE.inventory(SHAPE).module_types, multipliers, strict=True))
    values = resolved(lr=types, eps=dict(zip(types, reversed(multipliers), strict=True)))
    shuffled = list(values.tensors)
    random.Random(order).shuffle(shuffled)
    groups = param_groups(model, dataclasses.replace(values, tensors=tuple(shuffled)))
    names = [name for group in groups for name in group["param_names"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert len({group["name"] for group in groups}) == len(groups)
    wanted = {r.name: (r.lr, r.weight_decay, (r.beta1, r.beta2), r.eps) for r in values.tensors}
    parameters = dict(model.named_parameters())
    for group in groups:
        in_force = (group["lr"], group["weight_decay"], group["betas"], group["eps"])
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            assert parameter is parameters[name]
            assert in_force == wanted[name]
    assert len(groups) == len(set(wanted.values())), "rows with equal values are merged"


def test_adamw_takes_the_rows_values() -> None:
    model = nn.Linear(2, 2, bias=False)
    values = Resolved(tensors=(row("weight", lr=0.5, weight_decay=0.1, eps=0.25),), residual={})
    initialize(model, values, seed=0)
    before = model.weight.detach().clone()
    optimizer = adamw(model, values)
    model.weight.grad = torch.full((2, 2), 3.0)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before * 0.95 - 0.5 * 3 / 3.25)
