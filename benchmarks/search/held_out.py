"""Which kinds of multipliers help to predict trials that the model has not seen?

    python benchmarks/search/held_out.py benchmarks/records/trust-region-bo-*.jsonl.xz

For each recorded study the model of `trust-region-bo` is fitted to the first three quarters of the per-module
trials, and predicts up to 40 of the rest. Then the same without the coordinates of one kind or of several. A
kind that has an effect is missed. One without only adds noise, and the prediction is better without it.

Printed: the log-likelihood of a held-out trial, in nats, less that with all kinds: mean and 95 % interval
over studies. The trials are those of real searches, so the result depends on where those went.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import result
from benchmarks.search import records
from completedp.kinds import KINDS
from completedp.stats import mean_interval
from search.strategies.additive import AdditiveModel, Array
from search.strategies.trust_region_bo import bounded, numbered

FITTED = 0.75
MOST_HELD_OUT = 40
TOGETHER = (("beta2", "eps"), ("beta1", "beta2", "eps"))


def main() -> None:
    parser = result.parser(__doc__, "held_out.json")
    parser.add_argument("records", type=Path, nargs="+")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    left_out = [*((kind,) for kind in KINDS), *TOGETHER]
    rows: list[dict[str, Any]] = []
    for path in arguments.records:
        trials = module_trials(path)
        whole = likelihood(trials, ())
        found = {" + ".join(kinds): likelihood(trials, kinds) - whole for kinds in left_out}
        rows.append({"study": path.name.removesuffix(".jsonl.xz"), "without": found})
        print(json.dumps(rows[-1]), flush=True)
    mean = {
        name: mean_interval([row["without"][name] for row in rows]) for name in rows[0]["without"]
    }
    result.write(arguments.out, {"rows": rows, "mean": mean})
    for name, (middle, low, high) in mean.items():
        print(f"without {name:20s} {middle:+.3f} [{low:+.3f}, {high:+.3f}]")


def module_trials(path: Path) -> list[dict[str, Any]]:
    """The proposals of completed per-module trials, each with its `loss`."""
    found = records.read(path)
    losses = {r["trial"]: r["loss"] for r in found if r.get("status") == "completed"}
    return [
        {**r, "loss": losses[r["trial"]]}
        for r in found
        if r["event"] == "proposed" and r["phase"] == "module" and r["trial"] in losses
    ]


def likelihood(trials: Sequence[dict[str, Any]], without: Sequence[str]) -> float:
    """Mean log-likelihood of a held-out trial, by the model without the multipliers of these kinds."""
    names = [name for name in trials[0]["values"] if not _multiplier_of(name, without)]
    points_ND = np.array([[t["values"].get(name, 0.0) for name in names] for t in trials])
    points_ND -= points_ND[0]  # the first trial is the point that the phase starts from
    losses_N = bounded(np.array([t["loss"] for t in trials]))
    seeds = numbered([t["seed"] for t in trials])
    cut = round(FITTED * len(trials))
    held_out = slice(cut, cut + MOST_HELD_OUT)
    model = AdditiveModel(points_ND[:cut], losses_N[:cut], seeds[:cut])
    mean_M, variance_M = _predicted(model, points_ND[held_out], seeds[held_out])
    squares_M = (losses_N[held_out] - mean_M) ** 2 / variance_M
    return float(-0.5 * np.mean(squares_M + np.log(2 * np.pi * variance_M)))


def _multiplier_of(name: str, kinds: Sequence[str]) -> bool:
    part, kind, _ = name.split(".", 2) if name.count(".") > 1 else ("global", "", "")
    return part != "global" and kind in kinds


def _predicted(model: AdditiveModel, points_MD: Array, seeds: Sequence[int]) -> tuple[Array, Array]:
    """Means and variances of trials, the noise of a trial included."""
    inputs = torch.as_tensor(points_MD)
    if model.gp.train_inputs[0].shape[1] > inputs.shape[1]:  # a column of seeds
        numbers_M1 = torch.tensor(seeds, dtype=torch.float64)[:, None]
        inputs = torch.cat((inputs, numbers_M1), dim=1)
    with torch.no_grad():
        posterior = model.gp.posterior(inputs, observation_noise=True)
        mean_M, variance_M = posterior.mean[:, 0].numpy(), posterior.variance[:, 0].numpy()
    return np.asarray(mean_M), np.asarray(variance_M)


if __name__ == "__main__":
    main()
