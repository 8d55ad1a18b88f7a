"""One model trained for a few steps: the size of every module's output, of its change, of its gradients.

Unclipped, at constant learning rates. Sizes are root mean squares (RMS) over all entries; a gradient's is a
multiple of its tensor's ε.

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

# output    at init, on the probe
# update    what the module's own training does: the change of that output when only the module's own tensors
#           are the trained ones; no fault of another module is in it
# change    of the output since init, where the contributions of many modules meet: stream, final norm, logits
# gradient  √(mean g²) over the last half of the steps, as √v has it; over the batch that of one batch's
# noise     standard deviation of a batch's gradient
Quantity = Literal["output", "update", "change", "gradient", "noise"]

PROBE_SEQUENCES = 16
NOISE_BATCHES = 8
MEETING: tuple[Part, ...] = ("stream", "final_norm", "tied_norm", "unembedding")


@dataclass(frozen=True, kw_only=True)
class Key:
    """What a size was measured of. `place`: the base's layer at the same relative depth, if in the stack.

    `module` is the module's type, for a gradient of another tensor than its weight with that one's name.
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
    """Outputs at init, updates and changes after `steps` steps, and gradients against ε.

    `probe_BT` are windows, of which the last token is left out.
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
            updated_X = _with_own_trained(watched, before, initial)
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
    """The gradients of `compared` batches after `steps` steps, and the noise in them, against `eps`.

    Trained on `batches`, the base's, so that batches of every size are compared on one and the same model.
    """
    _train(ready, batches, steps)
    samples = [_gradients(ready, windows_BT) for windows_BT in islice(compared, NOISE_BATCHES)]
    stacked = {name: torch.stack([g[name] for g in samples]) for name in samples[0]}
    mean = _Mean(dataclasses.replace(ready, eps=eps), base_depth)
    mean.add_gradients("gradient", {name: g_SX.square() for name, g_SX in stacked.items()})
    mean.add_gradients("noise", {name: g_SX.var(0) for name, g_SX in stacked.items()})
    return mean.sizes()


class _Mean:
    """Sizes of a model's modules, the layers of one place pooled.

    Layer ℓ of L stands at place ⌊(ℓ + ½) · L_base / L⌋. The stream grows along the stack, so of it only the
    last layer of a place counts: it has the same share of the layers below it at every depth.
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
        """`squares`: of every entry of every tensor, by name."""
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
    """What every watched module is given and gives, in the order of `ready.watched`. Raises `UserError` for
    one that the model does not call, or calls twice."""
    calls: dict[nn.Module, _Call] = {}
    types = {watched.module: watched.module_type for watched in ready.watched}

    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if module in calls:
            raise UserError(
                f"the module of {types[module]} ({type(module).__name__}) is called twice in one pass; the "
                "check follows one output a module, so it cannot check this model"
            )
        # Some layers give what they keep for generation besides.
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


@torch.no_grad()
def _with_own_trained(watched: Watched, call: _Call, initial: Mapping[int, Tensor]) -> Tensor:
    """What the call would give with the module's own tensors as they are now and all others inside it at
    their initial values, which are by parameter id."""
    values = {
        name: p if name in watched.tensors else initial[id(p)]
        for name, p in watched.module.named_parameters()
    }
    output_X: Tensor = functional_call(watched.module, values, call.args, call.kwargs)
    return output_X


def _train(ready: Ready, batches: Iterator[Tensor], steps: int) -> dict[str, Tensor]:
    """The mean of the squared gradients over the last half of the steps.

    Not over all: at init nothing is learned yet, and a QK-norm gain's gradient, a sum over heads, still has
    random signs.
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
    """Of one batch, by name; also left on the parameters. Raises `UserError` where one gets none."""
    ready.optimizer.zero_grad()
    torch.autograd.backward(ready.loss(windows_BT))
    trained = {name: p for name, p in ready.model.named_parameters() if p.requires_grad}
    gradients = {name: p.grad for name, p in trained.items() if p.grad is not None}
    if idle := trained.keys() - gradients.keys():
        raise UserError(
            f"{', '.join(sorted(idle))}: no gradient comes here, because the model's code does not use it; "
            "take it out, or set requires_grad to False"
        )
    return gradients


def _rms(values_X: Tensor) -> float:
    return float(values_X.double().square().mean().sqrt())
