"""The verbs that scale and export: nothing here imports torch."""

from __future__ import annotations

from typing import Annotated

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
    given,
)
from completedp.cli.output import number, print_json, print_table


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
