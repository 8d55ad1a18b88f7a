"""The arm that is planned at a target, by the recipe's ladder."""

import dataclasses
from typing import Any

import pytest

from completedp.errors import UserError
from completedp.models import training_flops
from completedp.recipe import Recipe
from transfer.expected import better_arm, expected
from transfer.planning.planner import carry
from transfer.planning.target import TargetRequest


def with_ladder(recipe: Recipe, gains: dict[float, float], noise: float = 1e-3) -> Recipe:
    """The recipe with a ladder: the gain by scale, where the baseline falls as a power law."""
    base = training_flops(recipe.model, recipe.train.tokens)
    rows = []
    for scale, gain in gains.items():
        seeds = {str(s): 0.8 + scale**-0.1 + noise * (-1) ** s for s in range(4)}
        odd = {s: loss - gain + noise * (int(s) > 1) for s, loss in seeds.items()}
        losses = {"baseline": seeds, "tuned": odd}
        rows.append({"scale": scale, "flops": round(scale * base), "losses": losses})
    provenance = {**recipe.provenance, "ladder": {"rows": rows}}
    return dataclasses.replace(recipe, provenance=provenance)


def at(recipe: Recipe, scale: float) -> float:
    return scale * training_flops(recipe.model, recipe.train.tokens)


def test_a_gain_that_stays_is_expected_further_on(recipe: Recipe) -> None:
    found = expected(with_ladder(recipe, {1: 0.05, 4: 0.05}), at(recipe, 16))
    assert found is not None
    assert better_arm(with_ladder(recipe, {1: 0.05, 4: 0.05}), at(recipe, 16))[0] == "tuned"
    assert -0.07 < found.low < found.mean < found.high < -0.02
    assert found.beyond == pytest.approx(4, rel=1e-3)


def test_a_gain_that_fades_becomes_a_loss(recipe: Recipe) -> None:
    fading = with_ladder(recipe, {1: 0.06, 4: 0.02})
    assert [better_arm(fading, at(recipe, s))[0] for s in (2, 64)] == ["tuned", "baseline"]


def test_the_interval_grows_with_the_distance(recipe: Recipe) -> None:
    noisy = with_ladder(recipe, {1: 0.05, 4: 0.04}, noise=0.02)
    widths = [
        found.high - found.low for s in (4, 64, 1024) if (found := expected(noisy, at(recipe, s)))
    ]
    assert widths == sorted(widths)
    assert widths[2] > 2 * widths[0]


def test_a_plan_has_the_arm_that_is_expected_to_be_better(recipe: Recipe) -> None:
    request = TargetRequest(flops=at(recipe, 256))
    for gains, arm in (({1: 0.06, 4: 0.02}, "baseline"), ({1: 0.05, 4: 0.05}, "tuned")):
        laddered = with_ladder(recipe, gains)
        carried = carry(laddered, request)
        assert carried.plan.which == arm
        decision = carried.decisions[0]
        assert (decision.name, decision.value) == ("values", arm)
        assert "expected by the recipe's ladder" in decision.reason
        for asked in ("tuned", "baseline"):
            forced = carry(laddered, request, which=asked)
            assert forced.plan.which == asked
            assert "asked for" in forced.decisions[0].reason
    with pytest.raises(UserError, match="unknown which 'both'"):
        carry(recipe, request, which="both")


def test_a_recipe_without_a_ladder_says_so(recipe: Recipe) -> None:
    carried = carry(recipe, TargetRequest(width=64))
    assert carried.plan.which == "tuned"
    assert "no ladder" in carried.decisions[0].reason
    assert "30 proxy runs" in carried.decisions[0].reason


def without(recipe: Recipe, rung: int, arm: str, seeds: int) -> Recipe:
    """The recipe whose arm diverged on so many seeds of a rung."""
    rows = [dict(row) for row in recipe.provenance["ladder"]["rows"]]
    kept = dict(list(rows[rung]["losses"][arm].items())[seeds:])
    rows[rung]["losses"] = rows[rung]["losses"] | {arm: kept}
    return dataclasses.replace(recipe, provenance={"ladder": {"rows": rows}})


def test_an_arm_that_diverged_on_the_ladder_is_not_planned(recipe: Recipe) -> None:
    laddered = with_ladder(recipe, {1: 0.05, 4: 0.05})
    for seeds in (1, 3, 4):
        tuned_lost, baseline_lost = (
            better_arm(without(laddered, 1, arm, seeds), at(recipe, 16))
            for arm in ("tuned", "baseline")
        )
        assert tuned_lost[0] == "baseline"
        assert f"diverged on {seeds} more" in tuned_lost[1]
        assert baseline_lost[0] == "tuned"
    both = without(without(laddered, 1, "tuned", 3), 1, "baseline", 3)
    assert "tells nothing" in better_arm(both, at(recipe, 16))[1]
    assert carry(both, TargetRequest(width=64)).plan.which == "tuned"


@pytest.mark.parametrize(
    "ladder",
    [
        3,
        {"rows": 3},
        {"rows": [{"flops": 1e9}]},
        {"rows": [{"flops": 1e9, "losses": {"baseline": {"0": "x"}, "tuned": {}}}]},
    ],
)
def test_a_damaged_ladder_is_refused(recipe: Recipe, ladder: Any) -> None:
    damaged = dataclasses.replace(recipe, provenance={"ladder": ladder})
    with pytest.raises(UserError, match="the recipe's ladder is damaged"):
        carry(damaged, TargetRequest(width=64))
