"""Configurations at other scales, and the audit inside the Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import FAMILIES, OTHERS, config, on_cpu
from transformers import AutoConfig, Trainer, TrainingArguments

import completedp
from completedp.adapters.huggingface import AuditCallback, base_of, build, config_at, read_config
from completedp.adapters.parametrized import Parametrized
from completedp.adapters.source import FactorySource
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


def test_lists_of_one_entry_a_layer_follow_the_depth() -> None:
    llama = config("llama", depth=4)
    llama.no_rope_layers = [1, 1, 1, 0]
    assert config_at(llama, width=64, depth=6).no_rope_layers == [1, 1, 1, 0, 1, 1]
    with pytest.raises(UserError, match="builds no causal language model"):
        build(AutoConfig.for_model("t5"))


def test_a_config_file_is_read(tmp_path: Path) -> None:
    config("qwen3").save_pretrained(tmp_path)
    read = read_config(tmp_path / "config.json")
    assert (read.model_type, read.hidden_size) == ("qwen3", 32)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UserError, match=r"other\.json: not a configuration"):
        read_config(tmp_path / "other.json")
    with pytest.raises(UserError, match=r"nowhere\.json: no such file"):
        read_config(tmp_path / "nowhere.json")


def trained(values: Parametrized, folder: Path, optimizer: Any) -> Trainer:
    rows = [{"input_ids": torch.arange(8), "labels": torch.arange(8)} for _ in range(8)]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 4)
    trainer = Trainer(
        values.model,
        TrainingArguments(
            str(folder),
            max_steps=3,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
        ),
        train_dataset=rows,
        optimizers=(optimizer, schedule),
        callbacks=[AuditCallback(values)],
    )
    trainer.train()
    return trainer


@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)
def test_the_trainer_is_audited(recipe: Recipe, tmp_path: Path) -> None:
    model = on_cpu("qwen3", width=64, depth=2)
    scale = {"batch": recipe.base.batch, "tokens": recipe.base.tokens}
    values = completedp.parametrize(model, recipe, **scale)
    values.initialize(seed=0)
    trainer = trained(values, tmp_path, values.adamw())
    audits = [c for c in trainer.callback_handler.callbacks if isinstance(c, AuditCallback)]
    assert [c.done for c in audits] == [True]
    with pytest.raises(UserError, match="the optimizer does not train as planned"):
        trained(values, tmp_path, torch.optim.AdamW(model.parameters(), lr=1e-3))


def test_out_of_memory_is_no_mistake_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_config", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        build(config("llama"))
    with pytest.raises(torch.OutOfMemoryError):
        FactorySource(name="mine:make", factory=exhausted).build(32, 2)


def test_the_audit_waits_for_a_learning_rate() -> None:
    """A first step that fp16 skips leaves a warm-up's schedule at 0."""
    model = torch.nn.Linear(2, 2, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    callback = AuditCallback(())
    callback.on_step_end(None, None, None, model=model, optimizer=optimizer)
    assert not callback.done
