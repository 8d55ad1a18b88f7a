"""Whether this machine and a root are fit for a search. Everything is tried, nothing is assumed."""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from completedp import root_layout
from completedp.errors import UserError, first_line
from completedp.runs.journal import read_records, studies, trials

State = Literal["ok", "note", "fault", "mended"]

# Size of a study of 200 runs: journal, curves, and mostly MLflow's database.
_ROOM = 200 * 2**20
_STEPS = 8
# Largest relative difference of two losses. The order of float32 sums moves the loss by 1e-5 in `_STEPS`
# steps, an attention without gradients by 7e-3.
_COMPILED = 1e-3


@dataclass(frozen=True)
class Finding:
    """The result of one check. The message of a `fault` says how to fix it."""

    subject: str
    state: State
    message: str


def examine(root: Path) -> Iterator[Finding]:
    """The findings of all checks. A fault explains later ones, so the order matters."""
    for check in (_packages, _root, _devices, _training, _compiled, _studies, _mlflow):
        yield from check(root)


def _packages(_: Path) -> Iterator[Finding]:
    from packaging.requirements import Requirement

    yield Finding("python", "ok", platform.python_version())
    try:
        required = importlib.metadata.requires("completedp") or ()
    except importlib.metadata.PackageNotFoundError:
        message = "runs from a checkout that is not installed, so versions were not checked; "
        yield Finding("completedp", "note", message + "python -m pip install -e .")
        return
    for text in required:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = ""
        if version and requirement.specifier.contains(version, prereleases=True):
            yield Finding(requirement.name, "ok", version)
        else:
            wanted = f"{requirement.name}{requirement.specifier}"
            message = f"{version or 'absent'}; python -m pip install '{wanted}'"
            yield Finding(requirement.name, "fault", message)


def _root(root: Path) -> Iterator[Finding]:
    root = root.absolute()
    folder = next(path for path in (root, *root.parents) if path.exists())
    try:
        locks = _has_locks(folder)
    except OSError as error:
        yield Finding("root", "fault", f"{folder}: {error.strerror}; give another --root")
        return
    free = shutil.disk_usage(folder).free
    state: State = "fault"
    if not locks:
        message = "its file system has no locks, so two searches would mix; give another --root"
    elif free < _ROOM:
        message = f"{free / 2**20:.0f} MiB free; make room, a study of 200 runs takes about 200 MiB"
    else:
        state, message = "ok", f"writable, has locks, {free / 2**30:.0f} GiB free"
    yield Finding("root", state, f"{root}: {message}")


def _has_locks(folder: Path) -> bool:
    """Whether a second lock on a locked file of the folder is refused."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor.") as one, open(one.name) as two:
        fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _devices(_: Path) -> Iterator[Finding]:
    import torch

    from completedp.runs.local import default_workers

    yield Finding("cpu", "ok", f"{default_workers('cpu')} cores for as many workers")
    for i in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(i).total_memory / 2**30
        message = f"{torch.cuda.get_device_name(i)}, {memory:.0f} GiB"
        state: State = "ok"
        if not torch.cuda.is_bf16_supported():
            message += "; no bfloat16: set train.precision to float32 in a copy of the preset"
            state = "note"
        yield Finding(f"cuda:{i}", state, message)


def _training(_: Path) -> Iterator[Finding]:
    """Train the smallest preset twice from one seed, each time in a new worker process."""
    try:
        first, second = (_losses("cpu", [False])[0] for _ in range(2))
    except (UserError, KeyError) as error:
        message = f"a worker could not train: {error}; see what precedes this"
        yield Finding("training", "fault", message)
        return
    if first == second:
        yield Finding("training", "ok", f"two workers trained {_STEPS} steps to the same bit")
    else:
        message = f"two workers trained the same {_STEPS} steps to {first} and {second}: a resumed "
        yield Finding("training", "note", message + "study will differ from an uninterrupted one")


def _compiled(_: Path) -> Iterator[Finding]:
    """Whether a GPU's compiled code trains like the eager code: some releases of torch got gradients wrong
    without a message (docs/log.md, 2026-11-26)."""
    import torch

    for i in range(torch.cuda.device_count()):
        subject = f"compiled on cuda:{i}"
        try:
            eager, compiled = _losses(f"cuda:{i}", [False, True])
        except (UserError, KeyError) as error:
            message = f"a worker could not train: {error}; mend that, or set train.compile to false"
            yield Finding(subject, "fault", message)
            continue
        if abs(compiled - eager) <= _COMPILED * eager:
            yield Finding(subject, "ok", f"{_STEPS} steps end at the loss of eager ones")
        else:
            message = f"{_STEPS} steps end at {compiled:.4f}, eager ones at {eager:.4f}: set train.compile "
            message += "to false in a copy of the preset, or take another release of torch"
            yield Finding(subject, "fault", message)


def _losses(device: str, compiled: Sequence[bool]) -> list[float]:
    """The final losses of runs of the smallest preset in a new worker: one run from one seed for each entry
    of `compiled`. Raises `KeyError` for a run that did not end."""
    import dataclasses

    from completedp.hparams import HParams
    from completedp.lm.preset_files import load_preset
    from completedp.models import own_inventory
    from completedp.resolved import resolve
    from completedp.runs.local import LocalExecutor
    from completedp.runs.sweep import run_all
    from completedp.scale import Ratios
    from completedp.training.jobs import training_job

    config = load_preset("tiny")
    batch = config.train.batch
    train = dataclasses.replace(config.train, tokens=_STEPS * batch, eval_tokens=batch)
    resolved = resolve(HParams(global_=config.values), own_inventory(config.model), Ratios())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs = [
            training_job(
                config.model,
                config.data,
                dataclasses.replace(train, compile=compile_it),
                resolved,
                trial=i,
                seed=0,
                split="select",
                cache=folder / "data",
                device=device.split(":")[0],
            )
            for i, compile_it in enumerate(compiled)
        ]
        with LocalExecutor(1, logs=folder / root_layout.LOGS, devices=[device]) as executor:
            # One at a time: a run that dies is then given up with its reason.
            ended = [run_all([job], executor, folder / str(job.trial)) for job in jobs]
        return [outcomes[i].loss or float("nan") for i, outcomes in enumerate(ended)]


def _studies(root: Path) -> Iterator[Finding]:
    for folder in studies(root):
        path = folder / root_layout.JOURNAL
        try:
            records = read_records(path)
            ended = sum(trial.status is not None for trial in trials(records, path).values())
            torn = not path.read_bytes().endswith(b"\n")
        except UserError as error:
            yield Finding(f"study {folder.name}", "fault", str(error))
            continue
        if records[-1]["event"] == "done":
            yield Finding(f"study {folder.name}", "ok", f"done, {ended} runs ended")
            continue
        message = f"{ended} runs ended"
        if torn:
            message += ", a last line torn by a kill (resuming cuts it off)"
        message += f"; unless it is running, go on with: completedp search --resume {folder.name}"
        yield Finding(f"study {folder.name}", "note", message)


def _mlflow(root: Path) -> Iterator[Finding]:
    """Read the database without changing it: `track` replaces a broken one."""
    from completedp.tracking import database
    from completedp.tracking.store import judge

    path = root.absolute() / root_layout.DATABASE
    if database.is_missing(path):
        yield Finding("mlflow", "ok", "no database yet: the first study makes it")
        return
    try:
        judge(path)
    except Exception as error:
        why = first_line(error)
        state: State = "fault"
        if database.says_broken(error):
            message = (
                f"{path} is broken ({why}); 'completedp track' sets it aside and makes a new one"
            )
        elif database.says_in_use(error):
            state = "note"
            message = f"{path} is being written, or was when its writer was killed ({why}): nothing to mend"
        else:
            message = f"{path}: cannot be read ({why}); make it readable, or give another --root"
        yield Finding("mlflow", state, message)
    else:
        yield Finding("mlflow", "ok", f"{path} opens, {os.path.getsize(path) / 2**20:.0f} MiB")
