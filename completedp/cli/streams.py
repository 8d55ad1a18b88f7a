"""Standard output and error that a long run outlives: closed, without a reader, or of any encoding."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from typing import TextIO

# Signs of ours that plain ASCII or Latin-1 lack, as a person would write them there.
_PLAIN = {
    "×": "x",
    "−": "-",
    "–": "-",
    "±": "+-",
    "…": "...",
    "≤": "<=",
    "≥": ">=",
    "→": "->",
    "’": "'",
    "½": "1/2",
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "ε": "eps",
    "λ": "lambda",
    "σ": "sigma",
    "₁": "1",
    "₂": "2",
}
_HANDLER = "completedp.plain"
# A pipe or socket without a reader, and a terminal that was closed.
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.EIO)


def prepare() -> None:
    """Make standard output and error fit for a run of days; to be called first."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # Closed by whoever started us: the next file that is opened would take its number, and a
            # journal would then be printed into.
            os.open(os.devnull, os.O_RDWR)
    codecs.register_error(_HANDLER, _plainly)
    sys.stdout, sys.stderr = _lasting(1, sys.stdout), _lasting(2, sys.stderr)


def _lasting(fd: int, stream: TextIO | None) -> TextIO:
    if stream is None:  # it was closed
        return open(fd, "w", encoding="utf-8", closefd=False)
    try:
        if stream.fileno() != fd:
            return stream  # somebody's own, as a test's
    except (OSError, ValueError):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Pipe(fd, "wb", closefd=False)),
        encoding=stream.encoding,
        errors=_HANDLER,
        line_buffering=stream.isatty() or fd == 2,
    )


class _Pipe(io.FileIO):
    """A descriptor whose reader may go away: what is written from then on is dropped."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            if error.errno not in _GONE:
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(memoryview(data))  # type: ignore[arg-type]


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """What an encoding lacks: by a sign of ours in plain letters, else by an escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    plain = (
        _PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in lacking
    )
    return "".join(plain), error.end
