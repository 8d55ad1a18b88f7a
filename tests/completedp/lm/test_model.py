"""The reference model against its inventory and a plain float64 decoder written out."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from completedp.config import ModelConfig
from completedp.lm.model import LanguageModel
from completedp.optimizer import initialize

from .conftest import resolved_for

SHAPES = {
    "swiglu": ModelConfig(width=32, depth=2, head_dim=8, ffn=40, vocab_size=50, context=12),
    "gelu": ModelConfig(
        width=32, depth=1, head_dim=8, ffn=64, vocab_size=50, context=12, activation="gelu"
    ),
    "grouped": ModelConfig(
        width=32, depth=2, head_dim=8, ffn=40, vocab_size=50, context=12, queries_per_kv=2
    ),
    "no-qk-norm": ModelConfig(
        width=32, depth=1, head_dim=16, ffn=40, vocab_size=50, context=12, qk_norm=False
    ),
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def shape(request: pytest.FixtureRequest) -> ModelConfig:
    config: ModelConfig = request.param
    return config


def plain_logits(model: LanguageModel, tokens: Tensor) -> Tensor:
    """The decoder of the module's docstring, one operation at a time."""
    config, p = model.config, dict(model.named_parameters())

    def norm(x: Tensor, gain: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain

    def turn(x: Tensor) -> Tensor:
        half = config.head_dim // 2
        out = torch.empty_like(x)
        for t in range(x.shape[1]):
            for i in range(half):
                angle = t * config.rope_base ** (-i / half)
                a, b = x[:, t, :, i], x[:, t, :, i + half]
                out[:, t, :, i] = a * math.cos(angle) - b * math.sin(angle)
                out[:, t, :, i + half] = b * math.cos(angle) + a * math.sin(angle)
        return out

    def heads(x: Tensor, weight: Tensor) -> Tensor:
        return (x @ weight.T).unflatten(-1, (-1, config.head_dim))

    x = p["embedding.weight"][tokens]
    future = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).triu(1)
    for i in range(config.depth):
        w = {
            n.removeprefix(f"layers.{i}."): v for n, v in p.items() if n.startswith(f"layers.{i}.")
        }
        h = norm(x, w["attention_norm.weight"])
        q, k, v = (heads(h, w[f"attention.{n}.weight"]) for n in "qkv")
        if config.qk_norm:
            q = norm(q, w["attention.q_norm.weight"])
            k = norm(k, w["attention.k_norm.weight"])
        k, v = (y.repeat_interleave(config.queries_per_kv, dim=2) for y in (turn(k), v))
        scores = torch.einsum("bthe,bshe->bhts", turn(q), k) / math.sqrt(config.head_dim)
        mixed = torch.einsum(
            "bhts,bshe->bthe", scores.masked_fill(future, -torch.inf).softmax(-1), v
        )
        branch = mixed.flatten(2) @ w["attention.out.weight"].T
        x = x + model.residual_attention_L[i] * branch
        h = norm(x, w["ffn_norm.weight"])
        up = h @ w["ffn.up.weight"].T
        inner = F.silu(h @ w["ffn.gate.weight"].T) * up if config.gated else F.gelu(up)
        x = x + model.residual_ffn_L[i] * (inner @ w["ffn.down.weight"].T)
    final = norm(x, p["final_norm.weight"]) @ p["unembedding.weight"].T
    return final * model.output_multiplier


def random_model(shape: ModelConfig) -> LanguageModel:
    model = LanguageModel(shape).double()
    initialize(model, resolved_for(shape), seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # gains too must matter
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
        model.residual_attention_L.copy_(torch.arange(1, shape.depth + 1) * 0.7)
        model.residual_ffn_L.copy_(torch.arange(1, shape.depth + 1) * 0.4)
        model.output_multiplier.fill_(0.25)
        model.cos_THE, model.sin_THE = (
            exact_table(shape, torch.cos),
            exact_table(shape, torch.sin)
            * torch.tensor([-1.0, 1.0]).repeat_interleave(shape.head_dim // 2),
        )
    return model


def exact_table(shape: ModelConfig, of: object) -> Tensor:
    assert callable(of)
    half = shape.head_dim // 2
    frequency = shape.rope_base ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(shape.context, dtype=torch.float64)[:, None, None] * frequency
    table: Tensor = of(torch.cat((angle, angle), -1))
    return table.expand(-1, shape.heads, -1).contiguous()


def test_parameters_are_the_inventory(shape: ModelConfig) -> None:
    model = LanguageModel(shape)
    assert {n for n, _ in model.named_parameters()} == {t.name for t in shape.inventory(shape)}
    assert model.state_dict().keys() == {t.name for t in shape.inventory(shape)}
    for spec in shape.inventory(shape):
        size = model.get_parameter(spec.name).shape
        assert not spec.fan_in or size[1] == spec.fan_in


def test_logits_and_gradients_are_the_plain_decoders(shape: ModelConfig) -> None:
    model = random_model(shape)
    tokens = torch.randint(50, (3, 13), generator=torch.Generator().manual_seed(2))
    inputs, target = tokens[:, :-1], tokens[:, 1:]
    wanted = plain_logits(model, inputs)
    torch.testing.assert_close(model(inputs), wanted, rtol=1e-9, atol=1e-9)
    wanted_loss = F.cross_entropy(wanted.flatten(0, 1), target.flatten())
    wanted_loss = wanted_loss + 1e-2 * wanted.logsumexp(-1).square().mean()
    loss, _ = model.loss(inputs, target, z_loss=1e-2)
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-10, atol=1e-10)
    parameters = list(model.parameters())
    for (name, _), grad, wanted_grad in zip(
        model.named_parameters(),
        torch.autograd.grad(loss, parameters),
        torch.autograd.grad(wanted_loss, parameters),
        strict=True,
    ):
        torch.testing.assert_close(grad, wanted_grad, rtol=1e-8, atol=1e-10, msg=name)


def test_nothing_looks_ahead(shape: ModelConfig) -> None:
    model = random_model(shape)
    tokens = torch.randint(50, (1, 12), generator=torch.Generator().manual_seed(2))
    changed = tokens.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 50
    difference = (model(tokens) - model(changed)).abs().amax(-1)[0]
    assert (difference[:7] == 0).all()
    assert (difference[7:] > 0).all()


def test_multipliers_are_taken_over_and_not_saved(shape: ModelConfig) -> None:
    model = LanguageModel(shape)
    values = resolved_for(shape, types={"residual": {"attention": 0.5, "ffn": 3.0}})
    model.set_multipliers(values)
    assert model.residual_attention_L.tolist() == [0.5] * shape.depth
    assert model.residual_ffn_L.tolist() == [3.0] * shape.depth
    assert not [name for name in model.state_dict() if "residual" in name or "THE" in name]


@pytest.mark.parametrize("name", ["swiglu", "no-qk-norm"])
def test_bfloat16_autocast_is_near_float32(name: str) -> None:
    shape = SHAPES[name]
    model = LanguageModel(shape)
    initialize(model, resolved_for(shape), seed=1)
    tokens = torch.randint(50, (8, 13), generator=torch.Generator().manual_seed(2))
    inputs, target = tokens[:, :-1], tokens[:, 1:]
    wanted, _ = model.loss(inputs, target)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = model.loss(inputs, target)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(wanted.item(), rel=2e-2)
    assert loss.item() != wanted.item()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.filterwarnings("default")  # torch.compile's own deprecations
def test_compiled_code_has_the_gradients_of_eager_code(shape: ModelConfig) -> None:
    """By the tracing alone, where torch 2.11 lost those of the attention."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = LanguageModel(shape).double()
    tokens = torch.randint(shape.vocab_size, (3, shape.context + 1))

    def gradients(loss: Callable[..., tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        model.zero_grad()
        loss(tokens[:, :-1], tokens[:, 1:], 1e-2)[0].backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    eager = gradients(model.loss)
    traced = gradients(torch.compile(model.loss, backend="aot_eager"))
    assert traced.keys() == eager.keys() == dict(model.named_parameters()).keys()
    for name, gradient in eager.items():
        torch.testing.assert_close(traced[name], gradient, rtol=1e-9, atol=1e-12, msg=name)
