# Text to be copied: `transfer.exports.python_file` puts this docstring, these imports and everything after
# the tables' place into the exported file. This note stays behind.
"""Per-module hyperparameters for Hugging Face's Trainer, as `completedp export --format hf` writes them.

Needs torch and transformers. A whole training:

    model = AutoModelForCausalLM.from_config(model_config())
    initialize(model, seed=0)
    trainer = Trainer(
        model,
        training_arguments("out"),
        train_dataset=rows,  # input_ids and labels, equal, of context + 1 tokens: the last is only predicted
        optimizers=optimizers(model),
        compute_loss_func=compute_loss,
    )
    trainer.train()
"""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig, TrainingArguments
from transformers.utils.versions import require_version

# --- tables ---
from transfer.exports.torch.template import TRAIN, adamw, schedule

MODEL: dict[str, Any] = {}
CONTEXT: int = 1
# --- end of tables ---


def model_config() -> PretrainedConfig:
    """The reference model's shape as a configuration of Hugging Face's model of the same architecture."""
    config: PretrainedConfig = AutoConfig.for_model(**MODEL)
    return config


def training_arguments(
    output_dir: str, devices: int | None = None, **own: Any
) -> TrainingArguments:
    """The arguments that the plan decides; `own` are others, or replace them.

    `devices` is the number of processes, by default those of torchrun. Raises ValueError where the Trainer
    will use others. Its clipping is off, because the optimizer clips.
    """
    if devices is None:
        devices = int(os.environ.get("WORLD_SIZE", "1"))
    # `compute_loss` divides by the number of predicted labels; earlier ones count one a row more.
    require_version("transformers>=5.10.1")
    at_once = TRAIN["microbatch"] or TRAIN["batch"] // devices
    sequences = at_once // CONTEXT
    if sequences * CONTEXT * devices == 0 or TRAIN["batch"] % (sequences * CONTEXT * devices):
        raise ValueError(
            f"a batch of {TRAIN['batch']} tokens is not a whole number of microbatches of {at_once} on "
            f"{devices} devices, in sequences of {CONTEXT}; use other numbers of devices"
        )
    arguments = {
        "max_steps": TRAIN["steps"],
        "per_device_train_batch_size": sequences,
        "gradient_accumulation_steps": TRAIN["batch"] // (sequences * CONTEXT * devices),
        "max_grad_norm": 0.0,
        "bf16": TRAIN["precision"] == "bfloat16",
        "torch_compile": TRAIN["compile"],
        **own,
    }
    made = TrainingArguments(output_dir, **arguments)
    used = made.world_size * max(1, made.n_gpu)
    if used != devices:
        raise ValueError(
            f"the Trainer will train on {used} devices, each a share of its own, and the batch was shared "
            f"among {devices}: start a process a device by torchrun, or hide devices by CUDA_VISIBLE_DEVICES"
        )
    return made


def optimizers(
    model: torch.nn.Module, **options: Any
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """What Trainer takes as `optimizers`; `options` are AdamW's own, such as fused.

    Not fused with fp16: the optimizer would clip gradients that are still scaled.
    """
    optimizer = adamw(model, **options)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)


def compute_loss(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Mean cross-entropy over the tokens of the optimizer's whole batch, and its z-loss.

    Labels of -100 do not count. What Trainer logs as its loss is this sum.
    """
    logits = outputs["logits"][:, :-1].flatten(0, 1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    targets = labels[:, 1:].flatten()
    counted = targets != -100
    log_z = logits.logsumexp(-1)
    chosen = logits.gather(-1, targets.clamp(min=0)[:, None])[:, 0]
    total = (log_z - chosen + TRAIN["z_loss"] * log_z.square())[counted].sum()
    loss: torch.Tensor = total / (
        counted.sum() if num_items_in_batch is None else num_items_in_batch
    )
    return loss
