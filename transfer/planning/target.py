"""From a recipe and a wish (sizes, or a budget of FLOPs or parameters) to a whole target scale.

.. [PowerLines]  Power Lines: Scaling Laws for Weight Decay and Batch Size in LLM Pre-training,
                 arXiv 2505.13738.
.. [CompletedP]  Completed Hyperparameter Transfer across Modules, Width, Depth, Batch and Duration,
                 arXiv 2512.22382.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from completedp.config import ExternalModel, Model, ModelConfig
from completedp.errors import UserError
from completedp.models import external_model, parameter_count, training_flops
from completedp.recipe import Recipe
from completedp.scale import Ratios, Scale
from transfer.planning.family import Family
from transfer.planning.token_rules import Ratio, TokenRule

# The best batch grows with the tokens as a power law, whatever the model's size [PowerLines].
BATCH_EXPONENT = 0.383
# Tokens, FLOPs, parameters: floats hold whole numbers of this size to a relative 1e-16, and their products.
LARGEST = 1e100
# A batch so many times that is worth a warning: our choice. The critical one, from which on twice the batch
# needs nearly twice the tokens, grows a little faster, about as the root of the tokens [PowerLines].
LARGE_BATCH = 2.0
# How far a chosen batch may be from the rule's, so that it is a multiple of a power of two: nothing measured
# tells such batches apart, and devices come in powers of two.
BATCH_ROUNDED = 0.03
# A budget or a token rule that whole heads and layers miss by more is worth a warning: our choice.
NEAR_ENOUGH = 1.25
# The widest ratios between two points of the grids that [CompletedP] checked: width 128–2048, depth
# 4–128, batch from 1/8 to 4 times the base's; and the tokens of its largest transfer, about 14,000 x the
# FLOPs at 144 x the parameters. (lowest, highest) target / base.
CHECKED_RATIOS = {
    "width": (1 / 16, 16.0),
    "depth": (1 / 32, 32.0),
    "batch": (1 / 8, 4.0),
    "tokens": (1 / 97, 97.0),
}


@dataclass(frozen=True, kw_only=True)
class TargetRequest:
    """What is asked of the target; what is not is chosen. Tokens, batch: in tokens; `aspect`: width / depth.

    With `flops` or `parameters` (a budget) the shape follows from it; without, width and depth default to
    the base's. `token_rule` gives the tokens where neither they nor a budget does.
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
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "token_rule" or value is None:
                continue
            if field.name in ("flops", "parameters", "aspect"):
                if not (math.isfinite(value) and value > 0):
                    raise UserError(f"{field.name} is {value}; expected a finite number above 0")
            elif value < 1:
                raise UserError(f"{field.name} is {value}; expected a whole number, 1 or more")
            if value > LARGEST:
                raise UserError(f"{field.name} is above {LARGEST:g}: beyond any training")
        self._check_together()

    @property
    def sized(self) -> bool:
        """Whether a budget says how large the model is."""
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
    """One number of the target, and why it is that one."""

    name: str
    value: int | str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Target:
    """A whole target scale with the model of that size, the reasons, and what to be careful about."""

    model: Model
    scale: Scale
    choices: tuple[Decision, ...]
    warnings: tuple[str, ...]


def target_for(recipe: Recipe, wish: TargetRequest) -> Target:
    """The wish, completed. Raises `UserError` for a size that the model family cannot have, a budget of
    less than a batch of its smallest model, or one beyond its largest."""
    rule = wish.token_rule or Ratio(
        per_parameter=recipe.train.tokens / parameter_count(recipe.model),
        source="as in the recipe",
    )
    model, shape = _shape(recipe, wish, rule)
    tokens, reason = _tokens(wish, model, rule)
    batch = _batch(recipe, tokens, wish.batch)
    size = batch.value
    assert isinstance(size, int)
    base = recipe.base
    if (size, tokens) != (base.batch, base.tokens):  # the base stays itself, whatever its last step
        whole = round(tokens / size) * size
        if whole == 0:
            raise UserError(_less_than_a_batch(wish, model, tokens, size))
        reason += "" if whole == tokens else "; rounded to whole batches"
        tokens = whole
    scale = Scale(width=model.width, depth=model.depth, batch=size, tokens=tokens)
    return Target(
        model=model,
        scale=scale,
        choices=(*shape, batch, Decision(name="tokens", value=tokens, reason=reason)),
        warnings=(
            *_budget_warnings(wish, model, tokens, rule),
            *_ratio_warnings(scale.ratios_to(base)),
            *_batch_warnings(recipe, scale),
            *_vocabulary_warnings(model, wish.tensor_parallel),
        ),
    )


def _shape(recipe: Recipe, wish: TargetRequest, rule: TokenRule) -> tuple[Model, list[Decision]]:
    external = external_model(recipe.model)
    if external is not None and (wish.shape_given or not wish.sized):
        return _foreign_shape(external, wish)
    base = recipe.base
    aspect = wish.aspect or base.width / base.depth
    family = Family(
        base=recipe.reference,
        aspect=aspect,
        tensor_parallel=wish.tensor_parallel,
        width=wish.width,
        depth=wish.depth,
    )
    by_aspect = f"aspect ratio {aspect:.4g} {'given' if wish.aspect else 'of the recipe'}"
    heads = f"whole heads ({family.unit} features)"
    reasons = {"width": f"{by_aspect}, {heads}", "depth": f"{by_aspect}, whole layers"}
    if wish.sized and not wish.shape_given:
        model = _sized(family, wish, rule)
        if wish.depth or wish.width:
            reasons = {"width": f"by the budget, {heads}", "depth": "by the budget, whole layers"}
    else:
        width, depth = wish.width, wish.depth
        if wish.aspect is None:  # what is not given stays
            reasons = dict.fromkeys(reasons, "the base's")
            width, depth = width or base.width, depth or base.depth
        elif width is None:
            wanted = (depth or base.depth) * aspect
            width = family.unit * max(1, round(wanted / family.unit))
        model = family.member(width=width, depth=depth or max(1, round(width / aspect)))
    reasons |= dict.fromkeys((n for n in reasons if getattr(wish, n)), "given")
    choices = [Decision(name=n, value=getattr(model, n), reason=r) for n, r in reasons.items()]
    if model.ffn * base.width != recipe.reference.ffn * model.width:
        ratio = recipe.reference.ffn / base.width
        reason = f"{ratio:.4g} x the width as at the base, rounded to "
        reason += "a whole number" if wish.tensor_parallel == 1 else f"{wish.tensor_parallel} parts"
        choices.append(Decision(name="ffn", value=model.ffn, reason=reason))
    return model, choices


def _foreign_shape(
    base: ExternalModel, wish: TargetRequest
) -> tuple[ExternalModel, list[Decision]]:
    """Only its own code knows which sizes another's model can have: they are given, or the base's."""
    if wish.tensor_parallel > 1 or wish.aspect is not None:
        raise UserError(
            f"tensor parallelism and aspect ratio choose a shape, and that of {base.source} is not chosen: "
            "give --width and --depth instead"
        )
    model = base.scaled(width=wish.width or base.width, depth=wish.depth or base.depth)
    reasons = {n: "given" if getattr(wish, n) else "the base's" for n in ("width", "depth")}
    return model, [Decision(name=n, value=getattr(model, n), reason=r) for n, r in reasons.items()]


def _sized(family: Family, wish: TargetRequest, rule: TokenRule) -> ModelConfig:
    """The member of the family that the budget asks for."""
    if wish.parameters is not None:
        return family.nearest(parameter_count, wish.parameters, "parameters")
    assert wish.flops is not None

    def flops(model: ModelConfig) -> float:
        tokens = wish.tokens or rule.tokens(parameter_count(model))
        return training_flops(model, 1) * max(1.0, tokens)

    return family.nearest(flops, wish.flops, "flops")


def _tokens(wish: TargetRequest, model: Model, rule: TokenRule) -> tuple[int, str]:
    if wish.tokens is not None:
        return wish.tokens, "given"
    parameters = parameter_count(model)
    if wish.flops is None:
        wanted = rule.tokens(parameters)
        if wanted > LARGEST:
            raise UserError(f"tokens by {rule.reason} are above {LARGEST:g}: beyond any training")
        return max(1, round(wanted)), rule.reason
    paid = max(1, round(wish.flops / training_flops(model, 1)))
    reason = f"what {wish.flops:.4g} FLOPs pay for, {paid / parameters:.4g} a parameter"
    known = wish.parameters is not None or wish.shape_given
    return paid, reason if known else f"{reason} (the shape is the nearest to {rule.reason})"


def _less_than_a_batch(wish: TargetRequest, model: Model, tokens: int, batch: int) -> str:
    if wish.flops is None:
        return (
            f"tokens is {tokens}; expected at least one batch of {batch} tokens: "
            "give more tokens or a smaller batch"
        )
    return (
        f"flops is {wish.flops:.4g}; one batch of {batch:,} tokens through the nearest model "
        f"(width {model.width}, depth {model.depth}) takes {float(training_flops(model, batch)):.4g}: "
        "give more"
    )


def _batch(recipe: Recipe, tokens: int, given: int | None) -> Decision:
    context, base = recipe.model.context, recipe.base
    if given is not None:
        if given % context:
            low = given // context * context
            near = f"{low} or {low + context}" if low else str(context)
            raise UserError(
                f"batch is {given} tokens; expected whole sequences of {context}, {near} for one"
            )
        return Decision(name="batch", value=given, reason="given")
    if tokens == base.tokens:
        return Decision(name="batch", value=base.batch, reason="the base's, as the tokens are")
    best = _best_batch(recipe, tokens) / context
    unit = 2 ** max(0, math.floor(math.log2(2 * BATCH_ROUNDED * best)))
    return Decision(
        name="batch",
        value=max(1, round(best / unit)) * unit * context,
        reason=f"grows as tokens^{BATCH_EXPONENT} (arXiv 2505.13738), in sequences of {context}"
        + (f", a multiple of {unit} of them for processes to share" if unit > 1 else ""),
    )


def microbatch(recipe: Recipe, batch: int) -> int:
    """Tokens that a device takes at once: the recipe's, or the most below it that divides the batch; 0 for
    the whole batch, where the recipe has that."""
    context = recipe.model.context
    if not recipe.train.microbatch:
        return 0
    sequences = batch // context
    most = max(1, min(recipe.train.microbatch // context, sequences))
    return context * next(n for n in range(most, 0, -1) if sequences % n == 0)


def _best_batch(recipe: Recipe, tokens: int) -> float:
    grown: float = recipe.base.batch * (tokens / recipe.base.tokens) ** BATCH_EXPONENT
    return grown


def _budget_warnings(
    wish: TargetRequest, model: Model, tokens: int, rule: TokenRule
) -> tuple[str, ...]:
    """Where the sizes that the family has are far from what was asked for."""
    parameters = parameter_count(model)
    asked: list[tuple[str, float | None, float]] = [
        ("FLOPs", wish.flops, training_flops(model, tokens)),
        ("parameters", wish.parameters, parameters),
    ]
    shape_by_rule = not (wish.parameters or wish.shape_given or wish.tokens)
    if wish.flops is not None and shape_by_rule:
        asked.append((f"tokens ({rule.reason})", rule.tokens(parameters), tokens))
    return tuple(
        f"{wanted:.4g} {what} are wanted, this is {got:.4g}: no nearer size of the family goes with what is "
        "given; give other sizes"
        for what, wanted, got in asked
        if wanted is not None and max(got / wanted, wanted / got) > NEAR_ENOUGH
    )


def _ratio_warnings(ratios: Ratios) -> tuple[str, ...]:
    far = [
        f"{name} x {ratio:.4g} (checked: {lowest:.3g} to {highest:.4g})"
        for name, (lowest, highest) in CHECKED_RATIOS.items()
        if not lowest <= (ratio := getattr(ratios, name)) <= highest
    ]
    if not far:
        return ()
    return (
        f"beyond the ratios that the paper (arXiv 2512.22382) checked: {', '.join(far)}; `completedp "
        "speedup` at scales between would tell if the gain holds, and a larger proxy brings the base nearer",
    )


def _batch_warnings(recipe: Recipe, scale: Scale) -> tuple[str, ...]:
    found = []
    times = scale.batch / _best_batch(recipe, scale.tokens)
    if times > LARGE_BATCH:
        found.append(
            f"batch is {times:.3g} x what the base's becomes by tokens^{BATCH_EXPONENT}: above the critical "
            "one more costs tokens (arXiv 2505.13738); the same tokens at half the batch on the proxy would "
            "tell"
        )
    at_once, wanted = microbatch(recipe, scale.batch), min(recipe.train.microbatch, scale.batch)
    if 2 * at_once < wanted:
        found.append(
            f"batch {scale.batch} has no large divisor up to the recipe's microbatch of {wanted} tokens, so "
            f"a device takes {at_once} at once, which is slow; a multiple of {wanted} is not"
        )
    return tuple(found)


def _vocabulary_warnings(model: Model, tensor_parallel: int) -> tuple[str, ...]:
    if model.vocab_size % tensor_parallel == 0:
        return ()
    return (
        f"vocab_size {model.vocab_size} does not divide by {tensor_parallel}: a trainer that splits the "
        "embeddings will pad them (padded rows take the same values)",
    )
