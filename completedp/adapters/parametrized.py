"""A recipe's values on a model nobody here wrote: `parametrize`, and what it returns."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from completedp import optimizer
from completedp.adapters.external import build_model, grown
from completedp.adapters.folding import Multiplier, hook, multipliers
from completedp.adapters.infer import ExternalInventory, Fused, inventory_of
from completedp.auditing import plain_name
from completedp.config import ExternalModel
from completedp.errors import UserError
from completedp.hparams import HParams
from completedp.models import check_types, external_model
from completedp.recipe import Recipe
from completedp.resolved import Resolved, TensorRow, resolve
from completedp.rules import carrying_options
from completedp.scale import Ratios, Scale

Residual = Literal["fold", "hook"]
_SHARED = ("lr", "weight_decay", "beta1", "beta2", "eps")  # what AdamW has one of a tensor


@dataclass(frozen=True, kw_only=True)
class Parametrized:
    """A model with its values. `resolved` holds them as its optimizer takes them, `folded` the multiplier
    that went into each tensor, `part_std` the init std of each part of a fused tensor."""

    model: nn.Module
    inventory: ExternalInventory
    ratios: Ratios
    resolved: Resolved
    folded: Mapping[str, float]
    hooked: tuple[Multiplier, ...]
    part_std: Mapping[str, Mapping[str, float]]
    handles: tuple[RemovableHandle, ...]

    @property
    def tensors(self) -> tuple[TensorRow, ...]:
        """Every tensor's values in force, as `completedp.audit` wants them."""
        return self.resolved.tensors

    def initialize(self, seed: int) -> None:
        """Set every trainable parameter to its initial value, in place; a function of seed and names. Before
        the model is sharded: raises `UserError` after, and for a model on the meta device."""
        if any(hasattr(p, "placements") for p in self.model.parameters()):
            raise UserError("the model is sharded already; call initialize() before fully_shard()")
        for name, p in self.model.named_parameters():
            if p.is_meta:
                raise UserError(
                    f"{name} is on the meta device and holds no values; build the model on a device that "
                    "does (its buffers have values too): only `base` may stay on meta"
                )
        optimizer.initialize(self.model, self.resolved, seed)
        stds = {row.name: row.init_std for row in self.tensors}
        with torch.no_grad():
            for fused in self.inventory.fused:
                whole = stds[fused.name]
                for part, start, stop in fused.parts if fused.name in self.part_std else ():
                    assert whole is not None, "a tensor whose parts have a std is a weight"
                    self.model.get_parameter(fused.name).narrow(
                        fused.dimension, start, stop - start
                    ).mul_(self.part_std[fused.name][part] / whole)

    def param_groups(self) -> list[dict[str, Any]]:
        """Groups for `torch.optim.AdamW`, one for each set of equal values."""
        return optimizer.param_groups(self.model, self.resolved)

    def adamw(self) -> torch.optim.AdamW:
        """AdamW over the groups."""
        return optimizer.adamw(self.model, self.resolved)

    def clip_grad_norm_(self, max_norm: float) -> torch.Tensor:
        """`torch.nn.utils.clip_grad_norm_` by the norm that a hooked model has; returns that norm."""
        folded = {plain_name(name): c for name, c in self.folded.items()}
        norms = [
            folded.get(plain_name(name), 1.0) * torch.linalg.vector_norm(p.grad)
            for name, p in self.model.named_parameters()
            if p.grad is not None
        ]
        norm = torch.nn.utils.get_total_norm(norms)
        torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), max_norm, norm)
        return norm

    def remove_hooks(self) -> None:
        """Take this call's forward hooks off the model."""
        for handle in self.handles:
            handle.remove()


def parametrize(
    model: nn.Module,
    recipe: Recipe,
    *,
    base: nn.Module | None = None,
    batch: int,
    tokens: int,
    which: Literal["tuned", "baseline"] = "tuned",
    modules: Sequence[tuple[str, str]] = (),
    residual: Residual = "fold",
    parameterization: str | None = None,
    **options: Any,
) -> Parametrized:
    """The recipe carried to `model`, to be trained on `tokens` in batches of `batch` tokens.

    `base` is the same family at the recipe's width and depth, best on the meta device. Where it is not given
    it is the recipe's own model, or of the reference model's recipe derived from a Hugging Face model.
    `modules`: ordered (pattern, module type), searched in qualified names before the table. `residual`:
    `fold` multipliers into tensors, or `hook` them. `options` are those of `completedp.rules.RuleOptions`.
    Values are set by `initialize` of what is returned.

    Raises `UserError` for a parameter that cannot be classified, a base of another scale than the recipe's,
    multipliers of types that the model has not, and what `resolve` refuses.
    """
    base = _base_of(model, recipe) if base is None else base
    if (external := external_model(recipe.model)) is not None:
        modules = [*modules, *external.modules]
    found = inventory_of(model, base, modules)
    scale = Scale(width=found.width, depth=found.whole.layers, batch=batch, tokens=tokens)
    if (found.base_width, found.whole.base_layers) != (recipe.base.width, recipe.base.depth):
        raise UserError(
            f"the base model has width {found.base_width} and depth {found.whole.base_layers}; the recipe "
            f"belongs to width {recipe.base.width} and depth {recipe.base.depth}: build the base so"
        )
    return apply_values(
        model,
        found,
        recipe.hparams if which == "tuned" else recipe.baseline,
        scale.ratios_to(recipe.base),
        residual=residual,
        parameterization=parameterization or recipe.parameterization,
        **options,
    )


def _base_of(model: nn.Module, recipe: Recipe) -> nn.Module:
    """The model that the recipe was found on; of the reference model's recipe, the Hugging Face model's own
    family at its scale."""
    if (external := external_model(recipe.model)) is not None:
        return build_model(external)
    from completedp.adapters.huggingface import base_of

    return base_of(model, width=recipe.base.width, depth=recipe.base.depth)


def apply_values(
    model: nn.Module,
    found: ExternalInventory,
    hparams: HParams,
    ratios: Ratios,
    *,
    residual: Residual = "fold",
    parameterization: str = "completed-p",
    **options: Any,
) -> Parametrized:
    """As `parametrize`, from hyperparameters and ratios."""
    if residual not in ("fold", "hook"):
        raise UserError(f"residual is {residual!r}; expected 'fold' or 'hook'")
    inventory = found.for_hparams(hparams)
    check_types(hparams, inventory)
    resolved = resolve(
        hparams,
        inventory,
        ratios,
        parameterization=parameterization,
        **{**carrying_options(parameterization), **options},
    )
    return with_resolved(model, found, resolved, ratios, parameterization, residual)


def trial_values(net: nn.Module, resolved: Resolved, model: Mapping[str, Any]) -> Parametrized:
    """A search trial's rows on `net`, the study's model at its own scale, residual coefficients folded: what
    a training function of the user's does with the `resolved` it is given. `model` is what its factory got.

    Raises `UserError` for a model that is not the study's.
    """
    described = ExternalModel(**model)
    return values_at(net, described, described, resolved)


def values_at(
    net: nn.Module,
    model: ExternalModel,
    base: ExternalModel,
    resolved: Resolved,
    parameterization: str = "completed-p",
) -> Parametrized:
    """The rows of `model`, as grown from `base`, on `net`, which is that model; coefficients folded.

    At the base every parameterisation is the same.
    """
    ratios = Ratios(width=model.width / base.width, depth=model.depth / base.depth)
    return with_resolved(net, grown(model, base), resolved, ratios, parameterization)


def with_resolved(
    model: nn.Module,
    found: ExternalInventory,
    resolved: Resolved,
    ratios: Ratios,
    parameterization: str,
    residual: Residual = "fold",
) -> Parametrized:
    """As `parametrize`, from the rows of `found.for_hparams`."""
    part_std, rows = _joined(resolved.tensors, found.fused)
    wanted = tuple(m for m in multipliers(found, resolved, parameterization) if m.c != 1)
    hooked = tuple(m for m in wanted if m.must_hook or residual == "hook")
    offsets = {spec.name: spec.offset for spec in found.whole}
    folded = {name: m.c for m in wanted if m not in hooked for name in m.tensors}
    return Parametrized(
        model=model,
        inventory=found,
        ratios=ratios,
        resolved=dataclasses.replace(
            resolved,
            tensors=tuple(
                row.folded_by(folded[row.name], offsets[row.name]) if row.name in folded else row
                for row in rows
            ),
            residual={branch: tuple(1.0 for _ in c) for branch, c in resolved.residual.items()},
            output_multiplier=1.0,
        ),
        folded=folded,
        hooked=hooked,
        part_std=part_std,
        handles=hook(model, hooked),
    )


def _joined(
    rows: Sequence[TensorRow], fused: Sequence[Fused]
) -> tuple[dict[str, dict[str, float]], list[TensorRow]]:
    """Fused tensors that were taken apart put together again; the init std of each part of a weight. Raises
    `UserError` where the parts differ in what a tensor has one of."""
    by_name = {row.name: row for row in rows}
    stds: dict[str, dict[str, float]] = {}
    wholes: dict[str, TensorRow] = {}
    for tensor in fused:
        parts = {t: by_name.get(f"{tensor.name}[{t}]") for t, _, _ in tensor.parts}
        found = {t: row for t, row in parts.items() if row is not None}
        if found:
            first, *others = found.values()
            for row in others:
                _check_equal(tensor.name, first, row)
            drawn = {t: row.init_std for t, row in found.items() if row.init_std is not None}
            if drawn:
                stds[tensor.name] = drawn
            wholes[first.name] = dataclasses.replace(
                first, name=tensor.name, module_type=tensor.module_type
            )
    joined = [wholes.get(row.name, row) for row in rows]
    return stds, [row for row in joined if not row.name.endswith("]")]


def _check_equal(tensor: str, first: TensorRow, other: TensorRow) -> None:
    for kind in _SHARED:
        one, two = getattr(first, kind), getattr(other, kind)
        if not math.isclose(one, two, rel_tol=1e-12):
            raise UserError(
                f"{tensor} holds {first.module_type} and {other.module_type} whose {kind} differ ({one:.6g} "
                f"and {two:.6g}); AdamW has one for a tensor: search with the type of the fused "
                "tensor, or set them equal"
            )
