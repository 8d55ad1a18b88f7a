"""From a recipe and a wish (a scale, or a number of FLOPs) to a whole target scale.

.. [PowerLines]  Power Lines: Scaling Laws for Weight Decay and Batch Size in LLM Pre-training,
                 arXiv 2505.13738.
.. [CompletedP]  Completed Hyperparameter Transfer across Modules, Width, Depth, Batch and Duration,
                 arXiv 2512.22382.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from completedp.config import ModelConfig
from completedp.errors import UserError
from completedp.flops import parameter_count, training_flops
from completedp.recipe import Recipe
from completedp.scale import Ratios, Scale

# The best batch grows with the tokens as a power law, whatever the model's size [PowerLines].
BATCH_EXPONENT = 0.383
# The widest ratios between two points of the grids that [CompletedP] checked: width 128–2048, depth
# 4–128, batch from 1/8 to 4 times the base's. (lowest, highest) target / base.
CHECKED_RATIOS = {"width": (1 / 16, 16.0), "depth": (1 / 32, 32.0), "batch": (1 / 8, 4.0)}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One number of the target, and why it is that one."""

    name: str
    value: int | str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Target:
    """A whole target scale with the model of that size, the reasons, and what to be careful about."""

    model: ModelConfig
    scale: Scale
    choices: tuple[Choice, ...]
    warnings: tuple[str, ...]


def for_scale(
    recipe: Recipe,
    *,
    width: int | None = None,
    depth: int | None = None,
    batch: int | None = None,
    tokens: int | None = None,
) -> Target:
    """The scale given, completed: width and depth from the base, tokens by the recipe's own tokens per
    parameter, batch by the tokens. Raises `UserError` for a size the model family cannot have."""
    _check_positive(width=width, depth=depth, batch=batch, tokens=tokens)
    base = recipe.base
    choices = [
        Choice(
            name=name, value=value or getattr(base, name), reason="given" if value else "the base's"
        )
        for name, value in (("width", width), ("depth", depth))
    ]
    model = recipe.model.scaled(width=width or base.width, depth=depth or base.depth)
    reason = "given"
    if tokens is None:
        tokens, reason = _own_tokens(recipe, model)
    size = _batch(recipe, tokens, batch)
    return _target(recipe, model, tokens, reason, [*choices, size])


def for_flops(recipe: Recipe, flops: float, *, batch: int | None = None) -> Target:
    """The scale at which a whole training takes `flops` FLOPs: the recipe's aspect ratio (width / depth)
    and tokens per parameter kept as near as whole heads and layers allow, tokens fitted to the budget.

    Raises `UserError` where the budget is less than a batch of the smallest model, or beyond the largest.
    """
    if not (math.isfinite(flops) and flops > 0):
        raise UserError(f"flops is {flops}; expected a finite number above 0, 1e20 for one")
    _check_positive(batch=batch)
    model = _nearest_model(recipe, flops)
    per_token = training_flops(model, 1)
    wanted = max(1, round(flops / per_token))
    size = _batch(recipe, wanted, batch)
    assert isinstance(size.value, int)
    if round(wanted / size.value) == 0:
        raise UserError(
            f"flops is {flops:.4g}; one batch of {size.value:,} tokens through the nearest model "
            f"(width {model.width}, depth {model.depth}) takes {per_token * size.value:.4g}: give more"
        )
    aspect = f"aspect ratio {_aspect(recipe.model):.4g} of the recipe"
    unit = model.head_dim * model.queries_per_kv
    choices = [
        Choice(name="width", value=model.width, reason=f"{aspect}, whole heads ({unit} features)"),
        Choice(name="depth", value=model.depth, reason=f"{aspect}, whole layers"),
        size,
    ]
    reason = (
        f"what {flops:.4g} FLOPs pay for, {wanted / parameter_count(model):.4g} a parameter "
        f"(the recipe: {_tokens_per_parameter(recipe):.4g})"
    )
    return _target(recipe, model, wanted, reason, choices)


def _target(
    recipe: Recipe, model: ModelConfig, tokens: int, reason: str, choices: list[Choice]
) -> Target:
    """Round the tokens to whole steps and collect the warnings."""
    batch = choices[-1].value
    assert isinstance(batch, int)
    base = recipe.base
    if (batch, tokens) != (
        base.batch,
        base.tokens,
    ):  # the base stays itself, whatever its last step
        whole = round(tokens / batch) * batch
        if whole == 0:
            raise UserError(
                f"tokens is {tokens}; expected at least one batch of {batch} tokens: "
                "give more tokens or a smaller batch"
            )
        reason += "" if whole == tokens else "; rounded to whole batches"
        tokens = whole
    scale = Scale(width=model.width, depth=model.depth, batch=batch, tokens=tokens)
    return Target(
        model=model,
        scale=scale,
        choices=(*choices, Choice(name="tokens", value=tokens, reason=reason)),
        warnings=_ratio_warnings(scale.ratios_to(base)),
    )


def _own_tokens(recipe: Recipe, model: ModelConfig) -> tuple[int, str]:
    """The recipe's tokens per parameter (all parameters, embeddings too), in whole numbers."""
    tokens = round(recipe.train.tokens * parameter_count(model) / parameter_count(recipe.model))
    return max(1, tokens), f"{_tokens_per_parameter(recipe):.4g} a parameter, as in the recipe"


def _batch(recipe: Recipe, tokens: int, given: int | None) -> Choice:
    context, base = recipe.model.context, recipe.base
    if given is not None:
        if given % context:
            low = given // context * context
            near = f"{low} or {low + context}" if low else str(context)
            raise UserError(
                f"batch is {given} tokens; expected whole sequences of {context}, {near} for one"
            )
        return Choice(name="batch", value=given, reason="given")
    if tokens == base.tokens:
        return Choice(name="batch", value=base.batch, reason="the base's, as the tokens are")
    ideal = base.batch * (tokens / base.tokens) ** BATCH_EXPONENT
    sequences = max(1, round(ideal / context))
    return Choice(
        name="batch",
        value=sequences * context,
        reason=f"grows as tokens^{BATCH_EXPONENT} (arXiv 2505.13738), whole sequences of {context}",
    )


def _nearest_model(recipe: Recipe, flops: float) -> ModelConfig:
    """The member of the family whose training at the recipe's tokens per parameter is nearest to `flops`,
    in ratio. The cost rises with the width, so it is bracketed and bisected."""
    unit = recipe.model.head_dim * recipe.model.queries_per_kv

    def model(groups: int) -> ModelConfig:
        width = unit * groups
        return recipe.model.scaled(width=width, depth=max(1, round(width / _aspect(recipe.model))))

    def cost(groups: int) -> float:
        candidate = model(groups)
        return float(training_flops(candidate, _own_tokens(recipe, candidate)[0]))

    most = _most_groups(recipe.model)
    if cost(most) < flops:
        largest = model(most)
        raise UserError(
            f"flops is {flops:.4g}; the largest model of this family (width {largest.width}, depth "
            f"{largest.depth}) takes {cost(most):.4g}: give less"
        )
    low, high = 0, 1
    while cost(high) < flops:
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) < flops else (low, middle)
    if low == 0:
        return model(1)
    return model(min((low, high), key=lambda groups: abs(math.log(cost(groups) / flops))))


def _most_groups(model: ModelConfig) -> int:
    """The widest member of the family that is a model still, in groups of heads."""
    unit = model.head_dim * model.queries_per_kv
    widest = min(
        ModelConfig.LARGEST["width"],
        ModelConfig.LARGEST["depth"] * _aspect(model),
        ModelConfig.LARGEST["ffn"] * model.width / model.ffn,
    )
    return max(1, int(widest / unit))


def _ratio_warnings(ratios: Ratios) -> tuple[str, ...]:
    found = []
    for name, (lowest, highest) in CHECKED_RATIOS.items():
        ratio = getattr(ratios, name)
        if not lowest <= ratio <= highest:
            found.append(
                f"the {name} is {ratio:.4g} x the base's; the paper (arXiv 2512.22382) checked "
                f"{lowest:.4g} to {highest:.4g} x only"
            )
    return tuple(found)


def _aspect(model: ModelConfig) -> float:
    return model.width / model.depth


def _tokens_per_parameter(recipe: Recipe) -> float:
    return recipe.train.tokens / parameter_count(recipe.model)


def _check_positive(**sizes: int | None) -> None:
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise UserError(f"{name} is {size}; expected a whole number, 1 or more")
