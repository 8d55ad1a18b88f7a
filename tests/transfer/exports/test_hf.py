"""The file for Hugging Face's Trainer: the real Trainer and models train to the tool's own losses."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from exporting import SEED, carried, of_model, of_train, own_losses, run_trainer, write

from completedp.errors import UserError
from completedp.recipe import Recipe
from transfer.exports import FORMATS

pytest.importorskip("transformers", reason="needs pip install 'completedp[hf]'")


@dataclass(frozen=True)
class Case:
    """A plan's peculiarity, and the largest relative difference of any of its 50 losses.

    Measured: 1e-7 to 3e-7 in float32, its rounding; in float64 2e-8, because the norms and the rotary
    tables of these models are float32 whatever the model is.
    """

    model: str = "Qwen3ForCausalLM"
    shape: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    rules: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    accumulation: int = 1
    within: float = 2e-6


CASES = {
    "plain": Case(),
    "float64": Case(dtype="float64", within=2e-7),
    "accumulated": Case(accumulation=5),
    "no QK norm": Case(model="LlamaForCausalLM", shape={"qk_norm": False}),
    "grouped": Case(shape={"queries_per_kv": 2}, train={"schedule": "wsd", "final_lr": 0.1}),
    "logits scaled": Case(rules={"parameterization": "completep"}, train={"z_loss": 0.0}),
}


@pytest.fixture(scope="module")
def runs(
    recipe: Recipe, text: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[list[float], dict[str, Any]]]:
    """Own losses and what the trainer saw, by case. One process trains all, because its imports take long."""
    own, arguments = {}, []
    for name, case in CASES.items():
        folder = tmp_path_factory.mktemp("case")
        plan = carried(of_train(of_model(recipe, **case.shape), **case.train), **case.rules)
        own[name] = own_losses(plan, text, folder, getattr(torch, case.dtype))
        file = write(plan, "hf", folder)
        arguments += [folder / "batches.npy", case.dtype, case.accumulation, file]
    found = run_trainer("hf_trainer.py", SEED, *arguments)
    return {name: (own[name], seen) for name, seen in zip(CASES, found, strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_trainer_reaches_the_tools_own_losses(runs: dict[str, Any], name: str) -> None:
    own, seen = runs[name]
    assert seen["model"] == CASES[name].model
    assert seen["ce"] == pytest.approx(own, rel=CASES[name].within)


def test_the_log_is_the_sum_that_is_trained(runs: dict[str, Any]) -> None:
    """It is the cross-entropy plus the z-loss, if the plan has one."""
    for name in ("plain", "logits scaled"):
        seen = runs[name][1]
        over = [log - ce for log, ce in zip(seen["logged"], seen["ce"], strict=True)]
        assert (min(over) > 1e-4) == (name == "plain")
        assert max(over) < 1e-2


def test_an_ungated_model_is_refused(recipe: Recipe) -> None:
    plan = carried(of_model(recipe, activation="gelu"))
    with pytest.raises(UserError, match=r"model\.activation is 'gelu'; the Qwen3 and Llama"):
        FORMATS["hf"].render(plan)


def test_other_numbers_of_devices(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of devices keeps the optimizer's batch, or is refused."""
    names: dict[str, Any] = {}
    plan = carried(of_train(recipe, microbatch=64))
    exec(compile(FORMATS["hf"].render(plan), "exported", "exec"), names)
    monkeypatch.setattr(names["TrainingArguments"], "world_size", 5)
    arguments = names["training_arguments"]("out", devices=5, use_cpu=True)
    assert arguments.per_device_train_batch_size == 1
    assert arguments.gradient_accumulation_steps == 1
    assert arguments.max_steps == plan.train.steps
    with pytest.raises(ValueError, match="2 devices"):
        names["training_arguments"]("out", devices=2, use_cpu=True)


def test_processes_that_do_not_share_the_batch_are_refused(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices that do not share the batch would each train on a whole one."""
    names: dict[str, Any] = {}
    plan = carried(of_train(recipe, microbatch=64))
    exec(compile(FORMATS["hf"].render(plan), "exported", "exec"), names)
    with pytest.raises(ValueError, match="will train on 1 devices"):
        names["training_arguments"]("out", devices=5, use_cpu=True)
    monkeypatch.setattr(names["TrainingArguments"], "world_size", 5)
    arguments = names["training_arguments"]("out", devices=5, use_cpu=True)
    assert arguments.gradient_accumulation_steps == 1
    with pytest.raises(ValueError, match="will train on 5 devices"):
        names["training_arguments"]("out", use_cpu=True)
