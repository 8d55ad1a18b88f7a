"""The coordinate check on external models, at a size that takes seconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from external_models import config, external

from completedp.coordcheck import check, measure
from completedp.coordcheck.external import ExternalSubject
from completedp.coordcheck.slopes import Axis, Slope, failures
from completedp.coordcheck.subject import Ready, Watched
from completedp.errors import UserError
from completedp.lm.preset_files import load_preset
from completedp.scale import Ratios

PRESET = load_preset("coordinates")
TRAIN = dataclasses.replace(PRESET.train, batch=256)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def subject(source: str, cache: Path, width: int = 64) -> ExternalSubject:
    study = dataclasses.replace(PRESET, model=external(source, width=width), train=TRAIN)
    return ExternalSubject(study, cache, torch.device("cpu"))


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    def save(family: str) -> str:
        config(family, width=64).save_pretrained(tmp_path / family)
        return f"hf:{tmp_path}/{family}/config.json"

    return save


def slopes(
    of: ExternalSubject,
    axis: Axis,
    parameterization: str = "completed-p",
    ratios: tuple[float, ...] = (1, 4),
) -> list[Slope]:
    power = {"beta_rule": "power"} if parameterization == "completed-p" else {}
    setting = check.Setting(
        axes=(axis,),
        ratios=ratios,
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
def test_every_parameter_belongs_to_one_watched_module(
    family: str, saved: Any, cache: Path
) -> None:
    ready = subject(saved(family), cache).ready(Ratios(depth=2), "completed-p", {}, 0)
    owned = [id(w.module.get_parameter(name)) for w in ready.watched for name in w.tensors]
    assert sorted(owned) == sorted(id(p) for p in ready.model.parameters())
    assert set(ready.eps) == {name for name, _ in ready.model.named_parameters()}
    ends = {w.module_type for w in ready.watched if w.part == "branch"}
    posts = {"attention_post_norm", "ffn_post_norm"}
    assert ends == (posts if family == "olmo2" else {"attention_out", "ffn_down"})


@pytest.mark.parametrize(("family", "part"), [("olmo2", "hidden"), ("qwen3", "qk_norm")])
def test_a_modules_part_is_the_same_at_every_width(
    family: str, part: str, saved: Any, cache: Path
) -> None:
    """At the base a norm over all heads looks like one that the heads share."""
    of = subject(saved(family), cache)
    for width in (1, 2):
        watched = of.ready(Ratios(width=width), "completed-p", {}, 0).watched
        assert {w.part for w in watched if w.module_type == "q_norm"} == {part}


def test_models_that_are_not_of_the_size_asked_for_are_refused_before_training(cache: Path) -> None:
    with pytest.raises(
        UserError, match="has width 64 and 2 layers; expected the size that it was asked for"
    ):
        subject("external_models:fixed_depth", cache, width=32)
    of = subject("external_models:even_widths", cache, width=64)
    with pytest.raises(UserError, match=r"even_widths\(width=72, depth=2\) failed"):
        slopes(of, "width", ratios=(1, 1.125, 4))


class Twice(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = torch.nn.Linear(4, 4)
        self.idle = torch.nn.Linear(4, 4, bias=False)

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        return self.map(self.map(x_BD))


def watching(module_type: str, name: str) -> Ready:
    model = Twice()
    watched = Watched(
        module_type=module_type, layer=None, part="hidden", module=model.get_submodule(name)
    )
    return Ready(
        model=model, optimizer=torch.optim.AdamW(model.parameters()), eps={},
        loss=lambda x_BD: model(x_BD).sum(), watched=(watched,),
    )  # fmt: skip


def test_a_module_called_twice_and_an_untrained_one_are_named() -> None:
    ready = watching("q", "map")
    with pytest.raises(UserError, match=r"module of q \(Linear\) is called twice"):
        measure._calls(ready, torch.ones(1, 4))
    with pytest.raises(UserError, match=r"idle\.weight: got no gradient"):
        measure._gradients(ready, torch.ones(1, 4))


def test_a_module_that_is_never_called_cannot_be_watched(cache: Path) -> None:
    ready = watching("k", "idle")
    with pytest.raises(UserError, match=r"module of k \(Linear\) is never called"):
        measure._calls(ready, torch.ones(1, 4))
    with pytest.raises(UserError, match=r"nn\.MultiheadAttention, which never calls"):
        slopes(subject("external_models:plain_bytes", cache, width=32), "width")
