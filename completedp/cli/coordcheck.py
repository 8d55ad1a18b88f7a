"""The verb that checks whether a parameterization keeps a model's coordinates over scale."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from completedp import root_layout
from completedp.cli.inspect import Modules, with_model
from completedp.cli.options import (
    DEFAULT_ROOT,
    Device,
    Json,
    Root,
    RunCode,
    Seed,
    numbers,
    with_rule_options,
)
from completedp.cli.output import print_json, print_table, sayer

# Failures that are printed, the farthest from their expectation first.
_NAMED = 10


@with_rule_options
def coordcheck(
    preset: Annotated[
        str, typer.Option(help="The base: coordinates, another preset, a YAML file.")
    ] = "coordinates",
    model: Annotated[
        str | None,
        typer.Option(help="Check this in its place: hf:CONFIG.json, or package.module:factory."),
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="With --model: the base's; default the model's own.", min=1)
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="With --model: the base's; default the model's own.", min=1)
    ] = None,
    modules: Modules = None,
    axis: Annotated[
        Literal["width", "depth", "batch", "all"], typer.Option(help="What is scaled.")
    ] = "all",
    ratios: Annotated[Any, numbers("Ratios to the base, on every axis.")] = "1,2,4,8,16",
    steps: Annotated[int, typer.Option(help="Training steps of each run.", min=2)] = 8,
    seeds: Annotated[int, typer.Option(help="Seeds of every ratio.", min=3)] = 3,
    parameterization: Annotated[
        str, typer.Option(help="sp, sp-fan-in, mup, completep or completed-p.")
    ] = "completed-p",
    *,
    rule_options: dict[str, Any],
    seed: Seed = 0,
    device: Device = "auto",
    figure: Annotated[Path | None, typer.Option(help="Draw it: a PNG file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write every number: a JSON file.")] = None,
    run_code: RunCode = False,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Train a model for a few steps at many scales: do its outputs, updates and gradients keep their size?

    If they do not, it names the modules and ends with exit status 1.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from completedp import files, plotting
    from completedp.coordcheck import check
    from completedp.coordcheck.slopes import AXES
    from completedp.lm.preset_files import load_preset
    from completedp.lm.train import pick_device
    from completedp.rules import carrying_options
    from completedp.seeds import derive_seed

    setting = check.Setting(
        axes=AXES if axis == "all" else (axis,),
        ratios=ratios,
        steps=steps,
        seeds=tuple(derive_seed(seed, "coordcheck", i) for i in range(seeds)),
        parameterization=parameterization,
        options=carrying_options(parameterization) | rule_options,
    )
    plotting.check(figure)
    if out is not None:
        files.check_place(out)
    config = with_model(load_preset(preset), model, width, depth, modules)
    subject = check.subject_of(config, root_layout.data_cache(root), pick_device(device))
    say = sayer(json)
    measured = check.measure(
        subject, setting, lambda axis, seed, ratio: say(f"{axis} x {ratio:g}, seed {seed}")
    )
    document = {"preset": preset, "model": model, **check.document(setting, measured)}
    if json:
        print_json(document)
    else:
        _print(document)
    if out is not None:
        files.write_json(out, document)
    if figure is not None:
        from completedp.coordcheck.figure import draw

        draw([(a, a, document) for a in setting.axes], figure)
    if not document["passes"]:
        raise typer.Exit(1)


def _print(document: Mapping[str, Any]) -> None:
    """Print a row per quantity and axis with its farthest module, then the failures."""
    judged = [s for s in document["slopes"] if s["expected"] is not None]
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for slope in judged:
        groups.setdefault((slope["axis"], slope["quantity"]), []).append(slope)
    rows = []
    for (axis, quantity), slopes in groups.items():
        counts = [str(sum(s["verdict"] == v for s in slopes)) for v in ("holds", "open", "fails")]
        farthest = max(slopes, key=lambda s: math.inf if s["distance"] is None else s["distance"])
        rows.append([f"{quantity} over {axis}", *counts, *_said(farthest)])
    print_table(
        f"{document['parameterization']}: slopes of log size over log ratio, 95 % intervals",
        ["", "hold", "open", "fail", "farthest", "slope", "low", "high", "expected"],
        rows,
    )
    for slope in document["failures"][:_NAMED]:
        module, mean, low, high, expected = _said(slope)
        print(
            f"fails: {slope['quantity']} of {module} over {slope['axis']}: slope {mean} [{low}, {high}], "
            f"expected {expected} ± {document['tolerance']:g}"
        )
    if (more := len(document["failures"]) - _NAMED) > 0:
        print(f"and {more} more")
    undecided = sum(s["verdict"] == "open" for s in judged)
    rest = f"; {undecided} of {len(judged)} slopes are open, more seeds decide them"
    print(f"{'passes' if document['passes'] else 'fails'}{rest if undecided else ''}")


def _said(slope: Mapping[str, Any]) -> Sequence[str]:
    """Module, slope, the ends of its interval, and the expected slope."""
    place = "" if slope["place"] is None else f" {slope['place']}"
    least, greatest = slope["expected"]
    return [
        f"{slope['module']}{place}",
        *(
            "not finite" if slope[n] is None else f"{slope[n]:+.3f}"
            for n in ("mean", "low", "high")
        ),
        f"{least:g}" if least == greatest else f"{least:g} to {greatest:g}",
    ]
