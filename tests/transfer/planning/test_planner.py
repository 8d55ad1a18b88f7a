"""Plans: the identity, agreement with `resolve`, the file, and files with mistakes."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import completedp
from completedp.errors import UserError
from completedp.plan import Plan
from completedp.plan_check import plan_of
from completedp.recipe import Recipe
from completedp.rules import PARAMETERIZATIONS
from completedp.training.one_run import run_name
from transfer.planning.planner import base_plan, carry, make_plan, read_plan
from transfer.planning.target import Decision, TargetRequest, target_for
from transfer.planning.warnings import FEWEST_STEPS, plan_warnings


def plan_at(recipe: Recipe, **sizes: int) -> Plan:
    target = target_for(recipe, TargetRequest(**sizes))
    return make_plan(recipe, target.scale, target.model)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("which", ["tuned", "baseline"])
def test_the_base_keeps_its_values(recipe: Recipe, parameterization: str, which: Any) -> None:
    """They are equal bit for bit."""
    hparams = recipe.hparams if which == "tuned" else recipe.baseline
    expected = completedp.resolve(
        hparams, recipe.model.inventory(recipe.model), completedp.Ratios(), parameterization="sp"
    )
    plan = make_plan(
        recipe, recipe.base, recipe.model, parameterization=parameterization, which=which
    )
    assert plan.resolved == expected
    assert plan.train == recipe.train
    assert plan.tensors[0].lr == hparams.global_.lr


def test_values_are_those_of_resolve(recipe: Recipe) -> None:
    plan = plan_at(recipe, width=128, depth=6, batch=512, tokens=512 * 200)
    expected = completedp.resolve(
        recipe.hparams,
        plan.model.inventory(recipe.model),
        completedp.Ratios(width=4, depth=3, batch=2, tokens=512 * 200 / recipe.train.tokens),
        beta_rule="power",
    )
    assert plan.resolved == expected
    assert plan.train.steps == 200
    assert (plan.train.clip, plan.train.warmup) == (recipe.train.clip, recipe.train.warmup)


def rule_decisions(recipe: Recipe, **options: Any) -> list[Decision]:
    others = ("values", "width", "depth", "batch", "tokens")
    carried = carry(recipe, TargetRequest(width=64), **options)
    return [decision for decision in carried.decisions if decision.name not in others]


def test_the_beta_rule_is_chosen_aloud(recipe: Recipe) -> None:
    (decision,) = rule_decisions(recipe)
    assert (decision.name, decision.value) == ("beta_rule", "power")
    assert "valid for every ratio" in decision.reason
    given_ = rule_decisions(recipe, beta_rule="linear", alpha=0.5)
    assert [(d.name, d.reason) for d in given_] == [("alpha", "given"), ("beta_rule", "given")]
    assert rule_decisions(recipe, parameterization="sp") == []


def test_a_carried_plan_has_the_warnings_of_its_target_and_of_its_values(recipe: Recipe) -> None:
    request = TargetRequest(width=32 * 17, batch=64, tokens=64 * 10**7)
    carried = carry(recipe, request, which="baseline")
    assert carried.plan.which == "baseline"
    assert "width x 17" in carried.warnings[0]
    assert carried.warnings[1:] == plan_warnings(carried.plan) != ()


def test_only_the_two_sets_of_values_are_known(recipe: Recipe) -> None:
    which: Any = "tunde"
    with pytest.raises(UserError, match="unknown which 'tunde'; did you mean 'tuned'"):
        make_plan(recipe, recipe.base, recipe.model, which=which)


def beta_warnings(plan: Plan) -> list[str]:
    return [warning for warning in plan_warnings(plan) if warning.startswith("1 - beta")]


def test_uncomfortable_betas_are_warned_of(recipe: Recipe) -> None:
    assert beta_warnings(base_plan(recipe)) == []
    # A larger batch for the same tokens: few steps, short memories.
    few = plan_at(recipe, width=32, batch=256 * 24, tokens=256 * 24)
    (warning,) = [w for w in beta_warnings(few) if w.startswith("1 - beta1")]
    assert "46 tensors" not in warning
    assert "is outside of [1e-05, 0.5]: " in warning
    assert float(warning.rpartition(" has ")[2]) > 0.5
    many = plan_at(recipe, width=32, batch=64, tokens=64 * 10**7)
    warnings = beta_warnings(many)
    assert {w[:9] for w in warnings} == {"1 - beta1", "1 - beta2"}
    assert all(0 < float(w.rpartition(" has ")[2]) < 1e-5 for w in warnings)


def test_the_tensor_farthest_out_is_named(recipe: Recipe) -> None:
    types = {**recipe.hparams.types, "beta1": {"unembedding": 9.0}}
    source = dataclasses.replace(recipe, hparams=dataclasses.replace(recipe.hparams, types=types))
    few = plan_at(source, width=32, batch=256 * 8, tokens=256 * 24)
    (warning,) = [w for w in beta_warnings(few) if w.startswith("1 - beta1")]
    assert "of 1 tensors" not in warning
    assert "unembedding.weight has" in warning


def test_values_of_a_short_proxy_are_warned_of(recipe: Recipe) -> None:
    def warned(source: Recipe, tokens: int = 4, **options: Any) -> bool:
        target = target_for(source, TargetRequest(width=64, tokens=tokens * source.train.tokens))
        plan = make_plan(source, target.scale, target.model, **options)
        return any("were found in runs of" in w for w in plan_warnings(plan))

    assert warned(recipe)
    assert not warned(recipe, which="baseline")
    longer = dataclasses.replace(recipe.train, tokens=256 * FEWEST_STEPS)
    assert not warned(dataclasses.replace(recipe, train=longer))
    assert not warned(recipe, tokens=1)
    assert plan_warnings(base_plan(recipe)) == ()


def test_no_parameterization_is_none_of_the_recipes(recipe: Recipe) -> None:
    with pytest.raises(UserError, match="unknown parameterization ''"):
        make_plan(recipe, recipe.base, recipe.model, parameterization="")


@given(microbatch=st.integers(1, 8), sequences=st.integers(1, 200))
def test_a_microbatch_divides_the_batch(recipe: Recipe, microbatch: int, sequences: int) -> None:
    base = dataclasses.replace(recipe.train, batch=64 * 840, tokens=64 * 8400, microbatch=0)
    base = dataclasses.replace(base, microbatch=64 * microbatch)
    source = dataclasses.replace(recipe, train=base)
    train = plan_at(source, batch=64 * sequences, tokens=64 * sequences * 10).train
    assert train.batch % train.microbatch == 0
    assert train.microbatch <= base.microbatch


def test_a_plan_survives_its_file(recipe: Recipe, tmp_path: Path) -> None:
    plan = plan_at(recipe, width=64, depth=5)
    plan.write(tmp_path / "plan.yaml")
    assert Plan.read(tmp_path / "plan.yaml") == plan == read_plan(tmp_path / "plan.yaml")
    top = yaml.safe_load((tmp_path / "plan.yaml").read_text())
    assert {"parameterization", "scale", "parameters", "flops", "tensors"} <= set(top)
    assert set(top["scale"]) == {"width", "depth", "batch", "tokens"}


def test_a_plan_knows_the_text_that_its_recipe_was_tuned_on(recipe: Recipe, tmp_path: Path) -> None:
    known = dataclasses.replace(recipe, provenance={"data": {"digest": "sha256:0"}})
    plan = plan_at(known, width=64)
    assert plan.corpus == "sha256:0"
    plan.write(tmp_path / "plan.yaml")
    assert Plan.read(tmp_path / "plan.yaml") == plan
    names = [
        run_name(p, recipe.data, 0, "p") for p in (plan, dataclasses.replace(plan, corpus=None))
    ]
    assert names[0] == names[1], "a run that was begun before plans said it is found again"


@pytest.mark.parametrize(
    "provenance", [{}, {"data": None}, {"data": "sha256:0"}, {"data": {"digest": 7}}, {"data": []}]
)
def test_a_plan_whose_text_is_not_known_is_as_before(
    recipe: Recipe, provenance: dict[str, Any]
) -> None:
    plan = plan_at(dataclasses.replace(recipe, provenance=provenance), width=64)
    assert plan.corpus is None
    assert "corpus" not in plan.to_dict()
    assert Plan.from_dict(plan.to_dict()) == plan


def test_a_recipe_reads_as_a_plan_at_its_own_scale(recipe: Recipe, tmp_path: Path) -> None:
    recipe.write(tmp_path / "recipe.yaml")
    assert read_plan(tmp_path / "recipe.yaml") == base_plan(recipe)


EDITS: dict[str, tuple[Any, str]] = {
    "kind": ("study", "kind is 'study'"),
    "tensors.0.lr": (-1e-3, "embedding.weight: lr is -0.001"),
    "tensors.1.beta2": (1.0, "beta2 is 1.0"),
    "tensors.2.eps": (float("nan"), "eps is nan"),
    "tensors.2.init_std": (float("inf"), "init_std is inf"),
    "tensors.2.weight_decay": ("much", "tensors.2.weight_decay is 'much'"),
    "tensors.3.name": ("layers.0.attention.x.weight", "is no tensor of this model"),
    "tensors.3.layer": (1, "of layer 1; expected"),
    "tensors.3.module_type": ("v", "is 'v' of layer 0"),
    "residual.attention": ([1.0], "residual.attention has 1 numbers"),
    "residual.ffn": ([1.0, 0.0], "residual.ffn.1 is 0.0"),
    "scale.width": (64, "they must agree"),
    "train.batch": (100, "they must agree"),
    "output_multiplier": (0.0, "output_multiplier is 0.0"),
    "options.alpha": (2.0, "alpha is 2.0"),
    "modell": (1, "unknown key; did you mean 'model'"),
    "parameterization": ("mupp", "parameterization is 'mupp'; expected one of"),
    "options.decay": ("weird", "decay is 'weird'"),
    "parameters": (41_000, "parameters is 41000; model and train make"),
    "flops": (10**9, "flops is 1000000000; model and train make"),
    "tensors.0.init_std": (None, "embedding.weight: init_std is missing"),
    "tensors.1.init_std": (0.1, "init_std is 0.1; expected none for a hidden_norm"),
    "tensors.1.init_value": (0.0, "init_value is 0.0; expected 1.0 for a hidden_norm"),
    "tensors.2.init_value": (1.0, "init_value is 1.0; expected 0.0 for a hidden_weight"),
    "tensors.3.eps": (1e-38, "eps is 1e-38; expected at least 1.1754944e-38"),
    "tensors.3.lr": (1e39, "lr is 1e+39; expected at most 3.4028235e+38"),
    "model.depth": (10**15, "model.depth is 1000000000000000"),
    "train.microbatch": (-64, "train.microbatch is -64"),
}


@pytest.mark.parametrize("path", EDITS)
def test_a_plan_edited_into_nonsense_is_refused(recipe: Recipe, tmp_path: Path, path: str) -> None:
    value, message = EDITS[path]
    data = base_plan(recipe).to_dict()
    place: Any = data
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        place = place[part]
    place[last] = value
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(UserError, match=r"plan\.yaml") as caught:
        read_plan(tmp_path / "plan.yaml")
    assert message in str(caught.value)


def test_options_that_do_not_fit_are_refused(recipe: Recipe) -> None:
    data = base_plan(recipe).to_dict() | {"parameterization": "mup"}
    with pytest.raises(UserError, match="plan: options: beta_rule=power has no meaning"):
        plan_of(data)


@pytest.mark.parametrize("eps", [1e-8, 1.2e-38])
@given(
    width=st.sampled_from([16, 32, 2**17]),
    depth=st.sampled_from([1, 2, 40]),
    batch=st.integers(0, 40).map(lambda n: 64 * 2**n),
    steps=st.integers(0, 40).map(lambda n: 2**n),
    rule=st.sampled_from(["linear", "power"]),
)
@settings(max_examples=30)
def test_what_is_planned_can_be_read(
    recipe: Recipe, eps: float, width: int, depth: int, batch: int, steps: int, rule: str
) -> None:
    values = dataclasses.replace(recipe.hparams.global_, eps=eps)
    source = dataclasses.replace(
        recipe, hparams=dataclasses.replace(recipe.hparams, global_=values)
    )
    try:
        target = target_for(
            source, TargetRequest(width=width, depth=depth, batch=batch, tokens=batch * steps)
        )
        plan = make_plan(source, target.scale, target.model, beta_rule=rule)
    except UserError:
        return
    assert Plan.from_dict(plan.to_dict()) == plan


def test_a_plan_without_a_tensor_is_refused(recipe: Recipe) -> None:
    plan = base_plan(recipe)
    short = dataclasses.replace(plan, tensors=plan.tensors[1:])
    with pytest.raises(UserError, match=r"embedding\.weight is missing"):
        plan_of(short.to_dict())
