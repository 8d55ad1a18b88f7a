"""Programs that do what no verb may, for the tests of the harness: `python -m tests.fuzz.planted FOLDER`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from .child import MOST_MEMORY
from .formats import Format, Verb
from .runner import LIMIT_SECONDS, Runner

HANG_SECONDS = 1.0  # of what hangs; anything else may be slow


def raises(*_: str) -> None:
    raise KeyError("planted")


def prints_a_traceback(*_: str) -> None:
    print("Traceback (most recent call last):\nValueError: planted", file=sys.stderr)


def waits(*_: str) -> None:
    time.sleep(60)


def turns(*_: str) -> None:
    while True:
        pass


def dies(*_: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def takes_memory(*_: str) -> None:
    b"x" * (MOST_MEMORY + (64 << 20))


def leaves(*_: str) -> None:
    Path(".plan.yaml.abcd1234").write_text("")


def leaves_a_folder(*_: str) -> None:
    Path("data/.preparing-x").mkdir(parents=True)


def writes_over(*_: str) -> None:
    Path("input").write_text("other")


def removes(*_: str) -> None:
    Path("input").unlink()


def writes_half(*_: str) -> None:
    Path("out").write_text('{"loss": NaN}')


def says_nothing(*_: str) -> None:
    raise SystemExit(2)


def says_much(*_: str) -> None:
    print("x" * 20_000, file=sys.stderr)
    raise SystemExit(2)


def asks(*_: str) -> None:
    print("Aborted!", file=sys.stderr)
    raise SystemExit(1)


def ends_oddly(*_: str) -> None:
    raise SystemExit(3)


def refuses(*_: str) -> None:
    print("error: input: damaged", file=sys.stderr)
    raise SystemExit(2)


PLANTED: tuple[Callable[..., None], ...] = (
    *(
        raises,
        prints_a_traceback,
        waits,
        turns,
        dies,
        takes_memory,
        leaves,
        leaves_a_folder,
        writes_over,
    ),
    *(removes, writes_half, says_nothing, says_much, asks, ends_oddly, refuses),
)


def main(folder: Path) -> None:
    """Print what two cases of each program came to; in the first the input is not damaged."""
    found = {}
    for program in PLANTED:
        limit = HANG_SECONDS if program in (waits, turns) else LIMIT_SECONDS
        runner = Runner(folder, {"input": b"1\n"}, limit)
        verb = Verb(
            arguments=("--out", "out"),
            program=program,
            out="json" if program is writes_half else None,
        )
        form = Format(
            name=program.__name__, damaged={"input": lambda _, content: content * 2}, verbs=(verb,)
        )
        found[program.__name__] = runner.run(form, [0, 1]).to_dict()
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
