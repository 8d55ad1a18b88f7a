"""A study's model that nobody here wrote, built and classified; its inventory is made once a process."""

from __future__ import annotations

import functools

import torch
from torch import nn

from completedp.adapters.infer import ExternalInventory, inventory_of
from completedp.adapters.source import source_of
from completedp.config import ExternalModel
from completedp.errors import UserError


def build_model(model: ExternalModel, device: str | torch.device = "meta") -> nn.Module:
    """The model with its own code's values."""
    return source_of(model.source, model.vocab_size).build(model.width, model.depth, str(device))


@functools.lru_cache(maxsize=16)
def grown(model: ExternalModel, base: ExternalModel) -> ExternalInventory:
    """The inventory of the model as grown from `base`, the same family at another size. Raises `UserError`
    where it is not of the size asked for."""
    found = inventory_of(build_model(model), build_model(base), model.modules)
    if (found.width, found.whole.layers) != (model.width, model.depth):
        raise UserError(
            f"{model.source} at width {model.width} and depth {model.depth} has width {found.width} and "
            f"{found.whole.layers} layers; expected what it was asked for"
        )
    return found


@functools.lru_cache(maxsize=4)
def found_in(model: ExternalModel) -> ExternalInventory:
    """The inventory of the model as its own base. Raises `UserError` where it is not of the size asked for,
    or has fewer tokens than the data."""
    # Twice as large beside it: what does not grow as its type should is refused before the search, not after.
    grown(model.scaled(width=2 * model.width, depth=2 * model.depth), model)
    found = grown(model, model)
    (rows,) = (p.shape[0] for p in found.observed.parameters if p.name == _embedding(found))
    if rows < model.vocab_size:
        raise UserError(
            f"{model.source} has {rows} rows in {_embedding(found)}; the data's vocabulary has "
            f"{model.vocab_size}: build it with at least as many"
        )
    return found


def check_runs(model: ExternalModel) -> None:
    """Run the model once on one sequence here. Raises `UserError` where it does not give its logits, or has
    fewer of them than the data has tokens."""
    built = build_model(model, "cpu")
    # From the last token down: what the model has too few rows for is among them.
    tokens_BT = (model.vocab_size - 1 - torch.arange(model.context) % model.vocab_size)[None]
    try:
        with torch.no_grad():
            logits_BTV = logits_of(built, tokens_BT)
    except Exception as error:  # whatever their code raises
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
    """What the model gives for tokens: logits, or an output with them as `logits`."""
    output = model(tokens_BT)
    logits_BTV: torch.Tensor = getattr(output, "logits", output)
    return logits_BTV


def _embedding(found: ExternalInventory) -> str:
    return next(s.name for s in found.whole if s.module_type == "embedding")
