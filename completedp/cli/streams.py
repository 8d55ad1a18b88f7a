"""Standard output and error for long runs: closed, without a reader, or in any encoding."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from typing import TextIO

# Signs of our output that ASCII or Latin-1 lacks, with a plain spelling.
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
# Errors of a pipe or socket without a reader, and of a closed terminal.
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.EIO)


def prepare() -> None:
    """Make standard output and error fit for a run of days. Called before anything else."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # The parent process closed it. The next opened file would take its number, and prints would
            # go into a journal.
            os.open(os.devnull, os.O_RDWR)
    codecs.register_error(_HANDLER, _plainly)
    sys.stdout, sys.stderr = _lasting(1, sys.stdout), _lasting(2, sys.stderr)


def _lasting(fd: int, stream: TextIO | None) -> TextIO:
    if stream is None:  # the parent process closed it
        return open(fd, "w", encoding="utf-8", closefd=False)
    try:
        if stream.fileno() != fd:
            return stream  # replaced, as by a test
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
    """A descriptor whose reader may go away. Later output is then dropped."""

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
    """The plain spelling of signs that an encoding lacks, or an escape for signs without one."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    plain = (
        _PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in lacking
    )
    return "".join(plain), error.end
