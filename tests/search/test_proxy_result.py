"""The arithmetic of a measured proxy, against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from search.proxy_result import Cell, Measurement, moves_of, residual, wider

LOSSES = {
    (0.5, 0.5): (1.5, 1.6, 1.7),
    (0.5, 1.0): (1.00, 1.02, 1.04),
    (0.5, 2.0): (1.4, 1.4, 1.4),
    (1.0, 0.5): (1.4, 1.4, 1.4),
    (1.0, 1.0): (1.11, 1.13, 1.18),
    (1.0, 2.0): (1.3, 1.3, 1.3),
    (2.0, 0.5): (1.6, 1.6, 1.6),
    (2.0, 1.0): (1.30, 1.32, 1.34),
    (2.0, 2.0): (1.6, 1.6, 1.6),
}


def cell(ratio: float, factor: float, losses: tuple[float, ...], diverged: int = 0) -> Cell:
    batch = round(1024 * ratio)
    return Cell(
        ratio=ratio,
        factor=factor,
        batch=batch,
        steps=2**20 // batch,
        losses=losses,
        diverged=diverged,
    )


def measured(changes: dict[tuple[float, float], tuple[float, ...]] | None = None) -> Measurement:
    losses = LOSSES | (changes or {})
    cells = tuple(cell(*key, of, diverged=3 - len(of)) for key, of in losses.items())
    return Measurement(cells=cells, moves=None, seeds=3, unit=64, module_trials=138)


def test_noise_is_what_configurations_and_seeds_leave() -> None:
    """Differences 1, 1 and 4 of the seeds: their variance is 3, and half of it is one run's."""
    noise, df = residual([[1, 2, 3], [2, 3, 7]])
    assert (noise, df) == (pytest.approx(math.sqrt(1.5)), 2)


def test_the_presets_batch_is_held_against_the_best_by_seed() -> None:
    """Best cells: .5 and 2 have the same seeds; 1 leaves (-1, -1, 2) thirds of .02 of them. With a third of
    that on either side, the squares sum to .0004, of 4 degrees of freedom: a noise of .01."""
    found = measured()
    assert [c.batch for c in found.by_batch.values()] == [512, 1024, 2048]
    assert found.excess is not None
    reach = 2.776445 * 0.01 * math.sqrt(2 / 3)
    assert found.excess.mean == pytest.approx(0.12)
    assert found.excess.high - found.excess.mean == pytest.approx(reach, rel=1e-5)
    assert found.excess.mean - found.excess.low == pytest.approx(reach, rel=1e-5)


def test_the_spread_of_seeds_is_pooled_over_the_cells() -> None:
    """Variances .01, .0004, .0013 and .0004 in four of nine cells, each with 2 degrees of freedom."""
    assert measured().seed_spread == (pytest.approx(math.sqrt(0.0121 / 9)), 18)


def test_the_noise_and_the_effects_of_moves() -> None:
    """The first move is the center + .1. The second is + .2, and off by (-1, -1, 2) hundredths."""
    center = cell(1, 1, (1.0, 1.1, 1.2))
    found = moves_of(center, [[1.1, 1.2, 1.3], [1.19, 1.29, 1.42], [1.0]], 0.5, 90)
    assert found is not None
    # A third of the deviation (-1, -1, 2) / 100 is every configuration's, two thirds the move's.
    noise = 0.01 * math.sqrt(6 * (4 / 9 + 2 / 9) / 4)
    assert (found.noise, found.df, found.diverged) == (pytest.approx(noise), 4, 1)
    assert found.cost == pytest.approx(0.15)
    assert found.effects == pytest.approx(math.sqrt(0.005 - noise**2 / 3))
    assert found.trials_to_see(0.01) == math.ceil((2 * noise / (0.01 * 0.5)) ** 2) == 16
    assert moves_of(center, [[1.1, 1.2, 1.3], [1.0]], 0.5, 90) is None


def test_no_effect_needs_fewer_trials_than_one() -> None:
    found = moves_of(cell(1, 1, (1.0, 1.5)), [[2.0, 2.5], [3.0, 3.5]], 0.5, 90)
    assert found is not None
    assert found.noise == 0
    assert found.trials_to_see(0.01) == 1


def test_a_better_batch_is_advised() -> None:
    line = measured().verdict()[0]
    assert line == (
        "batch: 512 tokens are best of 512, 1024, 2048; the preset's 1024 end +0.120 [+0.097, +0.143] nats "
        "higher: set train.batch to 512"
    )


def test_a_batch_that_may_be_as_good_is_not_advised() -> None:
    close = measured({(1.0, 1.0): (1.01, 1.03, 1.08)})
    assert close.best is not None
    assert close.best.batch == 512
    assert "more --seeds would tell" in close.verdict()[0]


def test_the_presets_batch_may_be_the_best() -> None:
    found = measured({(1.0, 1.0): (0.9, 0.9, 0.9)})
    lines = found.verdict()
    assert lines[0] == "batch: the preset's 1024 tokens are best of 512, 1024, 2048"
    assert found.excess is None
    assert found.next_batches is None
    assert not any("go on with" in line for line in lines)


def test_a_best_at_the_end_of_the_grid_says_where_to_go_on() -> None:
    lines = measured().verdict()
    assert "512 is the smallest of the grid" in lines[1]
    assert lines[1].endswith("--batches 0.25,0.5,1,2")
    upper = measured({(2.0, 2.0): (0.9, 0.9, 0.9)})
    assert "2048 is the largest of the grid" in upper.verdict()[1]
    assert upper.verdict()[1].endswith("--batches 0.5,1,2,4")
    assert upper.verdict()[2].endswith(
        "2048 tokens, 2, is at the end of the grid: go on with --factors 0.5,1,2,4"
    )


def test_nothing_is_smaller_than_one_sequence() -> None:
    assert dataclasses.replace(measured(), unit=512).next_batches is None


def test_a_cell_with_a_diverged_seed_is_no_candidate() -> None:
    found = measured({(0.5, 1.0): (1.0, 1.02), (0.5, 0.5): (), (0.5, 2.0): ()})
    assert found.best is not None
    assert found.best.batch == 1024
    assert [row["diverged"] for row in found.to_dict()["rows"]][:4] == [3, 1, 3, 0]


def test_a_preset_that_does_not_train_is_told() -> None:
    alone = measured({(1.0, factor): () for factor in (0.5, 1.0, 2.0)})
    assert "1024 did not train on every seed: set train.batch to 512" in alone.verdict()[0]
    none = Measurement(
        cells=tuple(cell(*key, ()) for key in LOSSES),
        moves=None,
        seeds=3,
        unit=64,
        module_trials=138,
    )
    assert none.verdict() == [
        "batch: no configuration trained on every seed; try smaller --factors"
    ]
    assert json.loads(json.dumps(none.to_dict(), allow_nan=False))["best"] is None


def test_few_steps_are_told() -> None:
    assert "steps: a run has 2,048 steps of 512 tokens" in measured().verdict()
    short = tuple(dataclasses.replace(c, steps=1499) for c in measured().cells)
    said = dataclasses.replace(measured(), cells=short).verdict()
    assert any("1,499 steps" in line and "fade when carried" in line for line in said)


@pytest.mark.parametrize(
    ("best", "grid"), [(0.5, (0.25, 0.5, 1, 2)), (2, (0.5, 1, 2, 4)), (1, None)]
)
def test_a_grid_is_widened_at_its_end(best: float, grid: tuple[float, ...] | None) -> None:
    assert wider({0.5, 1.0, 2.0}, best) == grid
