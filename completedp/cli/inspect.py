"""The verb that shows how the tool reads a user's model, and the model options of other verbs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from completedp import trust
from completedp.cli.options import DEFAULT_ROOT, Json, Root
from completedp.cli.output import print_json, print_table, print_warnings
from completedp.errors import UserError

if TYPE_CHECKING:
    from completedp.adapters.source import ModelSource
    from completedp.config import StudyConfig

Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="hf:CONFIG.json, or package.module:factory, a function of width and depth.",
        metavar="MODEL",
    ),
]
Modules = Annotated[
    Path | None,
    typer.Option(
        help="A YAML file of pattern: module type, in order; searched before the built-in names."
    ),
]


def patterns(path: Path | None) -> list[tuple[str, str]]:
    """The pairs (pattern, module type) of a `--modules` file. Raises `UserError` for other content."""
    if path is None:
        return []
    from completedp import files

    pairs = []
    for pattern, module_type in files.read_yaml(path).items():
        if not isinstance(pattern, str) or not isinstance(module_type, str):
            raise UserError(
                f"{path}: {pattern!r}: {module_type!r}; expected a pattern and a module type, both text"
            )
        pairs.append((pattern, module_type))
    return pairs


def sized(
    model: str, own: tuple[int, int] | None, width: int | None, depth: int | None
) -> tuple[int, int]:
    """The given width and depth, or the model's own. Raises `UserError` if neither is known."""
    own_width, own_depth = own or (None, None)
    width, depth = width or own_width, depth or own_depth
    if width is None or depth is None:
        raise UserError(f"--model {model} does not say its size; give --width and --depth")
    return width, depth


def _asked_for(name: str) -> ModelSource:
    """The family that `--model` names."""
    from completedp.adapters.source import source_of

    trust.allow(name)
    source = source_of(name)
    print_warnings(source.notes)
    return source


def with_model(
    config: StudyConfig,
    name: str | None,
    width: int | None,
    depth: int | None,
    modules: Path | None,
) -> StudyConfig:
    """The configuration with the user's model if `name` gives one, at the preset's vocabulary and context.

    Raises `UserError` if the model does not run.
    """
    if name is None:
        if width or depth or modules:
            raise UserError("--width, --depth and --modules belong to --model, which is not given")
        return config
    import dataclasses

    from completedp.adapters.external import check_runs
    from completedp.config import ExternalModel

    base_width, base_depth = sized(name, _asked_for(name).own, width, depth)
    model = ExternalModel(
        source=name,
        width=base_width,
        depth=base_depth,
        vocab_size=config.model.vocab_size,
        context=config.model.context,
        modules=tuple(patterns(modules)),
    )
    if config.train.loop is None:  # the user's own loop knows how to call its model
        check_runs(model)
    return dataclasses.replace(config, model=model)


def inspect(
    model: Model,
    width: Annotated[
        int | None, typer.Option(help="Of the base; default: the model's own.", min=1)
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="Of the base; default: the model's own.", min=1)
    ] = None,
    modules: Modules = None,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Show every parameter's module type and role, as the rules will take it.

    They are read off the names, the code's classes, and what grows when the width and depth are doubled.
    """
    from completedp.adapters import summary
    from completedp.adapters.infer import inventory_of

    own_patterns = patterns(modules)
    source = _asked_for(model)
    base_width, base_depth = sized(model, source.own, width, depth)
    found = inventory_of(
        source.build(2 * base_width, 2 * base_depth),
        source.build(base_width, base_depth),
        own_patterns,
    )
    if (found.base_width, found.whole.base_layers) != (base_width, base_depth):
        raise UserError(
            f"--model {model} at width {base_width} and depth {base_depth} has width {found.base_width} and "
            f"{found.whole.base_layers} layers; expected the size that it was asked for"
        )
    if json:
        print_json(summary.document(found))
        return
    title = (
        f"{model}: width {base_width} to {found.width}, depth {base_depth} to {found.whole.layers}"
    )
    print_table(title, summary.COLUMNS, summary.rows(found))
    for note in summary.notes(found):
        print(f"* {note}")
