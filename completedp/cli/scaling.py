"""The verbs that scale and export: nothing here imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from completedp.cli.options import (
    DEFAULT_ROOT,
    Alpha,
    BetaRule,
    Decay,
    DurationExponent,
    FinalNormEps,
    Json,
    Root,
    count,
    given,
)
from completedp.cli.output import number, print_json, print_table, print_warnings
from completedp.errors import UserError

if TYPE_CHECKING:
    from completedp.plan import Plan
    from transfer.budget import Choice


def rules(
    parameterization: Annotated[
        str, typer.Option(help="sp, sp-fan-in, mup, completep or completed-p.")
    ] = "completed-p",
    width: Annotated[float, typer.Option(help="Ratio of widths, target / base.")] = 1.0,
    depth: Annotated[float, typer.Option(help="Ratio of depths.")] = 1.0,
    batch: Annotated[float, typer.Option(help="Ratio of batches in tokens.")] = 1.0,
    tokens: Annotated[float, typer.Option(help="Ratio of training tokens.")] = 1.0,
    alpha: Alpha = None,
    beta_rule: BetaRule = None,
    duration_exponent: DurationExponent = None,
    final_norm_eps: FinalNormEps = None,
    decay: Decay = None,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Print the factor of every role's values at the given ratios, target / base."""
    from completedp.rules import factors

    options = given(
        alpha=alpha,
        beta_rule=beta_rule,
        duration_exponent=duration_exponent,
        final_norm_eps=final_norm_eps,
        decay=decay,
    )
    result = factors(
        parameterization, width=width, depth=depth, batch=batch, tokens=tokens, **options
    )
    if json:
        print_json(result)
        return
    tensors = result["tensors"]
    columns = list(next(iter(tensors.values())))
    print_table(
        f"{parameterization}: factors relative to base",
        ["role", *columns],
        [[role, *(number(row[c]) for c in columns)] for role, row in tensors.items()],
    )
    for name in ("residual_multiplier", "output_multiplier", "steps"):
        print(f"{name} {number(result[name])}")


def transfer(
    recipe: Annotated[Path, typer.Argument(help="A recipe file, as a search writes it.")],
    flops: Annotated[
        float | None, typer.Option(help="FLOPs of the whole training, 1e20 for one.")
    ] = None,
    width: Annotated[int | None, count("Features; default the base's.")] = None,
    depth: Annotated[int | None, count("Layers; default the base's.")] = None,
    batch: Annotated[int | None, count("Tokens a step; default by the tokens.")] = None,
    tokens: Annotated[int | None, count("Training tokens; default by the parameters.")] = None,
    out: Annotated[Path, typer.Option(help="The plan file; replaced.")] = Path("plan.yaml"),
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Carry the recipe's global baseline instead.")
    ] = False,
    parameterization: Annotated[str | None, typer.Option(help="Default: the recipe's own.")] = None,
    alpha: Alpha = None,
    beta_rule: BetaRule = None,
    duration_exponent: DurationExponent = None,
    final_norm_eps: FinalNormEps = None,
    decay: Decay = None,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Carry a recipe to a scale, or to a number of FLOPs: writes a plan with every tensor's values."""
    from completedp.recipe import Recipe
    from transfer import budget, planner

    options = given(
        alpha=alpha,
        beta_rule=beta_rule,
        duration_exponent=duration_exponent,
        final_norm_eps=final_norm_eps,
        decay=decay,
    )
    sizes = given(width=width, depth=depth, batch=batch, tokens=tokens)
    _check_wish(flops, sizes)
    source = Recipe.read(recipe)
    if flops is None:
        target = budget.for_scale(source, **sizes)
    else:
        target = budget.for_flops(source, flops, batch=batch)
    plan = planner.make_plan(
        source,
        target.scale,
        target.model,
        parameterization=parameterization,
        which="baseline" if baseline else "tuned",
        **options,
    )
    plan.write(out)
    choices = (*target.choices, *planner.rule_choices(plan, options))
    warnings = (*target.warnings, *planner.beta_warnings(plan))
    if json:
        print_json(_transfer_document(plan, out, choices, warnings))
    else:
        _print_transfer(plan, out, choices)
    print_warnings(warnings)


def _check_wish(flops: float | None, sizes: dict[str, int]) -> None:
    if flops is None and not sizes:
        raise UserError(
            "no target is given; expected --flops C, or one or more of --width, --depth, --batch, --tokens"
        )
    fixed = [f"--{name}" for name in sizes if name != "batch"]
    if flops is not None and fixed:
        raise UserError(
            f"--flops and {', '.join(fixed)} are both given; --flops chooses width, depth and tokens "
            "itself: give one or the other"
        )


def _transfer_document(
    plan: Plan, out: Path, choices: tuple[Choice, ...], warnings: tuple[str, ...]
) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "plan": str(out),
        "parameterization": plan.parameterization,
        "options": asdict(plan.options),
        "scale": asdict(plan.scale),
        "ratios": asdict(plan.ratios),
        "parameters": plan.parameters,
        "flops": plan.flops,
        "steps": plan.train.steps,
        "choices": [asdict(choice) for choice in choices],
        "warnings": list(warnings),
    }


def _print_transfer(plan: Plan, out: Path, choices: tuple[Choice, ...]) -> None:
    from transfer.summary import by_module_type

    print(
        f"{plan.parameters:,} parameters, {plan.scale.tokens:,} tokens in {plan.train.steps:,} steps, "
        f"{plan.flops:.4g} FLOPs, {plan.parameterization}"
    )
    for choice in choices:
        value = f"{choice.value:,}" if isinstance(choice.value, int) else choice.value
        print(f"  {choice.name} {value}: {choice.reason}")
    columns, rows = by_module_type(plan)
    print_table("values by module type (lowest to highest over layers)", columns, rows)
    print(f"wrote {out}")


def export(
    source: Annotated[Path, typer.Argument(help="A recipe (at its own scale) or a plan file.")],
    format: Annotated[str, typer.Option(help="json or torch.")],
    out: Annotated[
        Path | None, typer.Option(help="The file; replaced. Default: by the format.")
    ] = None,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Write a plan in a form that other trainers read."""
    from completedp.files import write_text
    from transfer.export import format_named
    from transfer.planner import read_plan

    chosen = format_named(format)
    plan = read_plan(source)
    place = out or Path(chosen.file_name)
    write_text(place, chosen.render(plan))
    if json:
        print_json({"out": str(place), "format": format, "tensors": len(plan.tensors)})
    else:
        print(f"wrote {place}: {chosen.summary}")
