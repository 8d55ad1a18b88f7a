"""Configurations at other scales, and the audit inside the Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from external_models import FAMILIES, OTHERS, config, on_cpu
from torch.optim import lr_scheduler as schedules
from transformers import (
    AutoConfig,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    get_cosine_schedule_with_warmup,
    get_wsd_schedule,
)

import completedp
from completedp.adapters.huggingface import base_of, build, config_at, config_of, read_file
from completedp.adapters.parametrized import Parametrized
from completedp.adapters.source import FactorySource
from completedp.adapters.trainer_audit import AuditCallback
from completedp.errors import UserError
from completedp.recipe import Recipe


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_a_model_grows_by_heads_of_a_fixed_dimension(family: str) -> None:
    small, large = config(family), config(family, width=96, depth=5)
    assert large.hidden_size == 96
    assert large.num_hidden_layers == 5
    assert large.num_attention_heads == 3 * small.num_attention_heads
    if family != "gpt2":
        assert large.intermediate_size == 3 * small.intermediate_size
        assert large.num_key_value_heads == 3 * small.num_key_value_heads
    if kinds := getattr(large, "layer_types", None):
        assert len(kinds) == 5
        assert kinds[:2] == small.layer_types
    assert (config(family).hidden_size, config(family).num_hidden_layers) == (32, 2)


def test_sizes_that_do_not_come_out_whole_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"num_attention_heads is 4 at width 32; at width 36 .* 4\.5"
    ):
        config_at(config("llama"), width=36, depth=2)
    with pytest.raises(UserError, match="has no hidden_size or num_hidden_layers"):
        config_at(type("Empty", (), {})(), width=36, depth=2)
    with pytest.raises(UserError, match="no Hugging Face model"):
        base_of(torch.nn.Linear(2, 2), width=32, depth=2)


def test_lists_of_one_entry_per_layer_follow_the_depth() -> None:
    llama = config("llama", depth=4)
    llama.no_rope_layers = [1, 1, 1, 0]
    assert config_at(llama, width=64, depth=6).no_rope_layers == [1, 1, 1, 0, 1, 1]
    with pytest.raises(UserError, match="builds no causal language model"):
        build(AutoConfig.for_model("t5"))


def test_a_config_file_is_read(tmp_path: Path) -> None:
    config("qwen3").save_pretrained(tmp_path)
    read = config_of(read_file(tmp_path / "config.json"))
    assert (read.model_type, read.hidden_size) == ("qwen3", 32)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UserError, match=r"other\.json: not a configuration"):
        config_of(read_file(tmp_path / "other.json"))
    with pytest.raises(UserError, match=r"nowhere\.json: no such file"):
        read_file(tmp_path / "nowhere.json")


def to_nothing(optimizer: Any, steps: int = 4) -> Any:
    return schedules.LambdaLR(optimizer, lambda step: 1 - step / steps)


def trainer_of(
    values: Parametrized,
    folder: Path,
    optimizer: Any,
    schedule: Any,
    *callbacks: Any,
    steps: int = 3,
) -> Trainer:
    rows = [{"input_ids": torch.arange(8), "labels": torch.arange(8)} for _ in range(8)]
    return Trainer(
        values.model,
        TrainingArguments(
            str(folder),
            max_steps=steps,
            gradient_accumulation_steps=2,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
        ),
        train_dataset=rows,
        optimizers=(optimizer, schedule),
        callbacks=list(callbacks),
    )


WARNS = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)


@pytest.fixture
def values(recipe: Recipe) -> Parametrized:
    model = on_cpu("qwen3", width=64, depth=2)
    scale = {"batch": recipe.base.batch, "tokens": recipe.base.tokens}
    found = completedp.parametrize(model, recipe, **scale)
    found.initialize(seed=0)
    return found


@pytest.fixture
def audited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The multipliers of the schedule that audits found."""
    multipliers: list[float] = []

    def watched(*arguments: Any) -> Any:
        found = completedp.audit(*arguments)
        multipliers.append(found.schedule)
        return found

    monkeypatch.setattr("completedp.adapters.trainer_audit.audit", watched)
    return multipliers


@WARNS
def test_the_trainer_is_audited(values: Parametrized, tmp_path: Path) -> None:
    callback, optimizer = AuditCallback(values), values.adamw()
    trainer_of(values, tmp_path, optimizer, to_nothing(optimizer), callback).train()
    assert callback.done
    other = torch.optim.AdamW(values.model.parameters(), lr=1e-3)
    with pytest.raises(UserError, match="the optimizer does not train as planned"):
        trainer_of(values, tmp_path, other, to_nothing(other), callback).train()


STEPS, WARMUP, EVERY = 12, 3, 3


class FromStep(schedules.LRScheduler):
    """Keeps the learning rates until `step`, and then writes the first group's into all groups."""

    def __init__(self, optimizer: Any, step: int) -> None:
        self.step_of_change = step
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        lrs = [group["lr"] for group in self.optimizer.param_groups]
        return [lrs[0]] * len(lrs) if self.last_epoch >= self.step_of_change else lrs


def cosine_to_a_floor(optimizer: Any) -> Any:
    warmup = schedules.LinearLR(optimizer, 1 / WARMUP, total_iters=WARMUP)
    floor = schedules.CosineAnnealingLR(optimizer, STEPS - WARMUP, eta_min=1e-4)
    return schedules.SequentialLR(optimizer, [warmup, floor], [WARMUP])


@WARNS
@pytest.mark.parametrize(
    ("schedule", "change"),
    [
        (cosine_to_a_floor, WARMUP),
        (lambda o: FromStep(o, 5), 5),
        (lambda o: FromStep(o, STEPS - 1), STEPS - 1),  # the last step alone
        (lambda o: schedules.ReduceLROnPlateau(o, factor=0.1, min_lr=1e-2), 0),
    ],
    ids=["cosine", "overwritten", "at the last step", "by the loss"],
)
def test_a_schedule_that_goes_wrong_later_ends_the_training(
    schedule: Any, change: int, values: Parametrized, tmp_path: Path
) -> None:
    optimizer = values.adamw()
    made = schedule(optimizer)
    trainer = trainer_of(
        values, tmp_path, optimizer, made, AuditCallback(values, every=EVERY), steps=STEPS
    )
    if isinstance(made, schedules.ReduceLROnPlateau):
        made._reduce_lr(0)  # the Trainer steps it after an evaluation
    with pytest.raises(UserError, match=r"does not train as planned: .* lr is .*, planned"):
        trainer.train()
    assert change <= trainer.state.global_step <= max(1, change + EVERY)


@WARNS
@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: to_nothing(o, STEPS),
        lambda o: schedules.CosineAnnealingLR(o, STEPS),
        lambda o: get_cosine_schedule_with_warmup(o, WARMUP, STEPS),
        lambda o: get_wsd_schedule(o, WARMUP, 3, num_training_steps=STEPS - 2),
    ],
    ids=["linear", "cosine", "transformers", "at 0 before the end"],
)
def test_a_schedule_of_one_factor_trains_to_its_end(
    schedule: Any, values: Parametrized, tmp_path: Path, audited: list[float]
) -> None:
    optimizer = values.adamw()
    callback = AuditCallback(values, every=EVERY)
    trainer = trainer_of(values, tmp_path, optimizer, schedule(optimizer), callback, steps=STEPS)
    trainer.train()
    assert trainer.state.global_step == STEPS
    assert len(audited) >= 4
    assert all(0 < multiplier <= 1 for multiplier in audited)


@WARNS
def test_a_training_that_is_stopped_is_audited_at_its_end(
    values: Parametrized, tmp_path: Path
) -> None:
    class Stop(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step == 5

    optimizer = values.adamw()
    trainer = trainer_of(
        values,
        tmp_path,
        optimizer,
        FromStep(optimizer, 4),
        AuditCallback(values),
        Stop(),
        steps=STEPS,
    )
    with pytest.raises(UserError, match="does not train as planned"):
        trainer.train()
    assert trainer.state.global_step == 5


def test_a_resumed_training_and_a_second_one_are_audited_at_once(
    values: Parametrized, audited: list[float]
) -> None:
    optimizer = values.adamw()
    callback = AuditCallback(values)

    def step(number: int) -> None:
        state = TrainerState(global_step=number, max_steps=200)
        callback.on_step_end(None, state, None, model=values.model, optimizer=optimizer)

    for number in (71, 72, 99, 100, 101, 150, 198, 199):
        step(number)
    assert len(audited) == 4, "71, 100, 150, 199"
    callback.on_train_begin(None, None, None)
    step(1)
    assert len(audited) == 5
    with pytest.raises(UserError, match="every is 0; expected a number of steps"):
        AuditCallback(values, every=0)


def test_out_of_memory_is_not_taken_for_a_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_config", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        build(config("llama"))
    with pytest.raises(torch.OutOfMemoryError):
        FactorySource(name="mine:make", factory=exhausted).build(32, 2)


def test_the_audit_waits_for_a_learning_rate() -> None:
    """If fp16 skips the first step, a warm-up's schedule stays at 0."""
    model = torch.nn.Linear(2, 2, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    callback = AuditCallback(())
    callback.on_step_end(None, None, None, model=model, optimizer=optimizer)
    assert not callback.done
