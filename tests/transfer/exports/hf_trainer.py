"""Hugging Face's own Trainer and model with an exported file. It has no rule of ours.

Usage: hf_trainer.py SEED [BATCHES DTYPE ACCUMULATION EXPORTED]... Prints as JSON, for each four, the
cross-entropy of every step as torch computes it, the losses that Trainer logs, and the model's class.
"""

import json
import runpy
import sys
import tempfile
import types
from typing import Any

import numpy
import torch
from transformers import AutoModelForCausalLM, Trainer


def train(seed: int, batches: str, dtype: str, accumulation: int, file: str) -> Any:
    exported = types.SimpleNamespace(**runpy.run_path(file))
    model = AutoModelForCausalLM.from_config(exported.model_config(), dtype=getattr(torch, dtype))
    exported.initialize(model, seed)
    rows = [
        {"input_ids": row, "labels": row}
        for batch in torch.from_numpy(numpy.load(batches))
        for row in batch
    ]
    seen = []

    def loss_of(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        logits = outputs["logits"][:, :-1].flatten(0, 1)
        ce = torch.nn.functional.cross_entropy(logits.detach(), labels[:, 1:].flatten())
        seen.append(ce.item())
        loss: torch.Tensor = exported.compute_loss(outputs, labels, num_items_in_batch)
        return loss

    with tempfile.TemporaryDirectory() as folder:
        arguments = exported.training_arguments(
            folder,
            use_cpu=True,
            report_to="none",
            logging_steps=1,
            save_strategy="no",
            train_sampling_strategy="sequential",
        )
        arguments.per_device_train_batch_size //= accumulation
        arguments.gradient_accumulation_steps *= accumulation
        trainer = Trainer(
            model,
            arguments,
            train_dataset=rows,
            optimizers=exported.optimizers(model),
            compute_loss_func=loss_of,
        )
        trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    ce = numpy.reshape(seen, (-1, accumulation)).mean(1)
    return {"ce": ce.tolist(), "logged": logged, "model": type(model).__name__}


if __name__ == "__main__":
    torch.set_num_threads(1)
    out, sys.stdout = sys.stdout, sys.stderr  # Trainer prints its log
    seed, *runs = sys.argv[1:]
    found = [
        train(int(seed), batches, dtype, int(accumulation), file)
        for batches, dtype, accumulation, file in zip(*[iter(runs)] * 4, strict=True)
    ]
    print(json.dumps(found), file=out)
