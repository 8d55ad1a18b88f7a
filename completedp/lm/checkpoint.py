"""Checkpoints of a run: weights and optimiser state as safetensors, the rest as JSON.

`<folder>/step-<n>/` holds `model.safetensors`, `optimizer.safetensors` and `state.json`. It appears whole
or not at all, and only the newest stays. A run resumed from one continues to the last bit as if it had
not been interrupted: there is no other state, because batches and schedule are functions of the step.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from completedp import files
from completedp.errors import UserError

_PREFIX = "step-"
# AdamW's whole state of a tensor.
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class Checkpoints:
    """One run's checkpoints in a folder that has one writer; `every` is in steps, 0 for the end only."""

    folder: Path
    every: int
    _run: str = field(default="", init=False)

    def open_for(self, content: Mapping[str, Any]) -> None:
        """Bind to the run that `content` describes: all that its numbers depend on."""
        self._run = files.digest(content)

    def is_due(self, step: int, steps: int) -> bool:
        """Whether to save after `step` of `steps`."""
        return step == steps or bool(self.every and step % self.every == 0)

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, clipped: int
    ) -> None:
        """Save the run after `step` steps, `clipped` of them with a clipped gradient."""
        writing = self.folder / ".writing"
        shutil.rmtree(writing, ignore_errors=True)  # of a writer that was killed
        try:
            writing.mkdir(parents=True)
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot be written ({error.strerror}); give another place"
            ) from None
        _save(writing / "model.safetensors", model.state_dict())
        _save(writing / "optimizer.safetensors", dict(_moments(optimizer)))
        files.write_json(
            writing / "state.json", {"run": self._run, "step": step, "clipped": clipped}
        )
        older = self._found()
        os.replace(writing, self.folder / f"{_PREFIX}{step:09d}")
        _sync(self.folder)
        for path in older:
            shutil.rmtree(path)

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, int]:
        """Restore the newest checkpoint into both, in place: its step and clipped steps, (0, 0) if none.

        Raises `UserError` when it is of another run.
        """
        found = self._found()
        if not found:
            return 0, 0
        path = found[-1]
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if state["run"] != self._run:
            raise UserError(
                f"{path}: belongs to a run with other values, data or seed; give another folder, or "
                "remove this one to start anew"
            )
        model.load_state_dict(load_file(path / "model.safetensors"))
        moments = load_file(path / "optimizer.safetensors")
        for name, parameter in _named(optimizer):
            optimizer.state[parameter] = {
                key: moments[f"{name}/{key}"].to(parameter.device) for key in _MOMENTS
            }
        return int(state["step"]), int(state["clipped"])

    def _found(self) -> list[Path]:
        return sorted(self.folder.glob(f"{_PREFIX}*"))


def _named(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for group in optimizer.param_groups:
        yield from zip(group["param_names"], group["params"], strict=True)


def _moments(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in _named(optimizer):
        for key in _MOMENTS:
            yield f"{name}/{key}", optimizer.state[parameter][key]


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file(dict(tensors), path)
    _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
