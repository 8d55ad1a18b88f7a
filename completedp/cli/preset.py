"""The verb that lists the presets and prints one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from completedp.cli.options import DEFAULT_ROOT, Json, Root
from completedp.cli.output import print_json, print_table
from completedp.errors import UserError

if TYPE_CHECKING:
    from completedp.config import StudyConfig


def preset(
    name: Annotated[str | None, typer.Argument(help="Print this one; default: list them.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write it here, as a file to edit.")] = None,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """List the presets, or print one: a file that --preset takes."""
    from completedp import files
    from completedp.lm.preset_files import load_preset, preset_names, preset_path

    if name is None:
        if out is not None:
            raise UserError(
                "--out wants the name of a preset; give one, as: preset tiny --out my.yaml"
            )
        _list_presets({n: load_preset(n) for n in preset_names()}, json)
        return
    config = load_preset(name)
    text = preset_path(name).read_text(encoding="utf-8")
    if out is not None:
        files.write_text(out, text)
    if json:
        print_json(config.to_dict())
    elif out is None:
        print(text, end="")


def _list_presets(configs: dict[str, StudyConfig], json: bool) -> None:
    from completedp.models import parameter_count, training_flops

    if json:
        print_json({name: config.to_dict() for name, config in configs.items()})
        return
    print_table(
        "presets",
        ["name", "parameters", "tokens a run", "FLOPs a run", "precision"],
        [
            [
                name,
                f"{parameter_count(config.model):,}",
                f"{config.train.tokens:,}",
                f"{training_flops(config.model, config.train.tokens):.2e}",
                config.train.precision,
            ]
            for name, config in configs.items()
        ],
    )
