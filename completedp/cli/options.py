"""Options that several verbs share, each defined once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import typer

from completedp import root_layout, trust
from completedp.errors import UserError

DEFAULT_ROOT = root_layout.DEFAULT

# Every verb has it, even a verb that writes nothing under the root, so that a wrapper may always give it.
Root = Annotated[
    Path,
    typer.Option(envvar="COMPLETEDP_ROOT", help="Folder of studies, runs and the MLflow database."),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random in the run.")]

# For verbs that begin from a preset: what stands in place of its parts.
Preset = Annotated[str, typer.Option(help="tiny, small, proxy-50m, cliff, a YAML file, or auto.")]
Data = Annotated[
    str | None, typer.Option(help="Text, JSON rows, parquet, tokens, a folder, or hf:<name>.")
]
OwnModel = Annotated[
    str | None,
    typer.Option(
        help="A model of your own in the preset's place: hf:CONFIG.json, or package.module:factory."
    ),
]
Width = Annotated[
    int | None, typer.Option(help="With --model: its width here; default its own.", min=1)
]
Depth = Annotated[
    int | None, typer.Option(help="With --model: its depth here; default its own.", min=1)
]
OwnLoop = Annotated[
    str | None,
    typer.Option(
        help="A training function of your own in the built-in loop's place: package.module:factory."
    ),
]

# For verbs that train many runs.
Workers = Annotated[int | None, typer.Option(help="Runs at a time.", min=1)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run, and end.")]
Yes = Annotated[bool, typer.Option("--yes", help="Start even if it is long.")]


def _run_code(wanted: bool) -> bool:
    if wanted:
        trust.allow_everything()
    return wanted


# For verbs that read studies, recipes and plans.
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
    """The number in `4096`, `1_000_000` or `2e9`, so that nobody has to count zeros."""
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
    """An option for a whole number, which may be written as `2e9`."""
    return typer.Option(parser=_whole_number, metavar="N", help=help_text)


def _rule_option(type_: Any, help_text: str) -> Any:
    return Annotated[type_ | None, typer.Option(help=help_text, rich_help_panel="Rule options")]


# The fields of `completedp.rules.RuleOptions` as options; None is "not given".
_RULE_OPTIONS = {
    "alpha": _rule_option(float, "Residual exponent in [0.5, 1]; default 1."),
    "beta_rule": _rule_option(str, "linear: 1-b' = q(1-b); power: b' = b^q."),
    "duration_exponent": _rule_option(float, "lr falls as tokens^-p; default 0.5."),
    "final_norm_eps": _rule_option(str, "table (default) or gradient."),
    "decay": _rule_option(str, "coupled (PyTorch's AdamW, default) or independent."),
}


def with_rule_options(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with the rule options on its command line, in the place of its parameter `rule_options`.

    That parameter takes the options that were given, by name.
    """
    by_name = inspect.Parameter.KEYWORD_ONLY
    own = [
        inspect.Parameter(name, by_name, default=None, annotation=annotation)
        for name, annotation in _RULE_OPTIONS.items()
    ]
    signature = inspect.signature(verb, eval_str=True)
    parameters: list[inspect.Parameter] = []
    for one in signature.parameters.values():
        parameters += own if one.name == "rule_options" else [one.replace(kind=by_name)]

    @functools.wraps(verb)
    def with_one_dict(**arguments: Any) -> None:
        options = {name: arguments.pop(name) for name in _RULE_OPTIONS}
        given = {name: value for name, value in options.items() if value is not None}
        verb(**arguments, rule_options=given)

    # Typer reads both.
    with_one_dict.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_one_dict.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_one_dict


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of numbers; expected 1,16,64, say") from None


def numbers(help_text: str) -> Any:
    """An option for a list of numbers, separated by commas."""
    return typer.Option(parser=_numbers, metavar="A,B,…", help=help_text)


def refuse_replacing(source: Path, out: Path) -> None:
    """Raises `UserError` if the result would replace the file that it is made from."""
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(f"--out {out} is the file that is read; give another place")
