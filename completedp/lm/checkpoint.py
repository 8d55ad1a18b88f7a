"""Checkpoints of a run: weights and optimiser state as safetensors, the rest as JSON.

`<folder>/step-<n>/` holds `model.safetensors`, `optimizer.safetensors` and `state.json`. It appears whole
or not at all, and only the newest stays. A run resumed from one continues to the last bit as if it had
not been interrupted: there is no other state, because batches and schedule are functions of the step,
and what judges the run, a `ResumableReport`, has its own state saved along.

However many processes train, the leading one gathers whole tensors and writes them, so that another number
of processes can go on, then to the tolerance of floats.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from completedp import files
from completedp.errors import UserError
from completedp.lm.parallel import Team
from completedp.runs.job import Report, ResumableReport
from completedp.runs.journal import sync

_PREFIX = "step-"
_STATE = "state.json"  # the last file written: with it a checkpoint is complete
# AdamW's whole state of a tensor.
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class Checkpoints:
    """One run's checkpoints in a folder that has one writer; `every` is in steps, 0 for the end only."""

    folder: Path
    every: int
    team: Team = field(default_factory=Team)
    _run: str = field(default="", init=False)

    def open_for(self, content: Mapping[str, Any]) -> None:
        """Bind to the run that `content` describes: all that its numbers depend on."""
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
        """Save the run after `step` steps, all of them reported, `clipped` with a clipped gradient. Every
        rank must come here."""
        writing = self.folder / ".writing"
        if self.team.leads:
            shutil.rmtree(writing, ignore_errors=True)  # of a writer that was killed
            try:
                writing.mkdir(parents=True)
            except OSError as error:
                raise UserError(
                    f"{self.folder}: cannot be written ({error.strerror}); give another place"
                ) from None
        self._save(writing / "model.safetensors", _weights(model))
        self._save(writing / "optimizer.safetensors", _moments(optimizer))
        if self.team.leads:
            self._complete(writing, report, step, clipped)

    def _save(self, path: Path, named: Iterable[tuple[str, Tensor]]) -> None:
        gathered = ((name, self.team.gathered(tensor)) for name, tensor in named)
        whole = {name: tensor for name, tensor in gathered if tensor is not None}
        if self.team.leads:
            save_file(whole, path)
            sync(path)

    def _complete(self, writing: Path, report: Report, step: int, clipped: int) -> None:
        judged = report.state() if isinstance(report, ResumableReport) else None
        files.write_json(
            writing / _STATE,
            {"run": self._run, "step": step, "clipped": clipped, "report": judged},
        )
        sync(writing)
        new = self.folder / f"{_PREFIX}{step:09d}"
        shutil.rmtree(new, ignore_errors=True)  # incomplete, or the run would not have come here
        older = list(self.folder.glob(f"{_PREFIX}*"))
        os.replace(writing, new)
        sync(self.folder)
        for path in older:
            shutil.rmtree(path)

    def load(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, report: Report
    ) -> tuple[int, int]:
        """Restore the newest checkpoint into all three, in place: its step and clipped steps, (0, 0) if
        there is none.

        Raises `UserError` when it is of another run. Every rank must come here.
        """
        with self.team.together():
            path = newest(self.folder)
            state: dict[str, Any] = {"step": 0}
            if path is not None:
                state = json.loads((path / _STATE).read_text(encoding="utf-8"))
                if state["run"] != self._run:
                    raise UserError(
                        f"{path}: belongs to a run with other values, data or seed; give another folder, "
                        "or remove this one to start anew"
                    )
        with self.team.together():
            if self.team.led(state["step"]) != state["step"]:
                raise UserError(
                    f"{self.folder}: another machine sees another checkpoint there; give a folder that "
                    "all machines share"
                )
        if path is None:
            return 0, 0
        with safe_open(path / "model.safetensors", framework="pt") as weights:
            for name, tensor in _weights(model):
                self.team.write(tensor, weights.get_tensor(name))
        with safe_open(path / "optimizer.safetensors", framework="pt") as moments:
            for name, parameter in _named(optimizer):
                optimizer.state[parameter] = {
                    key: self._moment(key, parameter, moments.get_tensor(f"{name}/{key}"))
                    for key in _MOMENTS
                }
        if state.get("report") and isinstance(report, ResumableReport):
            report.restore(state["report"])
        return int(state["step"]), int(state["clipped"])

    def _moment(self, key: str, parameter: Tensor, value: Tensor) -> Tensor:
        if key == "step":  # a number, on every rank
            return value.to(parameter.device)
        return self.team.laid_out_as(parameter, value)


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint in a run's folder of them. A kill can leave an older one beside it."""
    complete = (path.parent for path in folder.glob(f"{_PREFIX}*/{_STATE}"))
    return max(complete, default=None)


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The state dict with a tied parameter once, under the name that its optimizer knows."""
    own = {name for name, _ in model.named_parameters()}
    others = {name for name, _ in model.named_parameters(remove_duplicate=False)} - own
    return ((name, tensor) for name, tensor in model.state_dict().items() if name not in others)


def _named(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for group in optimizer.param_groups:
        yield from zip(group["param_names"], group["params"], strict=True)


def _moments(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in _named(optimizer):
        for key in _MOMENTS:
            yield f"{name}/{key}", optimizer.state[parameter][key]
