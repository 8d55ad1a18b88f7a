"""The verbs that measure what a recipe is worth."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from completedp.cli.options import (
    DEFAULT_ROOT,
    Alpha,
    BetaRule,
    Decay,
    Device,
    DurationExponent,
    FinalNormEps,
    Json,
    Root,
    Seed,
    data_cache,
    given,
    list_of,
)
from completedp.cli.output import print_json, print_table
from completedp.errors import UserError

if TYPE_CHECKING:
    from completedp.lm.cost import Forecast
    from completedp.plan import Plan
    from completedp.recipe import Recipe
    from completedp.runs.job import Event
    from transfer.speedup import Run


def speedup(
    recipe: Annotated[Path, typer.Argument(help="A recipe file, as a search writes it.")],
    scales: Annotated[Any, list_of("Multiples of the base's training FLOPs.")] = "1,16",
    fractions: Annotated[
        Any, list_of("Shares of the tokens that the recipe trains on.")
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
    workers: Annotated[int | None, typer.Option(help="Runs at a time.", min=1)] = None,
    out: Annotated[
        Path | None, typer.Option(help="The result; default ROOT/speedups/<recipe>/speedup.json.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run, and end.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Start even if it is long.")] = False,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Measure the tokens that a recipe saves against its baseline, at its base and carried.

    Interrupt it and start it again, with more scales or seeds too: finished runs are kept.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from completedp import files
    from completedp.lm.train import pick_device
    from completedp.recipe import Recipe
    from completedp.runs.local import LocalExecutor, default_workers, devices_of
    from completedp.runs.sweep import run_all, unfinished
    from completedp.seeds import derive_seed
    from transfer import speedup as measuring

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
    stream = sys.stderr if json else sys.stdout
    chosen = str(pick_device(device))
    count = workers or default_workers(chosen)
    jobs = measuring.jobs(wanted, cache=data_cache(root), device=chosen.split(":")[0])
    left = [wanted[job.trial].plan for job in unfinished(jobs, folder)]
    print(f"{len(wanted)} runs, {len(wanted) - len(left)} of them finished before", file=stream)
    if left:
        cost = _cost(left, count, chosen, root)
        print(
            f"{sum(plan.flops for plan in left):.3g} FLOPs, up to {cost.epochs:.2g} epochs, {count} at a "
            f"time on {chosen}: about {cost.seconds / 60:.0f} min",
            file=stream,
            flush=True,
        )
        if cost.doubts and not (yes or dry_run):
            raise UserError(f"{'; '.join(cost.doubts)}: add --yes if that is meant")
    if dry_run:
        return
    with LocalExecutor(count, logs=folder / "logs", devices=devices_of(chosen)) as executor:
        outcomes = run_all(jobs, executor, folder, on_event=_printed(wanted, stream))
    document = measuring.report(source, setting, wanted, outcomes)
    place = out or folder / "speedup.json"
    files.write_json(place, document)
    if json:
        print_json(document)
    else:
        columns, rows = measuring.table(document)
        print_table("speed-up in tokens and FLOPs to equal loss, 95 % intervals", columns, rows)
        proxy, carried = document["paper"]["proxy"], document["paper"]["carried"]
        print(f"the paper (arXiv 2512.22382): {proxy} at its proxy, {carried} carried")
        print(f"wrote {place}")
    if missing := len(wanted) - len(outcomes):
        print(f"{missing} runs are missing; the same command goes on", file=sys.stderr)
        raise typer.Exit(130)


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


def _cost(plans: list[Plan], workers: int, device: str, root: Path) -> Forecast:
    """Of runs on one corpus. Raises `UserError` where that cannot be read."""
    from completedp.lm.cost import Forecast, training_seconds
    from completedp.lm.data import prepare

    plan = plans[0]
    corpus = prepare(plan.data, plan.model.vocab_size, plan.train.eval_tokens, data_cache(root))
    mean_flops = sum(plan.flops for plan in plans) / len(plans)
    return Forecast(
        runs=len(plans),
        workers=workers,
        epochs=max(plan.scale.tokens for plan in plans) / corpus.tokens("train"),
        seconds_per_run=training_seconds(mean_flops, device, plan.train.precision),
    )


def _printed(wanted: list[Run], stream: TextIO) -> Callable[[Event], None]:
    """A line a finished run."""
    from completedp.runs.job import Finished

    def on_event(event: Event) -> None:
        if isinstance(event, Finished):
            outcome, run = event.outcome, wanted[event.outcome.trial]
            loss = outcome.status if outcome.loss is None else f"loss {outcome.loss:.4f}"
            print(
                f"x {run.scale:g} {run.arm}, {run.fraction:g} of the tokens, seed {run.seed}: {loss}, "
                f"{outcome.seconds:.0f} s",
                file=stream,
                flush=True,
            )

    return on_event


def transfer_fit(
    measured: Annotated[Path, typer.Argument(help="A speedup.json of three or more scales.")],
    flops: Annotated[float, typer.Option(help="The budget to extrapolate to, 1e21 for one.")],
    figure: Annotated[Path | None, typer.Option(help="Draw it: a PNG file.")] = None,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Extrapolate the loss of a recipe and of its baseline to a budget of FLOPs, with intervals."""
    from transfer import fit
    from transfer.speedup import read_document

    data = fit.measured(read_document(measured))
    result = fit.extrapolate(data, flops)
    if figure is not None:
        fit.draw(data, flops, figure)
    if json:
        print_json(result)
        return
    rows = [
        *([f"loss, {arm}", *_interval(values)] for arm, values in result["loss"].items()),
        ["difference", *_interval(result["difference"])],
        ["speed-up in FLOPs", *_interval(result["speedup"])],
    ]
    print_table(f"at {flops:.4g} FLOPs, extrapolated", ["", "mean", "low", "high"], rows)
    times = result["times_the_largest_measured"]
    print(
        f"{times:.3g} x the largest budget measured; the intervals are of the seeds, not of the law"
    )


def _interval(values: dict[str, float | None]) -> list[str]:
    return ["beyond" if v is None else f"{v:.4f}" for v in values.values()]
