"""The error for a user's mistake, printed without a traceback (exit status 2), and helpers for its text."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

# Characters of a message. A fault in a file of a megabyte must not fill a terminal.
LONGEST_MESSAGE = 2000
# Characters of a value inside a message.
LONGEST_VALUE = 80


class UserError(ValueError):
    """Says what was given, what was expected, and how to fix it. A long message is cut in its middle."""

    def __init__(self, message: str) -> None:
        super().__init__(clipped(message, LONGEST_MESSAGE))


class FieldError(UserError):
    """An error that begins with a field's name. A file's reader puts the path to the field before it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"`, or the known names if none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name[:LONGEST_VALUE], names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}"


def named(known: Mapping[str, T], name: str, what: str) -> T:
    """A table's value for a name. Raises `UserError` with the nearest known name."""
    if name not in known:
        raise UserError(f"unknown {what} {shown(name)}{nearest(name, known)}")
    return known[name]


def clipped(text: str, most: int) -> str:
    """The text, or its beginning and end around the number of characters left out."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} … ({len(text) - 2 * half:,} characters) … {text[-half:]}"


def shown(value: object) -> str:
    """A value as messages show it: its `repr`, cut if that is long."""
    # A list of a million numbers is not written out only to be cut.
    if isinstance(value, str | bytes) and len(value) > LONGEST_VALUE:
        unit = "characters" if isinstance(value, str) else "bytes"
        return f"{value[: LONGEST_VALUE // 2]!r}… ({len(value):,} {unit})"
    if isinstance(value, list | tuple | dict) and len(value) > LONGEST_VALUE:
        return f"a {type(value).__name__} of {len(value):,}"
    try:
        return clipped(repr(value), LONGEST_VALUE)
    except (
        ValueError,
        RecursionError,
    ):  # a whole number or a nesting too large for Python to write
        return f"a {type(value).__name__}"


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or the name of its type if it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def located(where: str) -> Iterator[None]:
    """Put `where` before the message of a `UserError` from within."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


@contextmanager
def needs(package: str, what: str, install: str | None = None) -> Iterator[None]:
    """Wraps the import of an optional package that `what` needs.

    Raises `UserError` with the command that installs `install`, or the package's own name by default.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(
            f"{what} needs {package} ({error}); install it by: pip install {install or package}"
        ) from None
