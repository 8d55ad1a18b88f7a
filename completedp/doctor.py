"""Whether this machine and what lies under a root are fit for a search; everything is tried, not assumed."""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from completedp.errors import UserError, first_line
from completedp.runs.journal import Record, TrialRecord, read_records, studies, trials

State = Literal["ok", "note", "fault", "mended"]

# What a study of 200 runs leaves: journal, curves, and mostly MLflow's database.
_ROOM = 200 * 2**20
_STEPS = 8
# Relative. Orders of float32 sums move the loss by 1e-5 in so many steps, an attention without gradients
# by 7e-3.
_COMPILED = 1e-3


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at. A `fault` says what to do about it, in `said`."""

    what: str
    state: State
    said: str


def mended(root: Path) -> Iterator[Finding]:
    """What `completedp.repair` has mended."""
    from completedp.repair import repair

    for done in repair(root):
        yield Finding(what=done.what, state="mended", said=done.said)


def examine(root: Path) -> Iterator[Finding]:
    """The findings, in the order in which a fault would explain those after it."""
    checks: tuple[Callable[[Path], Iterator[Finding]], ...] = (
        _packages,
        _root,
        _devices,
        _training,
        _compiled,
        _studies,
        _mlflow,
    )
    for check in checks:
        yield from check(root)


def _packages(_: Path) -> Iterator[Finding]:
    from packaging.requirements import Requirement

    yield Finding(what="python", state="ok", said=platform.python_version())
    try:
        wanted_packages = importlib.metadata.requires("completedp") or ()
    except importlib.metadata.PackageNotFoundError:
        said = "runs from a checkout that is not installed, so versions were not checked; "
        said += "python -m pip install -e ."
        yield Finding(what="completedp", state="note", said=said)
        return
    for text in wanted_packages:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = None
        fits = version is not None and requirement.specifier.contains(version, prereleases=True)
        wanted = f"{requirement.name}{requirement.specifier}"
        yield Finding(
            what=requirement.name,
            state="ok" if fits else "fault",
            said=f"{version}"
            if fits
            else f"{version or 'absent'}; python -m pip install '{wanted}'",
        )


def _root(root: Path) -> Iterator[Finding]:
    root = root.absolute()
    there = next(place for place in (root, *root.parents) if place.exists())
    try:
        with (
            tempfile.NamedTemporaryFile(dir=there, prefix=".doctor.") as one,
            open(one.name) as two,
        ):
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locks = False
            except BlockingIOError:
                locks = True
    except OSError as error:
        said = f"{there}: {error.strerror}; give another --root"
        yield Finding(what="root", state="fault", said=said)
        return
    free = shutil.disk_usage(there).free
    if not locks:
        said = (
            f"{root}: its file system has no locks, so two searches would mix; give another --root"
        )
    elif free < _ROOM:
        said = f"{root}: {free / 2**20:.0f} MiB free; make room, a study of 200 runs takes about 200 MiB"
    else:
        said = f"{root}: writable, has locks, {free / 2**30:.0f} GiB free"
    yield Finding(what="root", state="ok" if locks and free >= _ROOM else "fault", said=said)


def _devices(_: Path) -> Iterator[Finding]:
    import torch

    from completedp.runs.local import default_workers

    cores = default_workers("cpu")
    yield Finding(what="cpu", state="ok", said=f"{cores} cores for as many workers")
    for i in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(i).total_memory / 2**30
        said = f"{torch.cuda.get_device_name(i)}, {memory:.0f} GiB"
        if torch.cuda.is_bf16_supported():
            yield Finding(what=f"cuda:{i}", state="ok", said=said)
        else:
            said += "; no bfloat16: set train.precision to float32 in a copy of the preset"
            yield Finding(what=f"cuda:{i}", state="note", said=said)


def _training(_: Path) -> Iterator[Finding]:
    """A worker process trains the smallest preset twice from one seed."""
    try:
        losses = [_losses("cpu", [False])[0] for _ in range(2)]
    except (UserError, KeyError) as error:
        said = f"a worker could not train: {error}; see what precedes this"
        yield Finding(what="training", state="fault", said=said)
        return
    if losses[0] == losses[1]:
        said = f"two workers trained {_STEPS} steps to the same bit"
        yield Finding(what="training", state="ok", said=said)
    else:
        said = f"two workers trained the same {_STEPS} steps to {losses[0]} and {losses[1]}: a resumed "
        said += "study will differ from an uninterrupted one"
        yield Finding(what="training", state="note", said=said)


def _compiled(_: Path) -> Iterator[Finding]:
    """Whether a GPU's compiled code trains as the eager code does: releases of torch have got gradients wrong
    without a word (docs/log.md, 2026-11-26)."""
    import torch

    for i in range(torch.cuda.device_count()):
        what = f"compiled on cuda:{i}"
        try:
            eager, compiled = _losses(f"cuda:{i}", [False, True])
        except (UserError, KeyError) as error:
            said = f"a worker could not train: {error}; mend that, or set train.compile to false"
            yield Finding(what=what, state="fault", said=said)
            continue
        if abs(compiled - eager) <= _COMPILED * eager:
            said = f"{_STEPS} steps end at the loss of eager ones"
            yield Finding(what=what, state="ok", said=said)
        else:
            said = f"{_STEPS} steps end at {compiled:.4f}, eager ones at {eager:.4f}: set train.compile to "
            said += "false in a copy of the preset, or take another release of torch"
            yield Finding(what=what, state="fault", said=said)


def _losses(device: str, compiled: Sequence[bool]) -> list[float]:
    """What a new worker's runs of the smallest preset end at, from one seed, compiled or not. Raises
    `KeyError` for a run that did not end."""
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
                dataclasses.replace(train, compile=chosen),
                resolved,
                trial=i,
                seed=0,
                split="select",
                cache=folder / "data",
                device=device.split(":")[0],
            )
            for i, chosen in enumerate(compiled)
        ]
        with LocalExecutor(1, logs=folder / "logs", devices=[device]) as executor:
            # Alone each: a run that dies is then given up with its reason.
            ended = [run_all([job], executor, folder / str(job.trial)) for job in jobs]
        return [outcomes[i].loss or float("nan") for i, outcomes in enumerate(ended)]


def _studies(root: Path) -> Iterator[Finding]:
    for folder in studies(root):
        path = folder / "journal.jsonl"
        try:
            records = read_records(path)
            found = trials(records, path)
            torn = not path.read_bytes().endswith(b"\n")
            yield _study(folder.name, records, found, torn=torn)
        except UserError as error:
            yield Finding(what=f"study {folder.name}", state="fault", said=str(error))


def _study(
    name: str, records: Sequence[Record], found: Mapping[int, TrialRecord], *, torn: bool
) -> Finding:
    ended = sum(t.status is not None for t in found.values())
    said = f"{ended} runs ended"
    if records[-1]["event"] == "done":
        return Finding(what=f"study {name}", state="ok", said=f"done, {said}")
    if torn:
        said += ", a last line torn by a kill (resuming cuts it off)"
    said += f"; unless it is running, go on with: completedp search --resume {name}"
    return Finding(what=f"study {name}", state="note", said=said)


def _mlflow(root: Path) -> Iterator[Finding]:
    """Only looks: what is wrong with a view is for `track` to replace."""
    from completedp.tracking import database
    from completedp.tracking.store import DATABASE, judge

    path = root.absolute() / DATABASE
    if database.is_missing(path):
        yield Finding(what="mlflow", state="ok", said="no database yet: the first study makes it")
        return
    try:
        judge(path)
    except Exception as error:
        why = first_line(error)
        if database.says_broken(error):
            said = f"{path} is broken ({why}); 'completedp track' sets it aside and makes a new one"
            yield Finding(what="mlflow", state="fault", said=said)
        elif database.says_in_use(error):
            said = f"{path} is being written, or was when its writer was killed ({why}): nothing to mend"
            yield Finding(what="mlflow", state="note", said=said)
        else:
            said = f"{path}: cannot be read ({why}); make it readable, or give another --root"
            yield Finding(what="mlflow", state="fault", said=said)
        return
    size = os.path.getsize(path) / 2**20
    yield Finding(what="mlflow", state="ok", said=f"{path} opens, {size:.0f} MiB")
