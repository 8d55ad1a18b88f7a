"""The verbs for MLflow: rebuild its view, and browse it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from completedp.cli.options import DEFAULT_ROOT, Json, Root
from completedp.cli.output import print_json, warn


def track(
    name: Annotated[
        str | None, typer.Argument(help="A study or a trained plan; all of them by default.")
    ] = None,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Bring MLflow in line with the studies and trained plans; what is right already stays as it is."""
    from completedp.tracking import track as sync

    results = sync(root, name, warn)
    for result in results:
        if result.fault:
            print(f"{result.name}: left out: {result.fault}", file=sys.stderr)
        elif not json:
            noun, writer = {"study": ("trials", "search"), "run": ("runs", "training")}[result.kind]
            print(
                f"{result.name}: followed by its running {writer}; left alone"
                if result.busy
                else f"{result.name}: {result.written} {noun} written, {result.unchanged} unchanged, "
                f"{result.removed} stale runs removed"
            )
    if json:
        print_json([result.to_dict() for result in results])
    if any(result.fault for result in results):
        raise typer.Exit(2)


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port.")] = 5000,
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "127.0.0.1",
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Browse the experiments in MLflow's pages, until Ctrl-C."""
    from completedp.tracking import serve

    def ready(address: str) -> None:
        if json:
            print_json({"address": address})
        else:
            print(f"MLflow on {address} (Ctrl-C ends it)")
        sys.stdout.flush()

    serve(root, host=host, port=port, ready=ready, warn=warn)
