"""Targets: what is given stays, what is not follows the recipe, and a FLOP budget is met."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from completedp.config import DataConfig, ModelConfig, TrainConfig
from completedp.errors import UserError
from completedp.flops import parameter_count, training_flops
from completedp.hparams import HParams
from completedp.recipe import Recipe
from transfer.budget import BATCH_EXPONENT, Target, for_flops, for_scale


@pytest.fixture(scope="module")
def large(recipe: Recipe) -> Recipe:
    """A 50M-like base with a realistic number of tokens a parameter."""
    return dataclasses.replace(
        recipe,
        model=ModelConfig(
            width=512, depth=8, head_dim=64, ffn=1408, vocab_size=32_000, context=2048
        ),
        data=DataConfig(tokenizer="bpe"),
        train=TrainConfig(tokens=2048 * 128 * 6000, batch=2048 * 128, eval_tokens=2048),
        hparams=HParams.from_dict({"global": {"lr": 3e-3}}),
    )


def chosen(target: Target) -> dict[str, int | str]:
    return {choice.name: choice.value for choice in target.choices}


def test_nothing_changed_is_the_base(recipe: Recipe) -> None:
    target = for_scale(recipe, width=recipe.model.width)
    assert target.scale == recipe.base
    assert target.model == recipe.model
    assert target.warnings == ()


def test_a_base_with_a_broken_last_step_is_itself(recipe: Recipe) -> None:
    odd = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, tokens=6100))
    assert for_scale(odd, depth=2).scale == odd.base


def test_every_given_size_is_kept(recipe: Recipe) -> None:
    target = for_scale(recipe, width=96, depth=3, batch=320, tokens=320 * 50)
    scale = target.scale
    assert (scale.width, scale.depth, scale.batch, scale.tokens) == (96, 3, 320, 320 * 50)
    assert target.model.ffn == 88 * 3
    assert chosen(target) == {"width": 96, "depth": 3, "batch": 320, "tokens": 320 * 50}


def test_tokens_follow_the_parameters_and_the_batch_the_tokens(recipe: Recipe) -> None:
    target = for_scale(recipe, width=128)
    growth = parameter_count(target.model) / parameter_count(recipe.model)
    assert target.scale.tokens == pytest.approx(
        recipe.train.tokens * growth, abs=target.scale.batch
    )
    ideal = recipe.train.batch * growth**BATCH_EXPONENT
    assert target.scale.batch == pytest.approx(ideal, abs=recipe.model.context)
    assert all(choice.reason for choice in target.choices)


@given(
    width=st.integers(1, 40).map(lambda heads: heads * 16),
    depth=st.integers(1, 40),
    tokens=st.integers(10**4, 10**15),
    batch=st.none() | st.integers(1, 100).map(lambda n: n * 64),
)
def test_any_scale_is_whole(
    recipe: Recipe, width: int, depth: int, tokens: int, batch: int | None
) -> None:
    target = for_scale(recipe, width=width, depth=depth, tokens=tokens, batch=batch)
    scale = target.scale
    assert (target.model.width, target.model.depth) == (scale.width, scale.depth) == (width, depth)
    assert scale.batch % recipe.model.context == 0
    assert scale.tokens % scale.batch == 0 or scale.tokens == recipe.base.tokens
    assert abs(scale.tokens - tokens) <= scale.batch / 2


@settings(max_examples=25)
@given(exponent=st.floats(17, 26))
def test_a_budget_is_met(large: Recipe, exponent: float) -> None:
    target = for_flops(large, 10**exponent)
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
        for_scale(recipe, **sizes)


def test_a_huge_budget_is_planned(recipe: Recipe, large: Recipe) -> None:
    for base, flops in ((recipe, 1e28), (large, 1e30)):
        target = for_flops(base, flops)
        assert target.model.depth <= ModelConfig.LARGEST["depth"]
        assert training_flops(target.model, target.scale.tokens) == pytest.approx(flops, rel=1e-3)


@pytest.mark.parametrize("flops", [0.0, -1.0, math.inf, math.nan, 1.0, 1e3, 1e40, 1e60, 1e300])
def test_impossible_budgets_are_refused(recipe: Recipe, flops: float) -> None:
    with pytest.raises(UserError, match="flops is"):
        for_flops(recipe, flops)


def test_far_ratios_are_warned_of(recipe: Recipe) -> None:
    within = for_scale(recipe, width=32 * 16, depth=64, batch=1024, tokens=1024 * 100)
    assert within.warnings == ()
    beyond = for_scale(recipe, width=32 * 17, depth=65, batch=1088, tokens=1088 * 100)
    assert [w.split()[1] for w in beyond.warnings] == ["width", "depth", "batch"]
