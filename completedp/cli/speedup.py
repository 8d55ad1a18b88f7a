"""The verb `speedup`: the tokens that a recipe saves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from completedp.cli import options
from completedp.cli.output import end_if_missing, print_json, print_table, sayer


@options.with_rule_options
def speedup(
    recipe: Annotated[Path, typer.Argument(help="A recipe file, as a search writes it.")],
    scales: Annotated[Any, options.numbers("Multiples of the base's training FLOPs.")] = "1,16",
    fractions: Annotated[
        Any, options.numbers("Shares of the tokens that the recipe trains on.")
    ] = "0.25,0.35,0.5,0.7,1",
    seeds: Annotated[int, typer.Option(help="Paired seeds of every scale.", min=2)] = 3,
    against: Annotated[
        Path | None,
        typer.Option(
            help="A recipe whose values are the baseline; default this one's own baseline."
        ),
    ] = None,
    parameterization: Annotated[str | None, typer.Option(help="Default: the recipe's own.")] = None,
    *,
    rule_options: dict[str, Any],
    seed: options.Seed = 0,
    device: options.Device = "auto",
    workers: options.Workers = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The result; default ROOT/speedups/<recipe>/speedup.json, with --against a name of its own."
        ),
    ] = None,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    run_code: options.RunCode = False,
    root: options.Root = options.DEFAULT_ROOT,
    json: options.Json = False,
) -> None:
    """Measure the tokens that a recipe saves against its baseline, at its base and carried.

    Interrupt it and start it again, with more scales or seeds too: finished runs are kept.
    """
    from completedp import files
    from transfer.api import speedup
    from transfer.measuring.setting import runs_folder
    from transfer.measuring.speedup import MEASUREMENT, table

    if out is not None:
        files.check_place(out)
    document = speedup(
        recipe,
        scales=scales,
        fractions=fractions,
        seeds=seeds,
        against=against,
        parameterization=parameterization,
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
    held = "" if against is None else f"-against-{against.resolve().parent.name}"
    place = out or runs_folder(root, MEASUREMENT, recipe) / f"speedup{held}.json"
    files.write_json(place, document)
    if json:
        print_json(document)
    else:
        print_table("speed-up in tokens and FLOPs to equal loss, 95 % intervals", *table(document))
        proxy, carried = document["paper"]["proxy"], document["paper"]["carried"]
        print(f"the paper (arXiv 2512.22382): {proxy} at its proxy, {carried} carried")
        print(f"wrote {place}")
    end_if_missing(row["runs_missing"] for row in document["rows"])
