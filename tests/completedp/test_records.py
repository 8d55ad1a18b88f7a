"""Plain JSON as a dataclass: what its declarations say is what it takes."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from completedp.errors import UserError
from completedp.reading import Field, is_number
from completedp.records import build
from completedp.resolved import Resolved


@dataclass(frozen=True, kw_only=True)
class Thing:
    name: str
    size: int
    weight: float
    kind: Literal["round", "flat"] = "round"
    whole: bool = True
    parts: tuple[int, ...] = ()
    more: dict[str, Any] | None = None
    note: str | None = None


THING: dict[str, Any] = {"name": "a", "size": 0, "weight": 2}


def test_what_was_given_stays_as_it_is() -> None:
    thing = build(Thing, {**THING, "parts": [1], "more": {"x": 1}, "note": None}, "here")
    assert thing == Thing(name="a", size=0, weight=2, parts=[1], more={"x": 1})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": 1}, "name is 1; expected text"),
        ({"size": True}, "size is True; expected a whole number"),
        ({"size": 1.0}, "size is 1.0; expected a whole number"),
        ({"size": -1}, "size is -1; expected a whole number"),
        ({"size": 2**63}, "size is 9.*below 2\\^63"),
        ({"weight": float("nan")}, "weight is nan; expected a finite number"),
        ({"weight": "2"}, "weight is '2'; expected a finite number"),
        ({"kind": ["round"]}, "kind is \\['round'\\]; expected 'round' or 'flat'"),
        ({"whole": 1}, "whole is 1; expected true or false"),
        ({"parts": "x"}, "parts is 'x'; expected a list"),
        ({"more": []}, "more is \\[\\]; expected an object, or null"),
        ({"note": 3}, "note is 3; expected text, or null"),
        ({"sise": 3}, "unknown key 'sise'; did you mean 'size'"),
    ],
)
def test_what_has_another_type_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=f"^here: {said}"):
        build(Thing, {**THING, **changes}, "here")


def test_what_is_missing_is_named_and_what_is_no_object_refused() -> None:
    with pytest.raises(UserError, match="here: weight is missing; expected a finite number"):
        build(Thing, {"name": "a", "size": 1}, "here")
    given: tuple[object, ...] = (None, [], 3, "x")
    for nothing in given:
        with pytest.raises(UserError, match="here: expected an object, got"):
            build(Thing, nothing, "here")


def test_a_field_may_ask_for_more_than_its_type() -> None:
    above = {"weight": Field(lambda x: is_number(x) and x > 0, "a number above 0")}
    assert build(Thing, THING, "here", above).weight == 2
    with pytest.raises(UserError, match="here: weight is 0; expected a number above 0"):
        build(Thing, {**THING, "weight": 0}, "here", above)


def test_a_whole_number_for_a_float_is_made_one() -> None:
    """torch fills no tensor of floats with -10^20 as a whole number."""
    data = {"tensors": [], "residual": {"ffn": [-(10**20)]}, "output_multiplier": -(10**20)}
    found = Resolved.from_dict(data)
    assert repr(found.output_multiplier) == repr(found.residual["ffn"][0]) == "-1e+20"
