"""Ctrl-C and its like: the first asks to finish what runs, the second ends at once.

Schedulers send SIGTERM as a warning before they kill, and a terminal that is closed sends SIGHUP: both count
as a press of Ctrl-C. Under `nohup` SIGHUP stays ignored. SIGINT does not, though a shell sets it so for what
a script starts behind itself: who sends it there means it.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Seconds in which one warning may come twice: from a scheduler to every process, and again from torchrun or a
# shell that passes it on. A person who presses Ctrl-C twice means it.
SAME_WARNING = 5.0

# Set by a press that ends the program at once. A library that swallows the exception, as some do around an
# import, does not make the press undone: whoever waits for presses later asks here first.
_ending = threading.Event()


def listen() -> None:
    """From here on such a signal raises `KeyboardInterrupt`; to be called by the main thread as it begins."""
    _ending.clear()
    sys.unraisablehook = _quietly
    for number in _heard():
        signal.signal(number, _end)


@contextmanager
def deferred() -> Iterator[threading.Event]:
    """Inside, the first press sets the event that is given, and the next raises `KeyboardInterrupt`.

    Whoever sets the event in other ways makes the next press the second. Raises `KeyboardInterrupt` at once
    where a press before was swallowed. Outside of the main thread nothing is heard: Python handles signals
    there only.
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

    handlers = {number: signal.signal(number, note) for number in _heard()}
    try:
        yield pressed
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _heard() -> list[signal.Signals]:
    under_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in SIGNALS if not (under_nohup and number == signal.SIGHUP)]


def _quietly(unraisable: sys.UnraisableHookArgs) -> None:
    """A press that meets a destructor cannot be raised from there, and Python prints its traceback; it is
    remembered all the same."""
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)


def _end(_signal: int, _frame: object) -> None:
    _ending.set()
    raise KeyboardInterrupt
