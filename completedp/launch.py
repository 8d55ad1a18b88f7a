"""The start of this process (alone or by torchrun, and from which packages), and its end."""

from __future__ import annotations

import atexit
import importlib.util
import os
import sys
from pathlib import Path
from typing import NoReturn

from completedp.errors import UserError


def launched() -> bool:
    """Whether torchrun started this process."""
    return {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} <= os.environ.keys()


def processes() -> int:
    """Number of processes that torchrun started for one run. 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


def rank() -> int:
    """This process's number among them, from 0. 0 without torchrun."""
    return int(os.environ["RANK"]) if launched() else 0


def end(status: int) -> NoReturn:
    """End this process: exit handlers run and output is written, but the interpreter does not shut down.

    A thread of a gloo group may still hold the tensor of its last all-reduce when the group is destroyed
    (torch 2.13). If it frees the tensor while the interpreter shuts down, Python ends the thread inside a C++
    destructor, and a successful process aborts (SIGABRT).
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def check_packages() -> None:
    """Raises `UserError` if a folder of the user shadows one of our packages.

    Under `python -m`, a folder `./search` does.
    """
    home = Path(__file__).resolve().parents[1]
    for name in ("search", "transfer"):
        found = importlib.util.find_spec(name)
        places = found.submodule_search_locations if found is not None else None
        if home / name in (Path(place).resolve() for place in places or ()):
            continue
        raise UserError(
            f"the package {name!r} is {', '.join(places or ()) or 'missing'}; expected completedp's own in "
            f"{home}: set PYTHONSAFEPATH=1, or start from another folder"
        )
