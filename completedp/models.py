"""The tensors of a study's model, the reference one's or another's: where the two kinds part.

Another's model is built (on the meta device) to be looked at, so its code is imported only then.
"""

from __future__ import annotations

from completedp.config import ExternalModel, Model, ModelConfig
from completedp.errors import UserError
from completedp.hparams import HParams
from completedp.kinds import KINDS
from completedp.modules import Inventory


def own_inventory(model: Model) -> Inventory:
    """The tensors of the model as its own base; a fused tensor is one. Raises `UserError` for another's model
    that cannot be taken for one of a family."""
    if isinstance(model, ExternalModel):
        from completedp.adapters.external import found_in

        return found_in(model).whole
    return model.inventory(model)


def grown_inventory(model: Model, base: Model, hparams: HParams | None = None) -> Inventory:
    """The tensors of the model with the fan-ins of `base`, the same family at another size; a fused tensor
    is one, unless `hparams` names its parts."""
    if isinstance(model, ExternalModel):
        from completedp.adapters.external import grown

        assert isinstance(base, ExternalModel), "of one family"
        found = grown(model, base)
        return found.whole if hparams is None else found.for_hparams(hparams)
    assert isinstance(base, ModelConfig), "of one family"
    return model.inventory(base)


def check_types(hparams: HParams, inventory: Inventory) -> None:
    """Raises `UserError` for a multiplier that no tensor takes: the values would not be what was trained."""
    have = set(inventory.module_types)
    absent = sorted(
        {
            t
            for kind, by_type in hparams.types.items()
            if KINDS[kind].scope == "tensor"
            for t, value in by_type.items()
            if t not in have and value != 1.0
        }
    )
    if absent:
        raise UserError(
            f"the recipe has multipliers for module types that the model has not: {', '.join(absent)}; it "
            f"has {', '.join(sorted(have))}. Search on this family, or take them out of the recipe"
        )
