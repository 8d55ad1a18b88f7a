"""The output of the verbs: one JSON document, or tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence

# Piped output has no width. A table's row stays one line there, as grep expects.
_PIPED_WIDTH = 160


def print_json(data: object) -> None:
    """One JSON document on stdout; a non-finite number in it is a bug."""
    print(json.dumps(data, indent=1, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table with its first column left-aligned and the others, numbers, right-aligned."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=SIMPLE, title_justify="left", pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    console.print(table)


def number(value: float | None) -> str:
    """Four significant digits; a dash for None."""
    return "–" if value is None else f"{value:.4g}"


def print_warnings(warnings: Iterable[str]) -> None:
    """One line each on stderr, so that --json stays one document."""
    for warning in warnings:
        warn(warning)


def sayer(json: bool) -> Callable[[str], None]:
    """A function that prints a line of progress: on stderr beside --json, whose document has stdout."""
    stream = sys.stderr if json else sys.stdout
    return lambda line: print(line, file=stream, flush=True)


def warn(line: str) -> None:
    """One warning on stderr."""
    print(f"warning: {line}", file=sys.stderr, flush=True)


def end_if_missing(runs: Iterable[int]) -> None:
    """Exit status 130 if an interruption, or the machine, has left runs out; `runs` are their numbers."""
    if missing := sum(runs):
        import typer

        print(f"{missing} runs are missing; the same command goes on", file=sys.stderr)
        raise typer.Exit(130)
