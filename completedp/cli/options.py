"""Options that several verbs share, each defined once."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import typer

from completedp import root_layout, trust
from completedp.errors import UserError

DEFAULT_ROOT = root_layout.DEFAULT

# After every verb, also where nothing is written under the root, so that a wrapper may always give it.
Root = Annotated[
    Path,
    typer.Option(
        envvar="COMPLETEDP_ROOT",
        help="Folder of studies, runs and the MLflow database.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random in the run.")]

# Of verbs that train much.
Workers = Annotated[int | None, typer.Option(help="Runs at a time.", min=1)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run, and end.")]
Yes = Annotated[bool, typer.Option("--yes", help="Start even if it is long.")]


def _run_code(wanted: bool) -> bool:
    if wanted:
        trust.allow_everything()
    return wanted


# Of verbs that read studies, recipes and plans.
RunCode = Annotated[
    bool,
    typer.Option(
        "--run-code",
        callback=_run_code,
        help="Run the Python code that the given files name too (model.source, train.loop).",
    ),
]

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]


def _whole_number(text: str) -> int:
    """`4096`, `1_000_000` or `2e9`: nobody should have to count zeros."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise typer.BadParameter(
            f"{text!r} is no number; expected 2000000000 or 2e9, say"
        ) from None
    if not value.is_finite() or value != value.to_integral_value():
        raise typer.BadParameter(f"{text!r} is not a whole number")
    return int(value)


def count(help_text: str) -> Any:
    """An option that counts things; `2e9` is accepted."""
    return typer.Option(parser=_whole_number, metavar="N", help=help_text)


# The options of `completedp.rules.RuleOptions`; None is "not given".
_PANEL = "Rule options"
Alpha = Annotated[
    float | None,
    typer.Option(help="Residual exponent in [0.5, 1]; default 1.", rich_help_panel=_PANEL),
]
BetaRule = Annotated[
    str | None,
    typer.Option(help="linear: 1-b' = q(1-b); power: b' = b^q.", rich_help_panel=_PANEL),
]
DurationExponent = Annotated[
    float | None,
    typer.Option(help="lr falls as tokens^-p; default 0.5.", rich_help_panel=_PANEL),
]
FinalNormEps = Annotated[
    str | None, typer.Option(help="table (default) or gradient.", rich_help_panel=_PANEL)
]
Decay = Annotated[
    str | None,
    typer.Option(help="coupled (PyTorch's AdamW, default) or independent.", rich_help_panel=_PANEL),
]


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of numbers; expected 1,16,64, say") from None


def numbers(help_text: str) -> Any:
    """An option that is a list of numbers."""
    return typer.Option(parser=_numbers, metavar="A,B,…", help=help_text)


def refuse_replacing(source: Path, out: Path) -> None:
    """Raises `UserError` where the result would replace the file that it is made from."""
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(f"--out {out} is the file that is read; give another place")


def given(**options: Any) -> dict[str, Any]:
    """Only the options that were given."""
    return {name: value for name, value in options.items() if value is not None}
