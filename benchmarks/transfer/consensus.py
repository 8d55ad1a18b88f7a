"""Do searches that differ in their seed alone find the same values? Does their mean carry better?

    python benchmarks/consensus.py --recipe <recipe.yaml> --scales 1 16 --seeds 3 --root <folder>

First, of the committed records of the default strategy, the correlation over pairs of searches of their best
per-module points in octaves. Then training: each search's point (`each`), the mean of all points in octaves,
global values and multipliers alike (`mean`), each point with a half of its multipliers' octaves (`half`), and
of each search the mean of its ten best per-module trials (`best 10`), all against one global baseline on the
same seeds, whole runs. `--recipe` is that of one of the searches and gives the baseline. `--arms` chooses,
`--write` makes a recipe of the mean. Last, with 95 % intervals: what each kind of point gains over searches,
and what the others gain on `each`. Finished runs are kept, those of `completedp speedup` under the same root
too.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import carry
import numpy as np
import records
from what_carries import table

from completedp.hparams import KINDS, HParams
from completedp.recipe import Recipe
from completedp.stats import compare
from search.space import Space
from search.study import Study
from transfer.measuring.speedup import runs

Point = Mapping[str, float]
ARMS = ("each", "mean", "half", "best 10")
BEST = 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    carry.add_options(parser, "consensus.json")
    parser.add_argument("--scales", type=float, nargs="*", default=(1, 16))
    parser.add_argument("--write", type=Path, help="a recipe file for the mean")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    arguments = parser.parse_args()
    recipe = Recipe.read(arguments.recipe)
    paths = sorted((Path(__file__).parent / "records").glob("trust-region-bo-?.jsonl.xz"))
    studies = [Study.from_records(records.read(path), str(path)) for path in paths]
    points = [best_points(study, 1)[0] for study in studies]
    space = Space.from_config(studies[0].spec.config)
    found = {
        name: space.to_hparams(point)
        for name, point in configurations(studies, points).items()
        if name.startswith(tuple(arguments.arms))
    }
    own_values = [space.to_hparams(point).to_dict() for point in points]
    assert recipe.hparams.to_dict() in own_values, "a recipe of one of the searches"
    if arguments.write:
        mean_of(recipe, space.to_hparams(mean(points)), studies).write(arguments.write)
    rows: list[dict[str, Any]] = [{"agreement": agreement(points)}]
    print(json.dumps(rows[0], indent=1))
    names = " ".join(json.dumps(arm) for arm in arguments.arms)
    own = f"--scales {carry.listed(arguments.scales)} --arms {names}"
    carry.write(arguments, recipe, rows, own)
    for scale in arguments.scales:
        setting = carry.whole_runs(arguments, scale)
        wanted = [
            (name, run)
            for name, hparams in found.items()
            for run in runs(dataclasses.replace(recipe, hparams=hparams), recipe.baseline, setting)
        ]
        outcomes = carry.trained([run for _, run in wanted], arguments)
        found_here = table(scale, wanted, {i: o.loss for i, o in outcomes.items()})
        rows += [*found_here, {"scale": scale, "summary": summary(found_here)}]
        print(json.dumps(rows[-1]), flush=True)
        carry.write(arguments, recipe, rows, own)


def best_points(study: Study, number: int) -> list[Point]:
    """The per-module trials of lowest loss, in octaves; they share their global values."""
    trials = [t for t in study.of_phase("module") if t.loss is not None]
    return [t.values for t in sorted(trials, key=lambda t: (t.loss, t.trial))[:number]]


def configurations(studies: Sequence[Study], points: Sequence[Point]) -> dict[str, Point]:
    """By name; every search has global values of its own."""
    return {
        **{f"each {i}": point for i, point in enumerate(points)},
        "mean": mean(points),
        **{
            f"half {i}": {k: v if is_global(k) else v / 2 for k, v in point.items()}
            for i, point in enumerate(points)
        },
        **{f"best {BEST}, {i}": mean(best_points(one, BEST)) for i, one in enumerate(studies)},
    }


def mean(points: Sequence[Point]) -> Point:
    return {key: statistics.fmean(point[key] for point in points) for key in points[0]}


def mean_of(recipe: Recipe, hparams: HParams, studies: Sequence[Study]) -> Recipe:
    """The recipe with the mean's values, which no search has confirmed."""
    names = [study.spec.name for study in studies]
    provenance = {"data": recipe.provenance["data"], "mean_of": names}
    return dataclasses.replace(recipe, hparams=hparams, provenance=provenance)


def is_global(key: str) -> bool:
    return key.startswith("global.")


def agreement(points: Sequence[Point]) -> dict[str, dict[str, float]]:
    """Of each kind's multipliers, in octaves: the mean over pairs of searches of their correlation, the
    least and the greatest, and the multipliers' root mean square."""
    found = {}
    for kind in (*KINDS, "all"):
        keys = [k for k in points[0] if not is_global(k) and kind in (k.split(".")[1], "all")]
        octaves_PK = np.array([[point[key] for key in keys] for point in points])
        pairs = [np.corrcoef(a, b)[0, 1] for a, b in itertools.combinations(octaves_PK, 2)]
        found[kind] = {
            "multipliers": len(keys),
            "correlation": round(float(np.mean(pairs)), 3),
            "least": round(float(min(pairs)), 3),
            "greatest": round(float(max(pairs)), 3),
            "octaves": round(float(np.sqrt((octaves_PK**2).mean())), 3),
        }
    return found


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Over searches: what each kind of point gains on the baseline, and `best 10` on `each`. Over training
    seeds: what the mean of all points gains on the average of `each`."""
    gains: dict[str, dict[int, float]] = {}
    losses: dict[str, dict[str, float]] = {}
    for row in rows:
        kind, _, search = row["kinds"].rpartition(" ")
        losses[row["kinds"]] = row["losses"]
        if kind and row["difference"]:
            gains.setdefault(kind.rstrip(","), {})[int(search)] = row["difference"]["mean"]
    each = [losses[name] for name in losses if name.startswith("each")]
    average = {int(s): statistics.fmean(one[s] for one in each) for s in (each[0] if each else ())}
    mean_point = {int(seed): loss for seed, loss in losses.get("mean", {}).items()}
    found = {
        kind: compare(dict.fromkeys(by_search, 0.0), by_search) for kind, by_search in gains.items()
    }
    found["best 10 less each"] = compare(gains.get("each", {}), gains.get("best 10", {}))
    found["mean less each"] = compare(average, mean_point)
    return {name: comparison.to_dict() for name, comparison in found.items() if comparison}


if __name__ == "__main__":
    main()
