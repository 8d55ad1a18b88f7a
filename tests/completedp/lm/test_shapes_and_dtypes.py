"""The model, its operations and its loss: tensors have the shapes that their names say, in every dtype."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from completedp.lm import loss, model, ops
from completedp.lm.loss import cross_entropy
from completedp.lm.model import LanguageModel
from completedp.lm.ops import rms_norm, rotary_tables, rotate

from .test_model import SHAPES

SUFFIXED = re.compile(r"\w*_([A-Z1]+)")
# The largest error in each dtype, as a share of the largest entry.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float64: 1e-12}


@contextmanager
def shapes_checked(sizes: Mapping[str, int]) -> Iterator[set[str]]:
    """Check the local tensors of every function of the model, the operations and the loss when it returns.

    `sizes` says how large each letter of a suffix is. Other letters must have one size within a call. In
    operations and norms all letters are of this kind, and further dimensions may come first. Yields the names
    that were checked; fails at the end for the wrong ones.
    """
    files = {module.__file__ for module in (model, ops, loss)}
    seen: set[str] = set()
    wrong: list[str] = []

    def on_event(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "return" or code.co_filename not in files:
            return
        is_open = code.co_filename == ops.__file__ or code.co_qualname.startswith("Norm.")
        bound = {} if is_open else dict(sizes)
        for name, value in frame.f_locals.items():
            if isinstance(value, Tensor) and (match := SUFFIXED.fullmatch(name)):
                letters, shape = match[1], list(value.shape)
                shape = shape[-len(letters) :] if is_open else shape
                expected = [
                    1 if letter == "1" else bound.setdefault(letter, size)
                    for letter, size in zip(letters, shape, strict=False)
                ]
                if shape != expected or len(shape) != len(letters):
                    wrong.append(f"{code.co_qualname}: {name} is {list(value.shape)}")
                seen.add(name)

    before = sys.getprofile()
    sys.setprofile(on_event)
    try:
        yield seen
    finally:
        sys.setprofile(before)
    assert not wrong, wrong


@pytest.mark.parametrize("name", SHAPES)
def test_tensors_have_the_shapes_that_their_names_say(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "CPU_LOGITS", 500)  # several chunks, the last one smaller
    shape, sequences = SHAPES[name], 3
    sizes = {"B": sequences, "T": shape.context, "N": sequences * shape.context}
    sizes |= {"D": shape.width, "F": shape.ffn, "V": shape.vocab_size, "L": shape.depth}
    sizes |= {"H": shape.heads, "K": shape.kv_heads, "E": shape.head_dim}
    tokens_BT = torch.zeros(sequences, shape.context, dtype=torch.long)
    built = LanguageModel(shape)
    with shapes_checked(sizes) as seen:
        built(tokens_BT)
        torch.autograd.backward(built.loss(tokens_BT, tokens_BT)[0])
    assert {"q_BTHE", "k_BTKE", "mixed_BHTE", "inner_BTF", "final_BTD", "logits_BTV"} <= seen
    assert {"hidden_ND", "weight_VD", "logits_CV", "log_z_C1"} <= seen
    assert {"unit_D", "along_1", "cos_THE", "back_BTHE"} <= seen, "backward passes too"


def norm_in_float64(x_D: Tensor, gain_D: Tensor) -> Tensor:
    return F.rms_norm(x_D, gain_D.shape, gain_D, ops.NORM_EPS)


def rotation_in_float64(x_BTHE: Tensor) -> Tensor:
    low, high = x_BTHE.chunk(2, dim=-1)
    cos_THE, sin_THE = (table.double() for table in rotary_tables(5, 3, 8, 100.0))
    return x_BTHE * cos_THE + torch.cat((high, low), dim=-1) * sin_THE


def rotation(x_BTHE: Tensor) -> Tensor:
    wide = torch.promote_types(x_BTHE.dtype, torch.float32)
    cos_THE, sin_THE = (table.to(wide) for table in rotary_tables(5, 3, 8, 100.0))
    return rotate(x_BTHE, cos_THE, sin_THE)


TARGET_N = torch.arange(30) % 11


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("function", "reference", "shapes"),
    [
        (rms_norm, norm_in_float64, [(2, 5, 3, 8), (8,)]),
        (rotation, rotation_in_float64, [(2, 5, 3, 8)]),
        (
            lambda hidden_ND, weight_VD: cross_entropy(hidden_ND, weight_VD, TARGET_N)[0],
            lambda hidden_ND, weight_VD: F.cross_entropy(hidden_ND @ weight_VD.T, TARGET_N),
            [(30, 6), (11, 6)],
        ),
    ],
    ids=["norm", "rotation", "loss"],
)
def test_values_and_gradients_in_every_dtype(
    dtype: torch.dtype,
    function: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    shapes: list[tuple[int, ...]],
) -> None:
    """Against float64, from the same rounded inputs. The result is float32 or wider."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    wide = torch.promote_types(dtype, torch.float32)
    if function is rms_norm:  # a gain is a parameter, which is never narrower
        drawn[1] = drawn[1].to(wide)
    given = [x.clone().requires_grad_() for x in drawn]
    exact = [x.double().requires_grad_() for x in drawn]
    result, wanted = function(*given), reference(*exact)
    assert result.dtype == wide
    upstream = torch.randn(result.shape, generator=generator)
    gradients = torch.autograd.grad(result, given, upstream.to(wide))
    wanted_gradients = torch.autograd.grad(wanted, exact, upstream.double())
    for x, gradient in zip(given, gradients, strict=True):
        assert gradient.dtype == x.dtype
    for got, right in zip((result, *gradients), (wanted, *wanted_gradients), strict=True):
        assert (got.double() - right).abs().max() <= TOLERANCE[dtype] * right.abs().max()
