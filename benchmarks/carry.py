"""Trains the runs of a carried recipe for the benchmarks that compare such runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from completedp.runs.job import Outcome
from completedp.runs.local import LocalExecutor, default_workers, devices_of
from completedp.runs.sweep import run_all
from completedp.seeds import derive_seed
from transfer.speedup import Run, jobs, runs_folder


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every such benchmark is told."""
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--device", default="cpu")


def paired_seeds(arguments: argparse.Namespace) -> tuple[int, ...]:
    """Those of `completedp speedup`, whose finished runs then count here too."""
    return tuple(derive_seed(0, "speedup", i) for i in range(arguments.seeds))


def trained(wanted: Sequence[Run], arguments: argparse.Namespace) -> dict[int, Outcome]:
    """The outcomes by the run's place; finished runs under the root are not repeated."""
    root: Path = arguments.root.resolve()
    device: str = arguments.device
    folder = runs_folder(root, arguments.recipe)
    with LocalExecutor(
        default_workers(device), logs=folder / "logs", devices=devices_of(device)
    ) as executor:
        found = jobs(wanted, cache=root / "data", device=device.split(":")[0])
        return run_all(found, executor, folder)
