"""Plans of external models: the same values as `parametrize`, trained, resumed and measured."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from external_models import config, external, reference

import completedp
from completedp.adapters.external import build_model
from completedp.adapters.plans import planned
from completedp.adapters.task import foreign_model
from completedp.cli.app import main
from completedp.config import DataConfig, ExternalModel, TrainConfig
from completedp.errors import UserError
from completedp.hparams import HParams
from completedp.models import own_inventory
from completedp.optimizer import adamw
from completedp.plan import Plan
from completedp.plan_check import check_plan
from completedp.recipe import Recipe
from completedp.runs.runner import train_function
from completedp.scale import Scale
from completedp.training import jobs
from transfer.planning.planner import make_plan


class Stopped(Exception):
    """Ends a run from its report."""


TRAIN = TrainConfig(tokens=256 * 8, batch=256, eval_tokens=1024, clip=0.3)
HPARAMS = HParams.from_dict(
    {
        "global": {"lr": 0.01, "eps": 1e-6, "residual_ffn": 1.5, "weight_decay": 0.1},
        "types": {"lr": {"ffn_down": 3.0}, "residual": {"attention": 0.6}},
        "depth": {"residual": [0.5, 2.0]},
    }
)
LARGER = Scale(width=64, depth=4, batch=512, tokens=512 * 6)
Program = Callable[..., tuple[int, str, str]]


def recipe_of(model: Any, hparams: HParams = HPARAMS) -> Recipe:
    return Recipe(
        parameterization="completed-p", model=model, data=DataConfig(), train=TRAIN,
        hparams=hparams, baseline=HParams.from_dict({"global": {"lr": 0.01}}), provenance={},
    )  # fmt: skip


def family(name: str, folder: Path, **changes: Any) -> ExternalModel:
    path = folder / f"{name}.json"
    path.write_text(config(name, **changes).to_json_string(use_diff=False))
    return external(f"hf:{path}")


def larger(recipe: Recipe, **options: Any) -> Plan:
    model = recipe.model.scaled(width=64, depth=4)
    return make_plan(recipe, LARGER, model, **options)


@pytest.mark.parametrize("name", ["llama", "gpt2", "olmo2", "gemma2"])
@pytest.mark.parametrize("parameterization", ["completed-p", "completep"])
def test_a_plan_has_the_values_that_parametrize_gives(
    name: str, parameterization: str, tmp_path: Path
) -> None:
    """GPT-2 is tied and fused. OLMo-2 has post-norms. Gemma 2 is tied, with post-norms, 1 + w gains and
    √d_model."""
    recipe = recipe_of(family(name, tmp_path))
    plan = larger(recipe, parameterization=parameterization)
    values = planned(plan)
    model = build_model(recipe.model.scaled(width=64, depth=4))  # type: ignore[arg-type]
    expected = completedp.parametrize(
        model, recipe, batch=LARGER.batch, tokens=LARGER.tokens, parameterization=parameterization
    )
    assert values.resolved == expected.resolved
    assert values.folded == expected.folded
    assert values.hooked == expected.hooked
    path = tmp_path / "plan.yaml"
    plan.write(path)
    assert Plan.read(path) == plan


@pytest.mark.parametrize("forgotten", [False, True], ids=["folded", "folding forgotten"])
def test_a_plan_is_audited_as_it_is_trained(forgotten: bool, tmp_path: Path) -> None:
    """A plan's table has the values before folding. An optimizer with them trains another function."""
    plan = larger(recipe_of(family("llama", tmp_path)))
    values = planned(plan)
    optimizer = adamw(values.model, plan.resolved) if forgotten else values.adamw()
    found = completedp.audit(values.model, optimizer, plan)
    assert found.ok is not forgotten
    assert {d.what for d in found.differences} <= {"lr", "weight_decay", "eps"}


def test_a_split_fused_tensor_has_a_row_per_part(tmp_path: Path) -> None:
    apart = HParams.from_dict({"global": {"lr": 0.01}, "types": {"init_scale": {"q": 0.5}}})
    plan = larger(recipe_of(family("gpt2", tmp_path), apart))
    names = [row.name for row in plan.tensors if row.layer == 3 and "c_attn.weight" in row.name]
    assert [name.rpartition("[")[2] for name in names] == ["q]", "k]", "v]"]
    plan.write(tmp_path / "plan.yaml")
    assert Plan.read(tmp_path / "plan.yaml") == plan
    without = dataclasses.replace(
        plan, tensors=tuple(r for r in plan.tensors if r.name != names[1])
    )
    with pytest.raises(UserError, match=r"c_attn\.weight\[k\] is missing"):
        check_plan(without)


def test_the_reference_model_as_an_external_one_is_carried_as_itself(tmp_path: Path) -> None:
    own = recipe_of(reference(32, 2).config)
    plans = [larger(own), larger(recipe_of(external("external_models:reference")))]
    assert plans[0].tensors == plans[1].tensors
    assert (plans[0].parameters, plans[0].flops) == (plans[1].parameters, plans[1].flops)
    losses = []
    for plan in plans:
        (job,) = jobs.plan_jobs([(plan, 3)], cache=tmp_path, device="cpu")
        seen: list[float] = []
        result = train_function(job)(job.resolved, 3, lambda _, loss, seen=seen: seen.append(loss))  # type: ignore[misc]
        losses.append([*seen, result.loss])
    assert losses[1] == pytest.approx(losses[0], rel=2e-5)
    other, job = jobs.plan_jobs([(plans[1], 3), (plans[1], 4)], cache=tmp_path, device="cpu")
    assert other.arguments["base"] == {"width": 32, "depth": 2}


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_a_run_that_was_interrupted_ends_as_if_it_had_not_been(name: str, tmp_path: Path) -> None:
    model = family(name, tmp_path)
    values = completedp.resolve(HPARAMS, own_inventory(model), completedp.Ratios())

    def task(**more: Any) -> Any:
        described = {"model": vars(model), "data": vars(DataConfig()), "train": vars(TRAIN)}
        return foreign_model(**described, split="select", cache=str(tmp_path), device="cpu", **more)

    whole: list[float] = []
    end = task()(values, 0, lambda _, loss: whole.append(loss))
    kept = {"checkpoints": str(tmp_path / "kept"), "checkpoint_steps": 3}

    def stop(step: int, _: float) -> None:
        if step == 5:
            raise Stopped

    with pytest.raises(Stopped):
        task(**kept)(values, 0, stop)
    after: list[float] = []
    resumed = task(**kept)(values, 0, lambda _, loss: after.append(loss))
    assert after == whole[3:]
    assert resumed.loss == end.loss


@pytest.fixture
def program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Program:
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["completedp", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def test_the_verbs(program: Program, tmp_path: Path) -> None:
    recipe = recipe_of(family("llama", tmp_path))
    recipe.write(tmp_path / "recipe.yaml")
    status, _, said = program("transfer", "recipe.yaml", "--flops", "1e15")
    assert status == 2
    assert "give --width and --depth" in said
    sizes = ("--width", 64, "--depth", 4)
    assert program("transfer", "recipe.yaml", *sizes, "--tensor-parallel", 2)[0] == 2
    status, out, _ = program("transfer", "recipe.yaml", *sizes, "--flops", "1e10", "--diff")
    assert status == 0
    assert "ffn_gate" in out
    plan = Plan.read(tmp_path / "plan.yaml")
    assert plan.flops == pytest.approx(1e10, rel=0.1)
    assert program("export", "plan.yaml", "--format", "json")[0] == 0
    table = json.loads((tmp_path / "completedp.json").read_text())
    assert table["folded"] == [dataclasses.asdict(row) for row in planned(plan).tensors]
    assert len(table["folded_multipliers"]) == 8
    for form in ("torch", "hf", "nanogpt", "torchtitan"):
        status, _, said = program("export", "plan.yaml", "--format", form)
        assert status == 2
        assert "use json, or completedp.parametrize" in said
    assert program("transfer", "recipe.yaml", *sizes, "--tokens", 2048)[0] == 0
    status, out, said = program("train", "plan.yaml", "--device", "cpu")
    assert status == 0, said
    assert "nats a token" in out
    check = ("transfer-check", "recipe.yaml", "--axis", "width", "--ratios", "1,2", "--factors",
             "0.25,1,4", "--seeds", 2, "--device", "cpu", "--workers", 1, "--yes", "--json")  # fmt: skip
    status, out, said = program(*check)
    assert status in (0, 1), said
    assert json.loads(out)["recipe_digest"] == recipe.digest
