"""The coordinate check on models nobody here wrote, at a size that takes seconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import config

from completedp.config import ForeignModel
from completedp.coordcheck import check
from completedp.coordcheck.foreign import ForeignSubject
from completedp.coordcheck.slopes import Axis, Slope, failures
from completedp.errors import UserError
from completedp.lm.preset_files import load_preset
from completedp.scale import Ratios

PRESET = load_preset("coordinates")
TRAIN = dataclasses.replace(PRESET.train, batch=256)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def subject(source: str, cache: Path, width: int = 64) -> ForeignSubject:
    model = ForeignModel(source=source, width=width, depth=2, vocab_size=256, context=32)
    study = dataclasses.replace(PRESET, model=model, train=TRAIN)
    return ForeignSubject(study, cache, torch.device("cpu"))


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    def save(family: str) -> str:
        config(family, width=64).save_pretrained(tmp_path / family)
        return f"hf:{tmp_path}/{family}/config.json"

    return save


def slopes(of: ForeignSubject, axis: Axis, parameterization: str = "completed-p") -> list[Slope]:
    power = {"beta_rule": "power"} if parameterization == "completed-p" else {}
    setting = check.Setting(
        axes=(axis,),
        ratios=(1, 4),
        steps=8,
        seeds=(0, 1, 2),
        parameterization=parameterization,
        options=power,
    )
    return check.slopes(setting, check.measure(of, setting, lambda *run: None))


@pytest.mark.parametrize(
    ("family", "axis"), [("llama", "width"), ("gpt2", "width"), ("llama", "depth")]
)
def test_a_configuration_holds_and_sp_fails(
    family: str, axis: Axis, saved: Any, cache: Path
) -> None:
    of = subject(saved(family), cache)
    assert failures(slopes(of, axis)) == []
    assert failures(slopes(of, axis, "sp"))


@pytest.mark.parametrize("family", ["olmo2", "qwen3", "gemma", "gpt2"])
def test_every_parameter_is_some_watched_modules_own(family: str, saved: Any, cache: Path) -> None:
    ready = subject(saved(family), cache).ready(Ratios(depth=2), "completed-p", {}, 0)
    owned = [id(w.module.get_parameter(name)) for w in ready.watched for name in w.tensors]
    assert sorted(owned) == sorted(id(p) for p in ready.model.parameters())
    assert set(ready.eps) == {name for name, _ in ready.model.named_parameters()}
    ends = {w.module_type for w in ready.watched if w.part == "branch"}
    posts = {"attention_post_norm", "ffn_post_norm"}
    assert ends == (posts if family == "olmo2" else {"attention_out", "ffn_down"})


def test_what_is_never_called_cannot_be_watched(cache: Path) -> None:
    with pytest.raises(UserError, match=r"attention_out \(Linear\) is never called"):
        slopes(subject("foreign:reference", cache, width=32), "width")
    with pytest.raises(UserError, match=r"nn\.MultiheadAttention, which never calls"):
        slopes(subject("foreign:plain_bytes", cache, width=32), "width")
