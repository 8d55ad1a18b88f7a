"""The plan: every tensor's values for a recipe at a target scale."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from completedp import files
from completedp.config import Model
from completedp.errors import UserError, named
from completedp.hparams import HParams
from completedp.models import check_types, grown_inventory, parameter_count, training_flops
from completedp.plan import Plan
from completedp.plan_check import check_plan, plan_of
from completedp.recipe import Recipe
from completedp.resolved import resolve
from completedp.rules import carrying_options, rule_options
from completedp.scale import Scale
from transfer.expected import Arm, better_arm
from transfer.planning.target import Decision, TargetRequest, microbatch, target_for
from transfer.planning.warnings import plan_warnings, target_warnings


@dataclass(frozen=True, kw_only=True)
class Carried:
    """A plan, the decisions behind its scale and rules, and the doubts about it."""

    plan: Plan
    decisions: tuple[Decision, ...]
    warnings: tuple[str, ...]


def carry(
    recipe: Recipe,
    request: TargetRequest,
    *,
    parameterization: str | None = None,
    which: str = "auto",
    **options: Any,
) -> Carried:
    """The recipe's plan at the requested scale.

    With `which` `auto`, the plan has the values that the recipe's ladder expects to be best there. Raises
    `UserError` as `target_for` and `make_plan` do, and for a damaged ladder.
    """
    target = target_for(recipe, request)
    arm, reason = choose_arm(recipe, training_flops(target.model, target.scale.tokens), which)
    how: dict[str, Any] = {"parameterization": parameterization, "which": arm, **options}
    plan = make_plan(recipe, target.scale, target.model, **how)
    return Carried(
        plan=plan,
        decisions=(
            Decision(name="values", value=arm, reason=reason),
            *target.decisions,
            *_rule_decisions(plan, options),
        ),
        warnings=(*target_warnings(recipe, request, target), *plan_warnings(plan)),
    )


def choose_arm(recipe: Recipe, flops: float, which: str) -> tuple[Arm, str]:
    """The arm to plan at `flops`, and the reason. Raises `UserError` as `carry`."""
    better, known = better_arm(recipe, flops)
    asked: dict[str, tuple[Arm, str]] = {
        "auto": (better, known),
        "tuned": ("tuned", f"asked for; {known}"),
        "baseline": ("baseline", f"asked for; {known}"),
    }
    return named(asked, which, "which")


def make_plan(
    recipe: Recipe,
    scale: Scale,
    model: Model,
    *,
    parameterization: str | None = None,
    which: Arm = "tuned",
    **options: Any,
) -> Plan:
    """The recipe's tuned values, or its global baseline's, at `scale` for `model`.

    `parameterization` defaults to the recipe's. `options` are those of `completedp.rules.RuleOptions`; the
    β rule defaults to `power` if the parameterization has a β rule. Raises `UserError` for an unknown name,
    and as `completedp.resolve` and `completedp.plan_check.check_plan` do.
    """
    name = recipe.parameterization if parameterization is None else parameterization
    chosen = rule_options({**carrying_options(name), **options})
    ratios = scale.ratios_to(recipe.base)
    hparams = values_of(recipe, which)
    inventory = grown_inventory(model, recipe.model, hparams)
    check_types(hparams, inventory)
    rules = dataclasses.asdict(chosen)
    resolved = resolve(hparams, inventory, ratios, parameterization=name, **rules)
    at_once = microbatch(recipe, scale.batch)
    train = dataclasses.replace(
        recipe.train, tokens=scale.tokens, batch=scale.batch, microbatch=at_once
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
        train=train,
        **vars(resolved),
    )
    check_plan(plan)  # with the multipliers, a value can leave what a trainer takes
    return plan


def values_of(recipe: Recipe, which: str) -> HParams:
    """The recipe's `tuned` values or its `baseline`. Raises `UserError` for another name."""
    return named({"tuned": recipe.hparams, "baseline": recipe.baseline}, which, "which")


def _corpus(recipe: Recipe) -> str | None:
    """The digest of the text that the recipe was tuned on, if its provenance, free in form, has it."""
    data = recipe.provenance.get("data")
    digest = data.get("digest") if isinstance(data, Mapping) else None
    return digest if isinstance(digest, str) else None


def base_plan(recipe: Recipe) -> Plan:
    """The recipe at its own scale: every factor is 1."""
    return make_plan(recipe, recipe.base, recipe.model)


def read_plan(path: Path) -> Plan:
    """The plan in a plan file, or a recipe file's plan at its own scale.

    Raises `UserError` with the file's name for a file of another kind and for values that no trainer can use.
    """
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


def _rule_decisions(plan: Plan, given: Iterable[str]) -> tuple[Decision, ...]:
    """The rule options that were given or differ from the published table's."""
    published = vars(rule_options({}))
    by_rule = "valid for every ratio; agrees with the table's 'linear' for beta near 1"
    return tuple(
        Decision(name=name, value=str(value), reason="given" if name in given else by_rule)
        for name, value in vars(plan.options).items()
        if name in given or value != published[name]
    )
