"""The command line is a promise: no verb, argument or option changes unless somebody means it.

After a change that is meant, write the golden file again and read its diff:
`python -m tests.completedp.cli.test_options_frozen`
"""

import inspect
import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
import typer
from typer.testing import CliRunner

from completedp.cli.app import app

GOLDEN = Path(__file__).parents[2] / "golden" / "command_line.json"
IF_MEANT = "if it is meant: python -m tests.completedp.cli.test_options_frozen"


def described(program: typer.Typer) -> dict[str, Any]:
    """Every verb's arguments and options as plain data. They are read from the command objects and the verbs'
    signatures, so that neither a terminal nor the wording of a help text matters."""
    group: Any = typer.main.get_command(program)
    verbs = {name: _parameters(verb) for name, verb in group.commands.items()}
    return {"completedp": _parameters(group), **verbs}


def _parameters(command: Any) -> dict[str, Any]:
    annotations = inspect.signature(command.callback, eval_str=True).parameters
    return {
        _title(parameter): _described(parameter, annotations[parameter.name].annotation)
        for parameter in command.params
        if parameter.name in annotations  # `--help` is click's own
    }


def _title(parameter: Any) -> str:
    """An option is known by its names, an argument by its word in the usage line."""
    if parameter.param_type_name == "option":
        return " / ".join([*parameter.opts, *parameter.secondary_opts])
    return str(parameter.metavar or parameter.name.upper())


def _described(parameter: Any, annotation: Any) -> dict[str, Any]:
    bounds = [info for info in get_args(annotation)[1:] if hasattr(info, "min")]
    facts = {
        "is": "flag" if getattr(parameter, "is_flag", False) else parameter.param_type_name,
        "type": _type(annotation),
        "metavar": parameter.metavar,
        "least": bounds[0].min if bounds else None,
        "most": bounds[0].max if bounds else None,
        "default": _default(parameter.default),
        "required": parameter.required,
        "repeats": getattr(parameter, "multiple", False) or parameter.nargs != 1,
        "variable": parameter.envvar,
        "hidden": getattr(parameter, "hidden", False),
    }
    return {name: fact for name, fact in facts.items() if fact is not None and fact is not False}


def _type(annotation: Any) -> str | list[str]:
    """The Python type's name, or the words that can be chosen. `None` only says that there is no default."""
    if get_origin(annotation) is Annotated:
        return _type(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) is list:
        return f"list of {_type(get_args(annotation)[0])}"
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    return _type(kinds[0]) if kinds else str(annotation.__name__)


def _default(value: Any) -> Any:
    """A default as JSON has it."""
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


FROZEN = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}


def test_no_verb_comes_or_goes() -> None:
    assert list(described(app)) == list(FROZEN), IF_MEANT


@pytest.mark.parametrize("verb", FROZEN)
def test_the_options_of_a_verb_are_the_frozen_ones(verb: str) -> None:
    today, frozen = described(app)[verb], FROZEN[verb]
    assert set(today) == set(frozen), IF_MEANT
    assert today == frozen, IF_MEANT
    assert _arguments(today) == _arguments(frozen), IF_MEANT


def _arguments(parameters: dict[str, Any]) -> list[str]:
    """The order of a verb's arguments is a promise, that of its options is not."""
    return [title for title, facts in parameters.items() if facts["is"] == "argument"]


@pytest.mark.parametrize("verb", FROZEN)
def test_every_verb_has_a_help(verb: str) -> None:
    words = [] if verb == "completedp" else [verb]
    shown = CliRunner().invoke(app, [*words, "--help"])
    assert shown.exit_code == 0, shown.output
    assert "Usage" in shown.output


if __name__ == "__main__":
    GOLDEN.write_text(
        json.dumps(described(app), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
