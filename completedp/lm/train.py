"""The training loop of the reference language model, as a `TrainFunction` of the run engine.

Needs torch and numpy only: `python -m completedp.lm.train job.json [outcome.json]` trains a job from a
checkout that is not installed. With `--run-code` the job may name the user's own model or loop.

Shapes: B sequences, T positions, S sequences of an optimizer's batch.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from completedp import reading, trust
from completedp.auditing import audit
from completedp.config import DataConfig, Model, ModelConfig, TrainConfig, check_together
from completedp.errors import UserError, located
from completedp.lm import schedule
from completedp.lm.data import Corpus, TrainBatches, eval_windows, prepare
from completedp.lm.model import LanguageModel
from completedp.lm.parallel import Loss, join
from completedp.lm.throughput import Speedometer
from completedp.models import content_of, kind_of
from completedp.optimizer import adamw, initialize
from completedp.reading import Field
from completedp.records import build, check_record
from completedp.resolved import Resolved
from completedp.runs.job import Job, Limits, Report, Result
from completedp.runs.runner import run_job

if TYPE_CHECKING:
    from completedp.lm.checkpoint import Checkpoints

# To read a loss from a GPU is to wait for it. Reading ten at once hides the wait and still ends a diverged
# run soon.
GPU_REPORT_STEPS = 10
_RUN_CODE = "--run-code"

_PATH = Field(lambda x: isinstance(x, str) and "\0" not in x and x.isprintable(), "a path")
_PATHS: Mapping[str, Field] = {
    "cache": _PATH,
    "checkpoints": Field(lambda x: x is None or _PATH.is_right(x), "a path, or null"),
}
M = TypeVar("M", bound=Model)


@dataclass(frozen=True, kw_only=True)
class RunArguments(Generic[M]):
    """The arguments of a job of the built-in loop.

    `cache` is the folder of prepared corpora. `digest` names the corpus to take, if it is known. A run with a
    folder `checkpoints` is saved there every `checkpoint_steps` steps and resumes from what it finds there (0
    saves at the end only; this needs safetensors). `parallel` is `ddp` or `fsdp`, if torchrun started several
    processes.
    """

    model: M
    data: DataConfig
    train: TrainConfig
    split: Literal["select", "report"]
    cache: str
    device: str = "auto"
    checkpoints: str | None = None
    checkpoint_steps: int = 0
    parallel: str | None = None
    digest: str | None = None

    @classmethod
    def read(cls, kind: type[M], arguments: Mapping[str, Any]) -> RunArguments[M]:
        """From plain JSON types. Raises `UserError` for arguments that are missing, unknown, of another type,
        or in conflict with each other."""
        fields = check_record(cls, dict(arguments), "arguments", _PATHS)
        parts: dict[str, Any] = {"model": kind, "data": DataConfig, "train": TrainConfig}
        built = {n: build(part, fields[n], f"arguments.{n}") for n, part in parts.items()}
        run = cls(**{**fields, **built})
        check_together(run.model, run.data, run.train)
        return run


def language_model(**arguments: Any) -> LanguageModelTask:
    """The factory that a `Job` names. It takes the fields of `RunArguments` as plain JSON types, and raises
    `UserError` as `RunArguments.read` does."""
    return LanguageModelTask(RunArguments.read(ModelConfig, arguments))


def pick_device(name: str) -> torch.device:
    """The named device; `auto` is a GPU if there is one. Raises `UserError` if the device is not there."""
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
    """Trains the reference model on a corpus and evaluates it on one split, once per call.

    The model is built at the first call and initialized anew at each, so compiled code is kept. On a CPU with
    one thread, `resolved`, `seed` and the number of processes determine a call's result to the last bit.
    """

    def __init__(self, run: RunArguments[Any]) -> None:
        self.model_config: Model = run.model
        self.train_config, self.split = run.train, run.split
        self.group = join(run.parallel)
        self.device = pick_device(self.group.device_name(run.device))
        self.group.set_device(self.device)
        self.group.check_batch(run.model, run.train)
        self._checkpoints: Checkpoints | None = None
        if run.checkpoints is not None:
            from completedp.lm.checkpoint import Checkpoints

            path = Path(run.checkpoints)
            self._checkpoints = Checkpoints(path, run.checkpoint_steps, self.group)
        cache = Path(run.cache)
        with self.group.one_at_a_time(cache):
            self.corpus: Corpus = prepare(
                run.data, run.model.vocab_size, run.train.eval_tokens, cache, run.digest
            )

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
        """The model on its device. Between calls it holds the last run's weights."""
        return self.group.build_model(cast(ModelConfig, self.model_config), self.device)

    def __call__(self, resolved: Resolved, seed: int, report: Report) -> Result:
        train = self.train_config
        resolved.check_coefficients(self.model_config.depth)
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
        # One process without checkpoints has nothing to finish after Ctrl-C.
        waits = self._checkpoints is not None or self.group.world_size > 1
        with self.group.shared_interrupt() if waits else nullcontext():
            for done in self._train(optimizer, first, seed, clipped, report):
                if done == first + 1:
                    factor = schedule.multiplier(train, first)
                    audit(self.model, optimizer, in_force, schedule=factor).check()
                    started = self.time()  # the first step compiles
                due = self._save_is_due(done) or self.group.interrupted
                if self._checkpoints is not None and due:
                    self._checkpoints.save(self.model, optimizer, report, done, int(clipped.item()))
                if self.group.interrupted:
                    raise KeyboardInterrupt
        timed = max(0, done - first - 1)
        return self.result(int(clipped.item()), timed, self.time() - started)

    def result(self, clipped: int, timed: int, seconds: float) -> Result:
        """The result of the current model, after `clipped` of the run's steps had their gradient clipped.

        `timed` steps took `seconds`. There is no speed without any.
        """
        train, loss = self.train_config, self.evaluate()
        metrics = {"clipped_fraction": clipped / train.steps}
        if timed:
            metrics |= self.speedometer.speed(timed * train.batch, seconds).metrics()
        if (bytes_per_token := self.corpus.bytes_per_token(self.split)) is not None:
            metrics["bits_per_byte"] = loss / math.log(2) / bytes_per_token
        return Result(loss=loss, tokens=train.steps * train.batch, metrics=metrics)

    def time(self) -> float:
        """The time in seconds, after the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def set_values(self, resolved: Resolved, seed: int) -> Resolved:
        """Set the model's initial values and multipliers. Returns the rows for its optimizer."""
        initialize(self.model, resolved, seed, self.group.assign)
        self.model.set_multipliers(resolved)
        return resolved

    def clip_gradients(self, threshold: float) -> Tensor:
        """Clip to a global norm of at most `threshold`. Returns the norm before, a scalar."""
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), threshold)
        return self.group.full_tensor(norm)

    @torch.no_grad()
    def evaluate(self) -> float:
        """Mean cross-entropy of the current model over the split's `eval_tokens`, in nats per token."""
        context = self.model_config.context
        windows = eval_windows(
            self.corpus.split(self.split), context, self.train_config.eval_tokens
        )
        self.corpus.check(windows)
        rows_ST = torch.from_numpy(windows)
        # All ranks must run the same forwards, so each of them evaluates the rows that are left over.
        left = len(rows_ST) % self.group.world_size
        total = self.group.sum(self._sum_of_losses(self.group.local_slice(rows_ST[left:])))
        return (total + self._sum_of_losses(rows_ST[:left])) / len(windows)

    def _sum_of_losses(self, windows_ST: Tensor) -> float:
        total = 0.0
        if len(windows_ST):
            for part_BT in torch.split(windows_ST, self.sequences_at_once):
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
        """Train from step `first` to the end, and yield the number of steps done after each. `clipped` counts
        the steps whose gradient norm was above the threshold."""
        train, batches = self.train_config, self.batches(seed)
        self.group.warm_up_buckets(lambda: self._backward(self._local(batches.at(first))))
        optimizer.zero_grad()
        peaks = [float(group["lr"]) for group in optimizer.param_groups]
        unread: list[Tensor] = []
        for step in range(first, train.steps):
            factor = schedule.multiplier(train, step)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            unread.append(self._backward(self._local(batches.at(step))))
            if train.clip:
                clipped += self.clip_gradients(train.clip) > train.clip
            optimizer.step()
            optimizer.zero_grad()
            # At a checkpoint no loss is left unread, so a resumed run reports every loss exactly once.
            if len(unread) >= self.report_steps or self._save_is_due(step + 1):
                losses = self.group.mean_losses(torch.stack(unread))
                for i, loss in enumerate(losses, step + 2 - len(unread)):
                    report(i, loss)
                unread.clear()
            yield step + 1

    def batches(self, seed: int) -> TrainBatches:
        """The batches of a run with this seed."""
        context = self.model_config.context
        return TrainBatches(
            tokens=self.corpus.split("train"),
            context=context,
            sequences=self.train_config.batch // context,
            seed=seed,
        )

    @property
    def report_steps(self) -> int:
        """The steps whose losses are read at once."""
        return 1 if self.device.type == "cpu" else GPU_REPORT_STEPS

    def _save_is_due(self, step: int) -> bool:
        """Whether a checkpoint is due after `step`. At the end of the run this is always true."""
        steps = self.train_config.steps
        return step == steps if self._checkpoints is None else self._checkpoints.is_due(step, steps)

    @cached_property
    def speedometer(self) -> Speedometer:
        """Measures the speed of this task's steps."""
        return Speedometer(
            flops_per_token=kind_of(self.model_config).flops_per_token(self.model_config),
            precision=self.train_config.precision,
            device=self.device,
            processes=self.group.world_size,
        )

    def _local(self, batch: npt.NDArray[np.int64]) -> Tensor:
        self.corpus.check(batch)
        return self.group.local_slice(torch.from_numpy(batch))

    @cached_property
    def sequences_at_once(self) -> int:
        """At most a microbatch, and a divisor of this process's share of the batch."""
        train, context = self.train_config, self.model_config.context
        own = train.batch // context // self.group.world_size
        most = min(own, train.microbatch // context) if train.microbatch else own
        return next(n for n in range(most, 0, -1) if own % n == 0)

    def _backward(self, windows_ST: Tensor) -> Tensor:
        """Add the gradient of the mean over the optimizer's whole batch. Returns this process's mean
        cross-entropy as a scalar on the device."""
        *parts, last_BT = torch.split(windows_ST, self.sequences_at_once)
        entropies: list[Tensor] = []

        def add(part_BT: Tensor) -> None:
            loss, ce = self._forward(part_BT)
            torch.autograd.backward(loss / (len(parts) + 1))
            entropies.append(ce)

        with self.group.no_sync(self._loss):
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
        return self.group.training_loss(self.model, self.train_config.compile)

    def run_content(self, resolved: Resolved, seed: int) -> dict[str, Any]:
        """Everything that a run's numbers depend on."""
        return {
            "model": content_of(self.model_config),
            "train": vars(self.train_config),
            "corpus": self.corpus.digest,
            "resolved": resolved.to_dict(),
            "seed": seed,
        }


def main(arguments: list[str]) -> int:
    """Train the job in a file, and print its outcome or write it to a second file. Returns the exit status.

    A job that names the user's own code needs `--run-code` among the arguments. An outcome that cannot be
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
