"""The forms of a plan that other trainers read: this table, and a folder per format.

A format's folder has a `render.py`, imported when the format is used, and for a Python file a `template.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from completedp.errors import named

if TYPE_CHECKING:
    from completedp.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Format:
    """A form of export: its folder here, the default name of its file, and a line about it."""

    folder: str
    file_name: str
    summary: str

    def render(self, plan: Plan) -> str:
        """The file's text. Raises `UserError` for a model that the format's trainer cannot build."""
        return str(self._renderer.render(plan))

    def limitations(self, plan: Plan) -> tuple[str, ...]:
        """Everything in the plan that the trainer cannot express, one sentence each; the file says it too."""
        return tuple(self._renderer.limitations(plan))

    @property
    def _renderer(self) -> ModuleType:
        return importlib.import_module(f"{__name__}.{self.folder}.render")


FORMATS: Mapping[str, Format] = {
    "json": Format(
        folder="canonical",
        file_name="completedp.json",
        summary="the canonical table: scale, training settings, every tensor's values",
    ),
    "torch": Format(
        folder="torch",
        file_name="completedp_values.py",
        summary="a Python file (torch only) that initializes a model and makes its AdamW groups",
    ),
    "hf": Format(
        folder="hf",
        file_name="completedp_hf.py",
        summary="Hugging Face Trainer: model configuration, init, optimizer, schedule and loss",
    ),
    "nanogpt": Format(
        folder="nanogpt",
        file_name="completedp_nanogpt.py",
        summary="nanoGPT's train.py: its plain names, and a GPT with per-module groups",
    ),
    "torchtitan": Format(
        folder="torchtitan",
        file_name="completedp_torchtitan.py",
        summary="torchtitan: ParamGroupConfigs, schedule, init and loss for a Trainer.Config",
    ),
}


def format_named(name: str) -> Format:
    """The format of that name. Raises `UserError` if there is none."""
    return named(FORMATS, name, "format")
