"""A study's external model: built, classified and tried. Each inventory is made once a process."""

from __future__ import annotations

import functools

import torch
from torch import nn

from completedp.adapters.infer import ExternalInventory, inventory_of
from completedp.adapters.source import source_of
from completedp.config import ExternalModel
from completedp.errors import UserError


def build_model(model: ExternalModel, device: str | torch.device = "meta") -> nn.Module:
    """The model with the initial values of its own code."""
    return source_of(model.source, model.vocab_size).build(model.width, model.depth, str(device))


@functools.lru_cache(maxsize=16)
def external_inventory(model: ExternalModel, base: ExternalModel) -> ExternalInventory:
    """The inventory of the model as grown from `base`, the same family at another size.

    Raises `UserError` if the built model has another size than `model` says.
    """
    found = inventory_of(build_model(model), build_model(base), model.modules)
    if (found.width, found.whole.layers) != (model.width, model.depth):
        raise UserError(
            f"{model.source} at width {model.width} and depth {model.depth} has width {found.width} and "
            f"{found.whole.layers} layers; expected the size that it was asked for"
        )
    return found


@functools.lru_cache(maxsize=4)
def base_inventory(model: ExternalModel) -> ExternalInventory:
    """The inventory of the model as its own base.

    Raises `UserError` as `external_inventory` does, and for an embedding of fewer tokens than the data has.
    """
    # A model twice as large is read too: a tensor that grows otherwise than its type should is refused
    # before the search, not after it.
    external_inventory(model.scaled(width=2 * model.width, depth=2 * model.depth), model)
    found = external_inventory(model, model)
    embedding = next(s.name for s in found.whole if s.module_type == "embedding")
    (rows,) = (p.shape[0] for p in found.observed.parameters if p.name == embedding)
    if rows < model.vocab_size:
        raise UserError(
            f"{model.source} has {rows} rows in {embedding}; the data's vocabulary has "
            f"{model.vocab_size}: build it with at least as many"
        )
    return found


def check_runs(model: ExternalModel) -> None:
    """Run the model once on one sequence, on the CPU.

    Raises `UserError` if it returns no logits, or logits of fewer tokens than the data has.
    """
    built = build_model(model, "cpu")
    # The largest tokens come first, because they are the ones that a model may have no rows for.
    tokens_BT = (model.vocab_size - 1 - torch.arange(model.context) % model.vocab_size)[None]
    try:
        with torch.no_grad():
            logits_BTV = logits_of(built, tokens_BT)
    except Exception as error:  # whatever the user's code raises
        raise UserError(
            f"{model.source} does not run on {model.context} tokens ({type(error).__name__}: {error}); "
            "expected a model that maps tokens B x T to logits B x T x V, or to an output that holds them"
        ) from error
    shape = tuple(logits_BTV.shape) if isinstance(logits_BTV, torch.Tensor) else type(logits_BTV)
    if not (isinstance(shape, tuple) and shape[:2] == (1, model.context) and len(shape) == 3):
        raise UserError(
            f"{model.source} gives {shape} for {model.context} tokens; expected logits, "
            f"1 x {model.context} x V"
        )
    if shape[2] < model.vocab_size:
        raise UserError(
            f"{model.source} gives logits of {shape[2]} tokens; the data's vocabulary has "
            f"{model.vocab_size}: build it with at least as many"
        )


def logits_of(model: nn.Module, tokens_BT: torch.Tensor) -> torch.Tensor:
    """The logits that the model returns for tokens, alone or as the attribute `logits` of its output."""
    output = model(tokens_BT)
    logits_BTV: torch.Tensor = getattr(output, "logits", output)
    return logits_BTV
