"""One case after the other in a forked process: each in a fresh folder, each verb judged by what it left."""

from __future__ import annotations

import ast
import faulthandler
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO, cast

from .formats import Files, Format, Verb, _match

MIB = 1 << 20
MOST_MEMORY = 1024 * MIB  # beyond what the process has after its imports
# Address space that a case may take, so that one does not end the machine: more than is judged.
MOST_ADDRESSES = 6 * 1024 * MIB
MOST_STDERR = 10_000  # bytes
STATUSES = (0, 1, 2, 130)
TEMPORARY = re.compile(r"(^|/)(\.[^/]+\.[^/]{6,}|\.preparing-[^/]*|\.writing|[^/]*\.tmp)(/|$)")
OURS = re.compile(r'File "[^"]*/((?:completedp|search|transfer)/[^"]+)", line (\d+), in (\S+)')
STACKS = "stacks.log"
_TAIL = 6  # lines of stderr that a fault shows


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something wrong with a case. `where` groups the like: an exception and its last line of ours."""

    format: str
    case: int
    verb: str
    kind: str
    where: str
    tail: str


def run_cases(
    form: Format,
    samples: Files,
    numbers: Sequence[int],
    folder: Path,
    tell: Callable[[dict[str, Any]], None],
) -> None:
    """Run cases in the folder, telling of each verb's beginning and end. Ends early, after a whole case,
    where that has made the process large."""
    base = _resident()
    # Where a verb hangs: the watcher asks before it ends the process.
    stacks = (folder.parent / STACKS).open("w")
    faulthandler.register(signal.SIGUSR1, file=stacks)
    resource.setrlimit(resource.RLIMIT_AS, (_addresses() + MOST_ADDRESSES,) * 2)
    for number in numbers:
        tell({"case": number, "verb": "(damaging)"})
        files, _ = form.files(samples, number)
        for verb in form.called(number):
            _place(folder, files)
            os.chdir(folder)
            tell({"case": number, "verb": " ".join(verb.arguments)})
            if not verb.fits():
                continue
            started, used = time.perf_counter(), time.process_time()
            status, faults = _judged(form, number, verb, files, base)
            tell(
                {
                    "status": status,
                    "faults": [asdict(fault) for fault in faults],
                    "seconds": time.perf_counter() - started,
                    "cpu": time.process_time() - used,
                }
            )
        tell({"done": number})
        if _peak() - base > MOST_MEMORY // 4 or form.opens_view(number):
            return


def _judged(
    form: Format, number: int, verb: Verb, files: Files, base: int
) -> tuple[int, list[Fault]]:
    """Run a verb in the current folder: its status, and what is wrong with how it ended."""
    before = {path: os.stat(path) for path in files}
    status, stderr, error = _called(verb)
    shown = "\n".join(stderr.splitlines()[-_TAIL:])[-1500:]

    def fault(kind: str, where: str, tail: str = shown) -> Fault:
        told = " ".join(verb.arguments)
        return Fault(format=form.name, case=number, verb=told, kind=kind, where=where, tail=tail)

    found = []
    if error is not None:
        kind = "memory" if re.search("MemoryError|an't allocate", error) else "traceback"
        found.append(fault(kind, last_frame(error), error[-1500:]))
    elif status not in STATUSES:
        found.append(fault("status", f"status {status}"))
    elif "Traceback (most recent" in stderr:
        found.append(fault("traceback", last_frame(stderr)))
    elif status == 2 and not stderr.strip():
        found.append(fault("silence", "refused without a word"))
    elif "Aborted" in stderr:
        found.append(fault("asked", "read standard input"))
    if number == 0 and status != form.status:
        found.append(fault("refused", "the undamaged sample"))
    if len(stderr) > MOST_STDERR:
        found.append(
            fault(
                "long",
                f"stderr of more than {MOST_STDERR} bytes",
                f"{len(stderr)} bytes: {stderr[:300]}",
            )
        )
    if _peak() - base > MOST_MEMORY:
        found.append(fault("memory", "peak", f"{(_peak() - base) // MIB} MiB; {shown}"))
    for path in changed(files, before, verb.writes):
        found.append(fault("damaged", f"{re.sub(r'[0-9]+', 'N', path)} changed"))
    if status == 0 and verb.out is not None and (why := unreadable(verb)):
        found.append(fault("damaged", f"written {verb.out} does not read back", why))
    for path in left_over(Path(), files):
        found.append(fault("left over", re.sub(r"\.[^./]{8}$", ".*", path)))
    return status, found


def _called(verb: Verb) -> tuple[int, str, str | None]:
    """Status, stderr and the traceback of what was raised."""
    error, status = None, 0
    with (
        open("/dev/null", "rb") as nothing,
        open("stdout~", "wb") as out,
        open("stderr~", "w+b") as err,
    ):
        for number, file in enumerate((nothing, out, err)):
            os.dup2(file.fileno(), number)
        sys.stdin = _stream(0, "r", "strict")
        sys.stdout = _stream(1, "w", "strict")
        sys.stderr = _stream(2, "w", "backslashreplace")
        try:
            verb.program(*verb.arguments)
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        except BaseException as raised:
            status = -1
            error = "".join(traceback.format_exception(raised))
        sys.stdout.flush()
        sys.stderr.flush()
        err.seek(0)
        return status, err.read(10 * MIB).decode("utf-8", "replace"), error


def _stream(number: int, mode: str, errors: str) -> TextIO:
    """A standard stream, as Python opens it at its start."""
    return cast(TextIO, open(number, mode, encoding="utf-8", errors=errors, closefd=False))


def last_frame(text: str) -> str:
    """The exception of a traceback, or what stands for one, with the last of our lines in it."""
    frames = OURS.findall(text)
    names = re.findall(r"^([A-Za-z_][\w.]*)(?::|$)", text, flags=re.MULTILINE)
    name = names[-1].rsplit(".", 1)[-1] if names else "?"
    return f"{name} at {frames[-1][0]} in {frames[-1][2]}" if frames else name


def changed(files: Files, before: dict[str, os.stat_result], writes: tuple[str, ...]) -> list[str]:
    """The inputs that hold something else now, or are gone, but for those that a verb may write."""
    found = []
    for path, content in files.items():
        if _match(path, writes):
            continue
        try:
            now = os.stat(path)
            same = (now.st_mtime_ns, now.st_size, now.st_ino) == (
                before[path].st_mtime_ns,
                before[path].st_size,
                before[path].st_ino,
            )
            if not same and Path(path).read_bytes() != content:
                found.append(path)
        except OSError:
            found.append(path)
    return found


def left_over(folder: Path, files: Files) -> list[str]:
    """What has a temporary file's name and was not among the inputs."""
    here = (str(path.relative_to(folder)) for path in folder.rglob("*"))
    return [
        path
        for path in here
        if TEMPORARY.search(path) and not path.endswith(".mlflow.lock") and path not in files
    ]


def unreadable(verb: Verb) -> str | None:
    """Why what a verb has written does not read back."""
    told = verb.arguments
    path = Path(told[told.index("--out") + 1] if "--out" in told else told[-1])
    try:
        if verb.out == "plan":
            from transfer.planning.planner import read_plan

            read_plan(path)
        elif verb.out == "python":
            ast.parse(path.read_text(encoding="utf-8"))
        else:
            json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:500]}"
    return None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _place(folder: Path, files: Files) -> None:
    os.chdir("/")
    shutil.rmtree(folder, ignore_errors=True)
    for path, content in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _pages() -> list[int]:
    return [
        int(n) * os.sysconf("SC_PAGE_SIZE") for n in Path("/proc/self/statm").read_text().split()
    ]


def _addresses() -> int:
    return _pages()[0]


def _resident() -> int:
    return _pages()[1]
