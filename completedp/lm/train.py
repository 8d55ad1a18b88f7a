"""The training loop of the reference language model, as a `TrainFunction` of the run engine.

Needs torch and numpy only: `python -m completedp.lm.train job.json [outcome.json]` trains a job from a
checkout that is not installed, with `--run-code` one of the user's own model or loop too.

Shapes: B sequences, T positions, S sequences of an optimiser's batch.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from completedp import reading, trust
from completedp.auditing import audit
from completedp.config import DataConfig, Model, ModelConfig, TrainConfig, check_together
from completedp.errors import UserError, located, shown
from completedp.lm import schedule
from completedp.lm.data import Corpus, TrainBatches, eval_windows, prepare
from completedp.lm.model import LanguageModel
from completedp.lm.parallel import Loss, ProcessGroup, join
from completedp.lm.throughput import Speedometer
from completedp.models import content_of
from completedp.modules import BRANCHES
from completedp.optimizer import adamw, initialize
from completedp.reading import Field
from completedp.records import build
from completedp.resolved import Resolved
from completedp.runs.job import Job, Limits, Report, Result
from completedp.runs.runner import run_job

if TYPE_CHECKING:
    from completedp.lm.checkpoint import Checkpoints

# Reading a loss off a GPU waits for it: ten are read at once, which costs nothing and still ends a
# diverged run soon.
GPU_REPORT_STEPS = 10
_RUN_CODE = "--run-code"

_PATH = Field(lambda x: isinstance(x, str) and "\0" not in x and x.isprintable(), "a path")
_PATH_OR_NULL = Field(lambda x: x is None or _PATH.is_right(x), "a path, or null")
_ARGUMENTS: Mapping[str, Field] = {
    "split": reading.one_of("select", "report"),
    "cache": _PATH,
    "device": reading.TEXT,
    "checkpoints": _PATH_OR_NULL,
    "checkpoint_steps": reading.COUNT,
    "parallel": reading.TEXT_OR_NULL,
    "digest": reading.TEXT_OR_NULL,
}
M = TypeVar("M", bound=Model)


def language_model(
    model: Mapping[str, Any],
    data: Mapping[str, Any],
    train: Mapping[str, Any],
    split: Literal["select", "report"],
    cache: str,
    device: str = "auto",
    checkpoints: str | None = None,
    checkpoint_steps: int = 0,
    parallel: str | None = None,
    digest: str | None = None,
) -> LanguageModelTask:
    """The factory a `Job` names: its arguments as plain JSON types.

    `cache` is the folder of prepared corpora, `digest` that of the one to take, where it is known. With a
    folder `checkpoints` (this needs safetensors) a run is saved there every `checkpoint_steps` (0: at its end
    only) and goes on from what it finds there. `parallel` is how the processes that torchrun started share
    the run: `ddp` or `fsdp`. Raises `UserError` for arguments of other types or values.
    """
    configs = checked_arguments(
        ModelConfig,
        model,
        data,
        train,
        split=split,
        cache=cache,
        device=device,
        checkpoints=checkpoints,
        checkpoint_steps=checkpoint_steps,
        parallel=parallel,
        digest=digest,
    )
    team = join(parallel)
    return LanguageModelTask(
        model=configs[0],
        data=configs[1],
        train=configs[2],
        split=split,
        cache=Path(cache),
        device=pick_device(team.device_name(device)),
        checkpoints=open_checkpoints(checkpoints, checkpoint_steps, team),
        team=team,
        digest=digest,
    )


def checked_arguments(
    kind: type[M], model: object, data: object, train: object, **rest: object
) -> tuple[M, DataConfig, TrainConfig]:
    """What a job's arguments describe. Raises `UserError` for one that has another type, and for what does
    not go together."""
    reading.check_fields(rest, _ARGUMENTS, (), "arguments")
    configs = (
        build(kind, model, "arguments.model"),
        build(DataConfig, data, "arguments.data"),
        build(TrainConfig, train, "arguments.train"),
    )
    check_together(*configs)
    return configs


def open_checkpoints(folder: str | None, steps: int, team: ProcessGroup) -> Checkpoints | None:
    """A run's checkpoints every so many steps, where it has a folder for them; this needs safetensors."""
    if folder is None:
        return None
    from completedp.lm.checkpoint import Checkpoints

    return Checkpoints(folder=Path(folder), every=steps, team=team)


def pick_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one. Raises `UserError` for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise UserError(f"device is {name!r}; expected auto, cpu, cuda or cuda:<number>")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device is {name!r}; this machine has {torch.cuda.device_count()} CUDA devices: use cpu"
        )
    return torch.device(name)


class LanguageModelTask:
    """Trains the reference model on a corpus and evaluates it on `split`, once a call.

    The model is built on the first call and initialised anew on each, so that compiled code is kept.
    On a CPU with one thread a call is a function of `resolved`, `seed` and the number of processes to the
    last bit.
    """

    def __init__(
        self,
        *,
        model: Model,
        data: DataConfig,
        train: TrainConfig,
        split: Literal["select", "report"],
        cache: Path,
        device: torch.device,
        checkpoints: Checkpoints | None = None,
        team: ProcessGroup | None = None,
        digest: str | None = None,
    ) -> None:
        self.model_config, self.train_config = model, train
        self.split: Literal["select", "report"] = split
        self.device, self.team = device, team or ProcessGroup()
        self.team.use(device)
        self.team.check(model, train)
        with self.team.in_turn(cache):
            self.corpus: Corpus = prepare(data, model.vocab_size, train.eval_tokens, cache, digest)
        self._checkpoints = checkpoints

    @property
    def limits(self) -> Limits:
        return Limits(
            steps=self.train_config.steps,
            warmup_steps=schedule.warmup_steps(self.train_config),
            uniform_loss=math.log(self.model_config.vocab_size),
            tokens_per_step=self.train_config.batch,
        )

    @cached_property
    def model(self) -> LanguageModel:
        """The model, on its device; between calls it holds the last run's weights."""
        return self.team.build(cast(ModelConfig, self.model_config), self.device)

    def __call__(self, resolved: Resolved, seed: int, report: Report) -> Result:
        train = self.train_config
        self._check_residual(resolved)
        in_force = self.set_values(resolved, seed)
        optimizer = adamw(self.model, in_force)
        done, clipped = 0, torch.zeros((), device=self.device)
        if self._checkpoints is not None:
            self._checkpoints.open_for(self.run_content(resolved, seed))
            done, clipped_before = self._checkpoints.load(
                self.model, optimizer, report, train.steps
            )
            clipped.fill_(clipped_before)
        first, started = done, time.perf_counter()
        # Alone and without a checkpoint to save, there is nothing to do before the end.
        waits = self._checkpoints is not None or self.team.ranks > 1
        with self.team.attentive() if waits else nullcontext():
            for done in self._train(optimizer, first, seed, clipped, report):
                if done == first + 1:
                    factor = schedule.multiplier(train, first)
                    audit(self.model, optimizer, in_force, schedule=factor).check()
                    started = self._time()  # the first step compiles
                due = self._save_is_due(done) or self.team.interrupted
                if self._checkpoints is not None and due:
                    self._checkpoints.save(self.model, optimizer, report, done, int(clipped.item()))
                if self.team.interrupted:
                    raise KeyboardInterrupt
        seconds = self._time() - started
        loss = self.evaluate()
        metrics = {"clipped_fraction": clipped.item() / train.steps}
        if timed := max(0, done - first - 1):
            metrics |= self.speedometer.speed(timed * train.batch, seconds).metrics()
        if (bytes_per_token := self.corpus.bytes_per_token(self.split)) is not None:
            metrics["bits_per_byte"] = loss / math.log(2) / bytes_per_token
        return Result(loss=loss, tokens=train.steps * train.batch, metrics=metrics)

    def _check_residual(self, resolved: Resolved) -> None:
        """The rows are checked by name where they meet the parameters."""
        depth = self.model_config.depth
        given = {branch: len(c) for branch, c in resolved.residual.items()}
        if given != dict.fromkeys(BRANCHES, depth):
            raise UserError(
                f"the residual coefficients are of {shown(given)}; expected {depth} of each of "
                f"{', '.join(BRANCHES)}, one a layer: the values belong to another model"
            )

    def _time(self) -> float:
        """In seconds, when all that was begun is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def set_values(self, resolved: Resolved, seed: int) -> Resolved:
        """Initial values and multipliers into the model; the rows that its optimizer takes."""
        initialize(self.model, resolved, seed, self.team.write)
        self.model.set_multipliers(resolved)
        return resolved

    def clip_gradients(self, threshold: float) -> Tensor:
        """To a global norm of at most `threshold`; what the norm was."""
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), threshold)
        return self.team.whole(norm)

    @torch.no_grad()
    def evaluate(self) -> float:
        """Mean cross-entropy of the model as it stands, over the split's `eval_tokens`, in nats a token."""
        context = self.model_config.context
        windows = eval_windows(
            self.corpus.split(self.split), context, self.train_config.eval_tokens
        )
        self.corpus.check(windows)
        rows_ST = torch.from_numpy(windows)
        # What the ranks cannot share evenly all of them evaluate: they must go through the same forwards.
        left = len(rows_ST) % self.team.ranks
        total = self.team.total(self._summed(self.team.part(rows_ST[left:])))
        return (total + self._summed(rows_ST[:left])) / len(windows)

    def _summed(self, windows_ST: Tensor) -> float:
        total = 0.0
        if len(windows_ST):
            for part_BT in torch.split(windows_ST, self._sequences_at_once):
                total += self._forward(part_BT)[1].item() * len(part_BT)
        return total

    def _train(
        self,
        optimizer: torch.optim.Optimizer,
        first: int,
        seed: int,
        clipped: Tensor,
        report: Report,
    ) -> Iterator[int]:
        """Train after `first` steps to the end, yielding the steps done after each; `clipped` counts
        those whose gradient norm was above the threshold."""
        train, context = self.train_config, self.model_config.context
        batches = TrainBatches(
            tokens=self.corpus.split("train"),
            context=context,
            sequences=train.batch // context,
            seed=seed,
        )
        self.team.settle(lambda: self._backward(self._own(batches.at(first))))
        optimizer.zero_grad()
        peaks = [float(group["lr"]) for group in optimizer.param_groups]
        unread: list[Tensor] = []
        for step in range(first, train.steps):
            factor = schedule.multiplier(train, step)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            unread.append(self._backward(self._own(batches.at(step))))
            if train.clip:
                clipped += self.clip_gradients(train.clip) > train.clip
            optimizer.step()
            optimizer.zero_grad()
            # A run that resumes reports nothing twice and nothing never: a checkpoint has no unread loss.
            if len(unread) >= self._report_steps or self._save_is_due(step + 1):
                losses = self.team.means(torch.stack(unread))
                for i, loss in enumerate(losses, step + 2 - len(unread)):
                    report(i, loss)
                unread.clear()
            yield step + 1

    @property
    def _report_steps(self) -> int:
        return 1 if self.device.type == "cpu" else GPU_REPORT_STEPS

    def _save_is_due(self, step: int) -> bool:
        """Whether a checkpoint comes after `step`; the end of the run always counts."""
        if self._checkpoints is None:
            return step == self.train_config.steps
        return self._checkpoints.is_due(step, self.train_config.steps)

    @cached_property
    def speedometer(self) -> Speedometer:
        """What this task's steps are measured by."""
        return Speedometer(
            model=self.model_config,
            precision=self.train_config.precision,
            device=self.device,
            processes=self.team.ranks,
        )

    def _own(self, batch: npt.NDArray[np.int64]) -> Tensor:
        self.corpus.check(batch)
        return self.team.part(torch.from_numpy(batch))

    @cached_property
    def _sequences_at_once(self) -> int:
        """At most a microbatch, and equal parts of what a process takes of the batch."""
        train, context = self.train_config, self.model_config.context
        own = train.batch // context // self.team.ranks
        most = min(own, train.microbatch // context) if train.microbatch else own
        return next(n for n in range(most, 0, -1) if own % n == 0)

    def _backward(self, windows_ST: Tensor) -> Tensor:
        """The gradient of the mean over the optimiser's whole batch; this process's mean cross-entropy,
        unread."""
        *parts, last_BT = torch.split(windows_ST, self._sequences_at_once)
        entropies: list[Tensor] = []

        def add(part_BT: Tensor) -> None:
            loss, ce = self._forward(part_BT)
            torch.autograd.backward(loss / (len(parts) + 1))
            entropies.append(ce)

        with self.team.accumulating(self._loss):
            for part_BT in parts:
                add(part_BT)
        add(last_BT)
        return torch.stack(entropies).mean()

    def _forward(self, windows_BT: Tensor) -> tuple[Tensor, Tensor]:
        windows_BT = windows_BT.to(self.device)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.train_config.precision == "bfloat16"
        ):
            return self._loss(windows_BT[:, :-1], windows_BT[:, 1:], self.train_config.z_loss)

    @cached_property
    def _loss(self) -> Loss:
        return self.team.loss(self.model, self.train_config.compile)

    def run_content(self, resolved: Resolved, seed: int) -> dict[str, Any]:
        """All that a run's numbers depend on."""
        return {
            "model": content_of(self.model_config),
            "train": vars(self.train_config),
            "corpus": self.corpus.digest,
            "resolved": resolved.to_dict(),
            "seed": seed,
        }


def main(arguments: list[str]) -> int:
    """Train the job in a file; print its outcome, or write it to the second file. The exit status.

    A job that names code of the user's needs `--run-code` among the arguments. An outcome that cannot be
    written is printed.
    """
    names = [argument for argument in arguments if argument != _RUN_CODE]
    if len(names) not in (1, 2):
        print(
            f"usage: python -m completedp.lm.train job.json [outcome.json] [{_RUN_CODE}]",
            file=sys.stderr,
        )
        return 2
    with trust.only_asked():
        if _RUN_CODE in arguments:
            trust.allow_everything()
        return _train_job(Path(names[0]), Path(names[1]) if len(names) == 2 else None)


def _train_job(path: Path, out: Path | None) -> int:
    try:
        if out is not None and (os.path.isdir(out) or not os.access(out.parent, os.W_OK)):
            raise UserError(f"{out}: cannot be written; give a file in a folder that is there")
        job = Job.from_dict(reading.read_json(path), str(path))
        with located(str(path)):
            outcome = run_job(job)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = json.dumps(outcome.to_dict(), allow_nan=False)
    if out is None:
        print(text)
        return 0
    try:
        out.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        print(text)
        print(f"error: {out}: cannot be written ({error.strerror}); printed", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
