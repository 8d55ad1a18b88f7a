"""The verb `rules`: the factors of a parameterization."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from completedp.cli.options import DEFAULT_ROOT, Json, Root, with_rule_options
from completedp.cli.output import number, print_json, print_table


@with_rule_options
def rules(
    parameterization: Annotated[
        str, typer.Option(help="sp, sp-fan-in, mup, completep or completed-p.")
    ] = "completed-p",
    width: Annotated[float, typer.Option(help="Ratio of widths, target / base.")] = 1.0,
    depth: Annotated[float, typer.Option(help="Ratio of depths.")] = 1.0,
    batch: Annotated[float, typer.Option(help="Ratio of batches in tokens.")] = 1.0,
    tokens: Annotated[float, typer.Option(help="Ratio of training tokens.")] = 1.0,
    *,
    rule_options: dict[str, Any],
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Print the factor of every role's values at the given ratios, target / base."""
    from completedp.rules import factors

    result = factors(
        parameterization, width=width, depth=depth, batch=batch, tokens=tokens, **rule_options
    )
    if json:
        print_json(result)
        return
    tensors = result["tensors"]
    columns = list(next(iter(tensors.values())))
    independent = rule_options.get("decay") == "independent"
    headings = {"weight_decay": "lr x weight_decay"} if independent else {}
    print_table(
        f"{parameterization}: factors relative to base",
        ["role", *(headings.get(c, c) for c in columns)],
        [[role, *(number(row[c]) for c in columns)] for role, row in tensors.items()],
    )
    for name in ("residual_multiplier", "output_multiplier", "steps"):
        print(f"{name} {number(result[name])}")
