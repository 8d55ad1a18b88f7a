"""The verb that checks whether a parameterisation carries the learning rate, or another value."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from completedp.cli.options import (
    DEFAULT_ROOT,
    Alpha,
    BetaRule,
    Decay,
    Device,
    DryRun,
    DurationExponent,
    FinalNormEps,
    Json,
    Root,
    RunCode,
    Seed,
    Workers,
    Yes,
    given,
    numbers,
)
from completedp.cli.output import end_if_missing, print_json, print_table, sayer, warn
from completedp.training.sweeps import Training, train_all


def transfer_check(
    recipe: Annotated[Path, typer.Argument(help="A recipe file, as a search writes it.")],
    axis: Annotated[str, typer.Option(help="width, depth, batch or tokens.")],
    ratios: Annotated[
        Any, numbers("Scales: target / base along the axis, 1 among them.")
    ] = "1,2,4,8",
    factors: Annotated[
        Any, numbers("Multiples of the carried value.")
    ] = "0.25,0.354,0.5,0.707,1,1.414,2,2.828,4",
    seeds: Annotated[int, typer.Option(help="Paired seeds of every curve.", min=2)] = 3,
    parameterizations: Annotated[
        str, typer.Option(help="The first is judged, the others stand beside it.")
    ] = "completed-p,sp-fan-in",
    sweep: Annotated[
        str, typer.Option(help="What the factors multiply: lr, weight_decay or eps.")
    ] = "lr",
    which: Annotated[
        str, typer.Option(help="The recipe's values: baseline (global), or tuned.")
    ] = "baseline",
    schedule: Annotated[
        str | None, typer.Option(help="cosine, wsd or linear; default the recipe's.")
    ] = None,
    alpha: Alpha = None,
    beta_rule: BetaRule = None,
    duration_exponent: DurationExponent = None,
    final_norm_eps: FinalNormEps = None,
    decay: Decay = None,
    seed: Seed = 0,
    device: Device = "auto",
    workers: Workers = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The result; default <which>-<sweep>-<axis>-<schedule>.json beside the runs."
        ),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="A PNG file; default beside the result.")
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    run_code: RunCode = False,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Measure the loss lost by carrying the base's best learning rate (or weight decay, or ε) along an axis.

    Interrupt it and start it again, with more ratios, factors or seeds too: finished runs are kept. Exit
    status 1: too much is lost.
    """
    from completedp import files
    from completedp.recipe import Recipe
    from completedp.seeds import derive_seed
    from transfer.measuring import transfer_check

    source = Recipe.read(recipe)
    setting = transfer_check.Setting(
        axis=axis,
        ratios=ratios,
        factors=factors,
        seeds=tuple(derive_seed(seed, "transfer-check", i) for i in range(seeds)),
        parameterizations=tuple(name.strip() for name in parameterizations.split(",")),
        swept=sweep,
        which=which,
        schedule=schedule,
        options=given(
            alpha=alpha,
            beta_rule=beta_rule,
            duration_exponent=duration_exponent,
            final_norm_eps=final_norm_eps,
            decay=decay,
        ),
    )
    wanted = transfer_check.runs(source, setting)
    folder = transfer_check.runs_folder(root, recipe)
    for place in (out, figure):
        if place is not None:
            files.check_place(place)
    outcomes = train_all(
        [Training(plan=run.plan, seed=run.seed, name=run.name) for run in wanted],
        source,
        folder,
        device=device,
        workers=workers,
        root=root,
        dry_run=dry_run,
        yes=yes,
        say=sayer(json),
        warn=warn,
    )
    if outcomes is None:
        return
    from transfer.measuring.figure import draw
    from transfer.measuring.report import report

    document = report(source, setting, wanted, outcomes)
    place = out or folder / f"{which}-{sweep}-{axis}-{document['schedule']}.json"
    files.write_json(place, document)
    drawn = figure or place.with_suffix(".png")
    draw(document, drawn)
    if json:
        print_json(document)
    else:
        _print(document)
        print(f"wrote {place} and {drawn}")
    end_if_missing(wanted, outcomes)
    if not document["verdict"]["carries"]:
        raise typer.Exit(1)


def _print(document: dict[str, Any]) -> None:
    from transfer.measuring.table import exponents, table
    from transfer.measuring.transfer_check import SWEPT

    what = SWEPT[document["swept"]]
    columns, rows = table(document)
    title = f"{what} along the {document['axis']}: optimum and move in octaves, 95 % intervals"
    print_table(title, columns, rows)
    for line in exponents(document):
        print(line)
    if verdict := document["verdict"]:
        first = document["parameterizations"][0]["parameterization"]
        print(f"{first} {'carries' if verdict['carries'] else 'does not carry'} the {what}")
        for reason in verdict["reasons"]:
            print(f"  {reason}")
