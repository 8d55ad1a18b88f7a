"""Targets: given sizes stay, the others follow the recipe, and a FLOP budget is met."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from completedp.config import DataConfig, ModelConfig, TrainConfig
from completedp.errors import UserError
from completedp.hparams import HParams
from completedp.models import parameter_count, training_flops
from completedp.recipe import Recipe
from transfer.planning.target import BATCH_EXPONENT, Target, TargetRequest, microbatch, target_for
from transfer.planning.token_rules import CHINCHILLA, LossLaw, Ratio, token_rule
from transfer.planning.warnings import target_warnings


@pytest.fixture(scope="module")
def large(recipe: Recipe) -> Recipe:
    """A base like a 50M model with a realistic number of tokens per parameter."""
    return dataclasses.replace(
        recipe,
        model=ModelConfig(
            width=512, depth=8, head_dim=64, ffn=1408, vocab_size=32_000, context=2048
        ),
        data=DataConfig(tokenizer="bpe"),
        train=TrainConfig(tokens=2048 * 128 * 6000, batch=2048 * 128, eval_tokens=2048),
        hparams=HParams.from_dict({"global": {"lr": 3e-3}}),
    )


def at(recipe: Recipe, **sizes: Any) -> Target:
    return target_for(recipe, TargetRequest(**sizes))


def warned(recipe: Recipe, **sizes: Any) -> tuple[str, ...]:
    request = TargetRequest(**sizes)
    return target_warnings(recipe, request, target_for(recipe, request))


def decided(target: Target) -> dict[str, int | str]:
    return {decision.name: decision.value for decision in target.decisions}


def test_nothing_changed_is_the_base(recipe: Recipe) -> None:
    target = at(recipe, width=recipe.model.width)
    assert target.scale == recipe.base
    assert target.model == recipe.model
    assert warned(recipe, width=recipe.model.width) == ()


def test_a_base_with_a_broken_last_step_is_itself(recipe: Recipe) -> None:
    odd = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, tokens=6100))
    assert at(odd, depth=2).scale == odd.base


def test_every_given_size_is_kept(recipe: Recipe) -> None:
    target = at(recipe, width=96, depth=3, batch=320, tokens=320 * 50)
    scale = target.scale
    assert (scale.width, scale.depth, scale.batch, scale.tokens) == (96, 3, 320, 320 * 50)
    assert target.model.ffn == 88 * 3
    assert decided(target) == {"width": 96, "depth": 3, "batch": 320, "tokens": 320 * 50}


def test_tokens_follow_the_parameters_and_the_batch_the_tokens(recipe: Recipe) -> None:
    target = at(recipe, width=128)
    growth = parameter_count(target.model) / parameter_count(recipe.model)
    assert target.scale.tokens == pytest.approx(
        recipe.train.tokens * growth, abs=target.scale.batch
    )
    ideal = recipe.train.batch * growth**BATCH_EXPONENT
    assert target.scale.batch == pytest.approx(ideal, abs=recipe.model.context)
    assert all(decision.reason for decision in target.decisions)


@pytest.mark.parametrize("growth", [2.0, 9.3, 41.0, 300.0, 1e4])
def test_a_chosen_batch_can_be_shared(recipe: Recipe, growth: float) -> None:
    """It is within 3 % of the rule's, divides by eight processes, and allows microbatches near the base's."""
    base = dataclasses.replace(recipe.train, batch=64 * 256, tokens=64 * 256 * 100, microbatch=2048)
    source = dataclasses.replace(recipe, train=base)
    sizes = {"depth": 2, "tokens": round(base.tokens * growth)}
    target = at(source, **sizes)
    ideal = base.batch * (target.scale.tokens / base.tokens) ** BATCH_EXPONENT
    assert target.scale.batch == pytest.approx(ideal, rel=0.031)
    assert target.scale.batch % (8 * recipe.model.context) == 0
    assert 2 * microbatch(source, target.scale.batch) >= base.microbatch
    assert not any("divisor" in warning for warning in warned(source, **sizes))
    prime = warned(source, depth=2, batch=64 * 757, tokens=64 * 757 * 100)
    assert any("takes 64 at once" in warning for warning in prime)


@given(
    width=st.integers(1, 40).map(lambda heads: heads * 16),
    depth=st.integers(1, 40),
    tokens=st.integers(10**4, 10**15),
    batch=st.none() | st.integers(1, 100).map(lambda n: n * 64),
)
def test_any_scale_is_whole(
    recipe: Recipe, width: int, depth: int, tokens: int, batch: int | None
) -> None:
    target = at(recipe, width=width, depth=depth, tokens=tokens, batch=batch)
    scale = target.scale
    assert (target.model.width, target.model.depth) == (scale.width, scale.depth) == (width, depth)
    assert scale.batch % recipe.model.context == 0
    assert scale.tokens % scale.batch == 0 or scale.tokens == recipe.base.tokens
    assert abs(scale.tokens - tokens) <= scale.batch / 2


@settings(max_examples=25)
@given(exponent=st.floats(17, 26))
def test_a_budget_is_met(large: Recipe, exponent: float) -> None:
    target = at(large, flops=10**exponent)
    scale, model = target.scale, target.model
    spent = training_flops(model, scale.tokens)
    a_batch = training_flops(model, scale.batch)
    assert abs(spent - 10**exponent) <= 0.51 * a_batch
    assert scale.tokens % scale.batch == 0
    assert scale.batch % model.context == 0
    assert abs(model.depth - scale.width / 64) <= 0.5 or model.depth == 1
    # The shape is the nearest of a grid, so tokens a parameter stay near the recipe's.
    own = large.train.tokens / parameter_count(large.model)
    found = scale.tokens / parameter_count(model)
    if scale.width > 1000:
        assert abs(math.log(found / own)) < 0.3


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        ({"width": 40}, "multiple of head_dim"),
        ({"batch": 100}, "64 or 128"),
        ({"batch": 10}, "whole sequences of 64"),
        ({"tokens": 100, "batch": 6400}, "at least one batch"),
        ({"width": 0}, "width is 0"),
        ({"depth": -1}, "depth is -1"),
    ],
)
def test_impossible_sizes_are_refused(recipe: Recipe, sizes: dict[str, int], named: str) -> None:
    with pytest.raises(UserError, match=named):
        at(recipe, **sizes)


def test_a_huge_budget_is_planned(recipe: Recipe, large: Recipe) -> None:
    for base, flops in ((recipe, 1e28), (large, 1e30)):
        target = at(base, flops=flops)
        assert target.model.depth <= ModelConfig.LARGEST["depth"]
        assert training_flops(target.model, target.scale.tokens) == pytest.approx(flops, rel=1e-3)


@pytest.mark.parametrize("flops", [0.0, -1.0, math.inf, math.nan, 1.0, 1e3, 1e40, 1e60, 1e300])
def test_impossible_budgets_are_refused(recipe: Recipe, flops: float) -> None:
    with pytest.raises(UserError, match="flops is"):
        at(recipe, flops=flops)


def test_far_ratios_are_warned_of(large: Recipe) -> None:
    base = large.base
    near = {"width": 512 * 16, "depth": 8 * 32, "batch": 4 * base.batch, "tokens": 64 * base.tokens}
    assert warned(large, **near) == ()
    far = {"width": 512 * 17, "depth": 8 * 33, "batch": 5 * base.batch, "tokens": 98 * base.tokens}
    (warning,) = warned(large, **far)
    for said in ("width x 17", "depth x 33", "batch x 5", "tokens x ", "would tell"):
        assert said in warning


def test_a_batch_beyond_the_best_is_warned_of(recipe: Recipe) -> None:
    base = recipe.base
    assert warned(recipe, batch=2 * base.batch, tokens=base.tokens) == ()
    (warning,) = warned(recipe, batch=3 * base.batch, tokens=base.tokens)
    assert "batch is 3 x" in warning


@settings(max_examples=40)
@given(
    parameters=st.floats(5, 12),
    parallel=st.sampled_from([1, 2, 8]),
    aspect=st.none() | st.floats(8, 200),
)
def test_parameters_are_met_by_whole_heads(
    large: Recipe, parameters: float, parallel: int, aspect: float | None
) -> None:
    wanted = 10**parameters
    target = at(large, parameters=wanted, tensor_parallel=parallel, aspect=aspect)
    model = target.model
    assert model.kv_heads % parallel == model.ffn % parallel == 0
    assert abs(model.depth - model.width / (aspect or 64)) <= 0.5 or model.depth == 1
    # No neighbour of the same family is nearer.
    if model.width > 64 * parallel:
        for width in (model.width - 64 * parallel, model.width + 64 * parallel):
            depth = max(1, round(width / (aspect or 64)))
            other = model.scaled(width=width, depth=depth, ffn_multiple=parallel)
            assert away(parameter_count(model), wanted) <= away(parameter_count(other), wanted)


def away(found: float, wanted: float) -> float:
    return abs(math.log(found / wanted))


def test_one_given_size_leaves_the_other_to_the_budget(large: Recipe) -> None:
    for size in ({"width": 1024}, {"depth": 20}):
        target = at(large, flops=1e20, **size)
        assert size.items() <= decided(target).items()
        own = large.train.tokens / parameter_count(large.model)
        assert target.scale.tokens / parameter_count(target.model) == pytest.approx(own, rel=0.1)
        assert training_flops(target.model, target.scale.tokens) == pytest.approx(1e20, rel=1e-3)


def test_given_tokens_decide_the_shape_of_a_budget(large: Recipe) -> None:
    target = at(large, flops=1e21, tokens=10**11)
    assert target.scale.tokens == pytest.approx(1e11, rel=1e-4)
    assert training_flops(target.model, target.scale.tokens) == pytest.approx(1e21, rel=0.1)


def test_parameters_and_flops_make_the_tokens(large: Recipe) -> None:
    target = at(large, flops=1e21, parameters=1e9)
    assert parameter_count(target.model) == pytest.approx(1e9, rel=0.1)
    assert training_flops(target.model, target.scale.tokens) == pytest.approx(1e21, rel=1e-3)


def test_a_given_ratio_and_a_law_make_the_tokens(large: Recipe) -> None:
    twenty = at(large, parameters=1e9, token_rule=token_rule("20"))
    assert twenty.scale.tokens / parameter_count(twenty.model) == pytest.approx(20, rel=1e-3)
    law = at(large, parameters=1e9, token_rule=token_rule("chinchilla"))
    assert "2404.10102" in law.decisions[-1].reason
    assert law.scale.tokens == pytest.approx(
        CHINCHILLA.tokens(parameter_count(law.model)), rel=1e-3
    )


def test_the_law_gives_the_least_loss_of_its_budget() -> None:
    """Checked against a search over models of the same N·D; about 20 tokens per parameter at 10^9."""
    law = LossLaw(A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
    parameters = 10**9
    budget = parameters * law.tokens(parameters)
    sizes = [parameters * 1.001**i for i in range(-400, 401)]
    losses = [law.A / n**law.alpha + law.B / (budget / n) ** law.beta for n in sizes]
    assert sizes[losses.index(min(losses))] == pytest.approx(parameters, rel=1.5e-3)
    assert 15 < law.tokens(parameters) / parameters < 30


def test_a_law_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "law.yaml"
    path.write_text("{E: 1.8, A: 400, B: 400, alpha: 0.3, beta: 0.3}\n")
    assert token_rule(str(path)).tokens(1000) == pytest.approx(1000)
    path.write_text("{A: 400, B: 0, alpha: 0.3, beta: 0.3}\n")
    with pytest.raises(UserError, match=r"law\.yaml: B is 0"):
        token_rule(str(path))
    path.write_text("{A: 400, B: 1, alpha: 0.3, betta: 0.3}\n")
    with pytest.raises(UserError, match="betta: unknown key; did you mean 'beta'"):
        token_rule(str(path))


@pytest.mark.parametrize("text", ["0", "-3", "nan", "inf", "many"])
def test_no_ratio_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--tokens-per-parameter is"):
        token_rule(text)


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        ({"flops": 1e20, "width": 64, "depth": 2, "tokens": 10**6}, "leave one out"),
        ({"flops": 1e20, "parameters": 1e6, "tokens": 10**6}, "leave one out"),
        ({"parameters": 1e6, "width": 64, "depth": 2}, "leave one of them out"),
        ({"width": 64, "depth": 2, "aspect": 8.0}, "aspect is given"),
        ({"flops": 1e14, "width": 64, "aspect": 8.0}, "leave one out"),
        ({"width": 96, "tensor_parallel": 4}, "64 or 128"),
        ({"parameters": 1e30}, "the largest model"),
        ({"tokens": 100, "token_rule": Ratio(per_parameter=2, source="")}, "give one of them"),
    ],
)
def test_wishes_that_contradict_themselves_are_refused(
    recipe: Recipe, sizes: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        at(recipe, **sizes)


def test_a_large_target_with_the_sizes_of_a_toy_is_said(recipe: Recipe, large: Recipe) -> None:
    small = "keeps sizes of the proxy"
    first, *_ = warned(recipe, parameters=2e8)
    assert small in first
    assert "head_dim 16 (at least 64 there), vocab_size 256 (at least 4096 there)" in first
    assert not any(small in line for line in warned(recipe, parameters=2e7))
    assert not any(small in line for line in warned(large, parameters=2e8))


def test_a_vocabulary_that_does_not_divide_is_said(recipe: Recipe) -> None:
    (warning,) = warned(recipe, width=96, tensor_parallel=3)
    assert "vocab_size 256 does not divide by 3" in warning


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"flops": 1e15, "tokens": 2048 * 128 * 6000}, "1e+15 FLOPs are wanted, this is"),
        ({"parameters": 1e6, "width": 1024}, "1e+06 parameters are wanted, this is"),
        ({"flops": 1e18, "depth": 1000}, " a parameter, as in the recipe) are wanted, this is"),
    ],
)
def test_a_budget_that_no_size_meets_is_said(
    large: Recipe, sizes: dict[str, Any], said: str
) -> None:
    assert any(said in warning for warning in warned(large, **sizes))
    assert not any("are wanted" in w for w in warned(large, flops=1e21))


def test_sizes_beyond_floats_are_refused(large: Recipe) -> None:
    for sizes in ({"tokens": 10**400}, {"width": 10**400}, {"batch": 10**400}, {"flops": 1e300}):
        with pytest.raises(UserError, match="beyond any training"):
            at(large, **sizes)
    with pytest.raises(UserError, match="beyond any training"):
        at(large, token_rule=token_rule("1e308"))


@pytest.mark.parametrize("name", ["A", "B", "alpha", "beta"])
@pytest.mark.parametrize("value", ["0", "-1", "1e300", "1e-300", "5e-324", ".inf", ".nan", "many"])
def test_a_law_of_absurd_numbers_is_refused_with_its_file(
    tmp_path: Path, name: str, value: str
) -> None:
    numbers = {"A": "400", "B": "400", "alpha": "0.3", "beta": "0.3", name: value}
    path = tmp_path / "law.yaml"
    path.write_text("".join(f"{key}: {number}\n" for key, number in numbers.items()))
    with pytest.raises(UserError, match=rf"law\.yaml: {name} is "):
        token_rule(str(path))


@pytest.mark.parametrize("A", [1e-50, 1.0, 1e50])
@pytest.mark.parametrize("B", [1e-50, 1e50])
@pytest.mark.parametrize("alpha", [1e-50, 0.3, 1e50])
@pytest.mark.parametrize("beta", [1e-50, 0.3, 1e50])
def test_any_law_gives_a_target_or_is_refused(
    large: Recipe, A: float, B: float, alpha: float, beta: float
) -> None:
    rule = LossLaw(A=A, B=B, alpha=alpha, beta=beta)
    for sizes in ({}, {"flops": 1e18}, {"parameters": 1e8}, {"flops": 1e18, "depth": 8}):
        try:
            target = at(large, token_rule=rule, **sizes)
        except UserError:
            continue
        assert 0 < target.scale.tokens < 1e101


@pytest.mark.parametrize("text", ["5e-324", "1e-300", "1e90", "1e300", "1.7e308"])
def test_any_ratio_gives_a_target_or_is_refused(large: Recipe, text: str) -> None:
    for sizes in ({}, {"flops": 1e18}, {"parameters": 1e8}):
        try:
            target = at(large, token_rule=token_rule(text), **sizes)
        except UserError:
            continue
        assert 0 < target.scale.tokens < 1e101
