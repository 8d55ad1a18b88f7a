"""The result of `completedp proxy`: the best batch, the spread of seeds, and the trials to see an effect.

Shape suffixes: C configurations, S seeds.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from completedp.stats import Comparison, t_reach

# Searches with runs of 384 steps kept a twelfth of their gain at 16 times the FLOPs; one with 1536 steps kept
# a third.
FEWEST_STEPS = 1500
# Nats an octave that a multiplier may be worth.
EFFECTS = (0.01, 0.003, 0.001)
BUDGET = 200  # the search that README begins with, to compare the trials with


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A configuration of the grid: ratio to the preset's batch, and factor of the carried learning rate.

    `batch` is in tokens. `losses` are of the seeds that completed, in order, in nats a token.
    """

    ratio: float
    factor: float
    batch: int
    steps: int
    losses: tuple[float, ...]
    diverged: int

    @property
    def mean(self) -> float:
        return statistics.fmean(self.losses)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, with the mean, the standard deviation and the number of losses."""
        n = len(self.losses)
        mean = self.mean if n else None
        sd = statistics.stdev(self.losses) if n > 1 else None
        return {**dataclasses.asdict(self), "mean": mean, "sd": sd, "n": n}


@dataclass(frozen=True, kw_only=True)
class Moves:
    """The result of random moves around a cell; `octaves` is their root mean square in a coordinate.

    `noise` is the standard deviation of one trial beside others on its seed, from `df` degrees of freedom.
    `effects` is that of the moves' own effects, without the noise, and `cost` is their mean. In nats a token.
    """

    coordinates: int
    octaves: float
    diverged: int
    noise: float
    df: int
    effects: float
    cost: float

    def trials_to_see(self, effect: float) -> int:
        """Trials until a multiplier worth `effect` nats an octave stands out by two standard errors.

        Every trial moves every coordinate by `octaves` up or down, so the standard error of a coordinate's
        effect is noise / (octaves · √trials).
        """
        return max(1, math.ceil((2 * self.noise / (effect * self.octaves)) ** 2))


def moves_of(
    center: Cell, losses_by_move: Sequence[Sequence[float]], octaves: float, coordinates: int
) -> Moves | None:
    """The result of moves around `center`. None if fewer than two trained on all of its seeds."""
    whole = [losses for losses in losses_by_move if len(losses) == len(center.losses)]
    if len(whole) < 2:
        return None
    noise, df = residual([center.losses, *whole])
    differences = [statistics.fmean(losses) - center.mean for losses in whole]
    # The center's noise is the same in all differences, so the mean over a move's seeds is all that adds to
    # their variance.
    effects = statistics.variance(differences) - noise**2 / len(center.losses)
    return Moves(
        coordinates=coordinates,
        octaves=octaves,
        diverged=len(losses_by_move) - len(whole),
        noise=noise,
        df=df,
        effects=math.sqrt(max(0.0, effects)),
        cost=statistics.fmean(differences),
    )


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The grid's cells and the moves around the best of them.

    `seeds` is their number and `unit` the tokens that a batch is a multiple of. `module_trials` is the number
    of per-module trials of a search with `BUDGET`. `moves` is None if too few trained.
    """

    cells: tuple[Cell, ...]
    moves: Moves | None
    seeds: int
    unit: int
    module_trials: int

    @property
    def by_batch(self) -> dict[int, Cell]:
        """The best cell of each batch in tokens, best first. A cell counts if it trained on every seed."""
        whole = [cell for cell in self.cells if len(cell.losses) == self.seeds]
        best: dict[int, Cell] = {}
        for cell in sorted(whole, key=lambda cell: cell.mean):
            best.setdefault(cell.batch, cell)
        return best

    @property
    def best(self) -> Cell | None:
        """The best cell of all. None if none trained on every seed."""
        return next(iter(self.by_batch.values()), None)

    @property
    def preset_batch(self) -> int:
        """The preset's own batch in tokens."""
        return next(cell.batch for cell in self.cells if cell.ratio == 1)

    @property
    def excess(self) -> Comparison | None:
        """The loss of the preset's batch less that of the best one, each at its best learning rate.

        It is paired by seed. The noise is that of the best cells of all batches together. None if the
        preset's batch is the best, or did not train.
        """
        best, own = self.best, self.by_batch.get(self.preset_batch)
        if best is None or own is None or own is best:
            return None
        noise, df = residual([cell.losses for cell in self.by_batch.values()])
        mean, reach = own.mean - best.mean, t_reach(df + 1) * noise * math.sqrt(2 / self.seeds)
        return Comparison(pairs=self.seeds, mean=mean, low=mean - reach, high=mean + reach)

    @property
    def seed_spread(self) -> tuple[float, int] | None:
        """The standard deviation over the seeds of a cell, pooled, and its degrees of freedom."""
        held = [cell.losses for cell in self.cells if len(cell.losses) > 1]
        if not held:
            return None
        df = sum(len(losses) - 1 for losses in held)
        squares = sum((len(losses) - 1) * statistics.variance(losses) for losses in held)
        return math.sqrt(squares / df), df

    @property
    def next_batches(self) -> tuple[float, ...] | None:
        """The grid's ratios and one beyond, if the best batch is at an end and can be passed."""
        best = self.best
        if best is None or best.batch == self.unit:
            return None
        return wider({cell.ratio for cell in self.cells}, best.ratio)

    def next_factors(self, cell: Cell) -> tuple[float, ...] | None:
        """The grid's factors and one beyond, if the cell's is at an end."""
        return wider({cell.factor for cell in self.cells}, cell.factor)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, with the lines for people."""
        best, excess, spread, moves = self.best, self.excess, self.seed_spread, self.moves
        return {
            "rows": [cell.to_dict() for cell in self.cells],
            "preset_batch": self.preset_batch,
            "best": best and best.to_dict(),
            "excess": excess and excess.to_dict(),
            "next_batches": self.next_batches,
            "seed_spread": spread and dict(zip(("sd", "df"), spread, strict=True)),
            "moves": moves and dataclasses.asdict(moves),
            "trials_to_see": {f"{e:g}": moves.trials_to_see(e) for e in EFFECTS} if moves else {},
            "budget": BUDGET,
            "module_trials": self.module_trials,
            "verdict": self.verdict(),
        }

    def verdict(self) -> list[str]:
        """The result in lines for people."""
        if (best := self.best) is None:
            return ["batch: no configuration trained on every seed; try smaller --factors"]
        lines = [f"batch: {self._of_batches(best)}"]
        if (batches := self.next_batches) is not None:
            end = "smallest" if best.ratio == batches[1] else "largest"
            lines.append(
                f"batch: {best.batch} is the {end} of the grid, and the best may lie beyond: go on with "
                f"--batches {listed(batches)}"
            )
        for cell in self.by_batch.values():
            if (factors := self.next_factors(cell)) is not None:
                lines.append(
                    f"lr: the best factor at {cell.batch} tokens, {cell.factor:g}, is at the end of the "
                    f"grid: go on with --factors {listed(factors)}"
                )
        few = f" (tunings of fewer than {FEWEST_STEPS:,} fade when carried)"
        lines.append(
            f"steps: a run has {best.steps:,} steps of {best.batch} tokens"
            + few * (best.steps < FEWEST_STEPS)
        )
        if (spread := self.seed_spread) is not None:
            lines.append(
                f"seeds: runs of one configuration differ by a standard deviation of {spread[0]:.2g} nats "
                f"({spread[1]} degrees of freedom)"
            )
        return [*lines, *self._of_moves()]

    def _of_batches(self, best: Cell) -> str:
        tried = ", ".join(str(batch) for batch in sorted({cell.batch for cell in self.cells}))
        if best.batch == self.preset_batch:
            return f"the preset's {best.batch} tokens are best of {tried}"
        lines = f"{best.batch} tokens are best of {tried}; the preset's {self.preset_batch}"
        if (excess := self.excess) is None:
            return f"{lines} did not train on every seed: set train.batch to {best.batch}"
        sure = f"set train.batch to {best.batch}" if excess.low > 0 else "more --seeds would tell"
        return f"{lines} end {interval(excess)} nats higher: {sure}"

    def _of_moves(self) -> list[str]:
        if (moves := self.moves) is None:
            return ["moves: fewer than two random moves trained on every seed"]
        numbers = [f"{moves.trials_to_see(effect):,}" for effect in EFFECTS]
        others = [f"{e:g} after {n}" for e, n in zip(EFFECTS[1:], numbers[1:], strict=True)]
        lost = f"; {moves.diverged} diverged" if moves.diverged else ""
        return [
            f"moves: random steps of {moves.octaves:.2f} octaves in {moves.coordinates} multipliers change "
            f"the loss by a standard deviation of {moves.effects:.2g} nats and by {moves.cost:+.2g} on the "
            f"mean{lost}",
            f"noise: trials on one seed differ by a standard deviation of {moves.noise:.2g} nats without "
            "their effects",
            f"effects: a multiplier worth {EFFECTS[0]:g} nats an octave shows after about {numbers[0]} "
            f"trials, {', '.join(others)}; --budget {BUDGET} has {self.module_trials} per-module trials",
        ]


def residual(losses_CS: Sequence[Sequence[float]]) -> tuple[float, int]:
    """The standard deviation of a run without the effects of its configuration and of its seed.

    The second number is its degrees of freedom.
    """
    x_CS = np.array(losses_CS)
    left_CS = x_CS - x_CS.mean(axis=1, keepdims=True) - x_CS.mean(axis=0) + x_CS.mean()
    df = (x_CS.shape[0] - 1) * (x_CS.shape[1] - 1)
    return math.sqrt((left_CS**2).sum() / df), df


def wider(values: set[float], best: float) -> tuple[float, ...] | None:
    """The values and the next one of a geometric grid, sorted, if `best` is at an end. Else None."""
    grid = sorted(values)
    if best == grid[0]:
        return (best * best / grid[1], *grid)
    return (*grid, best * best / grid[-2]) if best == grid[-1] else None


def listed(values: Sequence[float]) -> str:
    """Numbers as an option takes them."""
    return ",".join(f"{value:.3g}" for value in values)


def interval(comparison: Comparison) -> str:
    """A difference with the ends of its 95 % interval."""
    return f"{comparison.mean:+.3f} [{comparison.low:+.3f}, {comparison.high:+.3f}]"
