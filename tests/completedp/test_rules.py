"""The table against the worked vectors, and against what must hold whatever the table says."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import completedp
from completedp.rules import PARAMETERIZATIONS, ROLES, ScalingRules, rule_options
from completedp.scale import Ratios

GOLDEN = Path(__file__).parents[1] / "golden"
CASES: list[dict[str, Any]] = json.loads((GOLDEN / "rules.json").read_text())
ratio = st.floats(1 / 64, 64)


def options_of(case: dict[str, Any]) -> dict[str, Any]:
    renamed = {"p": "duration_exponent"}
    return {renamed.get(k, k): v for k, v in case["options"].items()} | {"alpha": case["alpha"]}


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_worked_cases(case: dict[str, Any]) -> None:
    options = options_of(case)
    got = completedp.factors(case["parameterization"], **case["ratios"], **options)
    expected, base = case["expected"], case["base"]
    assert got["residual_multiplier"] == pytest.approx(expected["residual_multiplier"], rel=1e-12)
    assert got["output_multiplier"] == pytest.approx(expected["output_multiplier"], rel=1e-12)
    assert got["steps"] == pytest.approx(expected["steps_ratio"], rel=1e-12)
    rules = ScalingRules(
        name=case["parameterization"],
        ratios=Ratios(**case["ratios"]),
        options=rule_options(options),
    )
    assert set(expected["tensors"]) == set(ROLES) == set(got["tensors"])
    # The vectors' independent λ is already λ_ind; the factor multiplies it as it stands.
    names = {"lr": "lr", "weight_decay": "wd", "eps": "eps", "init_std": "init_std"}
    for role, values in expected["tensors"].items():
        for factor, given_name in names.items():
            value = base[given_name] * got["tensors"][role][factor]
            assert value == pytest.approx(values[factor], rel=1e-12), (role, factor)
        for beta in ("beta1", "beta2"):
            assert rules.beta(base[beta], role) == pytest.approx(values[beta], rel=1e-12)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@given(alpha=st.floats(0.5, 1))
def test_base_scale_is_identity(name: str, alpha: float) -> None:
    got = completedp.factors(name, alpha=alpha)
    assert all(v == 1 for row in got["tensors"].values() for v in row.values())
    assert got["residual_multiplier"] == got["output_multiplier"] == got["steps"] == 1


@given(width=ratio, depth=ratio, batch=ratio, tokens=ratio, alpha=st.floats(0.5, 1))
def test_steps_compose(
    width: float, depth: float, batch: float, tokens: float, alpha: float
) -> None:
    """Going there in two steps is going there in one."""
    target = {"width": width, "depth": depth, "batch": batch, "tokens": tokens}
    half = {k: math.sqrt(v) for k, v in target.items()}
    once = completedp.factors("completed-p", **target, alpha=alpha)
    twice = completedp.factors("completed-p", **half, alpha=alpha)
    for role in ROLES:
        for kind, value in once["tensors"][role].items():
            assert value == pytest.approx(twice["tensors"][role][kind] ** 2, rel=1e-9)


@given(batch=ratio, tokens=ratio)
def test_epsilon_falls_with_the_square_root_of_the_batch(batch: float, tokens: float) -> None:
    row = completedp.factors("completed-p", batch=batch, tokens=tokens)["tensors"]["hidden_weight"]
    assert row["eps"] == pytest.approx(math.sqrt(tokens / batch), rel=1e-9)
    # η·λ summed over a run, S steps, stays what it was (p = ½).
    assert row["lr"] * row["weight_decay"] * tokens / batch == pytest.approx(1, rel=1e-9)


@given(width=ratio)
def test_decay_per_step_does_not_depend_on_width(width: float) -> None:
    for name in ("mup", "completep", "completed-p"):
        row = completedp.factors(name, width=width)["tensors"]["hidden_weight"]
        assert row["lr"] * row["weight_decay"] == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("mupp", {}, "did you mean 'mup'"),
        ("mup", {"duration_exponent": 0.3}, "duration_exponent=0.3"),
        ("sp", {"beta_rule": "power"}, "beta_rule=power"),
        ("completed-p", {"alpha": 0.4}, "alpha is 0.4"),
        ("sp", {"alpha": 1.1}, "alpha is 1.1"),
        ("completed-p", {"width": 0.0}, "width ratio is 0.0"),
        ("completed-p", {"tokens": math.inf}, "tokens ratio is inf"),
        ("completed-p", {"decay": "weird"}, "decay is 'weird'"),
        ("completed-p", {"beta_rul": "power"}, "did you mean 'beta_rule'"),
        (
            "completed-p",
            {"tokens": 1e200, "duration_exponent": 1.0},
            r"q = .* is 0 at .*tokens ratio 1e\+200",
        ),
        ("completed-p", {"tokens": 1e-200, "duration_exponent": 1.0}, "q = .* is inf"),
        ("completed-p", {"tokens": 8.0, "duration_exponent": 1e6}, "duration_exponent 1e.06"),
        ("completed-p", {"batch": 1e-300, "tokens": 1e30}, "1e.30 over the batch ratio 1e-300"),
        ("completed-p", {"width": 1e200}, r"factor of completed-p is 0 at .*width ratio 1e\+200"),
        ("completed-p", {"width": 1e-200}, r"factor of completed-p is inf at .*width ratio 1e-200"),
    ],
)
def test_refusals(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(completedp.UserError, match=message):
        completedp.factors(name, **arguments)


def rules_at(beta_rule: str, **ratios: float) -> ScalingRules:
    options = rule_options({"beta_rule": beta_rule})
    return ScalingRules(name="completed-p", ratios=Ratios(**ratios), options=options)


@pytest.mark.parametrize("beta_rule", ["linear", "power"])
def test_a_beta_of_zero_and_one_that_would_round_to_one(beta_rule: str) -> None:
    assert rules_at(beta_rule).beta(0.0, "q") == 0.0
    assert rules_at(beta_rule, batch=4, tokens=4).beta(0.0, "q") == 0.0
    with pytest.raises(completedp.UserError, match=r"q: beta 0.9 under .* rounds to 1 \(q = 1e-20"):
        rules_at(beta_rule, tokens=1e20).beta(0.9, "q")
    with pytest.raises(completedp.UserError, match="use beta_rule 'power'"):
        rules_at("linear", batch=2).beta(0.5, "q")


def test_linear_beta_rule_is_refused_by_name_where_it_leaves_the_unit_interval() -> None:
    hparams = completedp.HParams.from_dict({"global": {"lr": 1e-3}})
    inventory = completedp.reference_inventory(
        width=32, ffn=88, layers=2, base_width=32, base_ffn=88, base_layers=2
    )
    ratios = completedp.Ratios(batch=16)
    with pytest.raises(completedp.UserError, match=r"embedding.weight: beta 0.9 .* 'power'"):
        completedp.resolve(hparams, inventory, ratios, parameterization="completed-p")
    completedp.resolve(
        hparams, inventory, ratios, parameterization="completed-p", beta_rule="power"
    )
