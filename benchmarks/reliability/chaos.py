"""Does a root go on without a person's help after trouble at any moment of any verb that writes?

    python benchmarks/reliability/chaos.py --cases 100

Run it as root: a case with trouble of the disk mounts a small tmpfs. Each case copies a root with a
finished study, starts one verb in it, and brings one trouble at a random moment of the verb's undisturbed
time. Then the trouble ends, and the commands that a user would type next are run: `status`, the verb itself
(a search by --resume), `report` and `track`. Printed, in sum:

    lost        finished trials of the journal at the time of the trouble that are missing or changed at the
                end, or have no curve
    stuck       roots in which one of these commands fails, so that a person must mend them
    tracebacks  how many these commands print
    left        half-made files that remain after `doctor --repair`

A line of JSON for each case is kept beside the result file, so that an interrupted run goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks import result
from completedp import files, interrupts, reading
from completedp.lm.preset_files import load_preset
from completedp.plan import Plan
from completedp.recipe import Recipe
from completedp.repair import repair
from completedp.runs.journal import read_records

# A run of so many steps takes a third of a second: a moment falls as often between trials as within one.
STEPS = 24
DISK_MEGABYTES = 64
PAUSE_SECONDS = 2.0
LIMIT_SECONDS = 180.0
# Seconds by which time.time() jumps when the clock is set while the program runs.
JUMPS = (-86_400.0, 86_400.0)


@dataclass
class Case:
    """One verb, one trouble."""

    number: int
    verb: str
    trouble: str
    root: Path
    moment: float
    rng: random.Random
    printed: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)

    def command(self, *arguments: str) -> list[str]:
        return [*result.COMPLETEDP, *arguments, "--root", str(self.root)]


def main() -> None:
    parser = result.parser(__doc__, "chaos.json")
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    # Two threads of one tiny matrix product wait for each other.
    os.environ["OMP_NUM_THREADS"] = "1"
    kept = arguments.out.with_suffix(".jsonl")
    done = [row for _, row in reading.read_lines(kept)] if kept.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        base = made_base(work)
        seconds = {verb: undisturbed(verb, base, work) for verb in VERBS}
        print(json.dumps({"seconds undisturbed": seconds}), flush=True)
        for number in sorted({*range(arguments.cases)} - {row["case"] for row in done}):
            row = one(number, arguments.seed, base, work, seconds)
            done.append(row)
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
    found = summary(done)
    result.write(arguments.out, found)
    print(json.dumps(found, indent=1))
    sys.exit(0 if found["passes"] else 1)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    counts = {what: sum(row[what] for row in rows) for what in ("lost", "tracebacks", "left")}
    stuck = sum(bool(row["stuck"]) for row in rows)
    return {
        "cases": len(rows),
        **counts,
        "stuck": stuck,
        "finished trials at the moment of trouble": sum(row["finished"] for row in rows),
        "by verb": dict(Counter(row["verb"] for row in rows)),
        "by trouble": dict(Counter(row["trouble"] for row in rows)),
        "failures": [row for row in rows if row["lost"] or row["stuck"] or row["tracebacks"]],
        "passes": not (stuck or counts["lost"] or counts["tracebacks"]),
    }


def made_base(work: Path) -> Path:
    """A root with a finished study, its recipe, two plans, and a trained one."""
    base = work / "base"
    data = load_preset("tiny").to_dict()
    data["train"] |= {"tokens": STEPS * 2048, "eval_tokens": 8192}
    preset = work / "short.yaml"
    preset.write_text(yaml.safe_dump(json.loads(json.dumps(data))))
    search = ["search", "--preset", str(preset), "--budget", "12", "--name", "finished"]
    for arguments in (
        [*search, "--workers", "2"],
        ["transfer", str(recipe_of(base)), "--width", "64", "--out", str(work / "plan.yaml")],
        ["train", str(work / "plan.yaml")],
    ):
        subprocess.run(
            [*result.COMPLETEDP, *arguments, "--root", str(base)], check=True, capture_output=True
        )
    return base


def recipe_of(root: Path, name: str = "finished") -> Path:
    return root / "studies" / name / "recipe.yaml"


def _search(case: Case) -> list[str]:
    preset = case.root.parent / "short.yaml"
    shutil.copy(case.root.parents[1] / "short.yaml", preset)
    begin = ["--preset", str(preset), "--budget", "16", "--name", "s", "--workers", "2"]
    return case.command("search", *begin)


def _train(case: Case) -> list[str]:
    return case.command("train", str(case.root.parents[1] / "plan.yaml"), "--seed", "1")


def _track(case: Case) -> list[str]:
    for path in case.root.glob("mlflow.db*"):
        path.unlink()
    return case.command("track")


def _transfer(case: Case) -> list[str]:
    out = str(case.root / "out.yaml")
    return case.command("transfer", str(recipe_of(case.root)), "--depth", "8", "--out", out)


def _export(case: Case) -> list[str]:
    plan, out = case.root.parents[1] / "plan.yaml", case.root / "out.json"
    return case.command("export", str(plan), "--format", "json", "--out", str(out))


def _speedup(case: Case) -> list[str]:
    options = ["--scales", "1", "--fractions", "0.5,1", "--seeds", "2", "--workers", "2"]
    return case.command("speedup", str(recipe_of(case.root)), *options)


# Each verb with its weight in the draw.
VERBS: dict[str, tuple[Callable[[Case], list[str]], int]] = {
    "search": (_search, 8),
    "train": (_train, 3),
    "track": (_track, 3),
    "speedup": (_speedup, 2),
    "transfer": (_transfer, 1),
    "export": (_export, 1),
}


def _signalled(*numbers: signal.Signals, group: bool = True) -> Callable[[Case, Any], None]:
    def bring(case: Case, process: subprocess.Popen[str]) -> None:
        for i, number in enumerate(numbers):
            time.sleep(PAUSE_SECONDS if i else 0)
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(process.pid, number)

    return bring


def _full(case: Case, process: subprocess.Popen[str]) -> None:
    """Fill the disk. Make room again when the program has ended or had time to meet it."""
    filler = case.root.parent / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(b"x" * 65_536)
            file.flush()
    _wait(process, 5 * PAUSE_SECONDS)
    filler.unlink()


def _read_only(case: Case, process: subprocess.Popen[str]) -> None:
    """Repeated until it works: the kernel refuses while a file is open for writing, as a journal is."""
    disk = str(case.root.parent)
    for _ in range(20):
        done = subprocess.run(["mount", "-o", "remount,ro", disk], capture_output=True, check=False)
        if done.returncode == 0:
            _wait(process, 3 * PAUSE_SECONDS)
            subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
            return
        _wait(process, PAUSE_SECONDS / 4)
    case.printed.append("the disk was never free to become read-only")


def _wait(process: subprocess.Popen[str], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def _deleted_view(case: Case, process: subprocess.Popen[str]) -> None:
    for path in case.root.glob("mlflow.db*"):
        path.unlink(missing_ok=True)


TROUBLES: dict[str, Callable[[Case, Any], None]] = {
    "kill": _signalled(signal.SIGKILL),
    "kill the coordinator": _signalled(signal.SIGKILL, group=False),
    "SIGTERM": _signalled(signal.SIGTERM),
    "SIGTERM, then kill": _signalled(signal.SIGTERM, signal.SIGKILL),
    "SIGHUP": _signalled(signal.SIGHUP),
    "SIGINT twice": _signalled(signal.SIGINT, signal.SIGINT),
    "SIGSTOP, SIGCONT": _signalled(signal.SIGSTOP, signal.SIGCONT),
    "full disk": _full,
    "read-only root": _read_only,
    "clock jumps": lambda case, process: None,
    "view deleted": _deleted_view,
}
_ON_A_DISK_OF_ITS_OWN = ("full disk", "read-only root")


@contextlib.contextmanager
def place_for(case_trouble: str, work: Path) -> Iterator[Path]:
    """The folder that holds the case's root, on a small disk of its own for trouble of the disk."""
    folder = Path(tempfile.mkdtemp(dir=work))
    mounted = case_trouble in _ON_A_DISK_OF_ITS_OWN
    if mounted:
        options = f"size={DISK_MEGABYTES}m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        shutil.rmtree(folder, ignore_errors=True)


def undisturbed(verb: str, base: Path, work: Path) -> float:
    with place_for("", work) as folder:
        case = Case(-1, verb, "", folder / "root", 0.0, random.Random(0))
        shutil.copytree(base, case.root)
        began = time.monotonic()
        subprocess.run(VERBS[verb][0](case), check=True, capture_output=True, cwd=folder)
        return time.monotonic() - began


def one(
    number: int, seed: int, base: Path, work: Path, seconds: dict[str, float]
) -> dict[str, Any]:
    rng = random.Random(f"{seed} {number}")
    verb = rng.choices(list(VERBS), [weight for _, weight in VERBS.values()])[0]
    trouble = list(TROUBLES)[number % len(TROUBLES)]
    with place_for(trouble, work) as folder:
        case = Case(number, verb, trouble, folder / "root", rng.uniform(0, seconds[verb]), rng)
        shutil.copytree(base, case.root)
        status = disturbed(case)
        before = ended(case.root)
        recover(case)
        after = ended(case.root)
        lost = [key for key, record in before.items() if after.get(key) != record]
        curves = [key for key in after if not _curve(case.root, key).exists()]
        left = half_made(case.root)
        text = "\n".join(case.printed)
        return {
            "case": number,
            "verb": verb,
            "trouble": trouble,
            "moment": round(case.moment, 3),
            "status": status,
            "finished": len(before),
            "lost": len(lost) + len(curves),
            "stuck": case.stuck,
            "tracebacks": text.count("Traceback (most recent call last)"),
            "left": len(left),
            **({"printed": _telling(text)} if case.stuck or "Traceback" in text else {}),
        }


def _telling(text: str) -> str:
    """The first traceback with some text before it, and the end of the output."""
    start = max(0, text.find("Traceback") - 300)
    return f"{text[start : start + 2500]} … {text[-1500:]}"


def disturbed(case: Case) -> int | None:
    """Start the verb, bring the trouble at its moment, and let the verb end."""
    command = VERBS[case.verb][0](case)
    if case.trouble == "clock jumps":
        command = [sys.executable, "-c", _jumping(case), *command[3:]]
    with subprocess.Popen(
        command,
        cwd=case.root.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        errors="replace",
        preexec_fn=_as_on_a_terminal,
    ) as process:
        _wait(process, case.moment)
        TROUBLES[case.trouble](case, process)
        try:
            out, _ = process.communicate(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, _ = process.communicate()
            case.stuck.append(f"the verb did not end in {LIMIT_SECONDS:g} s")
    case.printed.append(f"$ {case.verb}, {case.trouble}\n{out}")
    return process.returncode


def _as_on_a_terminal() -> None:
    """Undo ignored signals: `nohup` ignores some, and so does a shell for its background jobs."""
    for number in interrupts.SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def _jumping(case: Case) -> str:
    """A program that runs the command line with a clock that jumps at the moment."""
    return (
        "import time, runpy; real = time.time; begun = time.monotonic()\n"
        f"time.time = lambda: real() + ({case.rng.choice(JUMPS)} "
        f"if time.monotonic() - begun > {case.moment} else 0.0)\n"
        "runpy.run_module('completedp', run_name='__main__', alter_sys=False)"
    )


def ended(root: Path) -> dict[str, dict[str, Any]]:
    """Every finished record under a root, by its journal and trial."""
    found = {}
    for journal in root.glob("*/*/journal.jsonl"):
        for record in read_records(journal):
            if record["event"] == "finished":
                key = f"{journal.parent.relative_to(root)}/{record['trial']}"
                found[key] = record
    return found


def _curve(root: Path, key: str) -> Path:
    folder, _, trial = key.rpartition("/")
    return root / folder / "curves" / f"{trial}.jsonl"


def half_made(root: Path) -> list[Path]:
    names = (f".*{files.TEMPORARY}", ".writing", ".preparing-*", "mlflow.db.new-*")
    return [path for name in names for path in root.rglob(name)]


def recover(case: Case) -> None:
    """The commands that a user would type next. Each must succeed, and written files must read back."""
    began = (case.root / "studies" / "s" / "journal.jsonl").exists()
    for path in half_made(case.root):
        os.utime(path, (0, 0))  # files older than an hour count as left over
    case.printed += [str(mended) for mended in repair(case.root)]
    _run(case, case.command("status"))
    if case.verb == "search" and began:
        _run(case, case.command("search", "--resume", "s", "--workers", "2"))
        _run(case, case.command("report", "s"))
    elif case.verb != "track":
        _run(case, VERBS[case.verb][0](case))
    _run(case, case.command("track"))
    for path in case.root.glob("studies/*/recipe.yaml"):
        Recipe.read(path)
    if (out := case.root / "out.yaml").exists():
        Plan.read(out)
    if (out := case.root / "out.json").exists():
        reading.read_object(out)


def _run(case: Case, command: list[str]) -> None:
    done = subprocess.run(
        command,
        cwd=case.root.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=2 * LIMIT_SECONDS,
        errors="replace",
    )
    case.printed.append(f"$ {' '.join(command[3:])}\n{done.stdout}")
    if done.returncode != 0:
        case.stuck.append(f"{command[3]} ended with {done.returncode}: {done.stdout[-500:]}")


if __name__ == "__main__":
    main()
