"""The chunked loss against plain float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from completedp.lm import loss as module
from completedp.lm.loss import cross_entropy


def plain(hidden: Tensor, weight: Tensor, target: Tensor, z_loss: float) -> Tensor:
    logits = hidden @ weight.T
    return F.cross_entropy(logits, target) + z_loss * logits.logsumexp(1).square().mean()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 9),
    st.integers(2, 30),
    st.integers(1, 300),
    st.floats(0, 0.1),
)
def test_value_and_gradients(n: int, d: int, v: int, held: int, z_loss: float) -> None:
    generator = torch.Generator().manual_seed(n * 1000 + d * 100 + v)
    hidden = torch.randn(n, d, generator=generator, dtype=torch.float64) * 5
    weight = torch.randn(v, d, generator=generator, dtype=torch.float64)
    target = torch.randint(v, (n,), generator=generator)
    hidden.requires_grad_()
    weight.requires_grad_()
    wanted = plain(hidden, weight, target, z_loss)
    wanted_grads = torch.autograd.grad(3 * wanted, (hidden, weight))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CPU_LOGITS", held)
        got, ce = cross_entropy(hidden, weight, target, z_loss)
        grads = torch.autograd.grad(3 * got, (hidden, weight))
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ce, plain(hidden, weight, target, 0.0), rtol=1e-12, atol=1e-12)
    assert not ce.requires_grad
    for grad, wanted_grad in zip(grads, wanted_grads, strict=True):
        torch.testing.assert_close(grad, wanted_grad, rtol=1e-10, atol=1e-12)


def test_large_logits_do_not_overflow() -> None:
    hidden = torch.tensor([[1e4, 0.0]], requires_grad=True)
    loss, _ = cross_entropy(hidden, torch.eye(2), torch.tensor([1]), 0.0)
    assert loss.item() == pytest.approx(1e4)


def test_a_nan_comes_out() -> None:
    loss, ce = cross_entropy(torch.full((1, 2), torch.nan), torch.eye(2), torch.tensor([1]))
    assert loss.isnan()
    assert ce.isnan()


def test_chunks_bound_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    exp = Tensor.exp_
    monkeypatch.setattr(Tensor, "exp_", lambda x: sizes.append(x.numel()) or exp(x))
    monkeypatch.setattr(module, "CPU_LOGITS", 100)
    cross_entropy(torch.randn(25, 3), torch.randn(10, 3), torch.zeros(25, dtype=torch.long))
    assert sizes == [100, 100, 50]
