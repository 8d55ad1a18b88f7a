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
from completedp.modules import TensorSpec
from completedp.resolved import Resolved
from completedp.rules import PARAMETERIZATIONS


def multipliers(
    found: ExternalInventory, resolved: Resolved, parameterization: str
) -> tuple[Multiplier, ...]:
    """One multiplier per residual branch, one for the logits, and one that cancels a width-dependent factor
    in the model's own code. Multipliers equal to 1 are included.

    Raises `UserError` for any other coefficient: it needs code of its own in the model.
    """
    if resolved.coefficients:
        raise UserError(
            f"the values have {', '.join(resolved.coefficients)}, for which this model has no place; leave "
            "the kind at its default: only the reference model takes it"
        )
    return (
        *(
            _multiplier(found.branch_end(branch, layer), c)
            for branch, coefficients in resolved.residual.items()
            for layer, c in enumerate(coefficients)
        ),
        _multiplier(found.logits_end, resolved.output_multiplier),
        *_embedding(found, parameterization),
    )


def _multiplier(specs: Sequence[TensorSpec], c: float) -> Multiplier:
    """A multiplier on one weight or gain, and on its bias."""
    (weight,) = (s for s in specs if not s.is_bias)
    return Multiplier(module=_owner(weight.name), tensors=tuple(s.name for s in specs), c=c)


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
