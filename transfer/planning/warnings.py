"""Doubts about a plan that a person should know before training it, and what would settle them.

.. [PowerLines]  arXiv 2505.13738.
.. [CompletedP]  Completed Hyperparameter Transfer across Modules, Width, Depth, Batch and Duration,
                 arXiv 2512.22382.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from completedp.kinds import KINDS
from completedp.models import external_model, parameter_count, training_flops
from completedp.optimizer import VALUES
from completedp.plan import Plan
from completedp.recipe import Recipe
from completedp.rules import PARAMETERIZATIONS
from completedp.scale import BATCH_EXPONENT, Ratios, Scale
from transfer.planning.target import (
    Target,
    TargetRequest,
    best_batch,
    microbatch,
    token_rule_of,
)

# A budget or a token rule that whole heads and layers miss by more is worth a warning: our choice.
NEAR_ENOUGH = 1.25
# The widest ratios target / base between two points of the grids that [CompletedP] checked: width 128 to
# 2048, depth 4 to 128, batch from 1/8 to 4 times the base's. The tokens are those of its largest transfer,
# about 14,000 x the FLOPs at 144 x the parameters.
CHECKED_RATIOS = {
    "width": (1 / 16, 16.0),
    "depth": (1 / 32, 32.0),
    "batch": (1 / 8, 4.0),
    "tokens": (1 / 97, 97.0),
}
# A batch larger than the rule's by this factor is worth a warning: our choice. Above the critical batch,
# twice the batch needs nearly twice the tokens; the critical batch grows about as the root of the tokens
# [PowerLines].
LARGE_BATCH = 2.0
# From this many parameters on, public models have at least these sizes (GPT-2 has heads of 64, 50,257 tokens
# and a context of 1024). A proxy may be smaller, but the sizes stay when it grows.
LARGE_MODEL = 1e8
LEAST_SIZES = {"head_dim": 64, "vocab_size": 4096, "context": 512}
# Outside of these bounds an average over steps is hardly an average, or never forgets within a run.
COMFORTABLE_ONE_MINUS_BETA = (1e-5, 0.5)
# Duration exponents fitted by others at their own sizes, mostly with the other hyperparameters held:
# arXiv 2602.21472 (about 0.22) to arXiv 2409.19913 (0.7 at its smallest).
DURATION_EXPONENTS = (0.22, 0.7)
# A factor in lr that is worth a sentence: our choice.
UNCERTAIN_LR = 4.0
# In this project's own tests (docs/log.md, 2026-11-26) five recipes found in runs of 384 steps kept a twelfth
# of their gain at 16 times the FLOPs, two found in 1536 about a quarter. The number between is our choice.
FEWEST_STEPS = 1000


def target_warnings(recipe: Recipe, request: TargetRequest, target: Target) -> tuple[str, ...]:
    """Warnings about a target's sizes."""
    return (
        *_toy_warnings(target),
        *_budget_warnings(recipe, request, target),
        *_ratio_warnings(target.scale.ratios_to(recipe.base)),
        *_batch_warnings(recipe, target.scale),
        *_vocabulary_warnings(target.model.vocab_size, request.tensor_parallel),
    )


def plan_warnings(plan: Plan) -> tuple[str, ...]:
    """Warnings about a plan's values and the rules behind them."""
    return (
        *_rule_warnings(plan),
        *_duration_warnings(plan),
        *_beta_warnings(plan),
        *_short_proxy_warnings(plan),
    )


def _budget_warnings(recipe: Recipe, request: TargetRequest, target: Target) -> Iterator[str]:
    """Sizes of the family that are far from the requested ones."""
    tokens, rule = target.scale.tokens, token_rule_of(recipe, request)
    parameters = parameter_count(target.model)
    asked: list[tuple[str, float | None, float]] = [
        ("FLOPs", request.flops, training_flops(target.model, tokens)),
        ("parameters", request.parameters, parameters),
    ]
    shape_by_rule = not (request.parameters or request.shape_given or request.tokens)
    if request.flops is not None and shape_by_rule:
        asked.append((f"tokens ({rule.reason})", rule.tokens(parameters), tokens))
    for what, wanted, got in asked:
        if wanted is not None and max(got / wanted, wanted / got) > NEAR_ENOUGH:
            yield (
                f"{wanted:.4g} {what} are wanted, this is {got:.4g}: no nearer size of the family goes with "
                "what is given; give other sizes"
            )


def _toy_warnings(target: Target) -> Iterator[str]:
    """Sizes of the proxy that no public model of the target's size has."""
    model = target.model
    if external_model(model) is not None or (parameters := parameter_count(model)) < LARGE_MODEL:
        return
    small = [
        f"{name} {size} (at least {least} there)"
        for name, least in LEAST_SIZES.items()
        if (size := getattr(model, name)) < least
    ]
    if small:
        yield (
            f"the target has {parameters:.3g} parameters and keeps sizes of the proxy that public models of "
            f"its size do not have: {', '.join(small)}. Search on a proxy with the sizes that you will "
            "train with (`completedp preset tiny --out mine.yaml`, then edit model and data.tokenizer)"
        )


def _ratio_warnings(ratios: Ratios) -> Iterator[str]:
    far = [
        f"{name} x {ratio:.4g} (checked: {lowest:.3g} to {highest:.4g})"
        for name, (lowest, highest) in CHECKED_RATIOS.items()
        if not lowest <= (ratio := getattr(ratios, name)) <= highest
    ]
    if far:
        yield (
            f"beyond the ratios that the paper (arXiv 2512.22382) checked: {', '.join(far)}; "
            "`completedp speedup` at scales between would tell if the gain holds, and a larger proxy brings "
            "the base nearer"
        )


def _batch_warnings(recipe: Recipe, scale: Scale) -> Iterator[str]:
    times = scale.batch / best_batch(recipe, scale.tokens)
    if times > LARGE_BATCH:
        yield (
            f"batch is {times:.3g} x the base's grown by tokens^{BATCH_EXPONENT}: above the critical batch, "
            "more costs tokens (arXiv 2505.13738); the same tokens at half the batch on the proxy would tell"
        )
    at_once, wanted = microbatch(recipe, scale.batch), min(recipe.train.microbatch, scale.batch)
    if 2 * at_once < wanted:
        yield (
            f"batch {scale.batch} has no large divisor up to the recipe's microbatch of {wanted} tokens, so "
            f"a device takes {at_once} at once, which is slow; a multiple of {wanted} is fast"
        )


def _vocabulary_warnings(vocab_size: int, tensor_parallel: int) -> Iterator[str]:
    if vocab_size % tensor_parallel:
        yield (
            f"vocab_size {vocab_size} does not divide by {tensor_parallel}: a trainer that splits the "
            "embeddings will pad them (padded rows take the same values)"
        )


def _rule_warnings(plan: Plan) -> Iterator[str]:
    """Axes along which the plan moves without a rule of its parameterization."""
    known = PARAMETERIZATIONS[plan.parameterization].axes
    ratios = vars(plan.ratios).items()
    without = [f"{axis} x {x:.4g}" for axis, x in ratios if x != 1 and axis not in known]
    if without:
        yield (
            f"{plan.parameterization} has no rule for {', '.join(without)}: values stay as at the base "
            "there; completed-p has one, and `completedp transfer-check` measures what is lost"
        )


def _duration_warnings(plan: Plan) -> Iterator[str]:
    """Durations at which the published exponents give learning rates that differ much."""
    ratio, exponent = plan.ratios.tokens, plan.options.duration_exponent
    low, high = sorted(ratio ** (exponent - other) for other in DURATION_EXPONENTS)
    has_rule = "duration_exponent" in PARAMETERIZATIONS[plan.parameterization].options
    if has_rule and high / low > UNCERTAIN_LR:
        lowest, highest = DURATION_EXPONENTS
        yield (
            f"tokens are {ratio:.4g} x the base's: by --duration-exponent {exponent:g} lr is x "
            f"{ratio**-exponent:.4g} for it; exponents that others fitted, {lowest:g} to {highest:g}, would "
            f"give {low:.3g} to {high:.3g} times that. A sweep of lr on the proxy at two durations would "
            "settle it"
        )


def _beta_warnings(plan: Plan) -> Iterator[str]:
    """Betas that a rule or a multiplier has driven out of comfortable bounds, with the worst tensor."""
    lowest, highest = COMFORTABLE_ONE_MINUS_BETA
    for kind in (name for name in VALUES if KINDS[name].transform == "log of 1-x"):
        found = {row.name: 1 - getattr(row, kind) for row in plan.tensors}
        outside = {name: x for name, x in found.items() if not lowest <= x <= highest}
        if outside:
            # 1 - β may be 0.
            beyond = {
                name: max(lowest / max(x, sys.float_info.min), x / highest)
                for name, x in outside.items()
            }
            worst = max(beyond, key=beyond.__getitem__)
            yield (
                f"1 - {kind} of {len(outside)} tensors is outside of [{lowest:g}, {highest:g}]: {worst} has "
                f"{outside[worst]:.3g}"
            )


def _short_proxy_warnings(plan: Plan) -> Iterator[str]:
    """Tuned values from runs that are too short to tell much about a longer run."""
    steps = plan.train.steps / plan.ratios.steps
    if plan.which == "tuned" and plan.ratios.tokens > 1 and steps < FEWEST_STEPS:
        yield (
            f"the values were found in runs of {steps:.0f} steps: in our tests five recipes found in 384 "
            "kept a twelfth of their gain at 16 x the FLOPs, two found in 1536 about a quarter (docs/log.md)"
            "; `completedp speedup` at a scale between would tell; a proxy that trains longer may find what "
            "lasts"
        )
