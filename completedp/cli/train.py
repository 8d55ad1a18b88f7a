"""The verb that trains one plan."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from completedp import launch
from completedp.cli.options import DEFAULT_ROOT, Device, Json, Root, RunCode, Seed
from completedp.cli.output import print_json, sayer, warn
from completedp.errors import UserError

if TYPE_CHECKING:
    from completedp.config import TrainConfig
    from completedp.runs.job import Job, Outcome, Progress
    from completedp.tracking import Tracker
    from completedp.training.run_folder import RunEnd

# Lines of progress that a run prints: a page on a terminal.
_LINES = 20
# Losses that are read off a GPU together arrive in less time than this, and show no speed.
_AT_ONCE_SECONDS = 1e-3
# torchrun kills its processes 30 s after Ctrl-C.
_LAST_WORDS_SECONDS = 15.0


def train(
    source: Annotated[Path, typer.Argument(help="A plan, or a recipe (at its own scale).")],
    data: Annotated[
        str | None, typer.Option(help="Other data than the plan's: files, a folder, hf:NAME.")
    ] = None,
    seed: Seed = 0,
    parallel: Annotated[
        str | None,
        typer.Option(help="Under torchrun: ddp (default) or fsdp, for what fits no single GPU."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The run's folder, not followed by MLflow. Default: ROOT/runs/<plan>-<seed>-<digest>."
        ),
    ] = None,
    device: Device = "auto",
    run_code: RunCode = False,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Train a plan once; the same command goes on with a run that was interrupted."""
    from completedp.training.one_run import PlanRun
    from transfer.planning.planner import read_plan

    if parallel is not None and not launch.launched():
        raise UserError(
            f"--parallel {parallel}: this is one process; start several by 'PYTHONSAFEPATH=1 torchrun "
            f"--nproc-per-node N -m completedp train {source} --parallel {parallel}'"
        )
    kind = parallel or ("ddp" if launch.processes() > 1 else None)
    with _collective_errors(kind):
        plan = read_plan(source)
        prepared = PlanRun.of(
            plan,
            data=data,
            seed=seed,
            root=root,
            out=out,
            device=device,
            parallel=kind,
            stem=source.stem,
        )
    folder = prepared.folder
    view = _View(plan.train, prepared.job, json)
    if prepared.corpus_note:
        view.say(f"data: {data or plan.data.source}: {prepared.corpus_note}")
    try:
        ended = prepared.run(view.on_progress, None if out else lambda: view.follow(root, folder))
        _leave(kind)
    except KeyboardInterrupt:
        view.say(f"interrupted; the same command goes on from the last checkpoint in {folder}")
        _leave(kind)
        raise
    except Exception as error:
        if kind is not None and _caused_by_another_rank(error):
            print(f"process {launch.rank()}: ended, because another one did", file=sys.stderr)
            raise typer.Exit(1) from None
        raise
    finally:
        view.close()
    if launch.rank() == 0:
        _print_end(ended, folder, plan.train, json)
    if ended.outcome.status != "completed":
        raise typer.Exit(1)


def _collective_errors(kind: str | None) -> AbstractContextManager[None]:
    """Within it each of several processes works alone, and one mistake is told once and ends all of them."""
    if kind is None:
        return nullcontext()  # no torch, so that a single process refuses at once
    from completedp.lm.parallel import join

    return join(kind).collective_errors()


def _leave(kind: str | None) -> None:
    if kind is not None:
        from completedp.lm.parallel import leave

        leave()


def _caused_by_another_rank(error: Exception) -> bool:
    from completedp.lm.parallel import caused_by_another_rank

    return caused_by_another_rank(error)


class _View:
    """Shows a run while it trains: lines of progress, and MLflow if `follow` is called."""

    def __init__(self, train: TrainConfig, job: Job, json: bool) -> None:
        self._train, self._job = train, job
        self._say = sayer(json)
        self._tracker: Tracker | None = None
        self._measured: tuple[int, float] | None = None  # step, time

    def say(self, line: str) -> None:
        if launch.rank() == 0:
            self._say(line)

    def follow(self, root: Path, folder: Path) -> None:
        from completedp.tracking import RunView, Tracker

        self._tracker = Tracker(root, folder, warn=warn, view=RunView)

    def on_progress(self, progress: Progress) -> None:
        step, steps = progress.step, progress.steps
        if step % max(1, steps // _LINES) == 0 or step == steps:
            self.say(f"step {step:,} of {steps:,}: loss {progress.loss:.4f}{self._speed(step)}")
            if self._tracker is not None:
                self._tracker.update()

    def _speed(self, step: int) -> str:
        """The speed since the line before. Empty for the first line."""
        from completedp.training.run_folder import speedometer

        now = time.perf_counter()
        before, then = self._measured or (step, now)
        if step > before and now - then < _AT_ONCE_SECONDS:
            return ""
        self._measured = (step, now)
        if step == before:
            return ""
        return f"; {speedometer(self._job).speed((step - before) * self._train.batch, now - then)}"

    def close(self) -> None:
        if self._tracker is not None:
            self._tracker.close(_LAST_WORDS_SECONDS)


def _print_end(ended: RunEnd, folder: Path, train: TrainConfig, json: bool) -> None:
    outcome = ended.outcome
    if ended.before:
        sayer(json)(f"finished before; its outcome again (to train anew, remove {folder})")
    if json:
        print_json({"folder": str(folder), **outcome.to_dict()})
    elif outcome.loss is not None:
        _print_loss(outcome, folder, train)
    if outcome.status != "completed":
        reason = f"{outcome.status} at step {outcome.steps:,}: {outcome.reason}"
        print(f"{reason}; in {folder}", file=sys.stderr)


def _print_loss(outcome: Outcome, folder: Path, train: TrainConfig) -> None:
    metrics = outcome.metrics
    bits = metrics.get("bits_per_byte")
    print(
        f"loss {outcome.loss:.4f} nats a token"
        + ("" if bits is None else f", {bits:.4f} bits a byte")
        + f" on the report split; {outcome.seconds:.0f} s; in {folder}"
    )
    if {"tokens_per_second", "flops_per_second"} <= metrics.keys():
        from completedp.lm.throughput import Speed

        print(Speed.of(metrics))
    # The threshold has no scaling rule, so a person has to compare how often it acts.
    if train.clip and "clipped_fraction" in metrics:
        share = metrics["clipped_fraction"]
        print(f"gradients clipped at norm {train.clip:g} in {share:.1%} of the steps")
