"""The space: what its coordinates mean, and that every projected point is a valid set of hyperparameters."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import completedp
from completedp.config import DataConfig, ModelConfig, SearchConfig, StudyConfig, TrainConfig
from completedp.hparams import GlobalValues
from completedp.kinds import KINDS
from search.space import LARGEST_ONE_MINUS_BETA, Space

CONFIG = StudyConfig(
    model=ModelConfig(width=32, depth=3, head_dim=16, ffn=88, vocab_size=256, context=64),
    data=DataConfig(),
    train=TrainConfig(tokens=8192, batch=1024),
    values=GlobalValues(lr=2**-8, beta1=0.8),
    search=SearchConfig(module_octaves={"beta2": 4, "eps": 6}),
)
SPACE = Space.from_config(CONFIG)
points = st.fixed_dictionaries(
    {c.name: st.floats(-3 * c.octaves, 3 * c.octaves) for c in SPACE.coordinates}
)


def test_the_full_space() -> None:
    """Eight global values; 14 types for four kinds, 9 weight types for two, 2 branches; 7 kinds x depth."""
    assert len(SPACE.part("global")) == 8
    assert len(SPACE.part("type")) == 4 * 14 + 2 * 9 + 2
    assert len(SPACE.part("depth")) == 7 * 3


def test_by_default_two_kinds_have_no_multipliers() -> None:
    space = Space.from_config(dataclasses.replace(CONFIG, search=SearchConfig()))
    less = {c.name for c in SPACE.coordinates} - {c.name for c in space.coordinates}
    assert less == {c.name for c in SPACE.part("type", "depth") if c.kind in ("beta2", "eps")}


@pytest.mark.parametrize(
    ("part", "octaves", "expected"),
    [
        ("global_octaves", 0, "octaves above 0"),
        ("module_octaves", -1, r"0 \(no multipliers\) or more octaves"),
        ("module_octaves", 33, r"0 \(no multipliers\) or more octaves"),
        ("module_octaves", float("nan"), r"0 \(no multipliers\) or more octaves"),
    ],
)
def test_bounds_that_cannot_be(part: str, octaves: float, expected: str) -> None:
    with pytest.raises(completedp.UserError, match=f"{part}.eps is {octaves}; expected {expected}"):
        SearchConfig(**{part: {"eps": octaves}})


def test_zero_is_the_preset() -> None:
    assert SPACE.to_hparams({}) == completedp.HParams(global_=CONFIG.values)
    zeros = {c.name: 0.0 for c in SPACE.coordinates}
    inventory = CONFIG.model.inventory(CONFIG.model)
    at = [
        completedp.resolve(SPACE.to_hparams(v), inventory, completedp.Ratios()) for v in ({}, zeros)
    ]
    assert at[0] == at[1]


@settings(max_examples=200, deadline=None)
@given(points)
def test_projection_is_valid_and_idempotent(values: dict[str, float]) -> None:
    inside = SPACE.project(values)
    assert SPACE.project(inside) == inside
    for c in SPACE.coordinates:
        assert -c.octaves <= inside[c.name] <= c.octaves
    inventory = CONFIG.model.inventory(CONFIG.model)
    resolved = completedp.resolve(SPACE.to_hparams(inside), inventory, completedp.Ratios())
    for row in resolved.tensors:
        assert 1 - row.beta1 <= LARGEST_ONE_MINUS_BETA + 1e-9
        assert 1 - row.beta2 <= LARGEST_ONE_MINUS_BETA + 1e-9


@given(points)
def test_projection_leaves_an_interior_point_alone(values: dict[str, float]) -> None:
    small = {name: round(x / 100, 6) for name, x in values.items()}
    assert SPACE.project(small) == small


def test_beta_coordinates_multiply_one_minus_beta() -> None:
    hparams = SPACE.to_hparams({"global.beta1": 1.0, "type.beta2.q": -2.0})
    assert hparams.global_.beta1 == pytest.approx(0.6)
    assert hparams.types["beta2"]["q"] == 0.25


def test_frozen_kinds_have_no_coordinate() -> None:
    search = SearchConfig(frozen=("beta1", "residual"))
    space = Space.from_config(dataclasses.replace(CONFIG, search=search))
    assert not {c.kind for c in space.coordinates} & {"beta1", "residual"}


def test_absent_modules_have_no_coordinate() -> None:
    model = dataclasses.replace(CONFIG.model, activation="gelu", qk_norm=False)
    space = Space.from_config(dataclasses.replace(CONFIG, model=model))
    assert not {c.key for c in space.coordinates} & {"ffn_gate", "q_norm", "k_norm"}


def test_no_decay_means_nothing_to_search_there() -> None:
    values = dataclasses.replace(CONFIG.values, weight_decay=0.0)
    space = Space.from_config(dataclasses.replace(CONFIG, values=values))
    assert "weight_decay" not in {c.kind for c in space.coordinates}


def test_a_beta_of_zero_is_still_searched() -> None:
    values = dataclasses.replace(CONFIG.values, beta1=0.0)
    space = Space.from_config(dataclasses.replace(CONFIG, values=values))
    assert "beta1" in {c.kind for c in space.coordinates}


def test_bounds_are_written_out_and_finite() -> None:
    search = SearchConfig(global_octaves={"lr": 2 / 3})
    assert search.octaves("global", "lr") == 2 / 3
    assert set(search.global_octaves) == set(search.module_octaves) == set(KINDS)
    space = Space.from_config(dataclasses.replace(CONFIG, search=search))
    assert space.project({"global.lr": 5.0})["global.lr"] <= 2 / 3
    with pytest.raises(completedp.UserError, match=r"global_octaves\.lr is 2000"):
        SearchConfig(global_octaves={"lr": 2000})


def test_a_foreign_coordinate_is_refused() -> None:
    with pytest.raises(completedp.UserError, match=r"type\.lr\.router"):
        SPACE.check({"type.lr.router": 1.0}, "trial 3")
    with pytest.raises(completedp.UserError, match="expected octaves, a number"):
        SPACE.check({"global.lr": "high"}, "trial 3")
