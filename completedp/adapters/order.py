"""The order in which a model's modules run, and what it says about the types that names gave.

One pass of a model over a few tokens on the meta device: its code runs, and nothing is computed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from completedp.adapters.naming import by_table
from completedp.adapters.observe import Observed
from completedp.errors import UserError
from completedp.modules import BRANCH_ENDS, BRANCH_POST_NORMS

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


def as_run(
    observed: Observed, types: Mapping[str, str | None], base: nn.Module
) -> Mapping[str, str | None]:
    """The types that names give, corrected by the order in which the base's modules run.

    A norm that reads the end of a branch is that branch's post-norm, whatever its name. Raises `UserError`
    for a final norm that runs before the layers. A pattern of the user's is left as it is.
    """
    order = order_of(base)
    if order is None:
        return types
    ends = {BRANCH_ENDS[branch]: post_norm for branch, post_norm in BRANCH_POST_NORMS.items()}
    by_module = {observed.module_in_base(p): types[p.name] for p in observed.parameters}
    in_stack = [
        order.first[name]
        for p in observed.parameters
        if p.layer is not None and (name := observed.module_in_base(p)) in order.first
    ]
    found = dict(types)
    for p in observed.parameters:
        module_type, name = types[p.name], observed.module_in_base(p)
        if module_type is None or not module_type.endswith("norm") or module_type != by_table(p):
            continue
        if module_type == "final_norm" and order.first.get(name, math.inf) < min(
            in_stack, default=0
        ):
            raise UserError(
                f"{p.name} is taken for the final norm by its name, but it runs before the layers. The rules "
                "have no row for a norm on the embedding: leave it out"
            )
        found[p.name] = ends.get(by_module.get(order.reads.get(name, "")) or "", module_type)
    return found
