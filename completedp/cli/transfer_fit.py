"""The verb `transfer-fit`: both losses, extrapolated to a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from completedp.cli.options import DEFAULT_ROOT, Json, Root
from completedp.cli.output import print_json, print_table


def transfer_fit(
    measured: Annotated[Path, typer.Argument(help="A speedup.json of two or more scales.")],
    flops: Annotated[float, typer.Option(help="The budget to extrapolate to, 1e21 for one.")],
    figure: Annotated[Path | None, typer.Option(help="Draw it: a PNG file.")] = None,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Extrapolate the loss of a recipe and of its baseline to a budget of FLOPs, with intervals."""
    from completedp import plotting
    from transfer import law
    from transfer.measuring.speedup import read_document

    plotting.check(figure)
    data = law.of_speedup(read_document(measured))
    result = law.extrapolate(data, flops)
    if figure is not None:
        law.draw(data, flops, figure)
    if json:
        print_json(result)
        return
    rows = [
        *([f"loss, {arm}", *_interval(values)] for arm, values in result["loss"].items()),
        ["difference", *_interval(result["difference"])],
        ["speed-up in FLOPs", *_interval(result["speedup"])],
    ]
    print_table(f"at {flops:.4g} FLOPs, extrapolated", ["", "fitted", "low", "high"], rows)
    times = result["times_the_largest_measured"]
    print(
        f"{times:.3g} x the largest budget measured; the intervals are of the seeds, not of the law"
    )


def _interval(values: dict[str, float | None]) -> list[str]:
    return ["beyond" if v is None else f"{v:.4f}" for v in values.values()]
