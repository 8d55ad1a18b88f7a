"""A plan in the forms that other trainers read: one small table of formats, one thin file a format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from completedp.errors import named
from completedp.plan import Plan
from transfer.exports.canonical import render as canonical
from transfer.exports.hf import render as hf
from transfer.exports.nanogpt import render as nanogpt
from transfer.exports.torch import render as torch
from transfer.exports.torchtitan import render as torchtitan


@dataclass(frozen=True, kw_only=True)
class Format:
    """A form of export: the text of its file, and the name the file gets where none is given."""

    render: Callable[[Plan], str]
    file_name: str
    summary: str
    cannot: Callable[[Plan], tuple[str, ...]] = lambda plan: ()
    """What a trainer of this form cannot express of a plan, a sentence each; the file says it too."""


FORMATS: Mapping[str, Format] = {
    "json": Format(
        render=canonical.render,
        file_name="completedp.json",
        summary="the canonical table: scale, training settings, every tensor's values",
    ),
    "torch": Format(
        render=torch.render,
        file_name="completedp_values.py",
        summary="a Python file (torch only) that initialises a model and makes its AdamW groups",
    ),
    "hf": Format(
        render=hf.render,
        file_name="completedp_hf.py",
        summary="Hugging Face Trainer: model configuration, init, optimizer, schedule and loss",
        cannot=hf.cannot,
    ),
    "nanogpt": Format(
        render=nanogpt.render,
        file_name="completedp_nanogpt.py",
        summary="nanoGPT's train.py: its plain names, and a GPT with per-module groups",
        cannot=nanogpt.cannot,
    ),
    "torchtitan": Format(
        render=torchtitan.render,
        file_name="completedp_torchtitan.py",
        summary="torchtitan: ParamGroupConfigs, schedule, init and loss for a Trainer.Config",
        cannot=torchtitan.cannot,
    ),
}


def format_named(name: str) -> Format:
    """Raises `UserError` for a format that does not exist."""
    return named(FORMATS, name, "format")
