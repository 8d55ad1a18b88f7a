"""Which code this process may run if a file names it.

From Python, and in a worker, every named function is imported. The command line reads files that may come
from other people: there only code that an option allows is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from completedp.errors import UserError, shown

# This package's own training functions. A job that names one of them runs no code of the user's.
LANGUAGE_MODEL = "completedp.lm.train:language_model"
FOREIGN_MODEL = "completedp.adapters.task:foreign_model"


# Stands for all code that the given files name.
_EVERYTHING = object()
# The code that the options of each running command allow. Empty from Python. The last set is in force, in
# every thread.
_commands: list[set[object]] = []


@contextmanager
def only_asked() -> Iterator[None]:
    """Within, `check` refuses code that neither `allow` nor `allow_everything` has allowed."""
    _commands.append(set())
    try:
        yield
    finally:
        _commands.pop()


def allow(name: str) -> None:
    """Allow the code `package.module:function`, which an option names."""
    if _commands:
        _commands[-1].add(name)


def allow_everything() -> None:
    """Allow all code that the given files name."""
    if _commands:
        _commands[-1].add(_EVERYTHING)


def check(key: str, name: str) -> None:
    """Raises `UserError` for code that is not allowed. `key` is its key in the file."""
    if name in (LANGUAGE_MODEL, FOREIGN_MODEL):
        return
    if _commands and _commands[-1].isdisjoint((name, _EVERYTHING)):
        raise UserError(
            f"{key} is {shown(name)}: it is code that this file names, and nothing of it was run; add "
            "--run-code if you trust it"
        )
