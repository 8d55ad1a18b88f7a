"""Training and searching external models."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from external_models import config, external, reference

import completedp
from completedp.adapters.external import base_inventory, build_model, check_runs
from completedp.adapters.task import foreign_model, mean_loss
from completedp.config import DataConfig, ExternalModel, TrainConfig
from completedp.errors import UserError
from completedp.hparams import HParams
from completedp.lm.loss import cross_entropy
from completedp.lm.preset_files import load_preset
from completedp.lm.train import language_model
from completedp.models import own_inventory, parameter_count, training_flops
from completedp.recipe import Recipe
from completedp.resolved import Resolved
from completedp.scale import Scale
from transfer.planning.planner import make_plan

HERE = Path(__file__).parent
TRAIN = TrainConfig(tokens=256 * 12, batch=256, eval_tokens=1024, clip=0.3)
HPARAMS = HParams.from_dict(
    {
        "global": {"lr": 0.01, "eps": 1e-6, "residual_ffn": 1.5},
        "types": {"lr": {"ffn_down": 3.0}, "residual": {"attention": 0.6}},
        "depth": {"residual": [0.5, 2.0]},
    }
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("corpora"))


def recipe_of(model: ExternalModel) -> Recipe:
    return Recipe(
        parameterization="completed-p", model=model, data=DataConfig(), train=TRAIN, hparams=HPARAMS,
        baseline=HPARAMS, provenance={},
    )  # fmt: skip


def losses(task: Any, values: Resolved, seed: int = 5) -> list[float]:
    found: list[float] = []
    found.append(task(values, seed, lambda step, loss: found.append(loss)).loss)
    return found


def arguments_of(model: Any, cache: str) -> dict[str, Any]:
    parts = {"model": vars(model), "data": vars(DataConfig()), "train": vars(TRAIN)}
    return {**parts, "split": "select", "cache": cache, "device": "cpu"}


def external_losses(model: ExternalModel, cache: str, hparams: HParams = HPARAMS) -> list[float]:
    task = foreign_model(**arguments_of(model, cache))
    values = completedp.resolve(hparams, own_inventory(model), completedp.Ratios())
    return losses(task, values)


def test_the_reference_model_as_an_external_one_trains_as_itself(cache: str) -> None:
    """The external model's residual coefficients are folded, and the reference model's are buffers. Both clip
    most steps."""
    model = external("external_models:reference")
    config_ = reference(32, 2).config
    task = language_model(**arguments_of(config_, cache))
    values = completedp.resolve(HPARAMS, own_inventory(config_), completedp.Ratios())  # type: ignore[union-attr]
    expected = losses(task, values)
    assert external_losses(model, cache) == pytest.approx(expected, rel=2e-5)
    plain = HParams.from_dict({"global": {"lr": 0.01, "eps": 1e-6}})
    assert external_losses(model, cache, plain)[-1] != pytest.approx(expected[-1], rel=1e-3)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_a_configuration_is_trained_with_the_datas_vocabulary(
    family: str, cache: str, tmp_path: Path
) -> None:
    config(family).save_pretrained(tmp_path)
    model = external(f"hf:{tmp_path}/config.json")
    found = external_losses(model, cache)
    assert found[-1] < found[0]
    assert found == external_losses(model, cache)


def test_a_carried_model_with_a_hooked_factor_trains_again_and_again(
    cache: str, tmp_path: Path
) -> None:
    """Gemma has a tied embedding with a factor √d_model. A worker keeps the model, so each run sets the hook
    again."""
    config("gemma").save_pretrained(tmp_path)
    base = external(f"hf:{tmp_path}/config.json")
    model = base.scaled(width=64, depth=2)
    plan = make_plan(
        recipe_of(base), Scale(width=64, depth=2, batch=256, tokens=TRAIN.tokens), model
    )
    task = foreign_model(**arguments_of(model, cache), base={"width": 32, "depth": 2})
    first = losses(task, plan.resolved)
    assert losses(task, plan.resolved) == first


def test_dropout_depends_on_the_seed_and_is_off_in_evaluation(cache: str, tmp_path: Path) -> None:
    config("gpt2", resid_pdrop=0.5).save_pretrained(tmp_path)
    model = external(f"hf:{tmp_path}/config.json")
    assert external_losses(model, cache) == external_losses(model, cache)


def test_sizes_are_counted() -> None:
    model = external("external_models:reference")
    shape = reference(32, 2).config
    assert parameter_count(model) == parameter_count(shape)  # type: ignore[arg-type]
    assert training_flops(model, 4096) == training_flops(shape, 4096)  # type: ignore[arg-type]
    tied = external("external_models:plain_bytes")
    assert parameter_count(tied) == sum(p.numel() for p in build_model(tied).parameters())


def test_models_of_other_sizes_or_unknown_parts_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"has 61 rows in tok_emb\.weight; the data's vocabulary has 256"
    ):
        base_inventory(external("external_models:Plain"))
    with pytest.raises(UserError, match=r"gizmo\.weight"):
        base_inventory(external("test_infer:Odd"))
    with pytest.raises(UserError, match=r"model\.depth is 0"):
        external("external_models:Plain", depth=0)


def test_the_order_of_patterns_reaches_the_worker() -> None:
    pairs = (("wo", "attention_out"), ("o", "other"), ("a", "q"))
    model = external("external_models:Plain", modules=pairs)
    sent = json.loads(json.dumps(dataclasses.asdict(model), sort_keys=True))
    assert ExternalModel(**sent) == model


def test_the_loss_is_the_reference_models() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden_ND, weight_VD = (torch.randn(n, 8, generator=generator) for n in (12, 7))
    target_N = torch.randint(7, (12,), generator=generator)
    expected = cross_entropy(hidden_ND, weight_VD, target_N, 1e-2)
    logits_BTV = (hidden_ND @ weight_VD.T).view(3, 4, 7)
    for mine, its in zip(mean_loss(logits_BTV, target_N.view(3, 4), 1e-2), expected, strict=True):
        torch.testing.assert_close(mine, its)


def test_a_model_that_does_not_run_is_refused_before_the_search() -> None:
    check_runs(external("external_models:plain_bytes"))
    with pytest.raises(UserError, match=r"does not run on 64 tokens \(IndexError"):
        check_runs(external("external_models:plain_bytes", context=64))
    with pytest.raises(UserError, match=r"does not run on 32 tokens \(IndexError"):
        check_runs(external("external_models:Plain"))
    with pytest.raises(UserError, match="gives logits of 61 tokens; the data's vocabulary has 256"):
        check_runs(external("external_models:few_logits"))
    with pytest.raises(UserError, match=r"gives \(1, 32\) for 32 tokens; expected logits"):
        check_runs(external("external_models:Headless"))


def test_a_search_on_a_users_factory(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(HERE)
    monkeypatch.setattr("sys.path", [*sys.path])
    preset = load_preset("tiny")
    small = dataclasses.replace(
        preset,
        model=dataclasses.replace(preset.model, context=32),
        train=dataclasses.replace(preset.train, tokens=2048 * 6, eval_tokens=2048),
    )
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps(small.to_dict()))
    options = ["--budget", "12", "--preset", str(path), "--model", "external_models:plain_bytes",
               "--width", "32", "--depth", "2", "--name", "own", "--device", "cpu",
               "--root", str(tmp_path)]  # fmt: skip
    done = cli("search", *options)
    assert done.status == 0, done.err + done.out
    assert "small.yaml, but for the model external_models:plain_bytes" in done.out
    study = tmp_path / "studies" / "own"
    recipe = Recipe.read(study / "recipe.yaml")
    assert recipe.model == external("external_models:plain_bytes")
    assert load_preset(str(study / "study.yaml")).model == recipe.model
    model = build_model(external("external_models:plain_bytes", width=64, depth=4))
    values = completedp.parametrize(model, recipe, batch=4096, tokens=40_960)
    assert values.ratios == completedp.Ratios(
        width=2, depth=2, batch=8, tokens=40_960 / recipe.base.tokens
    )
    with pytest.raises(UserError, match="give --width and --depth"):
        _ = recipe.reference
