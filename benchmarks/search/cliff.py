"""How does a search do beside a real cliff, where half of the box's random points diverge?

    python benchmarks/search/cliff.py --seeds 0 1 2 --root <folder>

Trains random points of the preset `cliff`, then searches on it with each strategy and seed. Printed: the
share of random points that diverge, and why; for each search its outcomes, the share of trials that diverge
after the first 20, and the confirmed gain. Interrupt it and start it again: finished runs are not repeated.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import result
from completedp.lm.data import prepare
from completedp.lm.preset_files import load_preset
from completedp.recipe import Recipe
from completedp.runs.journal import read_records, trials
from completedp.runs.local import LocalExecutor, default_workers
from completedp.runs.sweep import run_all
from search.space import Space

FIRST = 20  # trials in which the search may learn where the cliff is


def main() -> None:
    parser = result.parser(__doc__, "cliff.json")
    parser.add_argument("--points", type=int, default=60)
    parser.add_argument("--budget", type=int, default=60)
    parser.add_argument("--strategies", nargs="+", default=["trust-region", "trust-region-bo"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--root", type=Path, required=True)
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    points = random_points(root, arguments.points)
    searches = [
        searched(root, arguments.budget, strategy, seed)
        for seed in arguments.seeds
        for strategy in arguments.strategies
    ]
    content = {"random": points, "searches": searches}
    result.write(arguments.out, content)
    print(json.dumps(content, indent=1))


def random_points(root: Path, count: int) -> dict[str, Any]:
    """Points uniform in the whole box, in global and per-module coordinates alike."""
    from search.study_run import language_model_job

    config = load_preset("cliff")
    prepare(config.data, config.model.vocab_size, config.train.eval_tokens, root / "data")
    space = Space.from_config(config)
    rng = np.random.default_rng(0)
    jobs = []
    for i in range(count):
        point = space.project(
            {c.name: rng.uniform(-c.octaves, c.octaves) for c in space.coordinates}
        )
        hparams = space.to_hparams(point)
        jobs.append(language_model_job(config, root / "data", "cpu", i, hparams, 1, "select"))
    with LocalExecutor(default_workers("cpu"), logs=root / "cliff-random" / "logs") as executor:
        outcomes = run_all(jobs, executor, root / "cliff-random").values()
    diverged = [o for o in outcomes if o.status == "diverged"]
    return {
        "points": count,
        "diverged": len(diverged),
        "share": len(diverged) / count,
        "reasons": Counter((o.reason or "").split(" is ")[0] for o in diverged),
        "median_step": float(np.median([o.steps for o in diverged])) if diverged else None,
    }


def searched(root: Path, budget: int, strategy: str, seed: int) -> dict[str, Any]:
    name = f"cliff-{strategy}-{seed}"
    folder = root / "studies" / name
    if not (folder / "summary.json").exists():
        how = ["--budget", str(budget), "--preset", "cliff", "--name", name]
        how += ["--strategy", strategy, "--seed", str(seed)]
        if (folder / "journal.jsonl").exists():
            how = ["--resume", name]
        subprocess.run(
            [*result.COMPLETEDP, "search", *how, "--root", str(root), "--yes"], check=True
        )
    found = list(trials(read_records(folder / "journal.jsonl")).values())
    later = [t for t in found[FIRST:] if t.phase != "confirm"]
    return {
        "strategy": strategy,
        "seed": seed,
        "budget": budget,
        "outcomes": Counter(t.status for t in found),
        "diverged_after_first_20": sum(t.status == "diverged" for t in later) / len(later)
        if later
        else None,
        "recipe_valid": bool(Recipe.read(folder / "recipe.yaml").digest),
        "confirmed": json.loads((folder / "summary.json").read_text())["confirmed"]["difference"],
    }


if __name__ == "__main__":
    main()
