"""The verb `transfer`: a recipe's plan at another scale. It imports no torch."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from completedp.cli import options
from completedp.cli.output import number, print_json, print_table, print_warnings

if TYPE_CHECKING:
    from completedp.plan import Plan
    from transfer.planning.planner import Carried


@options.with_rule_options
def transfer(
    recipe: Annotated[Path, typer.Argument(help="A recipe file, as a search writes it.")],
    flops: Annotated[
        float | None, typer.Option(help="FLOPs of the whole training, 1e20 for one.")
    ] = None,
    parameters: Annotated[
        float | None, typer.Option(help="Parameters, embeddings included, 7e9 for one.")
    ] = None,
    width: Annotated[
        int | None, options.count("Features; default the base's, or by the budget.")
    ] = None,
    depth: Annotated[
        int | None, options.count("Layers; default the base's, or by the budget.")
    ] = None,
    batch: Annotated[int | None, options.count("Tokens a step; default by the tokens.")] = None,
    tokens: Annotated[
        int | None, options.count("Training tokens; default by the parameters.")
    ] = None,
    tokens_per_parameter: Annotated[
        str | None,
        typer.Option(
            help="A number, chinchilla, or a YAML file of a law (A, B, alpha, beta); default the recipe's.",
            metavar="R",
        ),
    ] = None,
    aspect: Annotated[
        float | None, typer.Option(help="Width / depth where they are chosen; default the base's.")
    ] = None,
    tensor_parallel: Annotated[
        int, typer.Option(help="Devices a layer is split over: heads and d_ff divide by it.", min=1)
    ] = 1,
    out: Annotated[Path, typer.Option(help="The plan file; replaced.")] = Path("plan.yaml"),
    which: Annotated[
        str,
        typer.Option(
            help="The values to carry: tuned, baseline, or auto, the better one by the recipe's ladder."
        ),
    ] = "auto",
    diff: Annotated[
        bool, typer.Option("--diff", help="Show the values as multiples of the baseline's.")
    ] = False,
    parameterization: Annotated[str | None, typer.Option(help="Default: the recipe's own.")] = None,
    *,
    rule_options: dict[str, Any],
    run_code: options.RunCode = False,
    root: options.Root = options.DEFAULT_ROOT,
    json: options.Json = False,
) -> None:
    """Carry a recipe to a scale, or to a number of FLOPs: writes a plan with every tensor's values."""
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
    options.refuse_replacing(recipe, out)
    carried_as = partial(
        carry, Recipe.read(recipe), request, parameterization=parameterization, **rule_options
    )
    carried = carried_as(which=which)
    compared = carried_as(which="baseline").plan if diff else None
    carried.plan.write(out)
    if json:
        print_json(_document(carried, compared, out))
    else:
        _print(carried, compared, out)
    print_warnings(carried.warnings)


def _document(carried: Carried, baseline: Plan | None, out: Path) -> dict[str, Any]:
    from transfer.planning.table import multiples

    plan = carried.plan
    return {
        "plan": str(out),
        "parameterization": plan.parameterization,
        "options": asdict(plan.options),
        "scale": asdict(plan.scale),
        "ratios": asdict(plan.ratios),
        "parameters": plan.parameters,
        "flops": plan.flops,
        "steps": plan.train.steps,
        "recipe_digest": plan.recipe_digest,
        "which": plan.which,
        "choices": [asdict(decision) for decision in carried.decisions],
        "warnings": list(carried.warnings),
        **({} if baseline is None else {"multiples_of_baseline": multiples(plan, baseline)}),
    }


def _print(carried: Carried, baseline: Plan | None, out: Path) -> None:
    from transfer.planning.table import by_module_type, multiples_by_module_type

    plan = carried.plan
    print(
        f"{plan.parameters:,} parameters, {plan.scale.tokens:,} tokens in {plan.train.steps:,} steps, "
        f"{plan.flops:.4g} FLOPs, {plan.parameterization}; {plan.which} values of recipe "
        f"{plan.recipe_digest[:19]}"
    )
    for decision in carried.decisions:
        value = f"{decision.value:,}" if isinstance(decision.value, int) else decision.value
        print(f"  {decision.name} {value}: {decision.reason}")
    ratios = ", ".join(f"{name} x {number(ratio)}" for name, ratio in vars(plan.ratios).items())
    print(f"  ratios to the base: {ratios}")
    print_table("values by module type (lowest to highest over layers)", *by_module_type(plan))
    if baseline is not None:
        print_table(
            "the same as multiples of the global baseline's",
            *multiples_by_module_type(plan, baseline),
        )
    print(f"wrote {out}")
