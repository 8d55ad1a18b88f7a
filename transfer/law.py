"""Loss over FLOPs of a recipe and its baseline, extrapolated to a budget that nobody has trained yet.

Each arm has L(C) = E + A · (C / C₀)^-γ; C₀ is the smallest scale's FLOPs. Both arms read the same text, so
they share E, the part that no model learns. Three scales tell E. Two do not, so E is then any share of the
lowest loss, each as likely. The intervals hold the noise of the seeds, not the doubt about the law.

`transfer-fit` takes the losses from a `speedup` file, `transfer` from the recipe's ladder.

Shapes: A arms, S scales, R sets of means, G values of E.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from completedp import files, plotting, reading
from completedp.errors import UserError, shown
from completedp.reading import Field
from completedp.recipe import Recipe

ARMS = ("baseline", "tuned")
# Four numbers are fitted beside E, so two arms at two scales are the fewest losses.
FEWEST_SCALES = 2
# Each scale takes 2 MB of every array of the fits, and hours of training.
MOST_SCALES = 50
RESAMPLES = 500
# Losses in nats per token; floats hold the squares of their ratios. A uniform guess among 2^32 tokens has 22.
SMALLEST_LOSS, LARGEST_LOSS = 1e-9, 1e9
# The bound of a target's FLOPs.
LARGEST_FLOPS = 1e100
# The values tried for E, as shares of the lowest loss.
SHARES_G: NDArray[np.float64] = np.linspace(0, 0.995, 200)

_FLOPS = Field(
    lambda x: reading.is_number(x) and 1 <= x <= LARGEST_FLOPS,
    f"a number of 1 to {LARGEST_FLOPS:g}",
)
_ROW: Mapping[str, Field] = {"flops": _FLOPS, "losses": reading.OBJECT}
_LOSS = Field(
    lambda x: reading.is_number(x) and SMALLEST_LOSS <= x <= LARGEST_LOSS,
    f"a loss of {SMALLEST_LOSS:g} to {LARGEST_LOSS:g} nats a token",
)

Vector = NDArray[np.float64]
Losses = Mapping[str, float]


class TooLittle(UserError):
    """The losses are whole, but too few to fit a law."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Mean losses of both arms by scale, `2 x S` in the order of `ARMS`, with their standard errors.

    `shared` is the share of the errors' variance that a seed adds to both arms alike. `freedom` is the
    errors' number of degrees of freedom.
    """

    flops_S: Vector
    mean_AS: Vector
    error_AS: Vector
    shared: float
    freedom: int


@dataclass(frozen=True, kw_only=True)
class Law:
    """E, C₀ (`base`), and A and γ of each arm."""

    base: float
    E: float
    A: tuple[float, ...]
    gamma: tuple[float, ...]

    @np.errstate(all="ignore")
    def loss(self, arm: int, flops: Vector | float) -> Any:
        """The loss in nats per token; not finite if the law goes beyond every float, far from its data."""
        return self.E + self.A[arm] * (np.asarray(flops) / self.base) ** -self.gamma[arm]

    @np.errstate(all="ignore")
    def saved(self, flops: float) -> float:
        """The FLOPs at which the baseline has the recipe's loss at `flops`, as a multiple of `flops`."""
        above = (self.loss(1, flops) - self.E) / np.float64(self.A[0])
        if above <= 0 or self.gamma[0] <= 0:
            return math.inf
        return float(self.base / flops * above ** np.float64(-1 / self.gamma[0]))


def measured(
    rows: Sequence[tuple[float, Mapping[str, Mapping[str, float]]]], again: str
) -> Measured:
    """Rows of (FLOPs, arm → seed → loss), on the seeds that both arms completed.

    A row with fewer than two such seeds does not count. The error of a mean comes from the spread of seeds,
    pooled over all scales and arms: three seeds of one cell say little about it. Raises `TooLittle` for fewer
    than `FEWEST_SCALES` scales, with `again` as the way to measure more, and for seeds without a spread.
    """
    whole: list[tuple[float, list[list[float]]]] = []
    for flops, arms in rows:
        seeds = [s for s in arms[ARMS[0]] if s in arms[ARMS[1]]]
        if len(seeds) >= 2:
            whole.append((flops, [[float(arms[arm][s]) for s in seeds] for arm in ARMS]))
    scales = len({flops for flops, _ in whole})
    if not FEWEST_SCALES <= scales == len(whole) <= MOST_SCALES:
        raise TooLittle(
            f"{scales} scales have two or more whole seeds; expected {FEWEST_SCALES} to {MOST_SCALES}, each "
            f"once: {again}"
        )
    cells = [losses for _, arms in whole for losses in arms]
    freedom = sum(len(cell) - 1 for cell in cells)
    pooled = sum((len(cell) - 1) * statistics.variance(cell) for cell in cells) / freedom
    if not pooled > 0:
        raise TooLittle(
            "all seeds of an arm have one loss at every scale, which says nothing about its error; expected "
            "the losses of different seeds"
        )
    common = 2 / freedom * sum((len(a[0]) - 1) * statistics.covariance(*a) for _, a in whole)
    return Measured(
        flops_S=np.array([flops for flops, _ in whole]),
        mean_AS=np.array([[statistics.fmean(arms[i]) for _, arms in whole] for i in range(2)]),
        error_AS=np.array(
            [[math.sqrt(pooled / len(arms[i])) for _, arms in whole] for i in range(2)]
        ),
        shared=min(1.0, max(0.0, common / pooled)),
        # If a seed moves both arms alike, they are not two samples of its spread.
        freedom=freedom // 2,
    )


def of_speedup(document: Mapping[str, Any]) -> Measured:
    """The whole runs in a `speedup` file. Raises `UserError` as `measured`, and for a damaged file."""
    try:
        rows = [
            (flops, {arm: _whole_runs(losses, arm, where) for arm in ARMS})
            for flops, losses, where in _rows(document)
        ]
    except UserError as error:
        raise UserError(
            f"the speed-up's file is damaged ({error}); make it again by the same `completedp speedup`, "
            "which keeps its runs"
        ) from None
    return measured(rows, "measure more by `completedp speedup --scales`")


def ladder_rows(recipe: Recipe) -> list[tuple[float, Mapping[str, Losses]]]:
    """(FLOPs, arm → seed → loss) of each rung of a recipe's ladder. Empty without a ladder.

    Raises `UserError` for a damaged ladder.
    """
    ladder = recipe.provenance.get("ladder", {})
    try:
        found = _rows(reading.as_object(ladder, "provenance.ladder")) if ladder else []
        return [
            (flops, {arm: _losses(losses.get(arm), f"{where}.{arm}") for arm in ARMS})
            for flops, losses, where in found
        ]
    except UserError as error:
        raise UserError(
            f"the recipe's ladder is damaged ({error}); 'completedp report STUDY' writes the recipe again"
        ) from None


def _rows(document: Mapping[str, Any]) -> Iterator[tuple[float, Mapping[str, Any], str]]:
    """FLOPs, losses by arm, and the place in the file, of every row."""
    given = document.get("rows")
    if not isinstance(given, list):
        raise UserError(f"rows is {shown(given)}; expected a list")
    for i, row in enumerate(given):
        where = f"rows.{i}"
        reading.check_fields(reading.as_object(row, where), _ROW, tuple(_ROW), where)
        yield float(row["flops"]), row["losses"], f"{where}.losses"


def _whole_runs(losses: Mapping[str, Any], arm: str, where: str) -> Losses:
    """An arm's losses by seed, from its runs for all the tokens."""
    shares = reading.as_object(losses.get(arm), f"{where}.{arm}")
    return _losses(shares.get("1.0", {}), f"{where}.{arm}.1.0")


def _losses(by_seed: Any, where: str) -> Losses:
    losses = reading.as_object(by_seed, where)
    reading.check_fields(losses, dict.fromkeys(losses, _LOSS), (), where)
    return losses


def fit(data: Measured) -> Law:
    """The law by weighted least squares. Raises `UserError` if no law of this form is near the losses."""
    law = _fits(data, data.mean_AS[None], np.array([len(SHARES_G) // 2]))[0]
    if not all(map(math.isfinite, (law.E, *law.A, *law.gamma))):
        raise UserError(
            "no law of the form E + A · C^-γ fits these losses; look at them in the speed-up's file"
        )
    return law


def redrawn(data: Measured, seed: int = 0) -> list[Law]:
    """Laws fitted to means that are drawn around the measured ones, within their errors.

    The part that a seed adds to both arms is drawn once for both. The errors' own scale is drawn too
    (Student's t).
    """
    rng = np.random.default_rng(seed)
    arms, scales = data.mean_AS.shape
    own_RAS = rng.normal(size=(RESAMPLES, arms, scales))
    both_RAS = rng.normal(size=(RESAMPLES, 1, scales))
    drawn_RAS = math.sqrt(1 - data.shared) * own_RAS + math.sqrt(data.shared) * both_RAS
    spread_R = np.sqrt(data.freedom / rng.chisquare(data.freedom, size=RESAMPLES))
    means_RAS = data.mean_AS + spread_R[:, None, None] * data.error_AS * drawn_RAS
    return _fits(data, means_RAS, rng.integers(len(SHARES_G), size=RESAMPLES))


@np.errstate(all="ignore")
def _fits(data: Measured, mean_RAS: Vector, share_R: NDArray[np.int_]) -> list[Law]:
    """A law for each of R sets of means, a `2 x S` each. With two scales E is the share at place `share_R`.

    With E known, log(L - E) over log C is a straight line for each arm, so E is scanned. An error of L is
    an error of log(L - E) times L - E. Means drawn far from the losses, below 0 for example, may have no
    law: their numbers are not finite.
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
    off_RG = (weight_RGAS * rest_RGAS**2).sum((-2, -1))
    best_R = np.where(np.isnan(off_RG), np.inf, off_RG).argmin(1)
    if len(data.flops_S) == 2:
        best_R = share_R
    laws = []
    for r, g in enumerate(best_R):
        slope_A = slope_RGA[r, g]
        A_A = np.exp(y_RGA[r, g] - slope_A * x_RGA[r, g])
        A, gamma = tuple(A_A.tolist()), tuple((-slope_A).tolist())
        laws.append(Law(base=base, E=float(E_RG[r, g]), A=A, gamma=gamma))
    return laws


def extrapolate(data: Measured, flops: float, seed: int = 0) -> dict[str, Any]:
    """Both arms' losses at `flops`, their difference, and the recipe's speed-up there, as plain JSON.

    The 95 % intervals come from fits to redrawn means (a parametric bootstrap).
    """
    if not _FLOPS.is_right(flops):
        raise UserError(f"--flops is {flops}; expected {_FLOPS.expected}")
    law = fit(data)
    laws = redrawn(data, seed)

    def interval(of: Any) -> dict[str, float | None]:
        values = [of(one) for one in laws]
        with np.errstate(all="ignore"):
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
    """Write a PNG: losses with errors, both laws up to `flops`, and the band of the redrawn laws."""
    law, laws = fit(data), redrawn(data)
    ends = (data.flops_S.min(), max(flops, data.flops_S.max()))
    grid = np.geomspace(*ends, 80)
    figure = plotting.new_figure(7, 4.2)
    axes = figure.subplots()
    for i, (arm, color) in enumerate(zip(ARMS, ("#4c78a8", "#e45756"), strict=True)):
        with np.errstate(all="ignore"):
            band = np.quantile([one.loss(i, grid) for one in laws], [0.025, 0.975], axis=0)
        low, high = np.where(np.isfinite(band), band, np.nan)
        axes.fill_between(grid, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(grid, law.loss(i, grid), color=color, linewidth=1.4)
        axes.errorbar(
            data.flops_S,
            data.mean_AS[i],
            yerr=1.96 * data.error_AS[i],
            color=color,
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
