"""From a recipe and a target scale to a plan: every tensor's values there."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from completedp import files
from completedp.config import Model, TrainConfig
from completedp.errors import UserError
from completedp.kinds import KINDS
from completedp.models import check_types, grown_inventory, parameter_count, training_flops
from completedp.optimizer import TensorRow
from completedp.plan import Plan
from completedp.plan_check import check_plan, plan_of
from completedp.recipe import Recipe
from completedp.resolved import resolve
from completedp.rules import PARAMETERIZATIONS, carrying_options, rule_options
from completedp.scale import Scale
from transfer.planning.target import Decision, microbatch

# Beyond them an average over steps is hardly one any more, or never forgets within a run.
COMFORTABLE_ONE_MINUS_BETA = (1e-5, 0.5)
# Fitted by others at sizes of their own, mostly with the other hyperparameters held: arXiv 2602.21472
# (about 0.22) to arXiv 2409.19913 (0.7 at its smallest).
DURATION_EXPONENTS = (0.22, 0.7)
# A factor in lr that is worth a sentence.
UNCERTAIN_LR = 4.0
# In this project's own tests (docs/log.md, 2026-11-26) five recipes found in runs of 384 steps kept a twelfth
# of their gain at 16 times the FLOPs, two found in 1536 about a quarter. The number between is our choice.
FEWEST_STEPS = 1000


def make_plan(
    recipe: Recipe,
    scale: Scale,
    model: Model,
    *,
    parameterization: str | None = None,
    which: Literal["tuned", "baseline"] = "tuned",
    **options: Any,
) -> Plan:
    """The recipe's tuned values (or its global baseline's) at `scale`, for `model`.

    `parameterization` defaults to the recipe's. `options` are those of `completedp.rules.RuleOptions`;
    the β rule defaults to `power` where the parameterisation has one. Raises `UserError` as
    `completedp.resolve` and `completedp.plan_check` do.
    """
    name = recipe.parameterization if parameterization is None else parameterization
    chosen = rule_options({**carrying_options(name), **options})
    ratios = scale.ratios_to(recipe.base)
    hparams = recipe.hparams if which == "tuned" else recipe.baseline
    inventory = grown_inventory(model, recipe.model, hparams)
    check_types(hparams, inventory)
    resolved = resolve(
        hparams,
        inventory,
        ratios,
        parameterization=name,
        **dataclasses.asdict(chosen),
    )
    plan = Plan(
        parameterization=name,
        options=chosen,
        scale=scale,
        ratios=ratios,
        parameters=parameter_count(model),
        flops=training_flops(model, scale.tokens),
        recipe_digest=recipe.digest,
        which=which,
        corpus=_corpus(recipe),
        model=model,
        data=recipe.data,
        train=_train(recipe, scale),
        tensors=resolved.tensors,
        residual=resolved.residual,
        output_multiplier=resolved.output_multiplier,
        coefficients=resolved.coefficients,
    )
    check_plan(plan)  # with the multipliers, a value can leave what a trainer takes
    return plan


def _corpus(recipe: Recipe) -> str | None:
    """The digest of the text that it was tuned on; provenance is free in form."""
    data = recipe.provenance.get("data")
    digest = data.get("digest") if isinstance(data, Mapping) else None
    return digest if isinstance(digest, str) else None


def base_plan(recipe: Recipe) -> Plan:
    """The recipe at its own scale: every factor is 1."""
    return make_plan(recipe, recipe.base, recipe.model)


def read_plan(path: Path) -> Plan:
    """A plan file, or a recipe file at its own scale. Any other file is refused by its `kind`."""
    data = files.read_yaml(path)
    match data.get("kind"):
        case "plan":
            return plan_of(data, str(path))
        case "recipe":
            return base_plan(Recipe.from_dict(data, where=str(path)))
        case other:
            raise UserError(
                f"{path}: kind is {other!r}; expected a 'recipe' (of `completedp search`) or a 'plan' "
                "(of `completedp transfer`)"
            )


def rule_choices(plan: Plan, given: Iterable[str]) -> tuple[Decision, ...]:
    """The rule options in force that are not the published table's, with their reason."""
    published = rule_options({})
    choices = []
    for field in dataclasses.fields(plan.options):
        value = getattr(plan.options, field.name)
        if field.name in given:
            choices.append(Decision(name=field.name, value=str(value), reason="given"))
        elif value != getattr(published, field.name):
            reason = "valid for every ratio; agrees with the table's 'linear' for beta near 1"
            choices.append(Decision(name=field.name, value=str(value), reason=reason))
    return tuple(choices)


def plan_warnings(plan: Plan) -> tuple[str, ...]:
    """What a person should know before betting compute on the plan, and what would settle it."""
    return (
        *_rule_warnings(plan),
        *_duration_warnings(plan),
        *beta_warnings(plan),
        *_short_proxy_warnings(plan),
    )


def _rule_warnings(plan: Plan) -> tuple[str, ...]:
    """Axes along which the plan moves and its parameterisation has no rule."""
    known = PARAMETERIZATIONS[plan.parameterization].axes
    without = [
        f"{axis} x {ratio:.4g}"
        for axis, ratio in vars(plan.ratios).items()
        if ratio != 1 and axis not in known
    ]
    if not without:
        return ()
    return (
        f"{plan.parameterization} has no rule for {', '.join(without)}: values stay as at the base there; "
        "completed-p has one, and `completedp transfer-check` measures what is lost",
    )


def _duration_warnings(plan: Plan) -> tuple[str, ...]:
    """Where the published exponent and others' would give learning rates that differ."""
    if "duration_exponent" not in PARAMETERIZATIONS[plan.parameterization].options:
        return ()
    ratio, exponent = plan.ratios.tokens, plan.options.duration_exponent
    times = sorted(ratio ** (exponent - other) for other in DURATION_EXPONENTS)
    if times[-1] / times[0] <= UNCERTAIN_LR:
        return ()
    lowest, highest = DURATION_EXPONENTS
    return (
        f"tokens are {ratio:.4g} x the base's: by --duration-exponent {exponent:g} lr is x "
        f"{ratio**-exponent:.4g} for it; exponents that others fitted, {lowest:g} to {highest:g}, would "
        f"give {times[0]:.3g} to {times[-1]:.3g} times that. A sweep of lr on the proxy at two durations "
        "would settle it",
    )


def beta_warnings(plan: Plan) -> tuple[str, ...]:
    """Betas that a rule or a multiplier has driven out of comfortable bounds, by their tensors."""
    lowest, highest = COMFORTABLE_ONE_MINUS_BETA
    found = []
    for kind in (k.name for k in KINDS.values() if k.transform != "log"):
        outside = [row for row in plan.tensors if not lowest <= 1 - getattr(row, kind) <= highest]
        if outside:
            found.append(
                f"1 - {kind} of {len(outside)} tensors is outside of [{lowest:g}, {highest:g}]: "
                f"{_worst(outside, kind)}"
            )
    return tuple(found)


def _short_proxy_warnings(plan: Plan) -> tuple[str, ...]:
    """Tuned values from runs too short to tell much of a longer one."""
    steps = plan.train.steps / plan.ratios.steps
    if plan.which == "baseline" or plan.ratios.tokens <= 1 or steps >= FEWEST_STEPS:
        return ()
    return (
        f"the values were found in runs of {steps:.0f} steps: in our tests five recipes found in 384 kept a "
        "twelfth of their gain at 16 x the FLOPs, two found in 1536 about a quarter (docs/log.md); "
        "`completedp speedup` at a scale between would tell, a proxy that trains longer may find what lasts",
    )


def _worst(rows: list[TensorRow], kind: str) -> str:
    lowest, highest = COMFORTABLE_ONE_MINUS_BETA

    def beyond(row: TensorRow) -> float:
        one_minus: float = max(1 - getattr(row, kind), sys.float_info.min)
        return max(lowest / one_minus, one_minus / highest)

    row = max(rows, key=beyond)
    return f"{row.name} has {1 - getattr(row, kind):.3g}"


def _train(recipe: Recipe, scale: Scale) -> TrainConfig:
    """The recipe's training at the target's length."""
    return dataclasses.replace(
        recipe.train,
        tokens=scale.tokens,
        batch=scale.batch,
        microbatch=microbatch(recipe, scale.batch),
    )
