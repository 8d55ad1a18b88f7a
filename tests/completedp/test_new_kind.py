"""A new kind is a row of the table: search space, recipe, plan, exports and audit then carry it.

The tests add kinds as a person would: a row in `KINDS`, a field of `GlobalValues`, a rule, and a buffer of
the model with its use.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import completedp
from completedp import config, files, hparams, rules
from completedp.adapters.infer import inventory_of
from completedp.adapters.parametrized import apply_values
from completedp.config import SearchConfig, StudyConfig
from completedp.errors import UserError
from completedp.hparams import GlobalValues, HParams
from completedp.kinds import KINDS, Kind, buffer_name
from completedp.lm.model import LanguageModel
from completedp.modules import BRANCHES
from completedp.optimizer import adamw
from completedp.plan import Plan
from completedp.plan_check import plan_of, read_plan
from completedp.recipe import Recipe
from completedp.resolved import Resolved
from completedp.rules import PARAMETERIZATIONS, Monomial
from completedp.validation import validate
from search import figures
from search.space import Space
from transfer.exports import FORMATS
from transfer.planning.planner import make_plan
from transfer.planning.table import by_module_type, multiples_by_module_type
from transfer.planning.target import TargetRequest, target_for

# A scale of the attention logits: one number per layer.
ATTENTION_SCALE = Kind(
    name="attention_scale",
    scope="branch",
    places=("attention",),
    default=1.0,
    octaves=(2, 1),
)
# A cap on the logits: one number.
LOGIT_CAP = Kind(name="logit_cap", scope="model", default=30.0, octaves=(3, 3))
# A scale of the input of each branch.
INPUT_SCALE = dataclasses.replace(ATTENTION_SCALE, name="input_scale", places=BRANCHES)


@dataclass(frozen=True, kw_only=True)
class MoreValues(GlobalValues):
    attention_scale: float = 1.0
    logit_cap: float = 30.0
    input_scale_attention: float = 1.0
    input_scale_ffn: float = 1.0


@pytest.fixture(autouse=True)
def more_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (ATTENTION_SCALE, LOGIT_CAP, INPUT_SCALE):
        monkeypatch.setitem(KINDS, kind.name, kind)
    for module in (hparams, config):
        monkeypatch.setattr(module, "GlobalValues", MoreValues)
    rule = PARAMETERIZATIONS["completed-p"]
    more = {**rule.coefficients, "attention_scale": Monomial(width=-0.5)}
    monkeypatch.setitem(
        rules.PARAMETERIZATIONS,  # type: ignore[arg-type]
        "completed-p",
        dataclasses.replace(rule, coefficients=more),
    )


@pytest.fixture
def study(recipe: Recipe) -> StudyConfig:
    return StudyConfig(
        model=recipe.model, data=recipe.data, train=recipe.train, values=MoreValues(lr=4e-3)
    )


@pytest.fixture
def found(recipe: Recipe, study: StudyConfig) -> Recipe:
    """A recipe whose new kinds are off their defaults."""
    point = {
        "global.lr": 1.0,
        "global.attention_scale": 1.0,
        "depth.attention_scale.1": -1.0,
        "global.logit_cap": -1.0,
        "type.input_scale.ffn": 1.0,
    }
    values = Space.from_config(study).to_hparams(point)
    return dataclasses.replace(recipe, hparams=values, baseline=HParams(global_=study.values))


def plan_at(recipe: Recipe, width: int = 64, depth: int = 4) -> Plan:
    target = target_for(recipe, TargetRequest(width=width, depth=depth, tokens=256 * 24, batch=256))
    return make_plan(recipe, target.scale, target.model)


COEFFICIENTS = {
    "attention_scale": (2**0.5, 2**0.25, 2**-0.25, 2**-0.5),
    "logit_cap": (15.0,),
    "input_scale_ffn": (2.0,) * 4,
}


def test_the_space_has_the_kinds_coordinates(study: StudyConfig) -> None:
    space = Space.from_config(study)
    names = [c.name for c in space.coordinates if c.kind in ("attention_scale", "logit_cap")]
    assert names == [
        "global.attention_scale",
        "global.logit_cap",
        "depth.attention_scale.0",
        "depth.attention_scale.1",
    ]
    assert {c.name for c in space.coordinates if c.kind == "input_scale"} == {
        *(f"global.input_scale_{branch}" for branch in BRANCHES),
        *(f"type.input_scale.{branch}" for branch in BRANCHES),
        *(f"depth.input_scale.{layer}" for layer in (0, 1)),
    }
    assert [c.octaves for c in space.coordinates if c.kind == "attention_scale"] == [2, 1, 1]
    frozen = dataclasses.replace(study, search=SearchConfig(frozen=("attention_scale",)))
    assert "attention_scale" not in {c.kind for c in Space.from_config(frozen).coordinates}
    assert space.project({"global.attention_scale": 9.0}) == {"global.attention_scale": 2.0}


def test_a_preset_gives_and_keeps_its_values(study: StudyConfig, tmp_path: Path) -> None:
    given = study.to_dict()
    given["values"] = {"lr": 4e-3, "attention_scale": 0.5}
    files.write_yaml(tmp_path / "mine.yaml", given)
    read = validate(StudyConfig, files.read_yaml(tmp_path / "mine.yaml"), "mine.yaml")
    assert read.values == MoreValues(lr=4e-3, attention_scale=0.5)
    with pytest.raises(UserError, match=r"attention_scale is -1.0; expected a finite number above"):
        MoreValues(lr=1e-3, attention_scale=-1.0)


def test_a_recipe_and_a_plan_carry_it(found: Recipe, tmp_path: Path) -> None:
    found.write(tmp_path / "recipe.yaml")
    assert Recipe.read(tmp_path / "recipe.yaml").to_dict() == found.to_dict()
    assert found.hparams.to_dict()["depth"]["attention_scale"] == [1.0, 0.5]
    plan = plan_at(found)
    assert plan.coefficients == {n: pytest.approx(c) for n, c in COEFFICIENTS.items()}
    plan.write(tmp_path / "plan.yaml")
    assert read_plan(tmp_path / "plan.yaml") == plan
    carried = json.loads(json.dumps(plan.resolved.to_dict()))
    assert Resolved.from_dict(carried) == plan.resolved


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("attention_scale", [1.0], r"attention_scale has 1 numbers; expected 4, one per layer"),
        ("logit_cap", [1.0, 2.0], r"logit_cap has 2 numbers; expected 1"),
        ("logit_cap", [-1.0], r"coefficients\.logit_cap\.0 is -1\.0; expected a finite number"),
        ("residual_ffn", [1.0] * 4, r"coefficients\.residual_ffn: unknown name"),
        ("softcap", [1.0], r"coefficients\.softcap: unknown name; expected one of"),
    ],
)
def test_a_wrong_coefficient_is_refused(
    found: Recipe, name: str, values: list[float], message: str
) -> None:
    data = plan_at(found).to_dict()
    data["coefficients"][name] = values
    with pytest.raises(UserError, match=message):
        plan_of(data)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"types": {"attention_scale": {"attention": 2.0}}}, "types.attention_scale: unknown kind"),
        ({"depth": {"logit_cap": [1.0, 2.0]}}, "depth.logit_cap: unknown kind"),
    ],
)
def test_a_multiplier_without_a_place_is_refused(part: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        HParams.from_dict({"global": {"lr": 1e-3}, **part})


def test_the_tables_of_a_plan_show_it(found: Recipe) -> None:
    plan = plan_at(found)
    columns, rows = by_module_type(plan)
    shown = {row[0]: row[-1] for row in rows if row[-1]}
    assert columns[-1] == "coefficient"
    assert shown == {
        "attention branch": "0.5",
        "ffn branch": "0.5",
        "attention_scale": "0.7071 to 1.414",
        "logit_cap": "15",
        "input_scale_ffn": "2",
    }
    plain = plan_at(dataclasses.replace(found, hparams=found.baseline))
    for one, other, expected in ((plan, plain, "0.5"), (plain, plan, "2")):
        assert ["logit_cap", expected] in [
            [row[0], row[-1]] for row in multiples_by_module_type(one, other)[1]
        ]


def test_its_multipliers_are_drawn(found: Recipe) -> None:
    for kind, places in ((ATTENTION_SCALE, ["attention"]), (INPUT_SCALE, list(BRANCHES))):
        assert [*figures.multipliers(kind, found.hparams, found.model)] == places


def test_exports_carry_it_or_refuse(found: Recipe) -> None:
    plan = plan_at(found)
    table = json.loads(FORMATS["json"].render(plan))
    assert table["coefficients"] == {n: list(c) for n, c in plan.coefficients.items()}
    for name in FORMATS.keys() - {"json"}:
        with pytest.raises(UserError, match=r"the plan has attention_scale, .*use json"):
            FORMATS[name].render(plan)


def test_a_kind_at_its_default_leaves_no_trace(recipe: Recipe, found: Recipe) -> None:
    rest = PARAMETERIZATIONS["completed-p"].coefficients
    plan = plan_at(dataclasses.replace(found, hparams=found.baseline), width=32)
    assert rest, "the new kind has a rule, which is 1 at the base's width"
    assert plan.coefficients == {}
    assert "coefficients" not in plan.to_dict()
    assert "coefficients" not in json.loads(FORMATS["json"].render(plan))


def model_with_places(plan: Plan) -> LanguageModel:
    """The reference model with the buffers that a person would add."""
    model = LanguageModel(plan.reference)
    for name in ("attention_scale", "input_scale_attention", "input_scale_ffn"):
        buffer_L = torch.ones(plan.reference.depth)
        model.register_buffer(buffer_name(name), buffer_L, persistent=False)
    model.register_buffer("logit_cap", torch.tensor(30.0), persistent=False)
    for i, layer in enumerate(model.layers):
        layer.attention.q_norm.register_forward_hook(
            lambda _module, _inputs, q_BTHE, i=i: q_BTHE * model.attention_scale_L[i]
        )
    return model


def test_the_model_takes_it_and_the_audit_sees_it(found: Recipe) -> None:
    plan = plan_at(found)
    model = model_with_places(plan)
    optimizer = adamw(model, plan)
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(256, (2, 9), generator=generator)
    before = model(tokens_BT)
    different = completedp.audit(model, optimizer, plan)
    assert {d.tensor for d in different.differences} == set(COEFFICIENTS)
    with pytest.raises(UserError, match="logit_cap: number 0 is 30, planned 15"):
        different.check()
    model.set_multipliers(plan.resolved)
    assert completedp.audit(torch.compile(model), optimizer, plan).ok
    assert model.attention_scale_L.tolist() == pytest.approx(plan.coefficients["attention_scale"])
    assert not torch.allclose(before, model(tokens_BT))
    model.set_multipliers(dataclasses.replace(plan.resolved, coefficients={}))
    assert model.logit_cap.item() == 30, "what a trial leaves out is not the trial's before"
    model.logit_cap = torch.ones(2)
    with pytest.raises(UserError, match="logit_cap: buffer is 2 numbers, planned 1 numbers"):
        completedp.audit(model, optimizer, plan).check()


def test_an_external_model_has_no_place_for_it(found: Recipe) -> None:
    with torch.device("meta"):
        model = LanguageModel(found.reference)
    with pytest.raises(UserError, match=r"attention_scale, logit_cap, .* this model has no place"):
        apply_values(model, inventory_of(model, model), found.hparams, completedp.Ratios())
