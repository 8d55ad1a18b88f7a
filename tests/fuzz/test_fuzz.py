"""Damaged inputs of every format end in a refusal or in success: no traceback, hang, crash, damage or litter.

50 cases a format, the same ones every time; `pytest -m long tests/fuzz` tries 2,000.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from .formats import FORMATS

REPOSITORY = Path(__file__).parents[2]
SHOWN = 5  # faults of a format, each with the command that makes it again
Cases = Callable[[str, int], dict[str, Any]]


@pytest.fixture(scope="module")
def cases() -> Iterator[Cases]:
    """Runs cases of a format in one process: to build the samples takes as long as some hundred cases."""
    with serving(1) as run:
        yield run


@pytest.fixture(scope="module")
def many_cases() -> Iterator[Cases]:
    """Runs cases of a format, half of them in each of two processes."""
    with serving(2) as run:
        yield run


@contextmanager
def serving(processes: int) -> Iterator[Cases]:
    """Processes that have imported everything once share the cases."""
    with ExitStack() as stack:
        servers = [stack.enter_context(served()) for _ in range(processes)]
        for server in servers:
            assert said(server) == "ready\n", "the samples could not be built: see stderr"

        def run(name: str, count: int) -> dict[str, Any]:
            ends = [count * i // processes for i in range(processes + 1)]
            for server, begin, end in zip(servers, ends[:-1], ends[1:], strict=True):
                assert server.stdin is not None
                server.stdin.write(f"{name} {begin} {end - begin}\n")
                server.stdin.flush()
            found = [json.loads(said(server)) for server in servers]
            return {
                "cases": sum(part["cases"] for part in found),
                "faults": [fault for part in found for fault in part["faults"]],
            }

        yield run
        for server in servers:
            assert server.stdin is not None
            server.stdin.close()


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
def test_fifty_damaged_inputs(cases: Cases, name: str) -> None:
    check(cases(name, 50), 50)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", FORMATS)
def test_two_thousand_damaged_inputs(many_cases: Cases, name: str) -> None:
    check(many_cases(name, 2000), 2000)
