"""The verbs around MLflow: rebuild its view, and look at it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from completedp.cli.options import DEFAULT_ROOT, Json, Root
from completedp.cli.output import print_json

if TYPE_CHECKING:
    from completedp.tracking import SyncedRun, SyncedStudy


def track(
    name: Annotated[
        str | None, typer.Argument(help="A study or a trained plan; all of them by default.")
    ] = None,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Bring MLflow in line with the studies and trained plans; what is right already stays as it is."""
    from dataclasses import asdict

    from completedp.tracking import SyncedStudy
    from completedp.tracking import track as sync

    passes = sync(root, name, _warn)
    faults = [s for s in passes if isinstance(s, SyncedStudy) and s.fault]
    for synced in faults:
        print(f"{synced.study}: left out: {synced.fault}", file=sys.stderr)
    if json:
        print_json([asdict(synced) for synced in passes])
    else:
        _print(passes)
    if faults:
        raise typer.Exit(2)


def _print(passes: Sequence[SyncedStudy | SyncedRun]) -> None:
    from completedp.tracking import SyncedStudy

    for synced in passes:
        if isinstance(synced, SyncedStudy):
            if synced.fault:
                continue
            shown, what, by = synced.study, "trials", "search"
        else:
            shown, what, by = synced.run, "runs", "training"
        if synced.busy:
            print(f"{shown}: followed by its running {by}; left alone")
        else:
            print(
                f"{shown}: {synced.written} {what} written, {synced.unchanged} unchanged, "
                f"{synced.removed} stale runs removed"
            )


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

    serve(root, host=host, port=port, ready=ready, warn=_warn)


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)
