"""Loss against FLOPs for a recipe and its baseline, carried on to a budget that nobody has trained yet.

L(C) = E + A · (C / C₀)^-γ for each arm, C₀ the smallest scale's FLOPs; both arms read the same text, so E,
what no model learns, is one number for both. An extrapolation, and said to be one: its intervals hold the
noise of the seeds, not the doubt about the law's form.

Shapes: A arms, S scales, R sets of means, G values of E.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from completedp import files
from completedp.errors import UserError

ARMS = ("baseline", "tuned")
# Five numbers are fitted; two arms at three scales are the fewest losses that hold them.
FEWEST_SCALES = 3
RESAMPLES = 500
# What is tried for E, as shares of the lowest loss.
SHARES_G: NDArray[np.float64] = np.linspace(0, 0.995, 200)

Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Mean losses of both arms by scale, `2 x S` in the order of `ARMS`, with the error of each mean.

    `shared` is the part of its square that a seed adds to both arms alike, `freedom` the degrees of freedom
    that the errors come from.
    """

    flops_S: Vector
    mean_AS: Vector
    error_AS: Vector
    shared: float
    freedom: int


@dataclass(frozen=True, kw_only=True)
class Law:
    """E, and A and γ of each arm; `base` is C₀."""

    base: float
    E: float
    A: tuple[float, float]
    gamma: tuple[float, float]

    def loss(self, arm: int, flops: Vector | float) -> Any:
        return self.E + self.A[arm] * (np.asarray(flops) / self.base) ** -self.gamma[arm]

    def saved(self, flops: float) -> float:
        """FLOPs at which the baseline has the recipe's loss at `flops`, as a multiple of them."""
        above = (self.loss(1, flops) - self.E) / self.A[0]
        if above <= 0 or self.gamma[0] <= 0:
            return math.inf
        try:
            return float(self.base / flops * above ** (-1 / self.gamma[0]))
        except OverflowError:
            return math.inf


def measured(document: Mapping[str, Any]) -> Measured:
    """From a `speedup` file: the whole runs of both arms on the seeds both completed.

    The error of a mean is the pooled spread of seeds over all scales and arms: three seeds of one cell say
    little of it. Raises `UserError` with fewer than `FEWEST_SCALES` scales.
    """
    try:
        rows = _whole_rows(document)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"the speed-up's file is damaged ({type(error).__name__}: {error}); make it again by the same "
            "`completedp speedup`, which keeps its runs"
        ) from None
    if len(rows) < FEWEST_SCALES:
        raise UserError(
            f"{len(rows)} scales have two or more whole seeds; expected {FEWEST_SCALES}: measure more by "
            "`completedp speedup --scales`"
        )
    cells = [losses for _, arms in rows for losses in arms]
    freedom = sum(len(cell) - 1 for cell in cells)
    pooled = sum((len(cell) - 1) * statistics.variance(cell) for cell in cells) / freedom
    common = 2 / freedom * sum((len(a[0]) - 1) * statistics.covariance(*a) for _, a in rows)
    return Measured(
        flops_S=np.array([float(flops) for flops, _ in rows]),
        mean_AS=np.array([[statistics.fmean(arms[i]) for _, arms in rows] for i in range(2)]),
        error_AS=np.array(
            [[math.sqrt(pooled / len(arms[i])) for _, arms in rows] for i in range(2)]
        ),
        shared=min(1.0, max(0.0, common / pooled)) if pooled else 0.0,
        # Arms that a seed moves alike are not two samples of its spread.
        freedom=freedom // 2,
    )


def _whole_rows(document: Mapping[str, Any]) -> list[tuple[float, list[list[float]]]]:
    """FLOPs, and the losses of both arms on the seeds both completed, of scales with two or more."""
    rows = []
    for row in document["rows"]:
        losses = [row["losses"][arm].get("1.0", {}) for arm in ARMS]
        seeds = [s for s in losses[0] if s in losses[1]]
        if len(seeds) >= 2:
            flops = float(row["flops"])
            if not flops > 0:
                raise ValueError(f"flops is {flops}")
            rows.append((flops, [[float(arm[s]) for s in seeds] for arm in losses]))
    return rows


def fit(data: Measured) -> Law:
    """Weighted least squares."""
    return _fits(data, data.mean_AS[None])[0]


def redrawn(data: Measured, seed: int = 0) -> list[Law]:
    """Laws fitted to means drawn around the measured ones, within their errors: what seeds add to both arms
    is drawn once for both, and the errors' own scale is drawn too (Student's t)."""
    rng = np.random.default_rng(seed)
    arms, scales = data.mean_AS.shape
    own_RAS = rng.normal(size=(RESAMPLES, arms, scales))
    both_RAS = rng.normal(size=(RESAMPLES, 1, scales))
    drawn_RAS = math.sqrt(1 - data.shared) * own_RAS + math.sqrt(data.shared) * both_RAS
    spread_R = np.sqrt(data.freedom / rng.chisquare(data.freedom, size=RESAMPLES))
    return _fits(data, data.mean_AS + spread_R[:, None, None] * data.error_AS * drawn_RAS)


def _fits(data: Measured, mean_RAS: Vector) -> list[Law]:
    """A law for each of R sets of means.

    With E known the rest is a straight line, log(L - E) over log C, an arm at a time; so E is scanned. An
    error of L is one of log(L - E) divided by L - E.
    """
    base = float(data.flops_S.min())
    x_S = np.log(data.flops_S / base)
    least_R = mean_RAS.min(axis=(1, 2))
    E_RG = least_R[:, None] * SHARES_G
    above_RGAS = mean_RAS[:, None] - E_RG[:, :, None, None]
    y_RGAS = np.log(above_RGAS)
    weight_RGAS = (above_RGAS / data.error_AS) ** 2
    weight_RGAS_sum = weight_RGAS.sum(-1)
    x_RGA = (weight_RGAS * x_S).sum(-1) / weight_RGAS_sum
    y_RGA = (weight_RGAS * y_RGAS).sum(-1) / weight_RGAS_sum
    away_RGAS = x_S - x_RGA[..., None]
    slope_RGA = (weight_RGAS * away_RGAS * y_RGAS).sum(-1) / (weight_RGAS * away_RGAS**2).sum(-1)
    rest_RGAS = y_RGAS - y_RGA[..., None] - slope_RGA[..., None] * away_RGAS
    best_R = (weight_RGAS * rest_RGAS**2).sum((-2, -1)).argmin(1)
    laws = []
    for r, g in enumerate(best_R):
        slope_A = slope_RGA[r, g]
        A_A = np.exp(y_RGA[r, g] - slope_A * x_RGA[r, g])
        laws.append(
            Law(
                base=base,
                E=float(E_RG[r, g]),
                A=(float(A_A[0]), float(A_A[1])),
                gamma=(-float(slope_A[0]), -float(slope_A[1])),
            )
        )
    return laws


def extrapolate(data: Measured, flops: float, seed: int = 0) -> dict[str, Any]:
    """Both arms' losses at `flops`, their difference, and what the recipe saves there, as plain JSON.

    95 % intervals from fits to means redrawn within their errors (a parametric bootstrap).
    """
    if not (math.isfinite(flops) and flops > 0):
        raise UserError(f"--flops is {flops}; expected a finite number above 0")
    law = fit(data)
    laws = redrawn(data, seed)

    def interval(of: Any) -> dict[str, float | None]:
        values = [of(one) for one in laws]
        low, high = np.quantile(values, [0.025, 0.975], method="nearest")
        return {"fitted": _finite(of(law)), "low": _finite(low), "high": _finite(high)}

    return {
        "flops": flops,
        "times_the_largest_measured": flops / float(data.flops_S.max()),
        "law": asdict(law),
        "loss": {
            arm: interval(lambda one, i=i: float(one.loss(i, flops))) for i, arm in enumerate(ARMS)
        },
        "difference": interval(lambda one: float(one.loss(1, flops) - one.loss(0, flops))),
        "speedup": interval(lambda one: one.saved(flops)),
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def draw(data: Measured, flops: float, path: Path) -> None:
    """Measured losses with their errors, both laws to `flops`, and the band of the redrawn ones."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    law, laws = fit(data), redrawn(data)
    ends = (data.flops_S.min(), max(flops, data.flops_S.max()))
    grid = np.geomspace(*ends, 80)
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for i, (arm, colour) in enumerate(zip(ARMS, ("#4c78a8", "#e45756"), strict=True)):
        low, high = np.quantile([one.loss(i, grid) for one in laws], [0.025, 0.975], axis=0)
        axes.fill_between(grid, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(grid, law.loss(i, grid), color=colour, linewidth=1.4)
        axes.errorbar(
            data.flops_S,
            data.mean_AS[i],
            yerr=1.96 * data.error_AS[i],
            color=colour,
            fmt="o",
            markersize=4,
            label=arm,
        )
    axes.axvline(data.flops_S.max(), color="grey", linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.set_xlabel("training FLOPs (right of the dotted line: extrapolated)")
    axes.set_ylabel("loss on the report split (nats a token)")
    axes.legend()
    files.write_figure(path, figure)
    plt.close(figure)
