"""The Python calls behind the verbs of the same names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from completedp.plan import Plan
    from completedp.recipe import Recipe


def plan(
    recipe: Recipe | Path | str,
    *,
    flops: float | None = None,
    parameters: float | None = None,
    width: int | None = None,
    depth: int | None = None,
    batch: int | None = None,
    tokens: int | None = None,
    tokens_per_parameter: float | str | None = None,
    aspect: float | None = None,
    tensor_parallel: int = 1,
    which: Literal["tuned", "baseline"] = "tuned",
    parameterization: str | None = None,
    **rule_options: Any,
) -> Plan:
    """Carry a recipe to a scale: a plan with every tensor's values there.

    At least one size is given; the others are decided. `flops` (of the whole training) and `parameters`
    (embeddings included) are budgets that decide the shape. Without a budget, `width` (features) and
    `depth` (layers) default to the recipe's. `batch` counts tokens per step and defaults to the recipe's
    batch grown with the tokens. `tokens` counts the whole training's. `tokens_per_parameter` is a number,
    `"chinchilla"`, or the path of a YAML file with a law's A, B, alpha and beta; it defaults to the
    recipe's. `aspect` is width / depth. Heads and d_ff divide by `tensor_parallel`. `which` chooses the
    recipe's tuned values or its global baseline. `parameterization` defaults to the recipe's;
    `rule_options` are the fields of `completedp.rules.RuleOptions`.

    Raises `completedp.UserError` for a file that is no recipe, for sizes that contradict each other or that
    the model cannot have, and for values that no trainer could use.

    >>> large = plan("recipe.yaml", width=128, depth=4, tokens=200_000)
    >>> large.scale
    Scale(width=128, depth=4, batch=960, tokens=199680)
    >>> large.write(Path("plan.yaml"))
    """
    from completedp.recipe import Recipe
    from transfer.planning.planner import carry
    from transfer.planning.target import TargetRequest
    from transfer.planning.token_rules import token_rule

    request = TargetRequest(
        flops=flops,
        parameters=parameters,
        width=width,
        depth=depth,
        batch=batch,
        tokens=tokens,
        token_rule=None if tokens_per_parameter is None else token_rule(tokens_per_parameter),
        aspect=aspect,
        tensor_parallel=tensor_parallel,
    )
    source = recipe if isinstance(recipe, Recipe) else Recipe.read(Path(recipe))
    return carry(
        source, request, parameterization=parameterization, which=which, **rule_options
    ).plan


def export(plan: Plan | Path | str, format: str) -> str:
    """A plan as the text of a file that another trainer reads.

    `plan` is a plan, or the path of a plan file or of a recipe file (then at its own scale). `format` is a
    name in `transfer.exports.FORMATS`: json, torch, hf, nanogpt or torchtitan.

    Raises `completedp.UserError` for an unknown format, for a file that is no plan, and for a model that the
    format's trainer cannot build.

    >>> print(export("recipe.yaml", "torch").splitlines()[2])
    Needs torch alone. In the training loop:
    """
    from completedp.plan import Plan
    from transfer.exports import format_named
    from transfer.planning.planner import read_plan

    form = format_named(format)
    return form.render(plan if isinstance(plan, Plan) else read_plan(Path(plan)))
