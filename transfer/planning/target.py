"""The target scale: from a recipe and a request (sizes, or a budget of FLOPs or parameters)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from completedp import reading
from completedp.config import ExternalModel, Model, ModelConfig
from completedp.errors import UserError, shown
from completedp.models import external_model, parameter_count, training_flops
from completedp.recipe import Recipe
from completedp.scale import BATCH_EXPONENT, Scale
from transfer.planning.family import Family
from transfer.planning.token_rules import Ratio, TokenRule

# Largest tokens, FLOPs and parameters. Floats hold whole numbers of this size to a relative 1e-16, and their
# products.
LARGEST = 1e100
# How far a chosen batch may be from the rule's, so that it is a multiple of a power of two. Nothing measured
# tells such batches apart, and devices come in powers of two.
BATCH_ROUNDED = 0.03


@dataclass(frozen=True, kw_only=True)
class TargetRequest:
    """The given part of a target; the rest is decided by `target_for`.

    `flops` and `parameters` are budgets: the shape follows from them. Without a budget, `width` (features)
    and `depth` (layers) default to the base's. `batch` and `tokens` count tokens. `token_rule` gives the
    tokens if neither they nor a budget does. `aspect` is width / depth. Raises `UserError` for an empty
    request, for a number that is not positive, and for numbers that contradict each other.
    """

    flops: float | None = None
    parameters: float | None = None
    width: int | None = None
    depth: int | None = None
    batch: int | None = None
    tokens: int | None = None
    token_rule: TokenRule | None = None
    aspect: float | None = None
    tensor_parallel: int = 1

    def __post_init__(self) -> None:
        given = {
            f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None
        }
        if given.keys() <= {"aspect", "tensor_parallel"}:
            raise UserError(
                "no target is given; expected --flops C or --parameters N, or one or more of --width, "
                "--depth, --batch, --tokens, --tokens-per-parameter"
            )
        given.pop("token_rule", None)
        for name, value in given.items():
            if name in ("flops", "parameters", "aspect"):
                if not (reading.is_number(value) and value > 0):
                    raise UserError(f"{name} is {shown(value)}; expected a finite number above 0")
            elif not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"{name} is {value}; expected a whole number, 1 or more")
            if value > LARGEST:
                raise UserError(f"{name} is above {LARGEST:g}: beyond any training")
        self._check_together()

    @property
    def sized(self) -> bool:
        """Whether a budget decides the model's size."""
        return self.flops is not None or self.parameters is not None

    @property
    def shape_given(self) -> bool:
        return self.width is not None and self.depth is not None

    def _check_together(self) -> None:
        if self.parameters is not None and self.shape_given:
            raise UserError("parameters, width and depth are all given: leave one of them out")
        known = self.parameters is not None or self.shape_given
        if self.flops is not None and known and (self.tokens or self.token_rule):
            raise UserError(
                "flops are given with the model's size and its tokens, which make the flops: leave one out"
            )
        if self.tokens is not None and self.token_rule is not None:
            raise UserError("tokens and tokens per parameter are both given: give one of them")
        if self.aspect is not None and self.shape_given:
            raise UserError("aspect is given with width and depth, which make it: leave it out")
        if self.aspect is not None and self.sized and (self.width or self.depth):
            raise UserError(
                "aspect is given with a budget and a width or depth, which make the shape: leave one out"
            )


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One number of a target or one rule option, with the reason for it."""

    name: str
    value: int | str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Target:
    """A whole target scale, the model of that size, and the decisions that led there."""

    model: Model
    scale: Scale
    decisions: tuple[Decision, ...]


def target_for(recipe: Recipe, request: TargetRequest) -> Target:
    """The request, completed.

    Raises `UserError` for a size that the model family cannot have, and for a budget that is smaller than one
    batch of the family's smallest model or beyond its largest.
    """
    rule = token_rule_of(recipe, request)
    model, shape = _shape(recipe, request, rule)
    tokens, reason = _tokens(request, model, rule)
    batch, batch_reason = _batch(recipe, tokens, request.batch)
    base = recipe.base
    if (batch, tokens) != (base.batch, base.tokens):  # the base keeps its broken last step
        whole = round(tokens / batch) * batch
        if whole == 0 and request.flops is not None:
            raise UserError(
                f"flops is {request.flops:.4g}; one batch of {batch:,} tokens through the nearest model "
                f"(width {model.width}, depth {model.depth}) takes "
                f"{float(training_flops(model, batch)):.4g}: give more"
            )
        if whole == 0:
            raise UserError(
                f"tokens is {tokens}; expected at least one batch of {batch} tokens: give more tokens or a "
                "smaller batch"
            )
        reason += "" if whole == tokens else "; rounded to whole batches"
        tokens = whole
    return Target(
        model=model,
        scale=Scale(width=model.width, depth=model.depth, batch=batch, tokens=tokens),
        decisions=(
            *(Decision(name=n, value=getattr(model, n), reason=r) for n, r in shape.items()),
            Decision(name="batch", value=batch, reason=batch_reason),
            Decision(name="tokens", value=tokens, reason=reason),
        ),
    )


def token_rule_of(recipe: Recipe, request: TargetRequest) -> TokenRule:
    """The request's token rule; by default the recipe's own tokens per parameter."""
    return request.token_rule or Ratio(
        per_parameter=recipe.train.tokens / parameter_count(recipe.model),
        source="as in the recipe",
    )


def _shape(recipe: Recipe, request: TargetRequest, rule: TokenRule) -> tuple[Model, dict[str, str]]:
    """The model, and the reasons for its sizes by name."""
    external = external_model(recipe.model)
    if external is not None and (request.shape_given or not request.sized):
        return _external_shape(external, request)
    base, width, depth, parts = recipe.base, request.width, request.depth, request.tensor_parallel
    aspect = request.aspect or base.width / base.depth
    family = Family(
        base=recipe.reference, aspect=aspect, tensor_parallel=parts, width=width, depth=depth
    )
    by_aspect = f"aspect ratio {aspect:.4g} {'given' if request.aspect else 'of the recipe'}"
    heads = f"whole heads ({family.unit} features)"
    reasons = {"width": f"{by_aspect}, {heads}", "depth": f"{by_aspect}, whole layers"}
    if request.sized and not request.shape_given:
        model = _sized(family, request, rule)
        if depth or width:
            reasons = {"width": f"by the budget, {heads}", "depth": "by the budget, whole layers"}
    else:
        if request.aspect is None:
            reasons = dict.fromkeys(reasons, "the base's")
            width, depth = width or base.width, depth or base.depth
        elif width is None:
            wanted = (depth or base.depth) * aspect
            width = family.unit * max(1, round(wanted / family.unit))
        model = family.member(width=width, depth=depth or max(1, round(width / aspect)))
    reasons |= dict.fromkeys((n for n in reasons if getattr(request, n)), "given")
    if model.ffn * base.width != recipe.reference.ffn * model.width:
        ratio = recipe.reference.ffn / base.width
        rounded = "a whole number" if parts == 1 else f"{parts} parts"
        reasons["ffn"] = f"{ratio:.4g} x the width as at the base, rounded to {rounded}"
    return model, reasons


def _external_shape(base: ExternalModel, request: TargetRequest) -> tuple[Model, dict[str, str]]:
    """Width and depth are given or the base's: only an external model's code knows its possible sizes."""
    if request.tensor_parallel > 1 or request.aspect is not None:
        raise UserError(
            f"tensor parallelism and aspect ratio choose a shape, and that of {base.source} is not chosen: "
            "give --width and --depth instead"
        )
    model = base.scaled(width=request.width or base.width, depth=request.depth or base.depth)
    return model, {n: "given" if getattr(request, n) else "the base's" for n in ("width", "depth")}


def _sized(family: Family, request: TargetRequest, rule: TokenRule) -> ModelConfig:
    """The member of the family that the budget asks for."""
    if request.parameters is not None:
        return family.nearest(parameter_count, request.parameters, "parameters")
    assert request.flops is not None

    def flops(model: ModelConfig) -> float:
        tokens = request.tokens or rule.tokens(parameter_count(model))
        return training_flops(model, 1) * max(1.0, tokens)

    return family.nearest(flops, request.flops, "flops")


def _tokens(request: TargetRequest, model: Model, rule: TokenRule) -> tuple[int, str]:
    if request.tokens is not None:
        return request.tokens, "given"
    parameters = parameter_count(model)
    if request.flops is None:
        wanted = rule.tokens(parameters)
        if wanted > LARGEST:
            raise UserError(f"tokens by {rule.reason} are above {LARGEST:g}: beyond any training")
        return max(1, round(wanted)), rule.reason
    paid = max(1, round(request.flops / training_flops(model, 1)))
    reason = f"what {request.flops:.4g} FLOPs pay for, {paid / parameters:.4g} a parameter"
    known = request.parameters is not None or request.shape_given
    return paid, reason if known else f"{reason} (the shape is the nearest to {rule.reason})"


def _batch(recipe: Recipe, tokens: int, given: int | None) -> tuple[int, str]:
    """Tokens per step, and the reason."""
    context, base = recipe.model.context, recipe.base
    if given is not None:
        if given % context:
            low = given // context * context
            near = f"{low} or {low + context}" if low else str(context)
            raise UserError(
                f"batch is {given} tokens; expected whole sequences of {context}, {near} for one"
            )
        return given, "given"
    if tokens == base.tokens:
        return base.batch, "the base's, as the tokens are"
    best = best_batch(recipe, tokens) / context
    unit = 2 ** max(0, math.floor(math.log2(2 * BATCH_ROUNDED * best)))
    reason = f"grows as tokens^{BATCH_EXPONENT} (arXiv 2505.13738), in sequences of {context}"
    reason += f", a multiple of {unit} of them for processes to share" if unit > 1 else ""
    return max(1, round(best / unit)) * unit * context, reason


def microbatch(recipe: Recipe, batch: int) -> int:
    """Tokens that a device takes at once: the largest number up to the recipe's that divides the batch.

    0, the whole batch at once, if the recipe has 0.
    """
    context = recipe.model.context
    if not recipe.train.microbatch:
        return 0
    sequences = batch // context
    most = max(1, min(recipe.train.microbatch // context, sequences))
    return context * next(n for n in range(most, 0, -1) if sequences % n == 0)


def best_batch(recipe: Recipe, tokens: int) -> float:
    """Tokens per step: the base's batch, grown with the tokens."""
    return float(recipe.base.batch * (tokens / recipe.base.tokens) ** BATCH_EXPONENT)
