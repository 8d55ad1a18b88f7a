"""A recipe's values on external models."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from external_models import FAMILIES, OTHERS, VOCABULARY, Plain, loss, on_cpu, on_meta
from torch import nn

import completedp
from completedp.adapters.infer import inventory_of
from completedp.adapters.parametrized import Parametrized, Residual, apply_values
from completedp.errors import UserError
from completedp.hparams import HParams
from completedp.lm.model import LanguageModel
from completedp.optimizer import TensorRow
from completedp.recipe import Recipe
from completedp.scale import Ratios

RATIOS = Ratios(width=2, depth=2, batch=2, tokens=4)
HPARAMS = HParams.from_dict(
    {
        "global": {"lr": 1e-2, "weight_decay": 0.1, "eps": 1e-4, "residual_attention": 0.7},
        "types": {"residual": {"ffn": 1.6}, "lr": {"attention_out": 2.0}, "eps": {"ffn_down": 3.0}},
        "depth": {"residual": [0.5, 1.5]},
    }
)


def parametrized(family: str, residual: Residual = "fold", **options: Any) -> Parametrized:
    model = on_cpu(family, torch.float64, width=64, depth=4)
    found = inventory_of(model, on_meta(family))
    return apply_values(model, found, HPARAMS, RATIOS, residual=residual, **options)


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets Hugging Face's norms compute in float64. By default they compute in float32 for any input."""
    to, single = torch.Tensor.to, torch.Tensor.float

    def to_wide(x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        kept = (
            torch.float64 if a is torch.float32 and x.dtype == torch.float64 else a
            for a in arguments
        )
        return to(x, *kept, **options)

    monkeypatch.setattr(torch.Tensor, "to", to_wide)
    monkeypatch.setattr(
        torch.Tensor,
        "float",
        lambda x, *a, **o: x if x.dtype == torch.float64 else single(x, *a, **o),
    )


def losses(values: Parametrized, clip: float = 0.0, steps: int = 50) -> torch.Tensor:
    values.initialize(seed=3)
    optimizer = torch.optim.AdamW(values.param_groups())
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(steps):
        tokens_BT = torch.randint(VOCABULARY, (2, 9), generator=generator)
        value = loss(values.model, tokens_BT)
        value.backward()
        if clip:
            values.clip_grad_norm_(clip)
        optimizer.step()
        optimizer.zero_grad()
        found.append(value.item())
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.parametrize("family", [*FAMILIES, "gemma2"])
def test_folded_and_hooked_train_alike(family: str, clip: float) -> None:
    folded, hooked = parametrized(family), parametrized(family, "hook")
    assert folded.folded
    assert len(folded.hooked) == ("gemma" in family), "a tied and scaled embedding is always hooked"
    assert len(hooked.hooked) >= 8, "both branches of four layers"
    torch.testing.assert_close(losses(folded, clip), losses(hooked, clip), rtol=1e-12, atol=0)


FAULTS = {
    "weight_decay": lambda row, c: dataclasses.replace(row, weight_decay=row.weight_decay * c),
    "eps": lambda row, c: dataclasses.replace(row, eps=row.eps * c),
    "lr": lambda row, c: dataclasses.replace(row, lr=row.lr / c),
    "bias": lambda row, c: row.folded_by(1 / c) if row.name.endswith("bias") else row,
}


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("fault", FAULTS)
def test_an_incomplete_fold_is_seen(fault: str) -> None:
    """The comparison above can fail: the loss moves if any one value is left out of the fold."""
    values = parametrized("gpt2")

    def spoil(row: TensorRow) -> TensorRow:
        c = values.folded.get(row.name)
        return row if c is None else FAULTS[fault](row, c)

    spoilt = dataclasses.replace(
        values,
        resolved=dataclasses.replace(
            values.resolved, tensors=tuple(spoil(row) for row in values.tensors)
        ),
    )
    off = (losses(parametrized("gpt2", "hook")) / losses(spoilt) - 1).abs().max().item()
    assert off > 1e-6


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_at_the_base_nothing_is_folded_and_every_value_is_the_global_one(family: str) -> None:
    model = on_meta(family)
    plain = HParams.from_dict({"global": {"lr": 0.01, "weight_decay": 0.1}})
    values = apply_values(model, inventory_of(model, on_meta(family)), plain, Ratios())
    assert values.folded == {}
    assert values.hooked == ()
    for row in values.tensors:
        assert (row.lr, row.beta1, row.beta2, row.eps) == (0.01, 0.9, 0.95, 1e-8)
        assert row.weight_decay == (0.0 if row.init_std is None else 0.1)


def test_the_reference_models_values_are_those_of_its_plan(recipe: Recipe) -> None:
    large = recipe.model.scaled(width=64, depth=4)
    with torch.device("meta"):
        model, base = LanguageModel(large), LanguageModel(recipe.model)
    batch, tokens = 2 * recipe.base.batch, 4 * recipe.base.tokens
    values = completedp.parametrize(model, recipe, base=base, batch=batch, tokens=tokens)
    expected = completedp.resolve(
        recipe.hparams, large.inventory(recipe.model), RATIOS, beta_rule="power"
    ).folded()
    assert {row.name: row for row in values.tensors} == {row.name: row for row in expected.tensors}
    baseline = completedp.parametrize(
        model, recipe, base=base, batch=batch, tokens=tokens, which="baseline"
    )
    assert values.tensors != baseline.tensors


def test_a_hugging_face_models_base_is_derived(recipe: Recipe) -> None:
    scale = {"batch": recipe.base.batch, "tokens": recipe.base.tokens}
    with pytest.raises(
        UserError, match="multipliers for module types that the model does not have: q_norm"
    ):
        completedp.parametrize(
            on_meta("llama", width=64, depth=4), with_types(recipe, "q_norm"), **scale
        )
    model = on_meta("qwen3", width=64, depth=4)
    values = completedp.parametrize(model, recipe, **scale)
    assert values.ratios == Ratios(width=2, depth=2)
    with pytest.raises(UserError, match="base is not given, and Plain is no Hugging Face model"):
        completedp.parametrize(Plain(), recipe, **scale)
    with pytest.raises(
        UserError, match="the base model has width 64 and depth 4; the recipe belongs to"
    ):
        completedp.parametrize(model, recipe, base=model, **scale)
    with pytest.raises(UserError, match="residual is 'drop'"):
        completedp.parametrize(model, recipe, **scale, residual="drop")  # type: ignore[arg-type]


def with_types(recipe: Recipe, module_type: str) -> Recipe:
    hparams = HParams.from_dict({"global": {"lr": 0.1}, "types": {"lr": {module_type: 2.0}}})
    return dataclasses.replace(recipe, hparams=hparams)


def test_each_part_of_a_fused_tensor_starts_at_its_own_std() -> None:
    model = on_cpu("gpt2", torch.float64, width=64, depth=4)
    apart = HParams.from_dict(
        {"global": {"lr": 0.1}, "types": {"init_scale": {"k": 8.0, "v": 0.25}}}
    )
    values = apply_values(model, inventory_of(model, on_meta("gpt2")), apart, RATIOS)
    values.initialize(seed=0)
    fused_DF = model.transformer.h[1].attn.c_attn.weight.detach()
    stds = [part.std().item() for part in fused_DF.chunk(3, dim=1)]
    assert stds[1] / stds[0] == pytest.approx(8, rel=0.1)
    assert stds[2] / stds[0] == pytest.approx(0.25, rel=0.1)
    (row,) = (r for r in values.tensors if r.name == "transformer.h.1.attn.c_attn.weight")
    assert row.module_type == "qkv"
    alike = HParams.from_dict({"global": {"lr": 0.1}, "types": {"lr": dict.fromkeys("qkv", 2.0)}})
    base = on_meta("gpt2")
    values = apply_values(base, inventory_of(base, base), alike, Ratios())
    rates = {r.lr for r in values.tensors if r.module_type == "qkv"}
    assert rates == {0.2}, "its bias as well"
    differ = HParams.from_dict({"global": {"lr": 0.1}, "types": {"lr": {"k": 2.0}}})
    with pytest.raises(UserError, match=r"c_attn\.weight holds q and k whose lr differ"):
        apply_values(model, inventory_of(model, on_meta("gpt2")), differ, RATIOS)


def test_tied_logits_are_multiplied_through_the_final_norm() -> None:
    for parameterization, expected in (("completed-p", 0.5), ("mup", 0.5), ("sp", 1.0)):
        values = parametrized("gpt2", parameterization=parameterization)
        values.initialize(seed=0)
        assert set(values.model.transformer.ln_f.weight.tolist()) == {expected}
    values = parametrized("gemma", parameterization="completed-p")
    values.initialize(seed=0)
    assert set(values.model.model.norm.weight.tolist()) == {-0.5}, "1 + w is the gain"


def test_a_factor_that_grows_with_the_width_is_divided_out() -> None:
    untied = {"tie_word_embeddings": False}
    model = on_cpu("gemma", torch.float64, width=64, depth=4, **untied)
    found = inventory_of(model, on_meta("gemma", **untied))
    values = apply_values(model, found, HPARAMS, RATIOS)
    assert values.folded["model.embed_tokens.weight"] == pytest.approx(2**-0.5)
    assert values.hooked == ()
    assert (
        "model.embed_tokens.weight"
        not in apply_values(model, found, HPARAMS, RATIOS, parameterization="sp").folded
    )
    (tied,) = parametrized("gemma").hooked
    assert (tied.module, tied.c) == ("model.embed_tokens", pytest.approx(2**-0.5))


def test_hooks_are_not_put_on_twice() -> None:
    values = parametrized("llama", "hook")
    again = (values.model, values.inventory, HPARAMS, RATIOS)
    with pytest.raises(UserError, match="a multiplier from an earlier call"):
        apply_values(*again, residual="hook")
    values.remove_hooks()
    apply_values(*again, residual="hook")


def test_a_decayed_gain_plus_one_is_not_folded() -> None:
    row = next(r for r in parametrized("gemma2").tensors if r.module_type == "ffn_post_norm")
    with pytest.raises(UserError, match='use residual="hook"'):
        dataclasses.replace(row, weight_decay=0.1).folded_by(2.0, offset=1.0)


def test_clipping_is_torchs_if_nothing_is_folded() -> None:
    values = parametrized("llama", parameterization="sp", residual="hook")
    values.initialize(seed=0)
    loss(values.model, torch.arange(9)[None]).backward()
    other = copy.deepcopy(values.model)
    for mine, its in zip(values.model.parameters(), other.parameters(), strict=True):
        its.grad = None if mine.grad is None else mine.grad.clone()
    norm = values.clip_grad_norm_(0.1)
    expected = nn.utils.clip_grad_norm_(other.parameters(), 0.1)
    torch.testing.assert_close(norm, expected)
    for mine, its in zip(values.model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad)
    values.model.zero_grad()
    assert values.clip_grad_norm_(0.1) == 0


def test_initial_values_are_a_function_of_the_seed() -> None:
    one, two = parametrized("phi3"), parametrized("phi3")
    for values in (one, two):
        values.initialize(seed=7)
    assert all(
        torch.equal(p, q)
        for p, q in zip(one.model.parameters(), two.model.parameters(), strict=True)
    )
    one.initialize(seed=8)
    assert not torch.equal(one.model.lm_head.weight, two.model.lm_head.weight)


class Raw(nn.Module):
    """An attention whose matrices are its own parameters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for name in ("wq", "wk", "wv", "wo"):
            self.register_parameter(name, nn.Parameter(torch.empty(width, width)))

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        mixed_BTD = nn.functional.scaled_dot_product_attention(
            x_BTD @ self.wq, x_BTD @ self.wk, x_BTD @ self.wv, is_causal=True
        )
        return mixed_BTD @ self.wo


class RawBlocks(Plain):
    def __init__(self, width: int = 32, depth: int = 2) -> None:
        super().__init__(width, depth)
        for block in self.blocks:
            block.self_attn = Raw(width)


RAW = [(rf"self_attn\.w{t}$", t) for t in "qkv"] + [(r"self_attn\.wo$", "attention_out")]


def test_only_the_tensor_that_ends_a_branch_is_folded() -> None:
    with torch.device("meta"):
        model, base = RawBlocks(64, 4), RawBlocks()
    found = inventory_of(model, base, RAW)
    folded = apply_values(model, found, HPARAMS, RATIOS).folded
    assert "blocks.0.self_attn.wo" in folded
    assert "blocks.0.self_attn.wq" not in folded
    with pytest.raises(
        UserError, match=r'owns more than blocks\.0\.self_attn\.wo.* use residual="fold"'
    ):
        apply_values(model, found, HPARAMS, RATIOS, residual="hook")


def test_wrapped_layers_keep_the_clipping_norm() -> None:
    values = parametrized("llama")
    values.initialize(seed=0)
    loss(values.model, torch.arange(9)[None]).backward()
    expected = values.clip_grad_norm_(1e9)
    layers = values.model.model.layers
    layers[0] = torch.compile(layers[0])  # which renames its parameters
    torch.testing.assert_close(values.clip_grad_norm_(1e9), expected, rtol=0, atol=0)


def test_a_compiled_model_takes_the_values_of_the_plain_one(recipe: Recipe) -> None:
    plain, other = (on_cpu("qwen3", torch.float32, width=64, depth=4) for _ in range(2))
    base = on_meta("qwen3")
    for model, its_base in ((plain, base), (torch.compile(other), torch.compile(base))):
        values = completedp.parametrize(
            model, recipe, base=its_base, batch=recipe.base.batch, tokens=recipe.base.tokens
        )
        values.initialize(seed=0)
    torch.testing.assert_close(other.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_a_base_of_another_family_is_refused_by_name(recipe: Recipe) -> None:
    model = on_meta("qwen3", width=64, depth=4)
    with pytest.raises(UserError, match=r"the base model \(Plain\) has no model\.layers"):
        completedp.parametrize(model, recipe, base=Plain(), batch=256, tokens=10_000)


class Inside(nn.Module):
    """A model that holds another as `module`, the name that wrappers use."""

    def __init__(self, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.module = Plain(width, depth)


def test_a_users_own_module_of_a_wrappers_name_keeps_the_clipping_norm() -> None:
    def norm(make: Callable[..., nn.Module]) -> torch.Tensor:
        model = make(64, 4)
        with torch.device("meta"):
            base = make()
        values = apply_values(model, inventory_of(model, base), HPARAMS, RATIOS)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        return values.clip_grad_norm_(1e9)

    torch.testing.assert_close(norm(Inside), norm(Plain))


def test_a_model_on_the_meta_device_has_no_values_to_set() -> None:
    model = on_meta("llama", width=64)
    values = apply_values(model, inventory_of(model, on_meta("llama")), HPARAMS, Ratios(width=2))
    with pytest.raises(UserError, match=r"embed_tokens\.weight is on the meta device"):
        values.initialize(seed=0)
