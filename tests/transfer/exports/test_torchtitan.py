"""The file for torchtitan: its patterns partition a model, and its real parts train to the tool's losses."""

import ast
import importlib.util
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from exporting import SEED, carried, of_model, of_train, own_losses, run_trainer, write

from completedp.errors import UserError
from completedp.recipe import Recipe
from transfer.exports import FORMATS

needs_torchtitan = pytest.mark.skipif(
    importlib.util.find_spec("torchtitan") is None,
    reason="torchtitan is not installed (it needs triton, and is no dependency of the tests)",
)


@dataclass(frozen=True)
class Case:
    """A plan's peculiarity, and the largest relative difference of any of its 50 losses.

    Measured: 1e-7 to 3e-7 in float32; in float64 5e-9, because torchtitan computes the loss in float32.
    """

    shape: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    rules: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    within: float = 2e-6


CASES = {
    "plain": Case(),
    "float64": Case(dtype="float64", within=1e-7),
    "grouped": Case(shape={"queries_per_kv": 2}, train={"schedule": "wsd", "final_lr": 0.1}),
    "no QK norm, logits scaled": Case(
        shape={"qk_norm": False}, rules={"parameterization": "completep"}, train={"z_loss": 0.0}
    ),
}


@pytest.fixture(scope="module")
def runs(
    recipe: Recipe, text: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[list[float], dict[str, Any], dict[str, float]]]:
    """Own losses, the trainer's findings, and the tensors' expected initial deviations, by case."""
    own, expected, arguments = {}, {}, []
    for name, case in CASES.items():
        folder = tmp_path_factory.mktemp("case")
        plan = carried(of_train(of_model(recipe, **case.shape), **case.train), **case.rules)
        own[name] = own_losses(plan, text, folder, getattr(torch, case.dtype))
        file = write(plan, "torchtitan", folder)
        arguments += [folder / "batches.npy", case.dtype, file]
        names = load(file.read_text())
        expected[name] = {
            n: names["_row"](n, True)["init_std"] or names["_row"](n, True)["init_value"]
            for n in names["TENSORS"]
        }
    found = run_trainer("torchtitan_trainer.py", SEED, *arguments)
    return {
        name: (own[name], seen, expected[name]) for name, seen in zip(CASES, found, strict=True)
    }


@needs_torchtitan
@pytest.mark.parametrize("name", CASES)
def test_torchtitan_reaches_the_tools_own_losses(runs: dict[str, Any], name: str) -> None:
    own, seen, _ = runs[name]
    assert seen["ce"] == pytest.approx(own, rel=CASES[name].within)


@needs_torchtitan
@pytest.mark.parametrize("name", CASES)
def test_torchtitans_own_init_has_the_plans_deviations(runs: dict[str, Any], name: str) -> None:
    _, seen, expected = runs[name]
    assert seen["deviations"] == pytest.approx(expected, rel=0.1)  # the smallest has 2,048 numbers


def load(source: str) -> dict[str, Any]:
    """The file's tables and functions, without the classes and imports that need torchtitan."""
    tree = ast.parse(source)
    tree.body = [
        node
        for node in tree.body
        if not isinstance(node, ast.ClassDef)
        and not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torchtitan"))
    ]
    names: dict[str, Any] = {"ParamGroupConfig": lambda **values: values}
    exec(compile(tree, "exported", "exec"), names)
    return names


def test_patterns_match_every_tensor_once(recipe: Recipe) -> None:
    """A wrapper's prefix in the name changes nothing: the group holds that tensor's values."""
    plan = carried(recipe)
    names = load(FORMATS["torchtitan"].render(plan))
    groups = names["param_group_configs"]()
    rows = {row.name: row for row in plan.resolved.folded().tensors}
    assert len(groups) < len(rows) == len(names["TENSORS"])
    for theirs, entry in names["TENSORS"].items():
        row = rows[entry["name"]]
        wrapped = theirs.replace("layers.1.", "layers.1._checkpoint_wrapped_module.")
        wrapped = wrapped.replace(".weight", "._orig_mod.weight")
        for name in (theirs, wrapped):
            (group,) = [g for g in groups if re.search(g["pattern"], name)]
            assert group["optimizer_name"] == "AdamW"
            assert group["optimizer_kwargs"] == {
                "lr": row.lr,
                "weight_decay": row.weight_decay,
                "betas": (row.beta1, row.beta2),
                "eps": row.eps,
            }
    layer_of_ten = "layers.10.attention.wo.weight"
    assert not any(re.search(g["pattern"], layer_of_ten) for g in groups)


def test_an_ungated_model_is_refused(recipe: Recipe) -> None:
    plan = carried(of_model(recipe, activation="gelu"))
    with pytest.raises(UserError, match=r"model\.activation is 'gelu'; torchtitan"):
        FORMATS["torchtitan"].render(plan)


def test_the_shape_to_build_is_said(recipe: Recipe) -> None:
    said = " ".join(FORMATS["torchtitan"].limitations(carried(of_model(recipe, queries_per_kv=2))))
    assert "dim 64, 3 layers, 4 heads and 2 of keys and values of 16, hidden_dim 176" in said
    assert "with qk_norm" in said
