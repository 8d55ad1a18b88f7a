"""One model trained for a few steps: the sizes of every module's output, change and gradients.

Training is unclipped, at constant learning rates. A size is the root mean square (RMS) over all entries. A
gradient's size is given as a multiple of its tensor's ε.

Shapes: B sequences, T positions, S batches; `_X` any.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from completedp.coordcheck.subject import Part, Ready, Watched
from completedp.errors import UserError

# output    the output at init, on the probe
# update    the change of that output if the module's own tensors are trained and all others stay at init: no
#           fault of another module shows in it
# change    the change of the output since init, for the parts where many modules' contributions meet
# gradient  √(mean g²) over the last half of the steps, as in AdamW's √v; over the batch, of one batch's g
# noise     the standard deviation of a batch's gradient
Quantity = Literal["output", "update", "change", "gradient", "noise"]

PROBE_SEQUENCES = 16
NOISE_BATCHES = 8
MEETING: tuple[Part, ...] = ("stream", "final_norm", "tied_norm", "unembedding")


@dataclass(frozen=True, kw_only=True)
class Key:
    """The measured quantity and its module. `place` is the base's layer at the same relative depth, None
    outside the stack.

    `module` is the module's type. A gradient of a tensor other than `weight` appends the tensor's name.
    """

    quantity: Quantity
    module: str
    place: int | None
    part: Part

    def __str__(self) -> str:
        return self.module if self.place is None else f"{self.module} {self.place}"


Sizes = dict[Key, float]


def trained_sizes(
    ready: Ready, batches: Iterator[Tensor], probe_BT: Tensor, steps: int, base_depth: int
) -> Sizes:
    """Outputs at init, updates and changes after `steps` steps, and gradients over ε.

    `probe_BT` holds windows. Their last token is not used.
    """
    mean = _Mean(ready, base_depth)
    first = _calls(ready, probe_BT[:, :-1])
    initial = {id(p): p.detach().clone() for p in ready.model.parameters()}
    squares = _train(ready, batches, steps)
    last = _calls(ready, probe_BT[:, :-1])
    for watched, before, after in zip(ready.watched, first, last, strict=True):
        mean.add("output", watched, _rms(before.output_X))
        if watched.part in MEETING:
            mean.add("change", watched, _rms(after.output_X - before.output_X))
        if watched.tensors:
            values = {
                name: p if name in watched.tensors else initial[id(p)]
                for name, p in watched.module.named_parameters()
            }
            with torch.no_grad():
                updated_X = functional_call(watched.module, values, before.args, before.kwargs)
            mean.add("update", watched, _rms(updated_X - before.output_X))
    mean.add_gradients("gradient", squares)
    return mean.sizes()


def batch_sizes(
    ready: Ready,
    batches: Iterator[Tensor],
    steps: int,
    compared: Iterator[Tensor],
    eps: Mapping[str, float],
    base_depth: int,
) -> Sizes:
    """The gradients of `compared` batches after `steps` steps and their noise, over `eps`.

    The model trains on `batches` of the base's size, so that one model compares all batch sizes.
    """
    _train(ready, batches, steps)
    samples = [_gradients(ready, windows_BT) for windows_BT in islice(compared, NOISE_BATCHES)]
    stacked = {name: torch.stack([g[name] for g in samples]) for name in samples[0]}
    mean = _Mean(dataclasses.replace(ready, eps=eps), base_depth)
    mean.add_gradients("gradient", {name: g_SX.square() for name, g_SX in stacked.items()})
    mean.add_gradients("noise", {name: g_SX.var(0) for name, g_SX in stacked.items()})
    return mean.sizes()


class _Mean:
    """Mean sizes of a model's modules, with the layers of one place pooled.

    Layer ℓ of L has place ⌊(ℓ + ½) · L_base / L⌋. The stream grows along the stack, so only a place's last
    layer counts for it: the share of layers below that one is the same at every depth.
    """

    def __init__(self, ready: Ready, base_depth: int) -> None:
        self._ready = ready
        layers = 1 + max((w.layer for w in ready.watched if w.layer is not None), default=-1)
        self._places = [int((i + 0.5) * base_depth / layers) for i in range(layers)]
        self._squares: dict[Key, list[float]] = {}

    def add(self, quantity: Quantity, watched: Watched, size: float, tensor: str = "") -> None:
        place = None if watched.layer is None else self._places[watched.layer]
        if watched.part == "stream" and place in self._places[watched.layer or 0 :][1:]:
            return
        key = Key(
            quantity=quantity,
            module=watched.module_type + tensor,
            place=place,
            part=watched.part,
        )
        self._squares.setdefault(key, []).append(size * size)

    def add_gradients(self, quantity: Quantity, squares: Mapping[str, Tensor]) -> None:
        """Add the gradient sizes. `squares` holds every entry's square, by tensor name."""
        names = {id(p): name for name, p in self._ready.model.named_parameters()}
        for watched in self._ready.watched:
            for own in watched.tensors:
                name = names[id(watched.module.get_parameter(own))]
                leaf = name.rpartition(".")[2]
                size = float(squares[name].double().mean().sqrt()) / self._ready.eps[name]
                self.add(quantity, watched, size, "" if leaf == "weight" else f".{leaf}")

    def sizes(self) -> Sizes:
        return {key: math.sqrt(sum(s) / len(s)) for key, s in self._squares.items()}


@dataclass(frozen=True)
class _Call:
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output_X: Tensor


@torch.no_grad()
def _calls(ready: Ready, tokens_BT: Tensor) -> list[_Call]:
    """The inputs and output of every watched module, in the order of `ready.watched`.

    Raises `UserError` for a module that the model does not call, or calls twice.
    """
    calls: dict[nn.Module, _Call] = {}
    types = {watched.module: watched.module_type for watched in ready.watched}

    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if module in calls:
            raise UserError(
                f"the module of {types[module]} ({type(module).__name__}) is called twice in one pass; the "
                "check measures one output a module, so it cannot check this model"
            )
        # Some layers also return their cache for generation.
        calls[module] = _Call(args, kwargs, output[0] if isinstance(output, tuple) else output)

    handles = [module.register_forward_hook(note, with_kwargs=True) for module in types]
    try:
        ready.model(tokens_BT)
    finally:
        for handle in handles:
            handle.remove()
    for watched in ready.watched:
        if watched.module not in calls:
            raise UserError(
                f"the module of {watched.module_type} ({type(watched.module).__name__}) is never called, "
                "only its weight is read; the check watches calls, so it cannot check this model"
            )
    return [calls[watched.module] for watched in ready.watched]


def _train(ready: Ready, batches: Iterator[Tensor], steps: int) -> dict[str, Tensor]:
    """Train, and give the mean squared gradients over the last half of the steps.

    The first half is left out: before anything is learned, the terms of a QK-norm gain's gradient, a sum over
    heads, have random signs.
    """
    first = steps // 2
    squares = {name: torch.zeros_like(p) for name, p in ready.model.named_parameters()}
    for step, windows_BT in enumerate(islice(batches, steps)):
        gradients = _gradients(ready, windows_BT)
        ready.optimizer.step()
        if step >= first:
            for name, gradient_X in gradients.items():
                squares[name].addcmul_(gradient_X, gradient_X, value=1 / (steps - first))
    return squares


def _gradients(ready: Ready, windows_BT: Tensor) -> dict[str, Tensor]:
    """One batch's gradients by name, also left on the parameters. Raises `UserError` if one is missing."""
    ready.optimizer.zero_grad()
    torch.autograd.backward(ready.loss(windows_BT))
    trained = {name: p for name, p in ready.model.named_parameters() if p.requires_grad}
    gradients = {name: p.grad for name, p in trained.items() if p.grad is not None}
    if idle := trained.keys() - gradients.keys():
        raise UserError(
            f"{', '.join(sorted(idle))}: got no gradient, because the model's code does not use it; "
            "remove it, or set requires_grad to False"
        )
    return gradients


def _rms(values_X: Tensor) -> float:
    return float(values_X.double().square().mean().sqrt())
