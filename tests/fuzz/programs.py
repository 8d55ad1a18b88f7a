"""The programs that read the inputs, called in this process as a command line would call them."""

from __future__ import annotations

import sys


def completedp(*arguments: str) -> None:
    """`completedp ARGUMENTS`. Raises `SystemExit` where its status is not 0."""
    from completedp.cli.app import main

    sys.argv = ["completedp", *arguments]
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise


def train_job(*arguments: str) -> None:
    """`python -m completedp.lm.train ARGUMENTS`. Raises `SystemExit` where its status is not 0."""
    from completedp.lm.train import main

    if status := main(list(arguments)):
        raise SystemExit(status)
