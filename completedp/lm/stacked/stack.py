"""Members of a stack, from jobs to outcomes: each makes a step whenever all do, and leaves when it ends.

Shapes: M members at work, S places, B sequences of an optimizer's batch, T positions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from completedp.auditing import audit
from completedp.config import ModelConfig
from completedp.errors import UserError
from completedp.lm import schedule
from completedp.lm.data import TrainBatches
from completedp.lm.model import LanguageModel
from completedp.lm.parallel import compiled_loss
from completedp.lm.stacked.model import StackedModel
from completedp.lm.stacked.optimizer import StackedAdamW
from completedp.lm.train import LanguageModelTask, RunArguments, pick_device
from completedp.runs.job import Diverged, Job, Outcome, Progress
from completedp.runs.runner import RunningJob


class Place(LanguageModelTask):
    """A place of a stack as a solo task: its model lies in the stack's memory.

    The initial values, the batches, the evaluation and the result of a member are those of this task. Only
    the steps are made by the stack.
    """

    def __init__(self, run: RunArguments[ModelConfig], model: LanguageModel) -> None:
        # An evaluation is short, and a model of one place would compile again.
        super().__init__(
            dataclasses.replace(run, train=dataclasses.replace(run.train, compile=False))
        )
        self._in_stack = model

    @cached_property
    def model(self) -> LanguageModel:
        return self._in_stack


@dataclass(eq=False)
class _Member:
    """A run at work. `done` counts its steps. Its speed counts from step `first` on, at the time `began`."""

    running: RunningJob
    run: RunArguments[ModelConfig]
    batches: TrainBatches
    done: int = 0
    first: int = 0
    began: float = 0.0


class Stack:
    """Up to `places` runs of one architecture and one training, which differ in values, seed and split.

    Member i is at place i. When one ends, the next run takes its place, or else the last member moves there.
    A member's numbers are those of its solo run but for rounding, and nothing that a member does reaches
    another one.
    """

    def __init__(
        self, run: RunArguments[ModelConfig], places: int, dtype: torch.dtype = torch.float32
    ) -> None:
        self._config, self._train = run.model, run.train
        self._places = places
        self._device = pick_device(run.device)
        self._model = StackedModel(run.model, places, self._device, dtype)
        self._optimizer = StackedAdamW(self._model)
        self._loss = compiled_loss(self._model.loss) if run.train.compile else self._model.loss
        self._members: list[_Member | None] = []
        self._tasks: dict[tuple[int, str], Place] = {}
        self._clipped_S = torch.zeros(places, device=self._device)

    @property
    def members(self) -> int:
        """The number of runs at work."""
        return sum(member is not None for member in self._members)

    def start(
        self,
        job: Job,
        run: RunArguments[ModelConfig],
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        """Give a job, whose arguments are `run`, a free place. Its first step is the next one.

        Raises `UserError` for values that the model cannot have, or that a stack does not carry.
        """
        assert self.members < self._places, "started more runs than there are places"
        self._check(job, run)
        place = self._members.index(None) if None in self._members else len(self._members)
        task = self._task(place, run)
        running = RunningJob(job, task.limits, on_progress)
        in_force = task.set_values(job.resolved, job.seed)
        self._optimizer.set_values(place, in_force.tensors)
        audit(task.model, self._optimizer.seen_at(place), in_force, schedule=1.0).check()
        self._clipped_S[place] = 0
        self._members[place : place + 1] = [_Member(running, run, task.batches(job.seed))]

    def _check(self, job: Job, run: RunArguments[ModelConfig]) -> None:
        same = (run.model, run.train) == (self._config, self._train)
        assert same, "members have one architecture and one training"
        for name, given in (("checkpoints", run.checkpoints), ("parallel", run.parallel)):
            if given is not None:
                raise UserError(f"{name} is {given!r}; a stack has none: train this run alone")
        job.resolved.check_coefficients(self._config.depth)

    def _task(self, place: int, run: RunArguments[ModelConfig]) -> Place:
        key = (place, run.split)
        if key not in self._tasks:
            self._tasks[key] = Place(run, self._model.solo[place])
        return self._tasks[key]

    def advance(self) -> list[Outcome]:
        """Make a step of every member, or several where reading a loss is slow. Returns the outcomes of those
        that have ended."""
        self._close_ranks()
        members = [member for member in self._members if member is not None]
        if not members:
            return []
        tasks = [self._task(place, member.run) for place, member in enumerate(members)]
        left = min(self._train.steps - member.done for member in members)
        steps = min(left, tasks[0].report_steps)
        losses_M = torch.stack([self._step(members, tasks) for _ in range(steps)], dim=1).tolist()
        ended: list[Outcome] = []
        for place, (member, task) in enumerate(zip(members, tasks, strict=True)):
            if member.done == steps:
                member.first, member.began = steps, task.time()  # the first steps compile
            outcome = self._outcome(place, member, task, losses_M[place])
            if outcome is not None:
                ended.append(outcome)
                self._members[place] = None
        return ended

    def _close_ranks(self) -> None:
        """Fill empty places with the last members."""
        while None in self._members:
            last = self._members.pop()
            if last is None:
                continue
            source, target = len(self._members), self._members.index(None)
            self._model.move(source, target)
            self._optimizer.move(source, target)
            self._clipped_S[target] = self._clipped_S[source]
            self._members[target] = last
        if self._model.members != len(self._members):
            self._model.resize(len(self._members))

    def _step(self, members: list[_Member], tasks: list[Place]) -> Tensor:
        """Make a step of every member. Returns the mean cross-entropies, `M`."""
        batches = [member.batches.at(member.done) for member in members]
        for task, batch in zip(tasks, batches, strict=True):
            task.corpus.check(batch)
        windows_MBT = torch.from_numpy(np.stack(batches)).to(self._device)
        parts = torch.split(windows_MBT, tasks[0].sequences_at_once, dim=1)
        entropies = []
        for part_MBT in parts:
            with torch.autocast(
                self._device.type, torch.bfloat16, enabled=self._train.precision == "bfloat16"
            ):
                loss_M, ce_M = self._loss(part_MBT[..., :-1], part_MBT[..., 1:], self._train.z_loss)
            self._model.backward(loss_M, 1 / len(parts))
            entropies.append(ce_M)
        if self._train.clip:
            norm_M = self._optimizer.clip(self._train.clip)
            self._clipped_S[: len(members)] += norm_M > self._train.clip
        factors = [schedule.multiplier(self._train, member.done) for member in members]
        for member in members:
            member.done += 1
        self._optimizer.step([member.done for member in members], factors)
        return torch.stack(entropies).mean(0)

    def _outcome(
        self, place: int, member: _Member, task: Place, losses: list[float]
    ) -> Outcome | None:
        """Report the losses of a member's last steps. Returns its outcome if it has ended."""
        steps = self._train.steps
        try:
            for step, loss in enumerate(losses, member.done + 1 - len(losses)):
                member.running.report(step, loss)
        except Diverged as error:
            return member.running.diverged(error)
        if member.done < steps:
            return None
        clipped = int(self._clipped_S[place].item())
        timed, seconds = steps - member.first, task.time() - member.began
        return member.running.completed(task.result(clipped, timed, seconds))
