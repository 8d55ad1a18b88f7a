"""The order in which a model's modules run, and which module's output another one reads.

One pass of a model over a few tokens on the meta device: its code runs, and nothing is computed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

TOKENS = 8  # enough for masks and positions


@dataclass(frozen=True, kw_only=True)
class Order:
    """`first` is the place of each module's first call, for modules with parameters of their own. `reads` is
    the module whose output, unchanged, is the input of another one."""

    first: Mapping[str, int]
    reads: Mapping[str, str]


def order_of(model: nn.Module) -> Order | None:
    """The order of the model's modules. None if its code does not run on the meta device."""
    first: dict[str, int] = {}
    reads: dict[str, str] = {}
    made: dict[int, str] = {}
    kept: list[Any] = []  # a tensor that is gone would give its id to another one
    places = itertools.count()

    def before(name: str, given: tuple[Any, ...]) -> None:
        first.setdefault(name, next(places))
        if given and id(given[0]) in made:
            reads.setdefault(name, made[id(given[0])])

    def after(name: str, output: Any) -> None:
        if isinstance(output, Tensor):
            kept.append(output)
            made[id(output)] = name

    handles = []
    training = {module: module.training for module in model.modules()}
    for name, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            handles += [
                module.register_forward_pre_hook(lambda _, given, name=name: before(name, given)),
                module.register_forward_hook(lambda _, __, output, name=name: after(name, output)),
            ]
    values = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers())
    }
    try:
        model.eval()  # dropout would put a tensor of its own between two modules
        with torch.no_grad(), torch.device("meta"):
            tokens_BT = torch.zeros(1, TOKENS, dtype=torch.long)
            torch.func.functional_call(model, values, (tokens_BT,))
    except Exception:  # whatever the user's code raises
        return None
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    return Order(first=first, reads=reads)
