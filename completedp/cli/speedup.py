"""The verbs that measure what a recipe is worth."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from completedp.cli.options import (
    DEFAULT_ROOT,
    Device,
    DryRun,
    Json,
    Root,
    RunCode,
    Seed,
    Workers,
    Yes,
    numbers,
    with_rule_options,
)
from completedp.cli.output import print_json, print_table
from completedp.errors import UserError
from completedp.training.sweeps import Training, end_if_missing, train_all

if TYPE_CHECKING:
    from completedp.recipe import Recipe


@with_rule_options
def speedup(
    recipe: Annotated[Path, typer.Argument(help="A recipe file, as a search writes it.")],
    scales: Annotated[Any, numbers("Multiples of the base's training FLOPs.")] = "1,16",
    fractions: Annotated[
        Any, numbers("Shares of the tokens that the recipe trains on.")
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
    seed: Seed = 0,
    device: Device = "auto",
    workers: Workers = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The result; default ROOT/speedups/<recipe>/speedup.json, with --against a name of its own."
        ),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    run_code: RunCode = False,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Measure the tokens that a recipe saves against its baseline, at its base and carried.

    Interrupt it and start it again, with more scales or seeds too: finished runs are kept.
    """
    from completedp import files
    from completedp.recipe import Recipe
    from completedp.seeds import derive_seed
    from transfer.measuring import speedup as measuring

    source = Recipe.read(recipe)
    setting = measuring.Setting(
        scales=scales,
        fractions=fractions,
        seeds=tuple(derive_seed(seed, "speedup", i) for i in range(seeds)),
        parameterization=parameterization,
        options=rule_options,
    )
    baseline = source.baseline if against is None else _same_base(source, against).hparams
    wanted = measuring.runs(source, baseline, setting)
    folder = measuring.runs_folder(root, recipe)
    if out is not None:
        files.check_place(out)
    outcomes = train_all(
        [Training(plan=run.plan, seed=run.seed, name=run.name) for run in wanted],
        source,
        folder,
        device=device,
        workers=workers,
        root=root,
        dry_run=dry_run,
        yes=yes,
        stream=sys.stderr if json else sys.stdout,
    )
    if outcomes is None:
        return
    document = measuring.report(source, baseline, setting, wanted, outcomes)
    held = "" if against is None else f"-against-{against.resolve().parent.name}"
    place = out or folder / f"speedup{held}.json"
    files.write_json(place, document)
    if json:
        print_json(document)
    else:
        columns, rows = measuring.table(document)
        print_table("speed-up in tokens and FLOPs to equal loss, 95 % intervals", columns, rows)
        proxy, carried = document["paper"]["proxy"], document["paper"]["carried"]
        print(f"the paper (arXiv 2512.22382): {proxy} at its proxy, {carried} carried")
        print(f"wrote {place}")
    end_if_missing(wanted, outcomes)


def _same_base(recipe: Recipe, path: Path) -> Recipe:
    from completedp.recipe import Recipe

    other = Recipe.read(path)
    for name in ("model", "data", "train"):
        if getattr(other, name) != getattr(recipe, name):
            raise UserError(
                f"{path}: its {name} is {getattr(other, name)}, the recipe's {getattr(recipe, name)}; "
                "expected a recipe of the same base"
            )
    return other
