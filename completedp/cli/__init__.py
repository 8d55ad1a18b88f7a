"""The command line: a function a verb, one file a group of verbs, heavy imports inside the verbs."""

from __future__ import annotations

import sys
from typing import Annotated, cast

import typer

from completedp import __version__
from completedp.cli.browsing import track, ui
from completedp.cli.checking import transfer_check
from completedp.cli.coordinates import coordcheck
from completedp.cli.examining import doctor
from completedp.cli.measuring import speedup, transfer_fit
from completedp.cli.models import inspect
from completedp.cli.scaling import export, rules, transfer
from completedp.cli.searching import search
from completedp.cli.studies import preset, report, status
from completedp.cli.training import train
from completedp.errors import UserError
from completedp.launch import check_packages, end, launched

app = typer.Typer(
    name="completedp",
    help="Per-module hyperparameters for transformers: found on a small proxy, carried to any scale.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# In the order in which a newcomer meets them.
for verb in (
    search,
    status,
    report,
    ui,
    track,
    preset,
    transfer,
    train,
    export,
    speedup,
    transfer_check,
    transfer_fit,
    inspect,
    rules,
    coordcheck,
    doctor,
):
    app.command()(verb)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"completedp {__version__}")
        raise typer.Exit()


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it and end."),
    ] = False,
) -> None:
    """Without a callback of its own a program of one verb would swallow the verb's name."""


def main() -> None:
    """The console script."""
    try:
        _run()
    except SystemExit as ended:
        if not launched():
            raise
        end(cast(int, ended.code))  # which is what typer and we exit with


def _run() -> None:
    """What the command line asks for. A user's mistake is one line on stderr and exit status 2."""
    try:
        check_packages()
        app(prog_name="completedp")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        from completedp.files import is_full

        if not is_full(error):
            raise
        print(
            f"error: nothing more can be written ({error}); make room, then go on", file=sys.stderr
        )
        sys.exit(2)
