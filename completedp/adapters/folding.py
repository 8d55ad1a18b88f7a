"""The forward multipliers that a model needs. There are two ways to give them without touching its code.

A folded multiplier moves into the tensors that make a module's output (`TensorRow.folded_by`). A hooked one
is a forward hook on that module (`completedp.hooks`). Both train the same function.

Folding changes the gradients that clipping by the global norm sees. `Parametrized.clip_grad_norm_` takes the
norm over multiplier times gradient, which is the norm of the hooked model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from completedp.adapters.infer import ExternalInventory
from completedp.errors import UserError
from completedp.hooks import Multiplier
from completedp.modules import BRANCH_ENDS, BRANCH_POST_NORMS, TensorSpec
from completedp.resolved import Resolved
from completedp.rules import PARAMETERIZATIONS


def multipliers(
    found: ExternalInventory, resolved: Resolved, parameterization: str
) -> tuple[Multiplier, ...]:
    """One multiplier per residual branch, one for the logits, and one that cancels a width-dependent factor
    in the model's own code. Multipliers equal to 1 are included.

    Raises `UserError` for a branch with no last linear map or with two. Raises it for any other coefficient
    too: such a coefficient needs code of its own in the model.
    """
    if resolved.coefficients:
        raise UserError(
            f"the values have {', '.join(resolved.coefficients)}, for which this model has no place; leave "
            "the kind at its default: only the reference model takes it"
        )
    return (
        *_residual(found, resolved),
        _logits(found, resolved),
        *_embedding(found, parameterization),
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
            yield _multiplier(
                end, c, f"layer {layer}", f"the last linear map of its {branch} branch"
            )


def _logits(found: ExternalInventory, resolved: Resolved) -> Multiplier:
    """On the final norm if the unembedding is tied, because that matrix is the embedding as well."""
    wanted = "final_norm" if found.whole.tied else "unembedding"
    specs = [s for s in found.whole if s.module_type == wanted]
    return _multiplier(
        specs, resolved.output_multiplier, "the model", f"its {wanted}, for the logits"
    )


def _multiplier(specs: Sequence[TensorSpec], c: float, place: str, tensor: str) -> Multiplier:
    """A multiplier on one weight or gain, and on its bias. `place` and `tensor` are for the message."""
    weights = [s for s in specs if not s.is_bias]
    if len(weights) != 1:
        raise UserError(
            f"{place} has {len(weights)} tensors that would be {tensor}; expected one: correct the types by "
            "patterns"
        )
    return Multiplier(module=_owner(weights[0].name), tensors=tuple(s.name for s in specs), c=c)


def _embedding(found: ExternalInventory, parameterization: str) -> Iterator[Multiplier]:
    """Cancels the factor that the model's code puts on the embedding, which grows with the width."""
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
