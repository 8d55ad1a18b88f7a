"""What a search gains over a global-only search of the same total budget, on fresh paired seeds.

    python benchmarks/search_gain.py --budget 200 --seeds 0 1 2 --root <folder>

For each search seed two studies run one after the other: the default, and one whose whole budget goes to
global values (`search.global_share: 1`). Both confirm their winner on the same fresh seeds and the report
split, so the losses pair. Interrupt it and start it again: finished studies are not repeated.
Then the global-only winner is trained at longer horizons (whole schedules, hyperparameters left alone and
by the published duration rule, whichever is better for it) for the tokens it needs to equal per-module.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

from completedp import files
from completedp.config import StudyConfig
from completedp.hparams import HParams
from completedp.lm.preset_files import load_preset
from completedp.recipe import Recipe
from completedp.resolved import resolve
from completedp.runs.job import Job, Outcome
from completedp.runs.local import LocalExecutor, default_workers
from completedp.runs.sweep import run_all
from completedp.scale import Ratios
from completedp.stats import compare
from completedp.training.jobs import training_job

sys.path.insert(0, str(Path(__file__).parent))
from watch import watch

RESULTS = Path(__file__).parent / "results"
HORIZONS = (1.5, 2.0, 3.0)
HORIZON_SEEDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--budget", type=int, default=200)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS / "search_gain.json")
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    config = load_preset(arguments.preset)
    whole_global = dataclasses.replace(config.search, global_share=1.0)
    files.write_yaml(
        root / "global_only.yaml", dataclasses.replace(config, search=whole_global).to_dict()
    )
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        row: dict[str, Any] = {"search_seed": seed}
        for label, preset in (
            ("per_module", arguments.preset),
            ("global_only", str(root / "global_only.yaml")),
        ):
            row[label] = study(root, f"{label}-{seed}", preset, arguments.budget, seed)
        row["comparison"] = paired(row)
        rows.append(row)
        files.write_json(arguments.out, report(arguments, rows))
        print(json.dumps(rows[-1]["comparison"]), flush=True)
    for row in rows:
        row["tokens_to_equal_loss"] = tokens_to_equal(root, row, config)
        files.write_json(arguments.out, report(arguments, rows))
        print(json.dumps(row["tokens_to_equal_loss"]), flush=True)


def study(root: Path, name: str, preset: str, budget: int, seed: int) -> dict[str, Any]:
    """Run or finish one study by the command line, as a user would."""
    folder = root / "studies" / name
    measured = root / f"{name}.watched.json"
    if not (folder / "summary.json").exists():
        begun = (folder / "journal.jsonl").exists()
        how = (
            ["--resume", name]
            if begun
            else ["--budget", str(budget), "--preset", preset, "--seed", str(seed), "--name", name]
        )
        watched = watch(
            ["completedp", "search", *how, "--root", str(root), "--yes"], root / f"{name}.log"
        )
        assert watched.status == 0, (root / f"{name}.log").read_text()[-2000:]
        files.write_json(measured, {**dataclasses.asdict(watched), "resumed": begun})
    summary = json.loads((folder / "summary.json").read_text())
    process = json.loads(measured.read_text()) if measured.exists() else None
    return {"summary": summary, "process": process}


def paired(row: dict[str, Any]) -> dict[str, Any]:
    """Per-module against the global-only search's winner, over the seeds both confirmed on."""
    tuned = by_seed(row["per_module"], "module")
    baseline = by_seed(row["global_only"], "global")
    comparison = compare(baseline, tuned)
    assert comparison is not None
    shared = [s for s in baseline if s in tuned]
    mean = statistics.fmean(baseline[s] for s in shared)
    return {
        **comparison.to_dict(),
        "global_only_mean": mean,
        "per_module_mean": statistics.fmean(tuned[s] for s in shared),
        "percent": 100 * comparison.mean / mean,
        "percent_interval": [100 * comparison.low / mean, 100 * comparison.high / mean],
    }


def by_seed(study: dict[str, Any], arm: str) -> dict[int, float]:
    return {int(s): x for s, x in study["summary"]["confirmed"][arm]["losses"].items()}


def tokens_to_equal(root: Path, row: dict[str, Any], config: StudyConfig) -> dict[str, Any]:
    """Multiple of the tokens at which the global-only winner reaches the per-module loss."""
    seed = row["search_seed"]
    recipe = Recipe.read(root / "studies" / f"global_only-{seed}" / "recipe.yaml")
    seeds = list(by_seed(row["global_only"], "global"))[:HORIZON_SEEDS]
    jobs, keys = [], []
    for horizon in HORIZONS:
        for exponent in (0.0, 0.5):
            for s in seeds:
                keys.append((horizon, exponent, s))
                jobs.append(
                    horizon_job(len(jobs), root, config, recipe.hparams, horizon, exponent, s)
                )
    folder = root / f"horizons-{seed}"
    with LocalExecutor(default_workers("cpu"), logs=folder / "logs") as executor:
        outcomes = run_all(jobs, executor, folder)
    losses: dict[str, dict[str, float]] = {}
    for horizon in HORIZONS:
        losses[str(horizon)] = {
            f"p={exponent}": statistics.fmean(found)
            for exponent in (0.0, 0.5)
            if (found := completed(outcomes, keys, horizon, exponent))
        }
    at_one = statistics.fmean(by_seed(row["global_only"], "global")[s] for s in seeds)
    target = statistics.fmean(by_seed(row["per_module"], "module")[s] for s in seeds)
    reached = [at_one, *(min(losses[str(h)].values(), default=at_one) for h in HORIZONS)]
    # More tokens never need hurt: one may stop at the best shorter horizon.
    best = np.minimum.accumulate(reached)
    needed = float(2 ** np.interp(-target, -best, np.log2([1.0, *HORIZONS])))
    beyond = bool(target < best[-1])
    return {
        "global_only_loss_by_horizon": {"1.0": at_one, **losses},
        "per_module_loss": target,
        "tokens_multiple": needed,
        "at_least": beyond,
        "seeds": seeds,
    }


def completed(
    outcomes: dict[int, Outcome], keys: list[tuple[float, float, int]], horizon: float, p: float
) -> list[float]:
    """The losses of one horizon and exponent; none of a run that diverged."""
    chosen = (outcomes.get(i) for i, key in enumerate(keys) if key[:2] == (horizon, p))
    return [o.loss for o in chosen if o is not None and o.loss is not None]


def horizon_job(
    trial: int,
    root: Path,
    config: StudyConfig,
    hparams: HParams,
    horizon: float,
    exponent: float,
    seed: int,
) -> Job:
    """The study's run at another number of tokens; exponent 0 leaves the hyperparameters alone."""
    steps = round(config.train.steps * horizon)
    train = dataclasses.replace(config.train, tokens=steps * config.train.batch)
    ratios = Ratios(tokens=train.tokens / config.train.tokens)
    inventory = config.model.inventory(config.model)
    resolved = resolve(hparams, inventory, ratios, duration_exponent=exponent, beta_rule="power")
    return training_job(
        config.model,
        config.data,
        train,
        resolved,
        trial=trial,
        seed=seed,
        split="report",
        cache=root / "data",
        device="cpu",
    )


def report(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "command": f"python benchmarks/search_gain.py --budget {arguments.budget} "
        f"--preset {arguments.preset} --seeds {' '.join(map(str, arguments.seeds))}",
        "rows": rows,
    }


if __name__ == "__main__":
    main()
