"""The one error a user's mistake raises: printed without a traceback, exit status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """What was given, what was expected, and how to fix it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"`, or the known names where none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}"
