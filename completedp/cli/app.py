"""The command line. Each verb is a function, and heavy imports stand inside it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import typer

from completedp import __version__, interrupts, trust
from completedp.cli import streams
from completedp.cli.coordcheck import coordcheck
from completedp.cli.doctor import doctor
from completedp.cli.export import export
from completedp.cli.inspect import inspect
from completedp.cli.mlflow import track, ui
from completedp.cli.preset import preset
from completedp.cli.proxy import proxy
from completedp.cli.report import report
from completedp.cli.rules import rules
from completedp.cli.search import search
from completedp.cli.speedup import speedup
from completedp.cli.status import status
from completedp.cli.train import train
from completedp.cli.transfer import transfer
from completedp.cli.transfer_check import transfer_check
from completedp.cli.transfer_fit import transfer_fit
from completedp.errors import UserError, shown
from completedp.launch import check_packages, end, launched

# The parent of typer's errors for wrong arguments. Typer's own name for it differs by release.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="completedp",
    help="Per-module hyperparameters for transformers: found on a small proxy, carried to any scale.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _at_home(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with `~` expanded in every path. A shell does not expand it in quotes, after `=`, or in an
    environment variable."""

    @functools.wraps(verb)
    def with_paths(**given: Any) -> None:
        verb(**{name: _expanded(value) for name, value in given.items()})

    return with_paths


def _expanded(value: Any) -> Any:
    if not isinstance(value, Path):
        return value
    try:
        return value.expanduser()
    except RuntimeError:
        raise UserError(f"{value}: there is no such home folder; give the whole path") from None


# In the order in which a newcomer needs them.
for verb in (
    search,
    status,
    report,
    ui,
    track,
    preset,
    proxy,
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
    app.command()(_at_home(verb))


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"completedp {__version__}")
        raise typer.Exit()


@app.callback()
def _common(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it and end."),
    ] = False,
) -> None:
    """For every verb: code that a file names is run only if an option allows it."""
    context.with_resource(trust.only_asked())


def main() -> None:
    """The console script."""
    streams.prepare()
    interrupts.listen()
    try:
        _run(sys.argv[1:])
    except SystemExit as ended:
        if not launched():
            raise
        end(cast(int, ended.code))  # typer and we always exit with a number


def _check_given(arguments: Sequence[str]) -> None:
    """Raises `UserError` for an empty argument, which as a path would be the current folder."""
    for before, argument in zip(("", *arguments), arguments, strict=False):
        option, equals, value = argument.partition("=")
        if argument and not (option.startswith("--") and equals and not value):
            continue
        name = option or (before if before.startswith("--") else "an argument")
        raise UserError(
            f"{name} is empty, as from a variable that is not set; give a value, or leave it out"
        )


def _refuse(error: Any, arguments: Sequence[str]) -> NoReturn:
    """Exit with typer's message for a wrong argument. The given value, which typer leaves out, is added."""
    if isinstance(error, typer.BadParameter) and error.param is not None:
        given = _given_for(error.param.opts, arguments)
        if given is not None and given not in error.message:
            error.message += f"; got {shown(given)}"
    error.show()
    sys.exit(error.exit_code)


def _given_for(options: Sequence[str], arguments: Sequence[str]) -> str | None:
    """The value given after one of an option's names."""
    for before, argument in zip(("", *arguments), arguments, strict=False):
        for option in options:
            if before == option:
                return argument
            if argument.startswith(f"{option}="):
                return argument.removeprefix(f"{option}=")
    return None


def _run(arguments: Sequence[str]) -> None:
    """Run the command line. A user's mistake is one line on stderr and exit status 2."""
    try:
        _check_given(arguments)
        check_packages()
        # In standalone mode typer would end the process itself, and print "Aborted!" for our EOFError.
        sys.exit(app(arguments, prog_name="completedp", standalone_mode=False) or 0)
    except _UsageError as error:
        _refuse(error, arguments)
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
