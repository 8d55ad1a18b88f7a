"""Shared by all benchmarks: their options, the program they run, and the result file with its command."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from completedp import files

HERE = Path(__file__).parent
RESULTS = HERE / "results"
RECORDS = HERE / "records"
DOCS = HERE.parent / "docs"
# The command line of this very Python; `completedp` on the PATH may belong to another one.
COMPLETEDP = (sys.executable, "-m", "completedp")


def parser(text: str | None, out: str | None = None) -> argparse.ArgumentParser:
    """Options of a script whose docstring is its help; with `out`, the result file can be chosen."""
    made = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if out is not None:
        made.add_argument("--out", type=Path, default=RESULTS / out, help="the result file")
    return made


def command(words: Sequence[str]) -> str:
    """The command line as it was typed, without the folders of this machine."""
    script = Path(words[0]).resolve().relative_to(HERE.parent)
    return " ".join(["python", str(script), *(_portable(word) for word in words[1:])])


def _portable(word: str) -> str:
    option, equals, value = word.rpartition("=")
    if Path(value).is_absolute():
        return f"{option}{equals}<{Path(value).name}>"
    return json.dumps(word) if " " in word else word


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the result file; `content` may hold a `command` of its own."""
    files.write_json(path, {"command": command(sys.argv), **content})
