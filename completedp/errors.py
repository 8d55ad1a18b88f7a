"""The one error a user's mistake raises: printed without a traceback, exit status 2; and ways to it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


# Characters of a message. What is wrong in a file of a megabyte must not fill a terminal.
LONGEST_MESSAGE = 2000
# Characters of a value inside a message.
LONGEST_VALUE = 80


class UserError(ValueError):
    """What was given, what was expected, and how to fix it. A longer message is cut in its middle."""

    def __init__(self, message: str) -> None:
        super().__init__(clipped(message, LONGEST_MESSAGE))


class FieldError(UserError):
    """One that begins with a field's name; where the file border knows the path to it, that goes before."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"`, or the known names where none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name[:LONGEST_VALUE], names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}"


def named(known: Mapping[str, T], name: str, what: str) -> T:
    """What a table holds under a name. Raises `UserError` with the nearest name it has."""
    if name not in known:
        raise UserError(f"unknown {what} {shown(name)}{nearest(name, known)}")
    return known[name]


def clipped(text: str, most: int) -> str:
    """The text, or its beginning and end with the number of characters left out between them."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} … ({len(text) - 2 * half:,} characters) … {text[-half:]}"


def shown(value: object) -> str:
    """A value as messages show it: its `repr`, cut where that is long."""
    # A list of a million numbers is not written out to be cut again.
    if isinstance(value, str | bytes) and len(value) > LONGEST_VALUE:
        what = "characters" if isinstance(value, str) else "bytes"
        return f"{value[: LONGEST_VALUE // 2]!r}… ({len(value):,} {what})"
    if isinstance(value, list | tuple | dict) and len(value) > LONGEST_VALUE:
        return f"a {type(value).__name__} of {len(value):,}"
    try:
        return clipped(repr(value), LONGEST_VALUE)
    except (ValueError, RecursionError):  # a whole number, or a nesting, that Python writes none of
        return f"a {type(value).__name__}"


def first_line(error: BaseException) -> str:
    """The first line of what an exception says; of one that says nothing its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def located(where: str) -> Iterator[None]:
    """A `UserError` from within says first where what was given stands."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


@contextmanager
def needs(package: str, what: str, install: str | None = None) -> Iterator[None]:
    """Around the import of a package that is not always installed; `what` is what asks for it.

    Raises `UserError` that says how to install it, by the package's own name unless `install` is given.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(
            f"{what} needs {package} ({error}); install it by: pip install {install or package}"
        ) from None
