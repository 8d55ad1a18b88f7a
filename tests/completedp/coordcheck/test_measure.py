"""The sizes of one run, against the same numbers taken by hand."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from completedp.coordcheck.check import Setting, check_sizes, document, measure, sizes_at
from completedp.coordcheck.measure import Key, Quantity, Sizes, batch_sizes, trained_sizes
from completedp.coordcheck.reference import ReferenceSubject
from completedp.coordcheck.subject import Ready
from completedp.errors import UserError
from completedp.lm.preset_files import load_preset
from completedp.scale import Ratios

PRESET = load_preset("coordinates")
CONFIG = dataclasses.replace(
    PRESET,
    model=PRESET.model.scaled(width=32, depth=2),
    train=dataclasses.replace(PRESET.train, batch=128),
)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> ReferenceSubject:
    return ReferenceSubject(CONFIG, tmp_path_factory.mktemp("data"), torch.device("cpu"))


def ready(subject: ReferenceSubject, **ratios: float) -> Ready:
    return subject.ready(Ratios(**ratios), "completed-p", {"beta_rule": "power"}, 0)


def size(sizes: Sizes, quantity: Quantity, module: str, place: int | None) -> float:
    (found,) = [
        s for k, s in sizes.items() if (k.quantity, k.module, k.place) == (quantity, module, place)
    ]
    return found


@pytest.mark.parametrize("activation", ["swiglu", "gelu"])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_every_tensor_is_some_watched_modules_own(
    subject: ReferenceSubject, activation: str, qk_norm: bool
) -> None:
    shape = dataclasses.replace(CONFIG.model, activation=activation, qk_norm=qk_norm)
    other = dataclasses.replace(CONFIG, model=shape)
    model = ready(ReferenceSubject(other, Path(), torch.device("cpu")), depth=2)
    owned = [id(w.module.get_parameter(name)) for w in model.watched for name in w.tensors]
    assert sorted(owned) == sorted(id(p) for p in model.model.parameters())
    assert set(model.eps) == {name for name, _ in model.model.named_parameters()}
    assert sum(w.part == "stream" for w in model.watched) == 4


def test_updates_and_changes_are_those_of_the_trained_model(subject: ReferenceSubject) -> None:
    probe_BT = next(subject.batches(128, 5))
    batches = list(zip(range(3), subject.batches(128, 6), strict=False))
    model = ready(subject)
    sizes = trained_sizes(model, (b for _, b in batches), probe_BT, 3, 2)

    again = ready(subject)
    tokens_BT = probe_BT[:, :-1]
    embedding_VD = again.model.get_parameter("embedding.weight")
    up_FD = again.model.get_parameter("layers.1.ffn.up.weight")
    initial = [p.detach().clone() for p in (embedding_VD, up_FD)]
    with torch.no_grad():
        before_BTV = again.model(tokens_BT)
    for _, windows_BT in batches:
        again.optimizer.zero_grad()
        torch.autograd.backward(again.loss(windows_BT))
        again.optimizer.step()
    with torch.no_grad():
        change_BTV = again.model(tokens_BT) - before_BTV
        # The initial model with one tensor of the trained one.
        own = ready(subject)
        features: list[torch.Tensor] = []
        up = own.model.get_submodule("layers.1.ffn.up")
        up.register_forward_hook(lambda module, args, output: features.append(args[0]))
        own.model(tokens_BT)
    embedding_BTD = (embedding_VD - initial[0])[tokens_BT]
    up_BTF = features[0] @ (up_FD - initial[1]).T
    for quantity, module, place, values in (
        ("change", "unembedding", None, change_BTV),
        ("update", "embedding", None, embedding_BTD),
        ("update", "ffn_up", 1, up_BTF),
        ("output", "unembedding", None, before_BTV),
    ):
        rms = values.detach().square().mean().sqrt().item()
        assert size(sizes, quantity, module, place) == pytest.approx(rms, rel=1e-4)  # type: ignore[arg-type]


def test_a_branch_end_is_measured_alone_and_without_its_coefficient(
    subject: ReferenceSubject,
) -> None:
    """The training of ffn_up does not count as an update of ffn_down."""
    model = ready(subject)
    for group in model.optimizer.param_groups:
        group["lr"] = group["lr"] if "layers.0.ffn.up.weight" in group["param_names"] else 0.0
        kept = [n == "layers.0.ffn.up.weight" for n in group["param_names"]]
        group["params"] = [p for p, keep in zip(group["params"], kept, strict=True) if keep]
    probe_BT = next(subject.batches(128, 5))
    sizes = trained_sizes(model, subject.batches(128, 6), probe_BT, 2, 2)
    assert size(sizes, "update", "ffn_up", 0) > 0
    assert size(sizes, "update", "ffn_down", 0) == 0
    assert size(sizes, "change", "stream", 0) > 0
    deeper = trained_sizes(
        ready(subject, depth=8), subject.batches(128, 6), probe_BT, 2, base_depth=2
    )
    outputs = [size(s, "output", "ffn_down", 0) for s in (sizes, deeper)]
    assert outputs[0] / outputs[1] == pytest.approx(1, rel=0.15)


def test_layers_are_pooled_by_relative_depth_and_the_stream_is_not(
    subject: ReferenceSubject,
) -> None:
    model = ready(subject, depth=3)
    probe_BT = next(subject.batches(128, 5))
    outputs: list[torch.Tensor] = []
    layers = [model.model.get_submodule(f"layers.{i}") for i in range(6)]
    hooks = [
        layer.register_forward_hook(lambda module, args, output: outputs.append(output))
        for layer in layers
    ]
    model.model(probe_BT[:, :-1])
    for hook in hooks:
        hook.remove()
    sizes = trained_sizes(model, subject.batches(128, 6), probe_BT, 2, base_depth=2)
    assert {k.place for k in sizes if k.module == "q"} == {0, 1}
    for place, layer in ((0, 2), (1, 5)):
        rms = outputs[layer].square().mean().sqrt().item()
        assert size(sizes, "output", "stream", place) == pytest.approx(rms)


def test_noise_falls_as_the_root_of_the_batch_and_is_against_its_own_eps(
    subject: ReferenceSubject,
) -> None:
    key = Key(quantity="noise", module="ffn_up", place=0, part="hidden")
    noise = []
    for ratio in (1, 16):
        model = ready(subject)
        eps = dict.fromkeys(model.eps, float(ratio))
        sizes = batch_sizes(
            model, subject.batches(128, 1), 2, subject.batches(128 * ratio, 2), eps, 2
        )
        noise.append(sizes[key])
    assert noise[0] / noise[1] == pytest.approx(4 * 16, rel=0.25)


def test_a_run_is_a_function_of_its_seed(subject: ReferenceSubject) -> None:
    setting = Setting(
        axes=("width",), ratios=(1, 2), steps=2, seeds=(0, 1, 2), parameterization="sp"
    )
    first = sizes_at(subject, setting, "width", 0, 2)
    assert sizes_at(subject, setting, "width", 0, 2) == first
    assert sizes_at(subject, setting, "width", 1, 2) != first


def test_the_document_names_what_fails(subject: ReferenceSubject) -> None:
    setting = Setting(
        axes=("depth",), ratios=(1, 4), steps=2, seeds=(0, 1, 2), parameterization="sp"
    )
    found = document(setting, measure(subject, setting, lambda *run: None))
    assert not found["passes"]
    assert found["failures"][0]["distance"] == found["farthest"]["distance"] > 0.5
    assert all(len(s["sizes"]) == 3 and len(s["sizes"][0]) == 2 for s in found["slopes"])
    assert all(math.isfinite(x) for s in found["slopes"] for x in s["sizes"][0])


@pytest.mark.parametrize(
    ("axis", "ratio", "says"),
    [
        ("width", 1.3, "the width ratio 1.3 makes 41.6 of the base's 32"),
        ("width", 1.25, "expected a multiple of head_dim"),
        ("depth", 1.25, "the depth ratio 1.25 makes 2.5"),
        ("batch", 1.25, "expected a multiple of model.context = 64"),
    ],
)
def test_ratios_without_a_model_are_refused_before_anything_runs(
    subject: ReferenceSubject, axis: str, ratio: float, says: str
) -> None:
    setting = Setting(
        axes=(axis,),  # type: ignore[arg-type]
        ratios=(1, ratio),
        steps=2,
        seeds=(0, 1, 2),
        parameterization="sp",
    )
    with pytest.raises(UserError, match=says):
        check_sizes(subject, setting)
