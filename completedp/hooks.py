"""Multipliers as forward hooks, on a model whose code has no place for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from completedp.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Multiplier:
    """`c` on the output of `module`, or on `tensors`, which make that output. `must_hook`: the tensors are
    also used elsewhere, without the multiplier."""

    module: str
    tensors: tuple[str, ...]
    c: float
    must_hook: bool = False


class Times:
    """A forward hook: the module's output times c. `ran` says whether it ran. It does not if the model's code
    reads the module's weight instead of calling the module."""

    def __init__(self, c: float) -> None:
        self.c = c
        self.ran = False

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        self.ran = True
        return output * self.c


def hook(model: nn.Module, wanted: tuple[Multiplier, ...]) -> tuple[RemovableHandle, ...]:
    """Register the multipliers as forward hooks. Raises `UserError` for a model that has such hooks, and for
    a module that owns tensors beside the multiplier's."""
    for m in wanted:
        owned = {n for n, _ in model.get_submodule(m.module).named_parameters()}
        if owned - {name.removeprefix(f"{m.module}.") for name in m.tensors}:
            raise UserError(
                f"{m.module} owns more than {', '.join(m.tensors)}, so its output cannot take their "
                'multiplier; use residual="fold"'
            )
    for name, hooks in _hooks(model):
        if hooks:
            raise UserError(
                f"{name} has a multiplier from an earlier call; call remove_hooks() on what that returned"
            )
    return tuple(model.get_submodule(m.module).register_forward_hook(Times(m.c)) for m in wanted)


def idle_hooks(model: nn.Module) -> tuple[str, ...]:
    """The modules with a multiplier that has not run yet."""
    return tuple(name for name, hooks in _hooks(model) if any(not hook.ran for hook in hooks))


def _hooks(model: nn.Module) -> list[tuple[str, list[Times]]]:
    return [
        (name, [h for h in module._forward_hooks.values() if isinstance(h, Times)])
        for name, module in model.named_modules()
    ]
