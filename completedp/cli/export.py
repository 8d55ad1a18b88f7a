"""The verb `export`: a plan for other trainers. It imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from completedp.cli.options import DEFAULT_ROOT, Json, Root, RunCode, refuse_replacing
from completedp.cli.output import print_json, print_warnings
from transfer.exports import FORMATS

_NAMES = list(FORMATS)


def export(
    source: Annotated[Path, typer.Argument(help="A recipe (at its own scale) or a plan file.")],
    format: Annotated[str, typer.Option(help=f"{', '.join(_NAMES[:-1])} or {_NAMES[-1]}.")],
    out: Annotated[
        Path | None, typer.Option(help="The file; replaced. Default: by the format.")
    ] = None,
    run_code: RunCode = False,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Write a plan in a form that other trainers read."""
    from completedp.files import write_text
    from transfer.exports import format_named
    from transfer.planning.planner import read_plan

    chosen = format_named(format)
    plan = read_plan(source)
    place = out or Path(chosen.file_name)
    refuse_replacing(source, place)
    write_text(place, chosen.render(plan))
    limitations = chosen.limitations(plan)
    if json:
        print_json(
            {
                "out": str(place),
                "format": format,
                "tensors": len(plan.tensors),
                "cannot": list(limitations),
            }
        )
    else:
        print(f"wrote {place}: {chosen.summary}")
    print_warnings(limitations)
