"""A model's parameters as its code has them: shapes, owners, layers, and growth from a base.

Only shapes are read and nothing is computed, so both models may be on the meta device.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from completedp.errors import UserError
from completedp.modules import WRAPPERS


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One trainable parameter, with the shape of the base's parameter that it grew from.

    `path` is the qualified name, without the layer's prefix inside the stack (`self_attn.q_proj.weight`).
    `also` are the other names of a tied parameter. `beside` are the paths of all parameters of its layer.
    """

    name: str
    path: str
    layer: int | None
    shape: tuple[int, ...]
    base_shape: tuple[int, ...]
    owner: nn.Module
    also: tuple[str, ...] = ()
    beside: frozenset[str] = frozenset()

    @property
    def leaf(self) -> str:
        """The attribute's name: `weight`, `bias`."""
        return self.name.rpartition(".")[2]

    @property
    def module(self) -> str:
        """The path of the module that owns it."""
        return self.path.rpartition(".")[0]

    @property
    def is_bias(self) -> bool:
        return self.leaf == "bias" or self.leaf.endswith("_bias")

    @property
    def growth(self) -> tuple[float, ...]:
        """The ratio of each dimension to the base's."""
        return tuple(n / b for n, b in zip(self.shape, self.base_shape, strict=True))


@dataclass(frozen=True, kw_only=True)
class Observed:
    """All trainable parameters of a model, and the depths of its stack and the base's."""

    parameters: tuple[Parameter, ...]
    stack: str
    layers: int
    base_layers: int

    def module_in_base(self, p: Parameter) -> str:
        """The base's module that a parameter's module grew from."""
        if p.layer is None:
            return p.module
        return f"{self.stack}.{p.layer * self.base_layers // self.layers}.{p.module}"


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of torch's own wrappers (DDP, torch.compile). Its parameters are the same objects."""
    while type(model).__module__.startswith("torch."):
        children = list(model.named_children())
        if len(children) != 1 or children[0][0] not in WRAPPERS:
            break
        model = children[0][1]
    return model


def observe(model: nn.Module, base: nn.Module) -> Observed:
    """Every trainable parameter of `model` beside the base's.

    Raises `UserError` if the two are not one family: their names or numbers of dimensions differ, or there is
    no single stack of layers.
    """
    stack, layers = _stack(model, base)
    try:
        base_layers = len(list(base.get_submodule(stack).children()))
    except AttributeError:
        raise UserError(
            f"the base model ({type(base).__name__}) has no {stack}, where the model's layers are; expected "
            "the same family at another width and depth"
        ) from None
    base_shapes = {name: tuple(p.shape) for name, p in _all_names(base)}
    names: dict[int, list[str]] = {}
    for name, parameter in _all_names(model):
        if parameter.requires_grad:
            names.setdefault(id(parameter), []).append(name)
    if not names:
        raise UserError("the model has no trainable parameter; set requires_grad to True")
    split = {found[0]: _split(found[0], stack) for found in names.values()}
    beside: dict[int | None, set[str]] = {}
    for path, layer in split.values():
        beside.setdefault(layer, set()).add(path)
    parameters = []
    for name, *also in names.values():
        path, layer = split[name]
        origin = name if layer is None else f"{stack}.{layer * base_layers // layers}.{path}"
        shape = tuple(model.get_parameter(name).shape)
        parameters.append(
            Parameter(
                name=name,
                path=path,
                layer=layer,
                shape=shape,
                base_shape=_base_shape(name, origin, shape, base_shapes),
                owner=model.get_submodule(name.rpartition(".")[0]),
                also=tuple(also),
                beside=frozenset(beside[layer]),
            )
        )
    return Observed(
        parameters=tuple(parameters), stack=stack, layers=layers, base_layers=base_layers
    )


def _all_names(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return model.named_parameters(remove_duplicate=False)


def _base_shape(
    name: str, origin: str, shape: tuple[int, ...], base_shapes: Mapping[str, tuple[int, ...]]
) -> tuple[int, ...]:
    if origin not in base_shapes:
        raise UserError(
            f"{name}: the base model has no parameter {origin}; expected the same family at another width "
            "and depth"
        )
    found = base_shapes[origin]
    if len(found) != len(shape):
        raise UserError(
            f"{name} has {len(shape)} dimensions, and {origin} of the base model has {len(found)}; expected "
            "the same family at another width and depth"
        )
    if 0 in (*shape, *found):
        raise UserError(f"{name} has a size of 0 (its shape is {shape}); expected 1 or more")
    return found


def _split(name: str, stack: str) -> tuple[str, int | None]:
    found = re.match(rf"{re.escape(stack)}\.(\d+)\.(.+)", name)
    return (found[2], int(found[1])) if found else (name, None)


def _stack(model: nn.Module, base: nn.Module) -> tuple[str, int]:
    """The name and length of the stack: the outermost list of modules with equally named parameters."""
    stacks = dict(_stacks(model, ""))
    if len(stacks) > 1:
        base_stacks = dict(_stacks(base, ""))
        differing = {n: length for n, length in stacks.items() if base_stacks.get(n) != length}
        stacks = differing if len(differing) == 1 else stacks
    if len(stacks) != 1:
        found = ", ".join(stacks) or "none"
        raise UserError(
            f"stacks of layers in the model: {found}; expected one nn.ModuleList or nn.Sequential of layers "
            "with the same parameters"
        )
    return next(iter(stacks.items()))


def _stacks(module: nn.Module, prefix: str) -> Iterable[tuple[str, int]]:
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList | nn.Sequential) and _is_stack(child):
            yield f"{prefix}{name}", len(child)
        else:
            yield from _stacks(child, f"{prefix}{name}.")


def _is_stack(module: nn.Module) -> bool:
    parameters = [{n for n, _ in child.named_parameters()} for child in module.children()]
    # A layer has more than two parameters. A sequence of linear maps is no stack.
    return (
        bool(parameters) and len(parameters[0]) > 2 and all(p == parameters[0] for p in parameters)
    )
