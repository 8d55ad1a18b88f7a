"""Damaged inputs by hand: `python -m tests.fuzz.run [FORMAT …] [--cases N] [--case I]`.

`--case` runs one case of one format alone and keeps its files: with that folder as the current one the
verbs that it names can be called by hand. `--serve` is for the tests.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from .formats import FORMATS
from .runner import Runner, runner_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("formats", nargs="*", default=[], metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--case", type=int)
    parser.add_argument("--keep", type=Path, help="an empty folder for the files of --case")
    parser.add_argument("--out", type=Path, help="counts and faults as JSON")
    parser.add_argument("--serve", action="store_true")
    given = parser.parse_args()
    if unknown := set(given.formats) - set(FORMATS):
        parser.error(f"no format {', '.join(sorted(unknown))}; known: {', '.join(FORMATS)}")
    runner_of(lambda runner: _use(runner, given))


def _use(runner: Runner, given: argparse.Namespace) -> None:
    if given.serve:
        _serve(runner)
    elif given.case is not None:
        _one(runner, given.formats[0], given.case, given.keep)
    else:
        numbers = range(given.first, given.first + given.cases)
        _many(runner, given.formats or list(FORMATS), numbers, given.out)


def _serve(runner: Runner) -> None:
    """Answer `FORMAT FIRST COUNT` lines with a result each."""
    print("ready", flush=True)
    for line in sys.stdin:
        name, first, count = line.split()
        result = runner.run(FORMATS[name], range(int(first), int(first) + int(count)))
        print(json.dumps(result.to_dict()), flush=True)


def _one(runner: Runner, name: str, number: int, keep: Path | None) -> None:
    form = FORMATS[name]
    files, damaged = form.files(runner.samples, number)
    keep = keep or Path(tempfile.mkdtemp(prefix="completedp-fuzz-case-"))
    for path, content in files.items():
        (keep / path).parent.mkdir(parents=True, exist_ok=True)
        (keep / path).write_bytes(content)
    print(f"{keep}: damaged {', '.join(damaged) or 'nothing'}")
    for verb in form.called(number):
        print("verb:", " ".join(verb.arguments))
    result = runner.run(form, [number])
    for fault in result.faults:
        print(f"\n{fault.kind}: {fault.where}\n{fault.verb}\n{fault.tail}")
    print(f"{len(result.faults)} faults, slowest {result.slowest}")


def _many(runner: Runner, names: list[str], numbers: range, out: Path | None) -> None:
    document = {}
    for name in names:
        started = time.perf_counter()
        result = runner.run(FORMATS[name], numbers)
        seconds = time.perf_counter() - started
        document[name] = result.to_dict()
        print(
            f"{name}: {result.cases} cases, {len(result.faults)} faults {document[name]['counts']}, "
            f"verbs by status {document[name]['statuses']}, "
            f"{seconds:.0f} s, slowest {result.slowest[0]:.1f} s (case {result.slowest[1]})",
            flush=True,
        )
        if out is not None:
            out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
