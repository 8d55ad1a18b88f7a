"""docs/command_line.md is made from the program.

After a change of an option or its help, write the page again:
`python -m tests.completedp.cli.test_command_line_page`
"""

import inspect
from pathlib import Path
from typing import Any

import typer

from completedp.cli.app import app

PAGE = Path(__file__).parents[3] / "docs" / "command_line.md"
HEAD = """# Command line

Made from the program: `completedp VERB --help` says the same. `COMPLETEDP_ROOT` takes the place of `--root`.
Exit status: 0 done, 1 a check says no or a training diverged, 2 a mistake in what was given, 130 interrupted.
"""


def page() -> str:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return HEAD + "".join(_section(name, command) for name, command in commands.items())


def _section(name: str, command: Any) -> str:
    shown = [p for p in command.params if not getattr(p, "hidden", False)]
    words = [_argument(p) for p in shown if p.param_type_name == "argument"]
    rows = "".join(map(_row, shown))
    usage = " ".join(["completedp", name, *words, "[OPTIONS]"])
    return (
        f"\n## {name}\n{inspect.cleandoc(command.help)}\n\n```\n{usage}\n```\n\n"
        f"| option | default | what it does |\n|---|---|---|\n{rows}"
    )


def _argument(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        names = _argument(parameter)
    else:
        names = " / ".join([*parameter.opts, *parameter.secondary_opts])
    default = "required" if parameter.required else _default(parameter.default)
    help_text = (getattr(parameter, "help", None) or "").replace("|", "\\|")
    return f"| `{names}` | {default} | {help_text} |\n"


def _default(value: Any) -> str:
    if value is None or value is False or value == "":
        return ""
    return f"`{value}`"


def test_the_page_is_the_programs() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
