"""The verb that trains one plan."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from completedp.cli.options import DEFAULT_ROOT, Device, Json, Root, Seed, data_cache
from completedp.cli.output import print_json

if TYPE_CHECKING:
    from completedp.runs.job import Progress

# Lines of progress a run prints: a page on a terminal.
_LINES = 20


def train(
    source: Annotated[Path, typer.Argument(help="A plan, or a recipe (at its own scale).")],
    data: Annotated[
        str | None, typer.Option(help="Other data than the plan's: files, a folder, hf:NAME.")
    ] = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="The run's folder. Default: ROOT/runs/<plan>-<seed>-<digest>."),
    ] = None,
    device: Device = "auto",
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Train a plan once; the same command goes on with a run that was interrupted."""
    import dataclasses

    from transfer.planner import read_plan

    plan = read_plan(source)
    corpus = plan.data if data is None else dataclasses.replace(plan.data, source=data)

    from completedp.lm import plan_run

    folder = out or root / "runs" / plan_run.run_name(plan, corpus, seed, source.stem)
    job = plan_run.plan_job(
        plan, data=corpus, seed=seed, folder=folder, cache=data_cache(root), device=device
    )
    stream = sys.stderr if json else sys.stdout

    def on_progress(progress: Progress) -> None:
        every = max(1, progress.steps // _LINES)
        if progress.step % every == 0 or progress.step == progress.steps:
            print(
                f"step {progress.step:,} of {progress.steps:,}: loss {progress.loss:.4f}",
                file=stream,
                flush=True,
            )

    ended = plan_run.run(job, folder, on_progress)
    outcome = ended.outcome
    if ended.before:
        note = f"finished before; its outcome again (to train anew, remove {folder})"
        print(note, file=stream, flush=True)
    if json:
        print_json({"folder": str(folder), **outcome.to_dict()})
    elif outcome.loss is not None:
        bits = outcome.metrics.get("bits_per_byte")
        print(
            f"loss {outcome.loss:.4f} nats a token"
            + ("" if bits is None else f", {bits:.4f} bits a byte")
            + f" on the report split; {outcome.seconds:.0f} s; in {folder}"
        )
        # The threshold has no scaling rule: how often it acts is for a person to compare.
        if plan.train.clip:
            share = outcome.metrics["clipped_fraction"]
            print(f"gradients clipped at norm {plan.train.clip:g} in {share:.1%} of the steps")
    if outcome.status != "completed":
        reason = f"{outcome.status} at step {outcome.steps:,}: {outcome.reason}"
        print(f"{reason}; in {folder}", file=sys.stderr)
        raise typer.Exit(1)
