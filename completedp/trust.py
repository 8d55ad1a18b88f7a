"""Which code that a name in a file means may be run in this process.

From Python, and in a worker that a coordinator has started, whatever is named is imported. The command line
reads files that may be another's: there a name means code only where an option has said so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from completedp.errors import UserError, shown

# The training functions that are this package's own: a job that names one of them runs no code of the user's.
LANGUAGE_MODEL = "completedp.lm.train:language_model"
FOREIGN_MODEL = "completedp.adapters.task:foreign_model"


@dataclass(kw_only=True)
class _Asked:
    """What the options of a command have said."""

    names: set[str] = field(default_factory=set)
    everything: bool = False


# One a command that runs; none from Python. The last is in force, in every thread.
_commands: list[_Asked] = []


@contextmanager
def only_asked() -> Iterator[None]:
    """Within, `check` refuses what neither `allow` nor `allow_everything` has allowed since."""
    _commands.append(_Asked())
    try:
        yield
    finally:
        _commands.pop()


def allow(name: str) -> None:
    """The user has asked for the code `package.module:function` by an option."""
    if _commands:
        _commands[-1].names.add(name)


def allow_everything() -> None:
    """The user has asked for whatever code the given files name."""
    if _commands:
        _commands[-1].everything = True


def check(key: str, name: str) -> None:
    """Raises `UserError` for code that was not asked for; `key` is where a file names it."""
    if name in (LANGUAGE_MODEL, FOREIGN_MODEL):
        return
    if _commands and not _commands[-1].everything and name not in _commands[-1].names:
        raise UserError(
            f"{key} is {shown(name)}: it is code that this file names, and nothing of it was run; add "
            "--run-code if you trust it"
        )
