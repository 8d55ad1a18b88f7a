"""The whole story: search at the proxy, both recipes carried to 4 x the width and 2 x the depth.

    python benchmarks/story.py --root <folder> [--recipe recipe.yaml] [--budget 200] [--seeds 3]

Tokens as at the base. Global and per-module under Complete(d)P, and with `sp-fan-in` and `mup` in its
place; paired seeds, report split. Resumable.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
from pathlib import Path
from typing import Any

from completedp import files
from completedp.recipe import Recipe
from completedp.resolved import resolve
from completedp.runs.job import Job
from completedp.runs.local import LocalExecutor, default_workers
from completedp.runs.sweep import run_all
from completedp.scale import Ratios
from completedp.seeds import derive_seed
from completedp.stats import compare
from completedp.training.jobs import training_job
from search.confirm import ARMS

RESULTS = Path(__file__).parent / "results"
WIDTH, DEPTH = 4, 2
PARAMETERIZATIONS = ("completed-p", "sp-fan-in", "mup")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, help="of a search made before; default: search now")
    parser.add_argument("--budget", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=float, default=WIDTH)
    parser.add_argument("--depth", type=float, default=DEPTH)
    parser.add_argument("--out", type=Path, default=RESULTS / "story.json")
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    path = arguments.recipe or searched(root, arguments.budget)
    recipe = Recipe.read(path)
    keys = [
        (name, arm, derive_seed(0, "story", i))
        for i in range(arguments.seeds)
        for name in PARAMETERIZATIONS
        for arm in ARMS
    ]
    jobs = [
        job(i, recipe, root, arguments.width, arguments.depth, *key) for i, key in enumerate(keys)
    ]
    folder = root / "story"
    with LocalExecutor(default_workers("cpu"), logs=folder / "logs") as executor:
        outcomes = run_all(jobs, executor, folder)
    rows = []
    for name in PARAMETERIZATIONS:
        losses: dict[str, dict[int, float]] = {"global": {}, "module": {}}
        for i, (p, arm, seed) in enumerate(keys):
            outcome = outcomes.get(i)
            if p == name and outcome is not None and outcome.loss is not None:
                losses[arm][seed] = outcome.loss
        rows.append(row(name, losses))
    confirmed = recipe.provenance["confirmed"]
    base = {arm: confirmed[arm]["mean"] for arm in ARMS if arm in confirmed}
    result: dict[str, Any] = {
        "command": f"python benchmarks/story.py --width {arguments.width} --depth {arguments.depth} "
        f"--seeds {arguments.seeds}",
        "recipe": {"digest": recipe.digest, "chosen": recipe.provenance["chosen"]},
        "base": {**base, "difference": confirmed["difference"]},
        "rows": rows,
    }
    files.write_json(arguments.out, result)
    print(f"{'':14s} {'global':>8s} {'module':>8s} {'difference':>11s}  95 % interval")
    print(line("base", result["base"]))
    for r in rows:
        print(line(r["parameterization"], r))


def line(name: str, values: dict[str, Any]) -> str:
    """A row of the table; a dash where an arm has no completed run."""
    means = [f"{values[arm]:8.4f}" if values.get(arm) is not None else f"{'–':>8s}" for arm in ARMS]
    d = values["difference"]
    difference = f"{d['mean']:+11.4f}  [{d['low']:+.4f}, {d['high']:+.4f}]" if d else f"{'–':>11s}"
    return f"{name:14s} {' '.join(means)} {difference}"


def searched(root: Path, budget: int) -> Path:
    """The recipe of a search at `tiny`, made now or finished from before."""
    folder = root / "studies" / "story"
    if not (folder / "recipe.yaml").exists():
        begun = (folder / "journal.jsonl").exists()
        how = ["--resume", "story"] if begun else ["--budget", str(budget), "--name", "story"]
        preset = [] if begun else ["--preset", "tiny"]
        subprocess.run(
            ["completedp", "search", *how, *preset, "--root", str(root), "--yes"], check=True
        )
    return folder / "recipe.yaml"


def job(
    trial: int,
    recipe: Recipe,
    root: Path,
    width: float,
    depth: float,
    parameterization: str,
    arm: str,
    seed: int,
) -> Job:
    """One arm at the target scale under one parameterisation."""
    base = recipe.model
    model = base.scaled(width=round(base.width * width), depth=round(base.depth * depth))
    hparams = recipe.baseline if arm == "global" else recipe.hparams
    resolved = resolve(
        hparams,
        model.inventory(base),
        Ratios(width=width, depth=depth),
        parameterization=parameterization,
    )
    return training_job(
        model,
        recipe.data,
        recipe.train,
        resolved,
        trial=trial,
        seed=seed,
        split="report",
        cache=root / "data",
        device="cpu",
    )


def row(name: str, losses: dict[str, dict[int, float]]) -> dict[str, Any]:
    comparison = compare(losses["global"], losses["module"])
    return {
        "parameterization": name,
        **{arm: statistics.fmean(by.values()) if by else None for arm, by in losses.items()},
        "losses": {arm: {str(s): x for s, x in by.items()} for arm, by in losses.items()},
        "difference": comparison.to_dict() if comparison else None,
    }


if __name__ == "__main__":
    main()
