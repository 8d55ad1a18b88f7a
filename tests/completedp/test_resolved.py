"""Per-module values against the worked vectors; folding; refusals."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import completedp
from completedp.hparams import HParams
from completedp.optimizer import TensorRow
from completedp.resolved import Resolved

GOLDEN = Path(__file__).parents[1] / "golden"
CASES: list[dict[str, Any]] = json.loads((GOLDEN / "modules.json").read_text())


def resolve_case(case: dict[str, Any]) -> Resolved:
    ratios = completedp.Ratios(**case["ratios"])
    inventory = completedp.reference_inventory(
        width=round(case["base_width"] * ratios.width),
        ffn=round(case["base_ffn"] * ratios.width),
        layers=case["layers"],
        base_width=case["base_width"],
        base_ffn=case["base_ffn"],
        base_layers=case["base_layers"],
    )
    hparams = HParams.from_dict({k: case[k] for k in ("global", "types", "depth")})
    options = {{"p": "duration_exponent"}.get(k, k): v for k, v in case["options"].items()}
    return completedp.resolve(
        hparams,
        inventory,
        ratios,
        parameterization=case["parameterization"],
        alpha=case["alpha"],
        **options,
    )


def assert_rows(rows: list[TensorRow], expected: dict[str, Any]) -> None:
    for module_type, values in expected.items():
        by_layer = values if isinstance(values, list) else [values]
        found = [row for row in rows if row.module_type == module_type]
        assert len(found) == len(by_layer)
        for row, wanted in zip(found, by_layer, strict=True):
            for name, value in wanted.items():
                assert getattr(row, name) == pytest.approx(value, rel=1e-12), (row.name, name)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_worked_cases(case: dict[str, Any]) -> None:
    resolved, expected = resolve_case(case), case["expected"]
    assert {row.module_type for row in resolved.tensors} == set(expected["tensors"])
    assert_rows(list(resolved.tensors), expected["tensors"])
    for branch, coefficients in expected["residual"].items():
        assert resolved.residual[branch] == pytest.approx(coefficients, rel=1e-12)
    folded = resolved.folded()
    assert_rows(list(folded.tensors), expected["folded"])
    assert {c for by_layer in folded.residual.values() for c in by_layer} == {1.0}


def test_json_round_trip_is_exact() -> None:
    resolved = resolve_case(CASES[0])
    assert Resolved.from_dict(json.loads(json.dumps(resolved.to_dict()))) == resolved


@given(st.lists(st.floats(0.1, 10), min_size=4, max_size=4), st.integers(1, 16))
def test_depth_multipliers_interpolate_within_their_range(values: list[float], layers: int) -> None:
    hparams = HParams.from_dict({"global": {"lr": 1e-3}, "depth": {"lr": values}})
    got = [hparams.depth_multiplier("lr", i, layers, 4) for i in range(layers)]
    assert all(min(values) * (1 - 1e-12) <= v <= max(values) * (1 + 1e-12) for v in got)
    if layers == 4:
        assert got == values


def test_depth_multipliers_worked_example() -> None:
    """Base L = 4 carried to 1, 2, 4, 8."""
    import math

    hparams = HParams.from_dict({"global": {"lr": 1e-3}, "depth": {"lr": [1, 2, 4, 8]}})
    at = {n: [math.log2(hparams.depth_multiplier("lr", i, n, 4)) for i in range(n)] for n in (8, 2)}
    assert at[8] == pytest.approx([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    assert at[2] == pytest.approx([0.5, 2.5])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"global": {"lr": 1}, "types": {"lr": {"qq": 2}}}, r"types\.lr\.qq.*did you mean"),
        ({"global": {"lr": 1}, "types": {"init_scale": {"q_norm": 2}}}, "types.init_scale.q_norm"),
        ({"global": {"lr": 1}, "types": {"speed": {"q": 2}}}, "types.speed: unknown kind"),
        ({"global": {"lr": 1}, "types": {"lr": {"q": -2}}}, "types.lr.q is -2"),
        ({"global": {"lr": 1}, "depth": {"lr": [1, float("nan")]}}, r"depth\.lr\[1\] is nan"),
        ({"global": {"lr": 1}, "depth": {"lr": [1], "eps": [1, 2]}}, "differ in length"),
        ({"global": {"lr": "fast"}}, "global.lr is 'fast'"),
        ({"global": {"lr": 0}}, "global.lr is 0"),
        ({"global": {}}, "lr is missing"),
        ({"global": {"lr": 1, "beta1": 1.0}}, "beta1 is 1.0"),
        ({"global": {"lr": 1}, "dept": {}}, "did you mean 'depth'"),
    ],
)
def test_refusals(data: dict[str, Any], message: str) -> None:
    with pytest.raises(completedp.UserError, match=message):
        HParams.from_dict(data)


def test_beta_below_zero_is_refused_by_name() -> None:
    hparams = HParams.from_dict({"global": {"lr": 1e-3}, "types": {"beta1": {"q": 20.0}}})
    inventory = completedp.reference_inventory(
        width=32, ffn=88, layers=2, base_width=32, base_ffn=88, base_layers=2
    )
    with pytest.raises(completedp.UserError, match=r"layers.0.attention.q.weight: beta1"):
        completedp.resolve(hparams, inventory, completedp.Ratios())


def test_an_unknown_coefficient_is_refused_if_no_kind_has_any() -> None:
    resolved = dataclasses.replace(resolve_case(CASES[0]), coefficients={"foo": (1.0,)})
    with pytest.raises(
        completedp.UserError, match=r"foo: unknown name; expected none: this version"
    ):
        resolved.check_coefficients(CASES[0]["layers"])
