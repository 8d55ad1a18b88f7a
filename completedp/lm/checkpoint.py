"""Checkpoints of a run: weights and optimizer state as safetensors, the rest as JSON.

`<folder>/step-<n>/` holds `model.safetensors`, `optimizer.safetensors` and `state.json`. It appears whole or
not at all, and only the newest stays. A resumed run equals an uninterrupted one to the last bit: batches and
schedule are functions of the step, and a `ResumableReport`, which judges the run, is saved too.

The main process gathers and writes full tensors. So another number of processes can resume the run; the
results then agree up to float rounding.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from completedp import files, reading
from completedp.errors import UserError, first_line, shown
from completedp.lm.parallel import ProcessGroup
from completedp.optimizer import STATE_KEYS, STEP_KEY
from completedp.records import build
from completedp.runs.job import Report, ResumableReport
from completedp.runs.journal import sync

_PREFIX = "step-"
_NAME = re.compile(rf"{_PREFIX}\d{{9,}}")
_STATE = "state.json"  # the last file written: with it a checkpoint is complete
_WEIGHTS, _MOMENTS_FILE = "model.safetensors", "optimizer.safetensors"


@dataclass(frozen=True, kw_only=True)
class _State:
    """The content of `state.json`. `report` is the state of a `ResumableReport`, or None."""

    run: str
    step: int
    clipped: int
    report: dict[str, Any] | None


@dataclass
class Checkpoints:
    """One run's checkpoints, in a folder with one writer. `every` is in steps; 0 saves at the end only."""

    folder: Path
    every: int
    group: ProcessGroup = field(default_factory=ProcessGroup)
    _run: str = field(default="", init=False)

    def open_for(self, content: Mapping[str, Any]) -> None:
        """Bind to one run. `content` is everything that the run's numbers depend on."""
        self._run = files.digest(content)

    def is_due(self, step: int, steps: int) -> bool:
        """Whether to save after `step` of `steps`."""
        return step == steps or bool(self.every and step % self.every == 0)

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        report: Report,
        step: int,
        clipped: int,
    ) -> None:
        """Save the run after `step` steps. All of them have been reported, and `clipped` of them had a
        clipped gradient. Every rank must call this."""
        writing = self.folder / ".writing"
        with files.writing(self.folder):
            if self.group.is_main:
                shutil.rmtree(writing, ignore_errors=True)  # left by a killed writer
                writing.mkdir(parents=True)
            self._save(writing / _WEIGHTS, _weights(model))
            held = ((name, optimizer.state[p][key]) for name, key, p in _moments(optimizer))
            self._save(writing / _MOMENTS_FILE, held)
            if not self.group.is_main:
                return
            judged = report.state() if isinstance(report, ResumableReport) else None
            state = _State(run=self._run, step=step, clipped=clipped, report=judged)
            files.write_json(writing / _STATE, vars(state))
            sync(writing)
            new = self.folder / _name(step)
            # One that is there is incomplete: a complete one would have been loaded.
            shutil.rmtree(new, ignore_errors=True)
            older = list(_folders(self.folder))
            os.replace(writing, new)
            sync(self.folder)
            for path in older:
                shutil.rmtree(path)

    def _save(self, path: Path, named: Iterable[tuple[str, Tensor]]) -> None:
        gathered = ((name, self.group.gather_to_main(tensor)) for name, tensor in named)
        full = {name: tensor for name, tensor in gathered if tensor is not None}
        if self.group.is_main:
            try:
                save_file(full, path)
            except SafetensorError as error:  # it has no errno that tells a full disk
                raise UserError(
                    f"{path}: cannot be written ({first_line(error)}); make room, then go on"
                ) from None
            sync(path)

    def load(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, report: Report, steps: int
    ) -> tuple[int, int]:
        """Restore the newest checkpoint of a run of `steps` into all three, in place.

        Returns its step and its number of clipped steps; (0, 0) if there is no checkpoint. Raises `UserError`
        if it belongs to another run or is damaged; then nothing has changed. Every rank must call this.
        """
        with self.group.collective_errors():
            path = newest(self.folder)
            state = None if path is None else self._state(path, steps)
        step = 0 if state is None else state.step
        with self.group.collective_errors():
            if self.group.broadcast(step) != step:
                raise UserError(
                    f"{self.folder}: another machine sees another checkpoint there; give a folder that "
                    "all machines share"
                )
        if path is None or state is None:
            return 0, 0
        with self.group.collective_errors(), self._sound(path):
            weights = _read(path / _WEIGHTS, dict(_weights(model)))
            moments = _read(path / _MOMENTS_FILE, _like_moments(optimizer))
            for name, value in moments.items():
                # The optimizer counts its steps of each tensor: no more than the run has made.
                if name.endswith(f"/{STEP_KEY}") and not 0 <= value.item() <= step:
                    raise UserError(f"{_MOMENTS_FILE}: {name} is {value.item():g}, of {step} steps")
            if state.report and isinstance(report, ResumableReport):
                report.restore(state.report)
        for name, tensor in _weights(model):
            self.group.assign(tensor, weights[name])
        for name, key, parameter in _moments(optimizer):
            value = moments[name]
            optimizer.state[parameter][key] = (
                value.to(parameter.device)  # a number, on every rank
                if key == STEP_KEY
                else self.group.distribute_like(parameter, value)
            )
        return state.step, state.clipped

    def _state(self, path: Path, steps: int) -> _State:
        with self._sound(path):
            state = build(_State, reading.read_json(path / _STATE), _STATE)
        if state.run != self._run:
            raise UserError(
                f"{path}: belongs to a run with other values, data or seed; give another folder, "
                "or remove this one to start anew"
            )
        with self._sound(path):
            if path.name != _name(state.step) or not 1 <= state.step <= steps:
                raise UserError(f"{_STATE}: step is {state.step}, of a run of {steps}")
            if state.clipped > state.step:
                raise UserError(f"{_STATE}: clipped is {state.clipped}, of {state.step} steps")
        return state

    @contextmanager
    def _sound(self, path: Path) -> Iterator[None]:
        """A `UserError` from within is raised again: the checkpoint is damaged, and how to go on."""
        try:
            yield
        except UserError as error:
            raise UserError(
                f"{path}: the checkpoint is damaged ({error}); remove {self.folder} to start the run anew"
            ) from None


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint in a run's folder. After a kill, an older one may be there too."""
    complete = (path for path in _folders(folder) if os.path.lexists(path / _STATE))
    return max(complete, default=None)


def _folders(folder: Path) -> Iterator[Path]:
    paths = folder.glob(f"{_PREFIX}*")
    return (path for path in paths if _NAME.fullmatch(path.name) and os.path.isdir(path))


def _name(step: int) -> str:
    return f"{_PREFIX}{step:09d}"


def _read(path: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file, mapped into memory.

    Raises `UserError` unless their names, shapes and types are those of `like`.
    """
    if not os.path.isfile(path):  # opening a pipe, for example, could wait forever
        raise UserError(f"{path.name}: no such file")
    try:
        with safe_open(path, framework="pt") as held:
            names = set(held.keys())
            tensors = {name: held.get_tensor(name) for name in names & like.keys()}
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path.name}: not a whole safetensors file ({first_line(error)})"
        ) from None
    for name in sorted(names ^ like.keys()):
        raise UserError(f"{path.name}: {'no' if name in like else 'unknown'} tensor {shown(name)}")
    for name, wanted in like.items():
        found = tensors[name]
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            raise UserError(
                f"{path.name}: {shown(name)} is {_said(found)}; expected {_said(wanted)}"
            )
    return tensors


def _said(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of {list(tensor.shape)}"


def _like_moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The form of a saved moment: that of its parameter, or one float32 number for the steps."""
    count = torch.zeros((), dtype=torch.float32)
    return {name: count if key == STEP_KEY else p for name, key, p in _moments(optimizer)}


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The state dict with a tied parameter once, under the name that its optimizer knows."""
    own = {name for name, _ in model.named_parameters()}
    others = {name for name, _ in model.named_parameters(remove_duplicate=False)} - own
    return ((name, tensor) for name, tensor in model.state_dict().items() if name not in others)


def _moments(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, str, Tensor]]:
    """For each saved moment its name, its key in the optimizer's state, and its parameter."""
    for group in optimizer.param_groups:
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            yield from ((f"{name}/{key}", key, parameter) for key in STATE_KEYS)
