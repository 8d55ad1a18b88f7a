"""Damaged inputs of every format end in a refusal or in success: no traceback, hang, crash, damage or litter.

200 cases a format, the same ones every time; `pytest -m long tests/fuzz` tries 2,000.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .formats import FORMATS

REPOSITORY = Path(__file__).parents[2]
SHOWN = 5  # faults of a format, each with the command that makes it again
Cases = Callable[[str, int, int], dict[str, Any]]


@pytest.fixture(scope="module")
def cases() -> Iterator[Cases]:
    """Runs cases of a format, half of them in each of two processes that have imported everything once."""
    with served() as one, served() as other:
        for process in (one, other):
            assert said(process) == "ready\n", "the samples could not be built: see stderr"

        def run(name: str, first: int, count: int) -> dict[str, Any]:
            half = count // 2
            asked = ((one, first, half), (other, first + half, count - half))
            for process, begin, number in asked:
                assert process.stdin is not None
                process.stdin.write(f"{name} {begin} {number}\n")
                process.stdin.flush()
            found = [json.loads(said(process)) for process, *_ in asked]
            return {
                "cases": sum(part["cases"] for part in found),
                "faults": [fault for part in found for fault in part["faults"]],
            }

        yield run
        for process in (one, other):
            assert process.stdin is not None
            process.stdin.close()


def served() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.fuzz.run", "--serve"]
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def check(found: dict[str, Any], count: int) -> None:
    assert found["cases"] == count
    faults = found["faults"]
    told = "\n\n".join(
        f"{f['kind']}: {f['where']}\n  {f['verb']}\n"
        f"  python -m tests.fuzz.run {f['format']} --case {f['case']}\n{f['tail'][-600:]}"
        for f in faults[:SHOWN]
    )
    assert not faults, f"{len(faults)} faults in {count} cases; the first:\n\n{told}"


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", FORMATS)
def test_two_hundred_damaged_inputs(cases: Cases, name: str) -> None:
    check(cases(name, 0, 200), 200)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", FORMATS)
def test_two_thousand_damaged_inputs(cases: Cases, name: str) -> None:
    check(cases(name, 0, 2000), 2000)
