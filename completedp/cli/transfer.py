"""The verbs that scale and export: nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    RunCode,
    count,
    given,
    refuse_replacing,
)
from completedp.cli.output import number, print_json, print_table, print_warnings
from completedp.errors import UserError

if TYPE_CHECKING:
    from completedp.plan import Plan
    from transfer.planning.target import Decision


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
    independent = {"weight_decay": "lr x weight_decay"} if decay == "independent" else {}
    print_table(
        f"{parameterization}: factors relative to base",
        ["role", *(independent.get(c, c) for c in columns)],
        [[role, *(number(row[c]) for c in columns)] for role, row in tensors.items()],
    )
    for name in ("residual_multiplier", "output_multiplier", "steps"):
        print(f"{name} {number(result[name])}")


def transfer(
    recipe: Annotated[Path, typer.Argument(help="A recipe file, as a search writes it.")],
    flops: Annotated[
        float | None, typer.Option(help="FLOPs of the whole training, 1e20 for one.")
    ] = None,
    parameters: Annotated[
        float | None, typer.Option(help="Parameters, embeddings included, 7e9 for one.")
    ] = None,
    width: Annotated[int | None, count("Features; default the base's, or by the budget.")] = None,
    depth: Annotated[int | None, count("Layers; default the base's, or by the budget.")] = None,
    batch: Annotated[int | None, count("Tokens a step; default by the tokens.")] = None,
    tokens: Annotated[int | None, count("Training tokens; default by the parameters.")] = None,
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
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Carry the recipe's global baseline instead.")
    ] = False,
    diff: Annotated[
        bool, typer.Option("--diff", help="Show the values as multiples of the baseline's.")
    ] = False,
    parameterization: Annotated[str | None, typer.Option(help="Default: the recipe's own.")] = None,
    alpha: Alpha = None,
    beta_rule: BetaRule = None,
    duration_exponent: DurationExponent = None,
    final_norm_eps: FinalNormEps = None,
    decay: Decay = None,
    run_code: RunCode = False,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Carry a recipe to a scale, or to a number of FLOPs: writes a plan with every tensor's values."""
    from completedp.recipe import Recipe
    from transfer.planning import planner
    from transfer.planning.target import TargetRequest, target_for
    from transfer.planning.token_rules import token_rule

    options = given(
        alpha=alpha,
        beta_rule=beta_rule,
        duration_exponent=duration_exponent,
        final_norm_eps=final_norm_eps,
        decay=decay,
    )
    wished = given(
        flops=flops,
        parameters=parameters,
        width=width,
        depth=depth,
        batch=batch,
        tokens=tokens,
        token_rule=None if tokens_per_parameter is None else token_rule(tokens_per_parameter),
    )
    if not wished:
        raise UserError(
            "no target is given; expected --flops C or --parameters N, or one or more of --width, --depth, "
            "--batch, --tokens, --tokens-per-parameter"
        )
    refuse_replacing(recipe, out)
    source = Recipe.read(recipe)
    target = target_for(
        source, TargetRequest(**wished, aspect=aspect, tensor_parallel=tensor_parallel)
    )

    def carried(which: Literal["tuned", "baseline"]) -> Plan:
        return planner.make_plan(
            source,
            target.scale,
            target.model,
            parameterization=parameterization,
            which=which,
            **options,
        )

    plan = carried("baseline" if baseline else "tuned")
    plan.write(out)
    shown = _Shown(
        plan=plan,
        out=out,
        choices=(*target.choices, *planner.rule_choices(plan, options)),
        baseline=carried("baseline") if diff else None,
    )
    warnings = (*target.warnings, *planner.plan_warnings(plan))
    if json:
        print_json(shown.document(warnings))
    else:
        shown.print()
    print_warnings(warnings)


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """What `transfer` says of a plan; `baseline` is the global one at its scale, where it is asked for."""

    plan: Plan
    out: Path
    choices: tuple[Decision, ...]
    baseline: Plan | None

    def document(self, warnings: tuple[str, ...]) -> dict[str, Any]:
        from dataclasses import asdict

        from transfer.planning.table import multiples

        plan = self.plan
        document = {
            "plan": str(self.out),
            "parameterization": plan.parameterization,
            "options": asdict(plan.options),
            "scale": asdict(plan.scale),
            "ratios": asdict(plan.ratios),
            "parameters": plan.parameters,
            "flops": plan.flops,
            "steps": plan.train.steps,
            "recipe_digest": plan.recipe_digest,
            "which": plan.which,
            "choices": [asdict(choice) for choice in self.choices],
            "warnings": list(warnings),
        }
        if self.baseline is not None:
            document["multiples_of_baseline"] = multiples(plan, self.baseline)
        return document

    def print(self) -> None:
        from transfer.planning.table import by_module_type, multiples_by_module_type

        plan = self.plan
        print(
            f"{plan.parameters:,} parameters, {plan.scale.tokens:,} tokens in {plan.train.steps:,} steps, "
            f"{plan.flops:.4g} FLOPs, {plan.parameterization}; {plan.which} values of recipe "
            f"{plan.recipe_digest[:19]}"
        )
        for choice in self.choices:
            value = f"{choice.value:,}" if isinstance(choice.value, int) else choice.value
            print(f"  {choice.name} {value}: {choice.reason}")
        ratios = ", ".join(f"{name} x {number(ratio)}" for name, ratio in vars(plan.ratios).items())
        print(f"  ratios to the base: {ratios}")
        columns, rows = by_module_type(plan)
        print_table("values by module type (lowest to highest over layers)", columns, rows)
        if self.baseline is not None:
            columns, rows = multiples_by_module_type(plan, self.baseline)
            print_table("the same as multiples of the global baseline's", columns, rows)
        print(f"wrote {self.out}")


def export(
    source: Annotated[Path, typer.Argument(help="A recipe (at its own scale) or a plan file.")],
    format: Annotated[str, typer.Option(help="json, torch, hf, nanogpt or torchtitan.")],
    out: Annotated[
        Path | None, typer.Option(help="The file; replaced. Default: by the format.")
    ] = None,
    run_code: RunCode = False,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Write a plan in a form that other trainers read."""
    from completedp.files import write_text
    from transfer.exports import format_named
    from transfer.planning.planner import read_plan

    chosen = format_named(format)
    plan = read_plan(source)
    place = out or Path(chosen.file_name)
    refuse_replacing(source, place)
    write_text(place, chosen.render(plan))
    cannot = chosen.cannot(plan)
    if json:
        print_json(
            {
                "out": str(place),
                "format": format,
                "tensors": len(plan.tensors),
                "cannot": list(cannot),
            }
        )
    else:
        print(f"wrote {place}: {chosen.summary}")
    print_warnings(cannot)
