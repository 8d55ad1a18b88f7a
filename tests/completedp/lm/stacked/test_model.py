"""The stacked model, its loss and its AdamW against solo models."""

import pytest
import torch

from completedp.auditing import audit
from completedp.config import ModelConfig
from completedp.errors import UserError
from completedp.lm.model import LanguageModel, initial_buffers
from completedp.lm.stacked import loss
from completedp.lm.stacked.model import StackedModel
from completedp.lm.stacked.optimizer import StackedAdamW
from completedp.optimizer import adamw, initialize
from completedp.resolved import Resolved

from ..conftest import resolved_for
from ..test_model import SHAPES

MEMBERS = 3
CPU = torch.device("cpu")


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def shape(request: pytest.FixtureRequest) -> ModelConfig:
    config: ModelConfig = request.param
    return config


def values(shape: ModelConfig, member: int) -> Resolved:
    """Other values for every member, and in every tensor."""
    types = {
        "lr": {"q": 1.0 + member, "embedding": 0.5},
        "weight_decay": {"v": 3.0**member},
        "beta1": {"attention_out": 1.0 + member},
        "beta2": {"ffn_up": 0.5 + member},
        "eps": {"ffn_norm": 10.0**member},
        "residual": {"attention": 0.5 + member},
    }
    depth = {"residual": [1.0 + 0.5 * i * member for i in range(shape.depth)]}
    return resolved_for(shape, types=types, depth=depth)


def begin(model: LanguageModel, resolved: Resolved, seed: int) -> None:
    initialize(model, resolved, seed)
    model.set_multipliers(resolved)


def stacked(shape: ModelConfig, places: int = MEMBERS) -> tuple[StackedModel, StackedAdamW]:
    model = StackedModel(shape, places, CPU, torch.float64)
    optimizer = StackedAdamW(model)
    for place in range(places):
        begin(model.solo[place], values(shape, place), seed=place)
        optimizer.set_values(place, values(shape, place).tensors)
    return model, optimizer


def tokens(shape: ModelConfig, step: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    size = (MEMBERS, 4, shape.context + 1)
    return torch.randint(shape.vocab_size, size, generator=generator)


@pytest.mark.parametrize("chunk", [1 << 20, 700])
def test_losses_and_gradients_are_the_solo_ones(
    shape: ModelConfig, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("completedp.lm.loss.CPU_LOGITS", chunk)
    model, _ = stacked(shape)
    windows_MBT = tokens(shape)
    loss_M, ce_M = model.loss(windows_MBT[..., :-1], windows_MBT[..., 1:], 0.01)
    model.backward(loss_M, 1.0)
    for place in range(MEMBERS):
        solo = LanguageModel(shape).double()
        begin(solo, values(shape, place), seed=place)
        alone, ce = solo.loss(windows_MBT[place, :, :-1], windows_MBT[place, :, 1:], 0.01)
        torch.autograd.backward(alone)
        torch.testing.assert_close(loss_M[place], alone, rtol=1e-12, atol=0)
        torch.testing.assert_close(ce_M[place], ce, rtol=1e-12, atol=0)
        for part, parameter in zip(model.slices, solo.parameters(), strict=True):
            found = part.of(model.gradients_SP)[place]
            torch.testing.assert_close(found, parameter.grad, rtol=1e-9, atol=1e-14)


def test_a_padded_row_is_whole_tables_and_blocks(shape: ModelConfig) -> None:
    model, _ = stacked(shape)
    assert model.values_SP.shape[1] % 64 == model.values_SP.shape[1] % shape.width == 0
    assert [part.start % 64 for part in model.slices] == [0] * len(model.slices)


def test_clipped_steps_are_those_of_the_solo_optimizer(shape: ModelConfig) -> None:
    model, optimizer = stacked(shape)
    factors = [1.0, 0.5, 0.1]
    solos = [LanguageModel(shape).double() for _ in range(MEMBERS)]
    optimizers = [adamw(solo, values(shape, place)) for place, solo in enumerate(solos)]
    for place, solo in enumerate(solos):
        begin(solo, values(shape, place), seed=place)
        for group in optimizers[place].param_groups:
            group["lr"] *= factors[place]
    for step in range(1, 6):
        windows_MBT = tokens(shape, step)
        loss_M, _ = model.loss(windows_MBT[..., :-1], windows_MBT[..., 1:], 0.01)
        model.backward(loss_M, 1.0)
        norm_M = optimizer.clip(0.5)
        optimizer.step([step] * MEMBERS, factors)
        for place, (solo, alone) in enumerate(zip(solos, optimizers, strict=True)):
            windows_BT = windows_MBT[place]
            alone.zero_grad()
            torch.autograd.backward(solo.loss(windows_BT[:, :-1], windows_BT[:, 1:], 0.01)[0])
            norm = torch.nn.utils.clip_grad_norm_(solo.parameters(), 0.5)
            torch.testing.assert_close(norm_M[place], norm, rtol=1e-9, atol=0)
            alone.step()
    assert model.gradients_SP.count_nonzero() == 0
    for place, solo in enumerate(solos):
        for mine, theirs in zip(model.solo[place].parameters(), solo.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_the_values_in_force_are_audited(shape: ModelConfig) -> None:
    model, optimizer = stacked(shape)
    for place in range(MEMBERS):
        seen = optimizer.seen_at(place)
        audit(model.solo[place], seen, values(shape, place), schedule=1.0).check()
        other = values(shape, place + 1)
        with pytest.raises(UserError, match=r"q\.weight: lr"):
            audit(model.solo[place], seen, other, schedule=1.0).check()


def test_a_place_that_moves_takes_everything_along() -> None:
    shape = SHAPES["swiglu"]
    model, optimizer = stacked(shape)
    windows_MBT = tokens(shape)

    def train(members: int, rows: list[int], step: int) -> torch.Tensor:
        model.resize(members)
        part_MBT = windows_MBT[rows]
        loss_M, ce_M = model.loss(part_MBT[..., :-1], part_MBT[..., 1:], 0.0)
        model.backward(loss_M, 1.0)
        optimizer.step([step] * members, [1.0] * members)
        return ce_M

    train(MEMBERS, [0, 1, 2], 1)
    before = model.values_SP.clone(), [b.clone() for b in model.solo[2].buffers()]
    model.move(2, 0)
    optimizer.move(2, 0)
    assert torch.equal(model.values_SP[0], before[0][2])
    assert all(map(torch.equal, model.solo[0].buffers(), before[1]))
    for step in range(2, 5):
        first, _, last = train(MEMBERS, [2, 1, 2], step).tolist()
        assert first == last


def test_a_coefficient_that_a_stack_does_not_know_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def with_a_cap(config: ModelConfig) -> dict[str, torch.Tensor]:
        return initial_buffers(config) | {"logit_cap": torch.ones(())}

    monkeypatch.setattr("completedp.lm.stacked.model.initial_buffers", with_a_cap)
    with pytest.raises(UserError, match="the coefficients logit_cap"):
        StackedModel(SHAPES["gelu"], 2, CPU)


def test_cross_entropy_under_autocast_runs_in_its_dtype() -> None:
    hidden_MND = torch.randn(2, 6, 4, requires_grad=True)
    weight_MVD = torch.randn(2, 11, 4, requires_grad=True)
    target_MN = torch.arange(12).view(2, 6) % 11
    with torch.autocast("cpu", torch.bfloat16):
        loss_M, ce_M = loss.cross_entropy(hidden_MND, weight_MVD, target_MN)
    assert loss_M.dtype == ce_M.dtype == torch.float32
    exact_M, _ = loss.cross_entropy(hidden_MND, weight_MVD, target_MN)
    assert not torch.equal(loss_M, exact_M)
    torch.testing.assert_close(loss_M, exact_M, rtol=3e-2, atol=0)
    torch.autograd.backward(loss_M, torch.ones(2))
    assert hidden_MND.grad is not None
