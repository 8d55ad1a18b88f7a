"""The file for nanoGPT's train.py: a trainer in its manner trains to the tool's own losses."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from exporting import SEED, carried, of_model, of_train, own_losses, run_trainer, write

from completedp.errors import UserError
from completedp.plan import Plan
from completedp.recipe import Recipe
from transfer.exports import FORMATS
from transfer.planning.planner import base_plan


@dataclass(frozen=True)
class Case:
    """A plan's peculiarity, and the largest relative difference of any of its 50 losses.

    Measured: 3e-7 in float32, 4e-16 in float64: this trainer allows both.
    """

    train: dict[str, Any] = field(default_factory=dict)
    rules: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float64"
    within: float = 1e-13


CASES = {
    "float32": Case(dtype="float32", within=2e-6),
    "float64": Case(train={"final_lr": 0.1}),
    "accumulated": Case(train={"microbatch": 64, "z_loss": 0.0}),
    "linear": Case(train={"schedule": "linear"}),
    "wsd, logits scaled": Case(train={"schedule": "wsd"}, rules={"parameterization": "completep"}),
}


@pytest.fixture(scope="module")
def runs(
    recipe: Recipe, text: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[list[float], list[float]]]:
    """Own and foreign losses by case."""
    own, arguments = {}, []
    for name, case in CASES.items():
        folder = tmp_path_factory.mktemp("case")
        plan = carried(of_train(recipe, **case.train), **case.rules)
        own[name] = own_losses(plan, text, folder, getattr(torch, case.dtype))
        arguments += [folder / "batches.npy", case.dtype, write(plan, "nanogpt", folder)]
    found = run_trainer("nanogpt_trainer.py", SEED, *arguments)
    return {name: (own[name], losses) for name, losses in zip(CASES, found, strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_train_py_reaches_the_tools_own_losses(runs: dict[str, Any], name: str) -> None:
    own, found = runs[name]
    assert found == pytest.approx(own, rel=CASES[name].within)


class Bare(torch.nn.Module):
    """The parts of a GPT that the file uses: tied, q, k and v in one matrix, learned positions."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        linear = torch.nn.Linear
        attention = {"c_attn": linear(64, 192, bias=False), "c_proj": linear(64, 64, bias=False)}
        inner = {"c_fc": linear(64, config, bias=False), "c_proj": linear(config, 64, bias=False)}
        norm = torch.nn.RMSNorm
        block = {"ln_1": norm(64), "attn": Block(attention), "ln_2": norm(64), "mlp": Block(inner)}
        self.transformer = torch.nn.ModuleDict(
            {
                "wte": torch.nn.Embedding(256, 64),
                "wpe": torch.nn.Embedding(64, 64),
                "h": torch.nn.ModuleList([Block(block)]),
                "ln_f": norm(64),
            }
        )
        self.lm_head = linear(64, 256, bias=False)
        self.transformer["wte"].weight = self.lm_head.weight


class Block(torch.nn.Module):
    """Modules as attributes, as a GPT's blocks have them."""

    def __init__(self, modules: dict[str, torch.nn.Module]) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


def one_layer(recipe: Recipe, **values: Any) -> Plan:
    """A plan at its base, of one layer of 64 features."""
    shape = {"width": 64, "depth": 1, "head_dim": 16, "activation": "gelu", "qk_norm": False}
    return base_plan(without_depth(of_model(recipe, **{**shape, **values})))


def without_depth(recipe: Recipe) -> Recipe:
    hparams = dataclasses.replace(recipe.hparams, depth={})
    return dataclasses.replace(recipe, hparams=hparams)


def load(plan: Plan) -> dict[str, Any]:
    """The names after train.py has run the file among its own."""
    names: dict[str, Any] = {"GPT": Bare}
    exec(compile(FORMATS["nanogpt"].render(plan), "exported", "exec"), names)
    return names


def test_nanogpts_own_gpt_takes_a_plan_of_its_tensors(recipe: Recipe) -> None:
    """Untied, split, and learned positions with the embedding's values."""
    names = load(one_layer(recipe, ffn=256))
    model = names["GPT"](256)
    assert model.lm_head.weight is not model.transformer["wte"].weight
    optimizer = model.configure_optimizers(*defaults(names), "cpu")
    group_of = {n: g for g in optimizer.param_groups for n in g["param_names"]}
    assert set(group_of) == {name for name, _ in model.named_parameters()}
    wte, wpe = (group_of[f"transformer.{name}.weight"] for name in ("wte", "wpe"))
    assert wte is wpe
    assert not torch.equal(model.transformer["wte"].weight[:64], model.transformer["wpe"].weight)
    attention = "transformer.h.0.attn.c_attn"
    assert group_of[f"{attention}.q.weight"]["lr"] != group_of[f"{attention}.k.weight"]["lr"]


def defaults(names: dict[str, Any]) -> tuple[float, float, tuple[float, float]]:
    return names["weight_decay"], names["learning_rate"], (names["beta1"], names["beta2"])


def test_plain_names_are_no_second_place_for_a_tensors_values(recipe: Recipe) -> None:
    """Another learning rate scales every tensor's. Another decay or β is refused: it would be ignored."""
    names = load(one_layer(recipe, ffn=256))
    model = names["GPT"](256)
    optimizer = model.configure_optimizers(*defaults(names), "cpu")
    peaks = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 2 * names["learning_rate"]
    optimizer.step()
    doubled = [group["lr"] for group in optimizer.param_groups]
    assert doubled == pytest.approx([2 * peak for peak in peaks])
    weight_decay, learning_rate, betas = defaults(names)
    with pytest.raises(ValueError, match=r"weight_decay is 0\.5; every tensor has its own"):
        model.configure_optimizers(0.5, learning_rate, betas, "cpu")
    with pytest.raises(ValueError, match=r"beta2 is 0\.5"):
        model.configure_optimizers(weight_decay, learning_rate, (betas[0], 0.5), "cpu")
    names["dtype"] = "float16"
    with pytest.raises(ValueError, match="dtype is float16"):
        model.configure_optimizers(weight_decay, learning_rate, betas, "cpu")


def test_another_gpt_is_refused_and_said_before(recipe: Recipe) -> None:
    plan = one_layer(recipe, ffn=88, activation="swiglu", qk_norm=True)
    assert (
        "attn.q_norm, attn.k_norm), a gate in the feed-forward (mlp.c_gate), a feed-forward of 88"
        in (" ".join(FORMATS["nanogpt"].limitations(plan)))
    )
    names = load(plan)
    with pytest.raises(ValueError, match=r"c_fc has 256 features; expected the plan's 88"):
        names["GPT"](256)
    with pytest.raises(ValueError, match=r"only in the file: \['transformer\.h\.0\.attn\.k_norm"):
        names["GPT"](88)
    assert "lacks" not in " ".join(FORMATS["nanogpt"].limitations(one_layer(recipe, ffn=256)))


def test_grouped_queries_are_refused(recipe: Recipe) -> None:
    with pytest.raises(UserError, match=r"model\.queries_per_kv is 2; nanoGPT"):
        FORMATS["nanogpt"].render(base_plan(of_model(recipe, queries_per_kv=2)))
