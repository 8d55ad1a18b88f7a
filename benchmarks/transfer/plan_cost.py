"""How long does `completedp transfer` take to plan 70 billion parameters?

    python benchmarks/transfer/plan_cost.py

The recipe has the shape of `proxy-50m`. Each plan is made by the command line in a fresh process. Printed:
the median, least and greatest seconds. tests/completedp/test_flops.py holds the plan's parameters and FLOPs
against the model itself and torch's counter.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks import result
from completedp.hparams import HParams
from completedp.lm.preset_files import load_preset
from completedp.recipe import Recipe

RUNS = 7


def main() -> None:
    arguments = result.parser(__doc__, "plan_seconds.json").parse_args()
    seconds = timed()
    result.write(arguments.out, {"plan_70b_seconds": seconds, "runs": RUNS})
    print(json.dumps(seconds))


def timed() -> dict[str, float]:
    preset = load_preset("proxy-50m")
    types = {"lr": {"unembedding": 4.0, "q": 0.5}, "weight_decay": {"embedding": 2.0}}
    values = dataclasses.asdict(preset.values)
    recipe = Recipe(
        parameterization="completed-p",
        model=preset.model,
        data=preset.data,
        train=preset.train,
        hparams=HParams.from_dict({"global": values, "types": types}),
        baseline=HParams.from_dict({"global": values}),
        provenance={},
    )
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "recipe.yaml"
        recipe.write(place)
        how = ["--parameters", "70e9", "--tensor-parallel", "8", "--out", f"{folder}/plan.yaml"]
        command = [*result.COMPLETEDP, "transfer", str(place), *how]
        for _ in range(RUNS + 1):
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - began)
    seconds = seconds[1:]  # the first fills the file cache
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


if __name__ == "__main__":
    main()
