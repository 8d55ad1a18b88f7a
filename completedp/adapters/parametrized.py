"""A recipe's values on an external model: `parametrize` and its result."""

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
from completedp.adapters.external import build_model, external_inventory
from completedp.adapters.folding import multipliers
from completedp.adapters.infer import ExternalInventory, Fused, inventory_of
from completedp.adapters.observe import unwrapped
from completedp.config import ExternalModel
from completedp.errors import UserError
from completedp.hooks import Multiplier, hook
from completedp.hparams import HParams
from completedp.models import check_types, external_model
from completedp.modules import plain_name
from completedp.optimizer import TensorRow
from completedp.recipe import Recipe
from completedp.resolved import Resolved, resolve
from completedp.rules import carrying_options
from completedp.scale import Ratios, Scale

Residual = Literal["fold", "hook"]


@dataclass(frozen=True, kw_only=True)
class Parametrized:
    """A model with its values. `resolved` has the values that the optimizer takes. `folded` has the
    multiplier in each tensor, and `part_std` the init std of each part of a fused tensor."""

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
        """Every tensor's values in force, as `completedp.audit` takes them."""
        return self.resolved.tensors

    @property
    def coefficients(self) -> Mapping[str, tuple[float, ...]]:
        """The coefficients that are neither folded nor hooked."""
        return self.resolved.coefficients

    def initialize(self, seed: int) -> None:
        """Set every trainable parameter to its initial value, in place.

        The values depend on the seed and the names alone. Call it before sharding the model. Raises
        `UserError` for a model that is sharded or on the meta device.
        """
        if any(hasattr(p, "placements") for p in self.model.parameters()):
            raise UserError("the model is sharded already; call initialize() before fully_shard()")
        for name, p in self.model.named_parameters():
            if p.is_meta:
                raise UserError(
                    f"{name} is on the meta device and holds no values; build the model on a device that "
                    "has values (its buffers need them too): only `base` may stay on meta"
                )
        optimizer.initialize(self.model, self.resolved, seed)
        whole_std = {row.name: row.init_std for row in self.tensors}
        fused = {f.name: f for f in self.inventory.fused}
        with torch.no_grad():
            for name, stds in self.part_std.items():
                parameter, whole = self.model.get_parameter(name), whole_std[name]
                assert whole is not None, "a tensor whose parts have a std is a weight"
                for part, start, stop in fused[name].parts:
                    values = parameter.narrow(fused[name].dimension, start, stop - start)
                    values.mul_(stds[part] / whole)

    def param_groups(self) -> list[dict[str, Any]]:
        """Groups for `torch.optim.AdamW`, one for each set of equal values."""
        return optimizer.param_groups(self.model, self.resolved)

    def adamw(self) -> torch.optim.AdamW:
        """AdamW over the groups."""
        return optimizer.adamw(self.model, self.resolved)

    def clip_grad_norm_(self, max_norm: float) -> torch.Tensor:
        """`torch.nn.utils.clip_grad_norm_` by the norm of the hooked model's gradients. Returns that norm."""
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
        """Remove the forward hooks that this object put on the model."""
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
    """The recipe carried to `model`, which trains on `tokens` tokens in batches of `batch` tokens.

    `base` is the same family at the recipe's width and depth, best on the meta device. By default it is the
    recipe's own model. For a recipe of the reference model it is derived from `model`, which must then be a
    Hugging Face model. Either may be inside of DDP or `torch.compile`. `modules` are pairs (pattern, module
    type) in order, searched in qualified names before the table of names. `residual` says whether to `fold`
    multipliers into tensors or to `hook` them.
    `options` are the fields of `completedp.rules.RuleOptions`. Call `initialize` of the result to set the
    values.

    Raises `UserError` for a parameter that cannot be classified, for a base at another scale than the
    recipe's, for multipliers of types that the model does not have, and as `resolve` does.
    """
    model = unwrapped(model)
    base = _base_of(model, recipe) if base is None else unwrapped(base)
    if (external := external_model(recipe.model)) is not None:
        modules = [*modules, *external.modules]
    found = inventory_of(model, base, modules)
    scale = Scale(width=found.width, depth=found.whole.layers, batch=batch, tokens=tokens)
    if (found.base_width, found.whole.base_layers) != (recipe.base.width, recipe.base.depth):
        raise UserError(
            f"the base model has width {found.base_width} and depth {found.whole.base_layers}; the recipe "
            f"belongs to width {recipe.base.width} and depth {recipe.base.depth}: build the base at that size"
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
    """The model that the recipe was found on. If that is the reference model, the family of `model` at the
    recipe's scale; `model` must then be a Hugging Face model."""
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
    """The result of `parametrize`, from hyperparameters and ratios."""
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
    return _with_resolved(model, found, resolved, ratios, parameterization, residual)


def trial_values(net: nn.Module, resolved: Resolved, model: Mapping[str, Any]) -> Parametrized:
    """A search trial's values on `net`, the study's model at its own scale, with folded coefficients.

    The user's training function calls it with its `resolved` and with the `model` that its factory got.
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
    """The values of `model`, as grown from `base`, with folded coefficients. `net` is that model, built.

    The default `parameterization` is right at the base, where all are the same.
    """
    ratios = Ratios(width=model.width / base.width, depth=model.depth / base.depth)
    return _with_resolved(net, external_inventory(model, base), resolved, ratios, parameterization)


def _with_resolved(
    model: nn.Module,
    found: ExternalInventory,
    resolved: Resolved,
    ratios: Ratios,
    parameterization: str,
    residual: Residual = "fold",
) -> Parametrized:
    """The result of `parametrize`, from values for the specs of `found.for_hparams`."""
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
            residual=resolved.unit_residual,
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
    """The init std of each part of a fused weight, and the rows with such parts joined again.

    Raises `UserError` if the parts differ in a value that the optimizer has only once for a tensor.
    """
    by_name = {row.name: row for row in rows}
    stds: dict[str, dict[str, float]] = {}
    wholes: dict[str, TensorRow] = {}
    for tensor in fused:
        names = [f"{tensor.name}[{t}]" for t, _, _ in tensor.parts]
        parts = [by_name[name] for name in names if name in by_name]
        if not parts:
            continue
        for other in parts[1:]:
            _check_equal(tensor.name, parts[0], other)
        if drawn := {p.module_type: p.init_std for p in parts if p.init_std is not None}:
            stds[tensor.name] = drawn
        wholes[parts[0].name] = dataclasses.replace(
            parts[0], name=tensor.name, module_type=tensor.module_type
        )
    joined = [wholes.get(row.name, row) for row in rows]
    return stds, [row for row in joined if not row.name.endswith("]")]


def _check_equal(tensor: str, first: TensorRow, other: TensorRow) -> None:
    for name in optimizer.VALUES:
        one, two = getattr(first, name), getattr(other, name)
        if not math.isclose(one, two, rel_tol=1e-12):
            raise UserError(
                f"{tensor} holds {first.module_type} and {other.module_type} whose {name} differ ({one:.6g} "
                f"and {two:.6g}); the optimizer has one value per tensor: search with the type of the fused "
                "tensor, or set them equal"
            )
