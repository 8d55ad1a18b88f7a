"""The command line: a function a verb, one file a group of verbs, heavy imports inside the verbs."""

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
from completedp.cli.rules import rules
from completedp.cli.search import search
from completedp.cli.speedup import speedup
from completedp.cli.status import preset, report, status
from completedp.cli.train import train
from completedp.cli.transfer import transfer
from completedp.cli.transfer_check import transfer_check
from completedp.cli.transfer_fit import transfer_fit
from completedp.errors import UserError, shown
from completedp.launch import check_packages, end, launched

# The parent of what typer raises for arguments that it cannot take; its own name for it differs by release.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="completedp",
    help="Per-module hyperparameters for transformers: found on a small proxy, carried to any scale.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _at_home(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with `~` expanded in every path that it is given: a shell does not do so in quotes, after
    `=`, or in an environment variable."""

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
    """What holds for every verb: the code that a file names is run only where an option says so."""
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
        end(cast(int, ended.code))  # which is what typer and we exit with


def _check_given(arguments: Sequence[str]) -> None:
    """Raises `UserError` for an empty argument: as a path it would be the current folder."""
    for before, argument in zip(("", *arguments), arguments, strict=False):
        option, equals, value = argument.partition("=")
        if argument and not (option.startswith("--") and equals and not value):
            continue
        name = option or (before if before.startswith("--") else "an argument")
        raise UserError(
            f"{name} is empty, as from a variable that is not set; give a value, or leave it out"
        )


def _refuse(error: Any, arguments: Sequence[str]) -> NoReturn:
    """What typer says of arguments that it cannot take, and what was given, which it leaves out."""
    if isinstance(error, typer.BadParameter) and error.param is not None:
        given = _given_for(error.param.opts, arguments)
        if given is not None and given not in error.message:
            error.message += f"; got {shown(given)}"
    error.show()
    sys.exit(error.exit_code)


def _given_for(options: Sequence[str], arguments: Sequence[str]) -> str | None:
    """The value that stands behind one of an option's names."""
    for before, argument in zip(("", *arguments), arguments, strict=False):
        for option in options:
            if before == option:
                return argument
            if argument.startswith(f"{option}="):
                return argument.removeprefix(f"{option}=")
    return None


def _run(arguments: Sequence[str]) -> None:
    """What the command line asks for. A user's mistake is one line on stderr and exit status 2."""
    try:
        _check_given(arguments)
        check_packages()
        # Not standalone: else typer ends the process itself, and says "Aborted!" of an EOFError of ours.
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
