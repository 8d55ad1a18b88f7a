"""Slopes, their intervals and verdicts, on sizes that are known powers."""

import dataclasses
import json
import math

import pytest

from completedp.coordcheck.measure import Key, Quantity
from completedp.coordcheck.slopes import Slope, expected_slope, failures, slope, worst
from completedp.coordcheck.subject import Part
from completedp.rules import RuleOptions

RATIOS = (1.0, 2.0, 4.0, 8.0)
WOBBLE = (0.0, 0.1, -0.1)  # of the exponent, a seed each
OPTIONS = RuleOptions()


def key(quantity: Quantity = "update", part: Part = "hidden") -> Key:
    return Key(quantity=quantity, module="q", place=0, part=part)


def of_power(exponent: float, wobble: float = 1.0) -> Slope:
    sizes = [[3.0 * r ** (exponent + wobble * w) for r in RATIOS] for w in WOBBLE]
    return slope("width", key(), RATIOS, sizes, OPTIONS)


def test_a_power_has_its_exponent_and_students_interval() -> None:
    found = of_power(0.25)
    assert found.mean == pytest.approx(0.25)
    # A spread of 0.1 over three seeds: 4.303 · 0.1 / √3.
    assert found.high - found.mean == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)
    assert found.high - found.mean == pytest.approx(found.mean - found.low)


@pytest.mark.parametrize(
    ("exponent", "wobble", "verdict"),
    [(0.1, 0.01, "holds"), (0.1, 1, "open"), (0.3, 1, "open"), (0.3, 0.1, "fails"), (-0.3, 0.1, "fails")],
)  # fmt: skip
def test_only_a_whole_interval_outside_fails(exponent: float, wobble: float, verdict: str) -> None:
    assert of_power(exponent, wobble).verdict == verdict


def test_the_farthest_failure_is_the_first() -> None:
    slopes = [of_power(e, 0.01) for e in (0.1, 0.4, -0.9, 0.2)]
    assert [round(s.mean, 3) for s in failures(slopes)] == [-0.9, 0.4, 0.2]
    assert worst(slopes) is slopes[2]


@pytest.mark.parametrize("bad", [math.inf, math.nan, 0.0])
def test_a_size_without_a_logarithm_fails_and_is_null_in_json(bad: float) -> None:
    sizes = [[1.0, 1.0, 1.0, bad], [1.0] * 4, [1.0] * 4]
    found = slope("width", key(), RATIOS, sizes, OPTIONS)
    assert found.verdict == "fails"
    assert failures([found, of_power(5, 0.01)])[0] is found
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["mean"] is None


@pytest.mark.parametrize(
    ("quantity", "part", "width", "depth", "depth_at_half"),
    [
        ("output", "hidden", 0, 0, 0),
        ("output", "branch", 0, -1, -0.5),
        ("output", "stream", 0, 0, 0),
        ("output", "unembedding", -0.5, 0, 0),
        ("update", "embedding", 0, 0, 0),
        ("update", "hidden", 0, 0, -0.5),
        ("update", "qk_norm", 0, 0, -0.5),
        ("update", "branch", 0, -1, -1),
        ("update", "unembedding", 0, 0, 0),
        ("change", "stream", 0, 0, 0),
        ("gradient", "hidden", 0, 0, 0),
        ("gradient", "final_norm", -1, 0, 0),
    ],
)
def test_what_the_rules_let_expect(
    quantity: Quantity, part: Part, width: float, depth: float, depth_at_half: float
) -> None:
    half = RuleOptions(alpha=0.5)
    one = key(quantity, part)
    assert expected_slope("width", one, OPTIONS) == (width, width)
    assert expected_slope("width", one, half) == (width, width)
    assert expected_slope("depth", one, OPTIONS) == (depth, depth)
    assert expected_slope("depth", one, half) == (depth_at_half, depth_at_half)


def test_where_the_expected_slope_depends_on_more() -> None:
    gradient = RuleOptions(final_norm_eps="gradient")
    assert expected_slope("width", key("gradient", "final_norm"), gradient) == (0, 0)
    between = expected_slope("width", key("gradient", "qk_norm"), OPTIONS)
    assert between == (-0.5, 0)
    inside = dataclasses.replace(of_power(-0.3, 0.01), expected=between)
    assert inside.distance == 0
    assert inside.verdict == "holds"
    assert expected_slope("batch", key("noise"), OPTIONS) == (0, 0)
    assert expected_slope("batch", key("gradient"), OPTIONS) is None
    unjudged = dataclasses.replace(of_power(9, 0.01), expected=None)
    assert unjudged.verdict == "not judged"
    assert unjudged.distance == 0
