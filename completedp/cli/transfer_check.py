"""The verb `transfer-check`: does a parameterization carry the learning rate, or another value?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from completedp.cli import options
from completedp.cli.output import end_if_missing, print_json, print_table, print_warnings, sayer


@options.with_rule_options
def transfer_check(
    recipe: Annotated[Path, typer.Argument(help="A recipe file, as a search writes it.")],
    axis: Annotated[str, typer.Option(help="width, depth, batch or tokens.")],
    ratios: Annotated[
        Any, options.numbers("Scales: target / base along the axis, 1 among them.")
    ] = "1,2,4,8",
    factors: Annotated[
        Any, options.numbers("Multiples of the carried value.")
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
    *,
    rule_options: dict[str, Any],
    seed: options.Seed = 0,
    device: options.Device = "auto",
    workers: options.Workers = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The result; default <which>-<sweep>-<axis>-<schedule>.json beside the runs."
        ),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="A PNG file; default beside the result.")
    ] = None,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    run_code: options.RunCode = False,
    root: options.Root = options.DEFAULT_ROOT,
    json: options.Json = False,
) -> None:
    """Measure the loss lost by carrying the base's best learning rate (or weight decay, or ε) along an axis.

    Interrupt it and start it again, with more ratios, factors or seeds too: finished runs are kept. Exit
    status 1: too much is lost.
    """
    from completedp import files, plotting
    from transfer import api
    from transfer.measuring.setting import runs_folder
    from transfer.measuring.transfer_check import MEASUREMENT

    plotting.check(figure)
    if out is not None:
        files.check_place(out)
    document = api.transfer_check(
        recipe,
        axis,
        ratios=ratios,
        factors=factors,
        seeds=seeds,
        parameterizations=[name.strip() for name in parameterizations.split(",")],
        sweep=sweep,
        which=which,
        schedule=schedule,
        seed=seed,
        device=device,
        workers=workers,
        root=root,
        dry_run=dry_run,
        yes=yes,
        on_line=sayer(json),
        **rule_options,
    )
    if document is None:
        return
    from transfer.measuring.figure import draw

    name = f"{which}-{sweep}-{axis}-{document['schedule']}.json"
    written = out or runs_folder(root, MEASUREMENT, recipe) / name
    files.write_json(written, document)
    made = [written]
    if plotting.available():
        made.append(figure or written.with_suffix(".png"))
        draw(document, made[-1])
    else:
        print_warnings([f"no figure: {plotting.MISSING}"])
    if json:
        print_json(document)
    else:
        _print(document)
        print(f"wrote {' and '.join(map(str, made))}")
    parts = document["parameterizations"]
    end_if_missing(row["runs_missing"] for part in parts for row in part["rows"])
    if not document["verdict"]["carries"]:
        raise typer.Exit(1)


def _print(document: dict[str, Any]) -> None:
    from transfer.measuring.table import exponents, table
    from transfer.measuring.transfer_check import SWEPT

    what = SWEPT[document["swept"]]
    title = f"{what} along the {document['axis']}: optimum and move in octaves, 95 % intervals"
    print_table(title, *table(document))
    for line in exponents(document):
        print(line)
    if verdict := document["verdict"]:
        first = document["parameterizations"][0]["parameterization"]
        print(f"{first} {'carries' if verdict['carries'] else 'does not carry'} the {what}")
        for reason in verdict["reasons"]:
            print(f"  {reason}")
