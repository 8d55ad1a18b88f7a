"""Do searches that differ only in their seed find the same values? Does their mean carry better?

    python benchmarks/transfer/consensus.py --recipe <recipe.yaml> --scales 1 16 --seeds 3 --root <folder>

The searches are the committed records of the default strategy. First their agreement is printed: the
correlation in octaves of two searches' best per-module points, over all pairs of searches. Then four kinds
of points are trained against one global baseline on the same seeds, whole runs:

each      The best point of each search.
mean      The mean of all these points in octaves, global values and multipliers alike.
half      Each point with half of its multipliers' octaves.
best 10   The mean of the ten best per-module trials, one point a search.

`--recipe` is the recipe of one of these searches and gives the baseline. `--arms` chooses among the kinds.
`--write` makes a recipe of the mean. A summary has 95 % intervals: what each kind of point gains on the
baseline, over searches, and what the others gain on `each`. Finished runs are kept under the root.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import result
from benchmarks.search import records
from benchmarks.transfer import arms
from completedp.hparams import HParams
from completedp.kinds import KINDS
from completedp.recipe import Recipe
from completedp.stats import compare
from search.space import Space
from search.study import Study

Point = Mapping[str, float]
POINTS = ("each", "mean", "half", "best 10")
BEST = 10


def main() -> None:
    parser = result.parser(__doc__)
    arms.add_options(parser)
    parser.set_defaults(out=result.RESULTS / "consensus.json")
    parser.add_argument("--write", type=Path, help="a recipe file for the mean")
    parser.add_argument("--arms", nargs="+", choices=POINTS, default=POINTS)
    arguments = parser.parse_args()
    recipe = Recipe.read(arguments.recipe)
    paths = sorted(result.RECORDS.glob("trust-region-bo-?.jsonl.xz"))
    studies = [Study.from_records(records.read(path), str(path)) for path in paths]
    points = [best_points(study, 1)[0] for study in studies]
    space = Space.from_config(studies[0].spec.config)
    own_values = [space.to_hparams(point).to_dict() for point in points]
    assert recipe.hparams.to_dict() in own_values, "expected the recipe of one of the searches"
    if arguments.write:
        mean_of(recipe, space.to_hparams(mean(points)), studies).write(arguments.write)
    first = {"agreement": agreement(points)}
    print(json.dumps(first, indent=1))
    found = {
        name: space.to_hparams(point)
        for name, point in configurations(studies, points).items()
        if name.startswith(tuple(arguments.arms))
    }
    result.write(arguments.out, {"recipe_digest": recipe.digest, "rows": [first]})
    carried = arms.against_baseline(recipe, found)
    arms.measure_scales(recipe, carried, arguments, summary, [first])


def best_points(study: Study, number: int) -> list[Point]:
    """The per-module trials of lowest loss, in octaves; they share their global values."""
    trials = [t for t in study.of_phase("module") if t.loss is not None]
    return [t.values for t in sorted(trials, key=lambda t: (t.loss, t.trial))[:number]]


def configurations(studies: Sequence[Study], points: Sequence[Point]) -> dict[str, Point]:
    """Points by name; every search has global values of its own."""
    halves = [{k: v if is_global(k) else v / 2 for k, v in point.items()} for point in points]
    return {
        **{f"each {i}": point for i, point in enumerate(points)},
        "mean": mean(points),
        **{f"half {i}": point for i, point in enumerate(halves)},
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
    """For each kind of multiplier: the correlation over pairs of searches (mean, least, greatest), and the
    root mean square of the multipliers in octaves."""
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
    losses: dict[str, dict[int, float]] = {}
    for row in rows:
        kind, _, search = row["arm"].rpartition(" ")
        losses[row["arm"]] = row["losses"]["tuned"]
        if kind and row["difference"]:
            gains.setdefault(kind.rstrip(","), {})[int(search)] = row["difference"]["mean"]
    each = [losses[name] for name in losses if name.startswith("each")]
    average = {s: statistics.fmean(one[s] for one in each) for s in (each[0] if each else ())}
    found = {
        kind: compare(dict.fromkeys(by_search, 0.0), by_search) for kind, by_search in gains.items()
    }
    found["best 10 less each"] = compare(gains.get("each", {}), gains.get("best 10", {}))
    found["mean less each"] = compare(average, losses.get("mean", {}))
    return {name: comparison.to_dict() for name, comparison in found.items() if comparison}


if __name__ == "__main__":
    main()
