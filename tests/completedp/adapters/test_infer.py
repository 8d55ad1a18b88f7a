"""The inventory of external models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from external_models import FAMILIES, OTHERS, SIZES, Plain, on_meta
from torch import nn
from transformers import AutoConfig

from completedp.adapters.huggingface import build
from completedp.adapters.infer import ExternalInventory, inventory_of
from completedp.config import ModelConfig
from completedp.errors import UserError
from completedp.hparams import HParams
from completedp.lm.model import LanguageModel

EVERY = (*FAMILIES, *OTHERS)


def inferred(family: str, **sizes: Any) -> ExternalInventory:
    return inventory_of(on_meta(family, **{"width": 64, "depth": 4, **sizes}), on_meta(family))


def meta(model: type[nn.Module], *arguments: Any, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return model(*arguments, **options)


def test_the_reference_models_own_inventory_is_found() -> None:
    small = ModelConfig(
        width=32, depth=2, head_dim=16, ffn=88, vocab_size=64, context=16, queries_per_kv=2
    )
    large = small.scaled(width=96, depth=3)
    found = inventory_of(meta(LanguageModel, large), meta(LanguageModel, small))
    expected = large.inventory(small)
    assert {s.name: s for s in found.whole} == {s.name: s for s in expected}
    assert (found.whole.layers, found.whole.base_layers, found.whole.tied) == (3, 2, False)
    assert (found.width, found.base_width) == (96, 32)


@pytest.mark.parametrize("family", EVERY)
def test_every_parameter_has_one_spec(family: str) -> None:
    found = inferred(family)
    names = [name for name, _ in on_meta(family, width=64, depth=4).named_parameters()]
    assert sorted(s.name for s in found.whole) == sorted(names)
    roles = {s.module_type: s.role for s in found.whole if not s.is_bias}
    norms = {t for t in roles if t.endswith("_norm")}
    full_width = family == "olmo2"
    assert all(
        roles[t] == ("qk_norm" if t in ("q_norm", "k_norm") and not full_width else roles[t])
        for t in norms
    )
    assert roles["embedding"] == "embedding"
    assert found.whole.tied is (family in ("gpt2", "gemma", "gemma2", "gemma3_text"))
    assert ("unembedding" in roles) is not found.whole.tied


@pytest.mark.parametrize(
    ("family", "name", "module_type", "role"),
    [
        ("llama", "model.layers.3.post_attention_layernorm.weight", "ffn_norm", "hidden_norm"),
        ("gemma", "model.layers.3.post_attention_layernorm.weight", "ffn_norm", "hidden_norm"),
        ("gemma2", "model.layers.3.post_attention_layernorm.weight", "attention_post_norm", "hidden_norm"),
        ("gemma2", "model.layers.3.pre_feedforward_layernorm.weight", "ffn_norm", "hidden_norm"),
        ("olmo2", "model.layers.0.post_feedforward_layernorm.weight", "ffn_post_norm", "hidden_norm"),
        ("olmo2", "model.layers.0.self_attn.q_norm.weight", "q_norm", "hidden_norm"),
        ("qwen3", "model.layers.0.self_attn.q_norm.weight", "q_norm", "qk_norm"),
        ("gpt2", "transformer.h.1.attn.c_proj.bias", "attention_out", "hidden_bias"),
        ("gpt2", "transformer.h.1.mlp.c_proj.weight", "ffn_down", "hidden_weight"),
        ("gpt2", "transformer.wpe.weight", "position_embedding", "position_embedding"),
        ("gpt2", "transformer.ln_f.bias", "final_norm", "final_norm"),
        ("qwen2", "model.layers.2.self_attn.k_proj.bias", "k", "hidden_bias"),
        ("phi3", "model.layers.2.mlp.gate_up_proj.weight", "gate_up", "hidden_weight"),
    ],
)  # fmt: skip
def test_types_and_roles(family: str, name: str, module_type: str, role: str) -> None:
    spec = next(s for s in inferred(family).whole if s.name == name)
    assert (spec.module_type, spec.role, spec.is_bias) == (module_type, role, name.endswith("bias"))


def test_fan_ins_are_read_along_the_right_dimension() -> None:
    specs = {s.name: s for s in inferred("gpt2").whole}
    up, down = (specs[f"transformer.h.0.mlp.{n}.weight"] for n in ("c_fc", "c_proj"))
    assert (up.fan_in, up.base_fan_in) == (64, 32)
    assert (down.fan_in, down.base_fan_in) == (256, 128)
    specs = {s.name: s for s in inferred("llama").whole}
    down = specs["model.layers.0.mlp.down_proj.weight"]
    assert (down.fan_in, down.base_fan_in) == (160, 80)


def test_gains_that_the_code_adds_one_to_start_at_zero() -> None:
    for family, start in (("gemma", 0.0), ("llama", 1.0), ("gpt2", 1.0)):
        found = inferred(family)
        gains = {s.init_value for s in found.whole if s.role.endswith("norm") and not s.is_bias}
        assert gains == {start}
    assert {s.init_value for s in inferred("gpt2").whole if s.is_bias} == {0.0}


def test_a_factor_on_the_embedding_is_seen_to_grow() -> None:
    assert inferred("gemma").embedding_factor == pytest.approx(2**0.5)
    assert inferred("llama").embedding_factor == 1.0


def test_fused_tensors_come_apart_where_the_hyperparameters_do() -> None:
    found = inferred("phi3")
    whole = HParams.from_dict({"global": {"lr": 0.1}, "types": {"lr": {"qkv": 2.0}}})
    assert {"qkv", "gate_up"} <= set(found.for_hparams(whole).module_types)
    apart = HParams.from_dict({"global": {"lr": 0.1}, "types": {"init_scale": {"k": 2.0}}})
    assert {"q", "k", "v", "gate_up"} <= set(found.for_hparams(apart).module_types)
    qkv = next(f for f in found.fused if f.module_type == "qkv")
    assert qkv.parts == (("q", 0, 64), ("k", 64, 96), ("v", 96, 128))
    assert qkv.dimension == 0
    assert next(f for f in inferred("gpt2").fused).dimension == 1


def test_each_part_of_a_fused_tensor_grows() -> None:
    """Phi-3 with two key-value heads at both widths: its qkv grows by 1.5 as a whole, k and v not at all."""
    models = []
    for heads in (8, 4):
        sizes = {
            "hidden_size": 8 * heads,
            "intermediate_size": 16 * heads,
            "num_key_value_heads": 2,
        }
        with torch.device("meta"):
            sizes |= {"num_attention_heads": heads}
            models.append(build(AutoConfig.for_model("phi3", **{**SIZES, **sizes})))
    with pytest.raises(UserError, match=r"qkv_proj\.weight .* its part k goes from 16 to 16"):
        inventory_of(*models)


@pytest.mark.parametrize("name", ["gate", "gate_proj", "g_proj"])
def test_a_gate_of_attention_is_no_gate_of_the_feed_forward(name: str) -> None:
    models = on_meta("llama", width=64, depth=4), on_meta("llama")
    for model in models:
        for layer in model.model.layers:
            width = layer.self_attn.o_proj.out_features
            layer.self_attn.add_module(name, nn.Linear(width, width, bias=False, device="meta"))
    types = {s.name: (s.module_type, s.role) for s in inventory_of(*models).whole}
    assert types[f"model.layers.3.self_attn.{name}.weight"] == ("other", "hidden_weight")
    assert types["model.layers.3.mlp.gate_proj.weight"] == ("ffn_gate", "hidden_weight")


def test_what_a_coefficient_needs_is_missed_at_once() -> None:
    """`inspect` says what `parametrize` would: no search begins on a model that it cannot carry to."""
    tied = [on_meta("llama", width=width, tie_word_embeddings=True) for width in (64, 32)]
    for model in tied:
        model.model.norm = nn.Identity()
    with pytest.raises(UserError, match=r"0 tensors that would be its final_norm.* untie"):
        inventory_of(*tied)
    frozen = [on_meta("llama", width=width) for width in (64, 32)]
    for model in frozen:
        model.model.layers[1].self_attn.o_proj.requires_grad_(False)
    with pytest.raises(UserError, match="layer 1 has 0 tensors that would be the last linear map"):
        inventory_of(*frozen)
    heads = [on_meta("llama", width=width) for width in (64, 32)]
    for width, model in zip((64, 32), heads, strict=True):
        model.head = nn.Linear(width, 61, bias=False, device="meta")
    with pytest.raises(
        UserError, match=r"2 tensors .* its unembedding.*lm_head\.weight, head\.weight"
    ):
        inventory_of(*heads)


def test_torchs_own_layers() -> None:
    found = inventory_of(meta(Plain, 64, 3), meta(Plain))
    types = {s.name: (s.module_type, s.role) for s in found.whole}
    assert types["blocks.2.self_attn.in_proj_weight"] == ("qkv", "hidden_weight")
    assert types["blocks.2.self_attn.in_proj_bias"] == ("qkv", "hidden_bias")
    assert types["blocks.2.self_attn.out_proj.weight"] == ("attention_out", "hidden_weight")
    assert types["head.bias"] == ("unembedding", "unembedding_bias")
    assert found.fused[0].parts == (("q", 0, 64), ("k", 64, 128), ("v", 128, 192))


class Odd(Plain):
    """A decoder with one part whose name means nothing."""

    def __init__(
        self, width: int = 32, depth: int = 2, part: str = "gizmo", grows: bool = True
    ) -> None:
        super().__init__(width, depth)
        for block in self.blocks:
            block.add_module(part, nn.Linear(width, width if grows else 16, bias=False))


def test_an_unknown_part_is_refused_by_name_and_taken_by_a_pattern() -> None:
    models = meta(Odd, 64), meta(Odd)
    with pytest.raises(UserError, match=r"blocks\.0\.gizmo\.weight .*nothing in its name"):
        inventory_of(*models)
    found = inventory_of(*models, modules=[(r"gizmo", "other")])
    assert {s.role for s in found.whole if "gizmo" in s.name} == {"hidden_weight"}


def test_the_first_pattern_wins_and_an_idle_one_is_refused() -> None:
    models = meta(Odd, 64), meta(Odd)
    patterns = [(r"blocks\.0\.gizmo", "ffn_up"), (r"gizmo", "other")]
    types = {s.name: s.module_type for s in inventory_of(*models, modules=patterns).whole}
    assert (types["blocks.0.gizmo.weight"], types["blocks.1.gizmo.weight"]) == ("ffn_up", "other")
    with pytest.raises(UserError, match=r"'gizmo\$' decides no parameter"):
        inventory_of(*models, modules=[(r"gizmo", "other"), (r"gizmo$", "q")])
    late = [(r"gizmo", "other"), (r"blocks\.0\.gizmo", "q")]
    with pytest.raises(UserError, match="an earlier pattern took all of them"):
        inventory_of(*models, modules=late)


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        ([("(", "q")], "no regular expression"),
        ([("gizmo", "othr")], "did you mean 'other'"),
        (
            [("gizmo", "embedding")],
            "token embeddings in the model: tok_emb.weight, blocks.0.gizmo.weight",
        ),
        ([("gizmo", "final_norm")], "has one dimension"),
        ([("gizmo", "unembedding")], "dimension 0 goes from 32 to 64"),
    ],
)
def test_impossible_patterns_are_refused(modules: list[tuple[str, str]], said: str) -> None:
    with pytest.raises(UserError) as refused:
        inventory_of(meta(Odd, 64), meta(Odd), modules)
    assert said in str(refused.value)


def test_a_type_that_the_shapes_contradict_is_refused() -> None:
    models = meta(Odd, 64, grows=False), meta(Odd, grows=False)
    with pytest.raises(UserError, match=r"'ffn_gate', but its dimension 0 goes from 16 to 16"):
        inventory_of(*models, modules=[("gizmo", "ffn_gate")])
    with pytest.raises(UserError, match=r"k_proj\.weight is taken for 'k', but its dimension 0"):
        inventory_of(on_meta("llama", width=64, num_key_value_heads=1), on_meta("llama"))
    with pytest.raises(UserError, match=r"down_proj\.weight is taken for 'ffn_down'"):
        inventory_of(on_meta("llama", width=64, intermediate_size=320), on_meta("llama"))


def test_models_that_are_no_family_or_no_decoder_are_refused() -> None:
    with pytest.raises(UserError, match="normalizes the residual stream itself"):
        inventory_of(meta(Plain, 64, norm_first=False), meta(Plain))
    with pytest.raises(UserError, match="the base model has no parameter"):
        inventory_of(meta(Odd), meta(Plain))
    with pytest.raises(UserError, match="stacks of layers in the model: none"):
        inventory_of(meta(nn.Linear, 2, 2), meta(nn.Linear, 2, 2))
    frozen = meta(Plain).requires_grad_(False)
    with pytest.raises(UserError, match="no trainable parameter"):
        inventory_of(frozen, meta(Plain))


def test_experts_are_refused_by_name() -> None:
    moe = build(AutoConfig.for_model("mixtral", **SIZES, num_local_experts=2))
    with pytest.raises(
        UserError, match=r"layers\.0\.mlp\.experts\.gate_up_proj .*nothing in its name"
    ):
        inventory_of(moe, moe)


class Gamma(nn.Module):
    """A LayerNorm whose parameters are not called weight and bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        return (x_BTD - x_BTD.mean(-1, keepdim=True)) / x_BTD.std(
            -1, keepdim=True
        ) * self.gamma + self.beta


class Renamed(Plain):
    def __init__(self, width: int = 32, depth: int = 2) -> None:
        super().__init__(width, depth)
        self.ln_f = Gamma(width)


def test_a_norms_bias_is_known_by_what_it_does() -> None:
    specs = {s.name: s for s in inventory_of(meta(Renamed, 64), meta(Renamed)).whole}
    assert (specs["ln_f.gamma"].is_bias, specs["ln_f.gamma"].init_value) == (False, 1.0)
    assert (specs["ln_f.beta"].is_bias, specs["ln_f.beta"].init_value) == (True, 0.0)


class Swapped(Plain):
    """A decoder whose w3 is the map back to the stream. In Llama that is w2."""

    def __init__(self, width: int = 32, depth: int = 2) -> None:
        super().__init__(width, depth)
        for block in self.blocks:
            del block.linear1, block.linear2
            block.w1, block.w2 = (nn.Linear(width, 4 * width) for _ in range(2))
            block.w3 = nn.Linear(4 * width, width)


def test_a_map_that_does_not_read_or_write_the_stream_as_its_type_should_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"w2\.weight is taken for 'ffn_down', but it writes 256 features"
    ):
        inventory_of(meta(Swapped, 64), meta(Swapped))
    patterns = [(r"w3\.", "ffn_down"), (r"w2\.", "ffn_up")]
    types = {
        s.name: s.module_type
        for s in inventory_of(meta(Swapped, 64), meta(Swapped), patterns).whole
    }
    assert types["blocks.0.w3.bias"] == "ffn_down"


def test_heads_that_grow_and_models_tied_otherwise_are_refused() -> None:
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 1}
    with pytest.raises(UserError, match=r"0\.self_attn: its heads go from 8 to 16 features"):
        inventory_of(on_meta("llama", width=64, **sizes), on_meta("llama"))
    wide, base = on_meta("qwen3", width=64, head_dim=16, **sizes), on_meta("qwen3")
    with pytest.raises(UserError, match=r"0\.self_attn: its heads go from 8 to 16 features"):
        inventory_of(wide, base)
    for layer in wide.model.layers:  # code without this attribute
        del layer.self_attn.head_dim
    with pytest.raises(
        UserError, match=r"q_norm\.weight goes from 8 to 16 features and spans no whole q"
    ):
        inventory_of(wide, base)
    with pytest.raises(UserError, match="unembedding is the embedding in the model only"):
        inventory_of(on_meta("llama", width=64, tie_word_embeddings=True), on_meta("llama"))


def test_a_head_of_an_unknown_name_is_named() -> None:
    wide, base = on_meta("llama", width=64), on_meta("llama")
    for model in (wide, base):
        model.logit_maker = model.lm_head
        del model.lm_head
    with pytest.raises(UserError, match=r"\(no name says the type of logit_maker\.weight\)"):
        inventory_of(wide, base)


class Unnormed(Plain):
    def __init__(self, width: int = 32, depth: int = 2) -> None:
        super().__init__(width, depth)
        self.ln_f = Shifted(width)


class Shifted(nn.Module):
    """A norm whose weight is no gain: 0.5 is added to it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        return x_BTD * (0.5 + self.weight)


def test_a_norm_whose_weight_is_no_gain_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"ln_f\.weight is taken for a norm's gain.* gain 0 is 0\.5"
    ):
        inventory_of(meta(Unnormed, 64), meta(Unnormed))


class Rows(nn.Module):
    """A norm that counts its dimensions from the front, so it runs on B x T x D only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        return x_BTD * x_BTD.square().mean(2, keepdim=True).rsqrt() * self.weight


class Broken(Rows):
    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        raise KeyError("mask")


class Normed(Plain):
    def __init__(self, norm: type[Rows], width: int = 32, depth: int = 2) -> None:
        super().__init__(width, depth)
        self.ln_f = norm(width)


def test_a_norm_is_tried_on_a_sequence_and_refused_if_it_does_not_run() -> None:
    with torch.device("meta"):
        model, base = Normed(Rows, 64), Normed(Rows)
    assert {s.role for s in inventory_of(model, base).whole if s.name == "ln_f.weight"} == {
        "final_norm"
    }
    with torch.device("meta"), pytest.raises(UserError, match=r"Broken does not run on .*'mask'"):
        inventory_of(Normed(Broken, 64), Normed(Broken))


class Logits(Plain):
    """A decoder that reads the embedding's weight for its logits, without a module for them."""

    def __init__(self, width: int = 32, depth: int = 2) -> None:
        super().__init__(width, depth)
        del self.head


class Scaled(nn.Embedding):
    def __init__(self, width: int) -> None:
        super().__init__(61, width)
        self.register_buffer("embed_scale", torch.tensor(width**0.5))


class ScaledPlain(Plain):
    def __init__(self, width: int = 32, depth: int = 2) -> None:
        super().__init__(width, depth)
        self.tok_emb = Scaled(width)


def test_logits_and_factors_that_the_embedding_does_not_show_are_refused() -> None:
    with pytest.raises(UserError, match=r"reads tok_emb\.weight for them, give it an lm_head"):
        inventory_of(meta(Logits, 64), meta(Logits))
    with pytest.raises(UserError, match=r"embed_scale as a tensor.*set scalar_embed_scale"):
        inventory_of(meta(ScaledPlain, 64), meta(ScaledPlain))


def test_a_size_that_does_not_grow_is_refused_however_little_the_width_grows() -> None:
    wide = on_meta("llama", width=40, intermediate_size=64, num_key_value_heads=4)
    small = on_meta("llama", num_key_value_heads=4)
    with pytest.raises(UserError, match=r"goes from 80 to 80 while the width grows 1\.25-fold"):
        inventory_of(wide, small)
    with pytest.raises(UserError, match=r"goes from 80 to 80 while the width grows 0\.8-fold"):
        inventory_of(small, wide)
    wide = on_meta("gpt2", width=64, n_inner=96)
    found = {s.name: s.fan_in for s in inventory_of(wide, on_meta("gpt2", n_inner=96)).whole}
    assert found["transformer.h.0.mlp.c_proj.weight"] == 192


def test_a_tensor_without_numbers_is_refused() -> None:
    """A tensor of size 0 (n_inner is 0) does not show how it grows."""
    config = AutoConfig.for_model(
        "gpt2", n_embd=32, n_layer=2, n_head=2, n_inner=0, vocab_size=64, n_positions=16
    )
    model = build(config)
    with pytest.raises(UserError, match=r"c_fc.weight has a size of 0"):
        inventory_of(model, model)
