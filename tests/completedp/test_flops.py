"""Parameter and FLOP counts against the model itself and torch's own counter."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from completedp import flops, models
from completedp.config import ModelConfig
from completedp.lm.model import LanguageModel

TINY = ModelConfig(width=32, depth=2, head_dim=16, ffn=88, vocab_size=256, context=64)
SHAPES = {
    "tiny": TINY,
    "grouped": ModelConfig(
        width=64, depth=3, head_dim=8, ffn=160, vocab_size=300, context=32, queries_per_kv=4
    ),
    "gelu": ModelConfig(
        width=48, depth=1, head_dim=16, ffn=192, vocab_size=64, context=96, activation="gelu"
    ),
    "no-qk-norm": ModelConfig(
        width=32, depth=5, head_dim=32, ffn=64, vocab_size=128, context=16, qk_norm=False
    ),
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def shape(request: pytest.FixtureRequest) -> ModelConfig:
    config: ModelConfig = request.param
    return config


def test_parameters_are_the_models(shape: ModelConfig) -> None:
    counted = {name: tuple(p.shape) for name, p in LanguageModel(shape).named_parameters()}
    assert flops.shapes(shape) == counted
    assert list(flops.shapes(shape)) == [spec.name for spec in shape.inventory(shape)]
    assert models.parameter_count(shape) == sum(
        p.numel() for p in LanguageModel(shape).parameters()
    )


def test_flops_are_torchs(shape: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    # The model's own norm sums rows by a product in backward, which torch counts and we leave out.
    monkeypatch.setattr(
        "completedp.lm.model.rms_norm", lambda x, gain: F.rms_norm(x, gain.shape, gain, 1e-6)
    )
    model = LanguageModel(shape)
    tokens_BT = torch.zeros(2, shape.context, dtype=torch.long)
    # Only the plain kernel recomputes nothing in backward.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        logits_BTV = model(tokens_BT)
    assert forward.get_total_flops() == pytest.approx(
        models.training_flops(shape, tokens_BT.numel()) / 3, rel=1e-3
    )
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as training:
        logits_BTV = model(tokens_BT)
        logits_BTV.sum().backward()
    assert training.get_total_flops() == pytest.approx(
        models.training_flops(shape, tokens_BT.numel()), rel=1e-3
    )


@given(
    heads=st.integers(1, 300),
    depth=st.integers(1, 60),
    ffn=st.integers(1, 40_000),
    tokens=st.integers(1, 10**14),
)
def test_training_flops_are_linear_in_tokens(heads: int, depth: int, ffn: int, tokens: int) -> None:
    model = ModelConfig(
        width=64 * heads, depth=depth, head_dim=64, ffn=ffn, vocab_size=32_000, context=2048
    )
    assert models.training_flops(model, tokens) == tokens * models.training_flops(model, 1)
