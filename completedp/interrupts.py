"""Ctrl-C and similar signals: the first asks to finish the running work, the second ends the program.

Schedulers send SIGTERM as a warning before they kill, and a terminal that closes sends SIGHUP. Both count as
a press of Ctrl-C. Under `nohup` SIGHUP stays ignored. SIGINT is heard even in a script's background process,
for which the shell ignores it: whoever sends it there means it.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Seconds in which one warning may come twice: a scheduler sends it to every process, and torchrun or a shell
# passes it on. A person who presses Ctrl-C twice means it.
SAME_WARNING = 5.0

# Set by a press that ends the program at once. Some libraries swallow the exception, for example around an
# import. `deferred` looks here first, so the press still counts.
_ending = threading.Event()


def listen() -> None:
    """From here on such a signal raises `KeyboardInterrupt`. The main thread calls this at its start."""
    _ending.clear()
    sys.unraisablehook = _quietly
    for number in _signals():
        signal.signal(number, _end)


@contextmanager
def deferred() -> Iterator[threading.Event]:
    """Inside, the first press sets the yielded event, and the next one raises `KeyboardInterrupt`.

    If the event is set in another way, the next press counts as the second. Raises `KeyboardInterrupt` at
    once if an earlier press was swallowed. Only the main thread hears presses, because Python handles signals
    only there.
    """
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    if _ending.is_set():
        raise KeyboardInterrupt

    last = -SAME_WARNING

    def note(number: int, _frame: object) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if number != signal.SIGINT and last - before < SAME_WARNING:
            return
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    handlers = {number: signal.signal(number, note) for number in _signals()}
    try:
        yield pressed
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _signals() -> list[signal.Signals]:
    under_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in SIGNALS if not (under_nohup and number == signal.SIGHUP)]


def _quietly(unraisable: sys.UnraisableHookArgs) -> None:
    """Python cannot raise a press from a destructor and prints its traceback. This prints none: `_ending`
    remembers the press."""
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)


def _end(_signal: int, _frame: object) -> None:
    _ending.set()
    raise KeyboardInterrupt
