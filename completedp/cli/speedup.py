"""The verbs that measure what a recipe is worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from completedp.errors import UserError
from completedp.training.sweeps import Training, train_all

if TYPE_CHECKING:
    from completedp.recipe import Recipe


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
        options=given(
            alpha=alpha,
            beta_rule=beta_rule,
            duration_exponent=duration_exponent,
            final_norm_eps=final_norm_eps,
            decay=decay,
        ),
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
        say=sayer(json),
        warn=warn,
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


def transfer_fit(
    measured: Annotated[Path, typer.Argument(help="A speedup.json of three or more scales.")],
    flops: Annotated[float, typer.Option(help="The budget to extrapolate to, 1e21 for one.")],
    figure: Annotated[Path | None, typer.Option(help="Draw it: a PNG file.")] = None,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Extrapolate the loss of a recipe and of its baseline to a budget of FLOPs, with intervals."""
    from transfer.measuring import extrapolation
    from transfer.measuring.speedup import read_document

    data = extrapolation.measured(read_document(measured))
    result = extrapolation.extrapolate(data, flops)
    if figure is not None:
        extrapolation.draw(data, flops, figure)
    if json:
        print_json(result)
        return
    rows = [
        *([f"loss, {arm}", *_interval(values)] for arm, values in result["loss"].items()),
        ["difference", *_interval(result["difference"])],
        ["speed-up in FLOPs", *_interval(result["speedup"])],
    ]
    print_table(f"at {flops:.4g} FLOPs, extrapolated", ["", "fitted", "low", "high"], rows)
    times = result["times_the_largest_measured"]
    print(
        f"{times:.3g} x the largest budget measured; the intervals are of the seeds, not of the law"
    )


def _interval(values: dict[str, float | None]) -> list[str]:
    return ["beyond" if v is None else f"{v:.4f}" for v in values.values()]
