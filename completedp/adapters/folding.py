"""Which forward multipliers a model needs, and two ways to give it them without touching its code.

Folded, a multiplier c moves into the tensors of the module whose output it would multiply: init, lr and
starting value times c, ε and λ over c (AdamW is invariant under W = c·W′). Hooked, a forward hook multiplies
that module's output. Both train the same function.

Clipping by the global norm sees other gradients once c is folded; `Parametrized.clip_grad_norm_` takes the
norm over c times the gradient, which is the hooked model's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from completedp.adapters.infer import ExternalInventory
from completedp.errors import UserError
from completedp.modules import BRANCH_ENDS, BRANCH_POST_NORMS, TensorSpec
from completedp.resolved import Resolved
from completedp.rules import PARAMETERIZATIONS


@dataclass(frozen=True, kw_only=True)
class Multiplier:
    """`c` on the output of `module`, or on `tensors`, which make it. `must_hook`: they are used elsewhere
    too, unmultiplied."""

    module: str
    tensors: tuple[str, ...]
    c: float
    must_hook: bool = False


def multipliers(
    found: ExternalInventory, resolved: Resolved, parameterization: str
) -> tuple[Multiplier, ...]:
    """Of each residual branch, of the logits, and against a factor of the code, those that are 1 among them.

    Raises `UserError` for a layer whose branch has no end, or two.
    """
    return (
        *_residual(found, resolved),
        _logits(found, resolved),
        *_against_code(found, parameterization),
    )


def _residual(found: ExternalInventory, resolved: Resolved) -> Iterator[Multiplier]:
    specs: dict[tuple[str, int | None], list[TensorSpec]] = {}
    for spec in found.whole:
        specs.setdefault((spec.module_type, spec.layer), []).append(spec)
    for branch, coefficients in resolved.residual.items():
        for layer, c in enumerate(coefficients):
            end = specs.get((BRANCH_POST_NORMS[branch], layer)) or specs.get(
                (BRANCH_ENDS[branch], layer), []
            )
            yield _on(end, c, f"layer {layer}", f"the last linear map of its {branch} branch")


def _logits(found: ExternalInventory, resolved: Resolved) -> Multiplier:
    """On the final norm where its tensor alone can take it: a tied matrix is an embedding as well."""
    wanted = "final_norm" if found.whole.tied else "unembedding"
    specs = [s for s in found.whole if s.module_type == wanted]
    return _on(specs, resolved.output_multiplier, "the model", f"its {wanted}, for the logits")


def _on(specs: Sequence[TensorSpec], c: float, where: str, what: str) -> Multiplier:
    """On one weight or gain and its bias."""
    weights = [s for s in specs if not s.is_bias]
    if len(weights) != 1:
        raise UserError(
            f"{where} has {len(weights)} tensors that would be {what}; expected one: correct the types by "
            "patterns"
        )
    return Multiplier(module=_owner(weights[0].name), tensors=tuple(s.name for s in specs), c=c)


def _against_code(found: ExternalInventory, parameterization: str) -> Iterator[Multiplier]:
    """A factor in the code that goes with the width is divided out."""
    if not PARAMETERIZATIONS[parameterization].standard:
        (embedding,) = (s for s in found.whole if s.module_type == "embedding")
        yield Multiplier(
            module=_owner(embedding.name),
            tensors=(embedding.name,),
            c=1 / found.embedding_factor,
            must_hook=found.whole.tied,
        )


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


class Times:
    """A forward hook: the module's output times c. It runs where the model's code calls the module, not where
    it reads the module's weight; `ran` says whether it did."""

    def __init__(self, c: float) -> None:
        self.c = c
        self.ran = False

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        self.ran = True
        return output * self.c


def hook(model: nn.Module, wanted: tuple[Multiplier, ...]) -> tuple[RemovableHandle, ...]:
    """Register the multipliers as forward hooks. Raises `UserError` on a model that has such hooks, and for a
    module that owns other tensors besides."""
    for m in wanted:
        owned = {n for n, _ in model.get_submodule(m.module).named_parameters()}
        if owned - {name.removeprefix(f"{m.module}.") for name in m.tensors}:
            raise UserError(
                f"{m.module} owns more than {', '.join(m.tensors)}, so its output cannot take their "
                'multiplier; use residual="fold"'
            )
    for name, module in model.named_modules():
        if any(isinstance(h, Times) for h in module._forward_hooks.values()):
            raise UserError(
                f"{name} has a multiplier from an earlier call; call remove_hooks() on what that returned"
            )
    return tuple(model.get_submodule(m.module).register_forward_hook(Times(m.c)) for m in wanted)


def idle_hooks(model: nn.Module) -> tuple[str, ...]:
    """Modules with a multiplier of ours that has not run yet."""
    return tuple(
        name
        for name, module in model.named_modules()
        if any(isinstance(h, Times) and not h.ran for h in module._forward_hooks.values())
    )
