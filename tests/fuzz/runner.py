"""Forks processes that run cases, watches them from outside, and counts what goes wrong."""

from __future__ import annotations

import functools
import gc
import importlib
import json
import os
import pkgutil
import select
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .child import OURS, STACKS, Fault, run_cases
from .formats import Files, Format

LIMIT_SECONDS = 20.0  # of one verb on one case
# Of cases in a process: a fork of all these imports takes 30 ms, a case often 3.
CASES_A_FORK = 25
_IMPORTED_LATE = ("matplotlib.pyplot", "pyarrow.parquet", "torch.profiler")
# Programs, and what needs packages that no verb here uses.
_NOT_IMPORTED = ("__main__", ".on_ray", ".torchtitan.template")
HARNESS_LOG, HARNESS_FAILED = "harness.log", 70
_LAST_WORDS_SECONDS = 0.5
# Limits that a verb without the processor may take: it may wait for others, and not for ever.
_PATIENCE = 3


class Result:
    """The result of a format's cases."""

    def __init__(self) -> None:
        self.cases = 0
        self.faults: list[Fault] = []
        self.slowest: tuple[float, int, str] = (0.0, 0, "")
        self.seconds: Counter[str] = Counter()  # of the processor, by verb
        self.statuses: Counter[int] = Counter()

    def to_dict(self) -> dict[str, Any]:
        return {
            "cases": self.cases,
            "counts": dict(sorted(Counter(f.kind for f in self.faults).items())),
            "faults": [vars(f) for f in self.faults],
            "statuses": dict(sorted(self.statuses.items())),
            "slowest": self.slowest,
            "seconds": dict(self.seconds.most_common()),
        }


def import_all() -> None:
    """What any verb imports, before the first fork. Starts no work and opens no file of the user's."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ |= {"COLUMNS": "200", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg", "NO_COLOR": "1"}
    import transformers
    import typer.main

    import completedp
    import search
    import transfer

    for name in _IMPORTED_LATE:
        importlib.import_module(name)
    for package in (completedp, search, transfer):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith(_NOT_IMPORTED):
                importlib.import_module(module.name)
    from completedp.tracking.store import import_mlflow

    import_mlflow()
    for family in ("LlamaForCausalLM", "GPT2LMHeadModel"):
        getattr(transformers, family)
    # The same commands every time, whose making takes longer than most cases.
    setattr(typer.main, "get_command", functools.cache(typer.main.get_command))  # noqa: B010
    from completedp.cli.app import app

    typer.main.get_command(app)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page


@contextmanager
def samples_in(folder: Path) -> Iterator[Files]:
    """The samples, built in a fork: a database that this process had opened would be every fork's."""
    from .samples import build

    case = folder / "case"
    pid = os.fork()
    if pid == 0:
        with open(folder / "samples.log", "wb") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        status = 1
        try:
            case.mkdir()
            os.chdir(case)
            build()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise RuntimeError((folder / "samples.log").read_text()[-4000:])
    yield {str(p.relative_to(case)): p.read_bytes() for p in sorted(case.rglob("*")) if p.is_file()}


class Runner:
    """Runs cases of formats in a folder of its own."""

    def __init__(self, folder: Path, samples: Files, limit: float = LIMIT_SECONDS) -> None:
        self.case, self.samples, self.limit = folder / "case", samples, limit

    def run(self, form: Format, numbers: Sequence[int]) -> Result:
        """All the cases; a process that hangs or dies takes one verb with it."""
        result, left = Result(), list(numbers)
        while left:
            done = self._batch(form, left[:CASES_A_FORK], result)
            left = left[done:]
        return result

    def _batch(self, form: Format, numbers: Sequence[int], result: Result) -> int:
        """Run cases in one fork; how many of them are over."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            _in_fork(reading, writing, form, self.samples, numbers, self.case)
        os.close(writing)
        try:
            done, verb, ended = self._watch(pid, reading, result)
        finally:
            os.close(reading)
        if not ended:
            os.kill(pid, signal.SIGUSR1)
            time.sleep(_LAST_WORDS_SECONDS)
            os.kill(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status == 0:
            return done
        if status == HARNESS_FAILED:
            raise RuntimeError(f"{form.name} {numbers[done]}: {self._said(HARNESS_LOG)}")
        stack = self._said(STACKS)
        if not ended:
            kind, where = "hang", f"over {self.limit:g} s at {innermost(stack)}"
        else:
            kind = "crash"
            where = signal.Signals(-status).name if status < 0 else f"status {status}"
        tail = f"{self._said('case/stderr~')}\n{stack}"
        fault = Fault(
            format=form.name, case=numbers[done], verb=verb, kind=kind, where=where, tail=tail
        )
        result.faults.append(fault)
        result.cases += 1
        return done + 1

    def _said(self, name: str) -> str:
        path = self.case.parent / name
        return path.read_text(errors="replace")[:1500] if path.exists() else ""

    def _watch(self, pid: int, reading: int, result: Result) -> tuple[int, str, bool]:
        """Cases over, the verb under way, and whether the process has ended by itself: else it hangs."""
        done, verb, case, buffer = 0, "", -1, b""
        while True:
            if not self._heard(pid, reading):
                return done, verb, False
            data = os.read(reading, 1 << 16)
            if not data:
                return done, verb, True
            *lines, buffer = (buffer + data).split(b"\n")
            for message in map(json.loads, lines):
                if "verb" in message:
                    case, verb = message["case"], message["verb"]
                elif "done" in message:
                    done += 1
                    result.cases += 1
                else:
                    result.faults += [Fault(**fault) for fault in message["faults"]]
                    result.statuses[message["status"]] += 1
                    result.seconds[verb.split()[0]] += message["cpu"]
                    result.slowest = max(result.slowest, (message["seconds"], case, verb))

    def _heard(self, pid: int, reading: int) -> bool:
        """Wait for a process's next line, longer where others have kept it from the processor."""
        used = _seconds_used(pid)
        for _ in range(_PATIENCE):
            if select.select([reading], [], [], self.limit)[0]:
                return True
            if _seconds_used(pid) - used > self.limit / 2:
                return False
        return False


def _in_fork(
    reading: int, writing: int, form: Format, samples: Files, numbers: Sequence[int], folder: Path
) -> None:
    os.close(reading)
    status = HARNESS_FAILED
    try:
        # Not by a file object: what a verb does with those of its process must not matter.
        run_cases(form, samples, numbers, folder, lambda m: _send(writing, m))
        status = 0
    except BaseException:
        import traceback

        (folder.parent / HARNESS_LOG).write_text(traceback.format_exc())
    finally:
        os._exit(status)


def _seconds_used(pid: int) -> float:
    """Of the processor, by a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _send(writing: int, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(writing, data) :]


def innermost(stack: str) -> str:
    """Our first line in a stack that `faulthandler` wrote, whose last call comes first."""
    found = OURS.search(stack.replace(" in ", ", in "))
    return f"{found[1]} in {found[3]}" if found else "?"


def runner_of(use: Callable[[Runner], None]) -> None:
    """A runner with everything imported and the samples built; its folder is removed in the end."""
    import_all()
    folder = Path(tempfile.mkdtemp(prefix="completedp-fuzz-")).resolve()
    try:
        with samples_in(folder) as samples:
            use(Runner(folder, samples))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
