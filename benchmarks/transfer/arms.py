"""Trains the runs of a carried recipe for the benchmarks that compare such runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from completedp import files
from completedp.lm.data import prepare
from completedp.recipe import Recipe
from completedp.runs.job import Outcome
from completedp.runs.local import LocalExecutor, default_workers, devices_of
from completedp.runs.sweep import run_all
from completedp.seeds import derive_seed
from completedp.training.run_folder import plan_jobs
from transfer.measuring.speedup import Run, Setting, runs_folder

RESULTS = Path(__file__).parent / "results"


def add_options(parser: argparse.ArgumentParser, out: str) -> None:
    """What every such benchmark is told."""
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, help="runs at a time; default one a core or GPU")
    parser.add_argument("--out", type=Path, default=RESULTS / out)


def paired_seeds(arguments: argparse.Namespace) -> tuple[int, ...]:
    """Those of `completedp speedup`, whose finished runs then count here too."""
    return tuple(derive_seed(0, "speedup", i) for i in range(arguments.seeds))


def whole_runs(
    arguments: argparse.Namespace, scale: float, parameterization: str | None = None
) -> Setting:
    """Both arms for all of a scale's tokens."""
    return Setting(
        scales=(scale,),
        fractions=(1.0,),
        seeds=paired_seeds(arguments),
        parameterization=parameterization,
    )


def write(
    arguments: argparse.Namespace, recipe: Recipe, rows: list[dict[str, Any]], own: str
) -> None:
    """The rows so far, with the command that makes them; `own`: the benchmark's own options."""
    shared = f"--recipe <recipe.yaml> --seeds {arguments.seeds} --root <folder>"
    command = f"python benchmarks/{Path(sys.argv[0]).name} {shared} {own}"
    content = {"command": command, "recipe_digest": recipe.digest, "rows": rows}
    files.write_json(arguments.out, content)


def listed(numbers: Sequence[float]) -> str:
    """As they stand on a command line."""
    return " ".join(f"{number:g}" for number in numbers)


def trained(wanted: Sequence[Run], arguments: argparse.Namespace) -> dict[int, Outcome]:
    """The outcomes by the run's place; finished runs under the root are not repeated."""
    root: Path = arguments.root.resolve()
    device: str = arguments.device
    folder = runs_folder(root, arguments.recipe)
    with LocalExecutor(
        arguments.workers or default_workers(device),
        logs=folder / "logs",
        devices=devices_of(device),
    ) as executor:
        plans = [(run.plan, run.seed) for run in wanted]
        first = wanted[0].plan
        corpus = prepare(first.data, first.model.vocab_size, first.train.eval_tokens, root / "data")
        found = plan_jobs(
            plans, cache=root / "data", device=device.split(":")[0], digest=corpus.digest
        )
        return run_all(found, executor, folder)
