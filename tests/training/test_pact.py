"""Learned clips against the paper's formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from qsearch.quantize.activations import ActivationQuantizer
from qsearch.quantize.grid import Grid
from qsearch.training.dorefa import DorefaWeight
from qsearch.training.pact import DECAY, ClipToGrid, Pact, PactInput


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def learner(bits: int, alpha: float, *, signed: bool) -> PactInput:
    high = 2 ** (bits - signed) - 1
    grid = Grid(-high - 1 if signed else 0, high)
    return Pact().input(ActivationQuantizer(bits, torch.tensor(alpha / high), grid))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_values_and_gradients_are_the_published_ones(bits: int) -> None:
    alpha, levels = 1.3, 2**bits - 1
    found = learner(bits, alpha, signed=False)
    x, d = (normal(400) + 0.5).requires_grad_(), normal(400, seed=1)
    values = found(x)
    values.backward(d)
    data = x.detach().double().numpy()
    clipped = 0.5 * (np.abs(data) - np.abs(data - alpha) + alpha)
    np.testing.assert_allclose(values.detach().numpy(), np.rint(clipped * levels / alpha) * alpha / levels, atol=1e-5)
    assert x.grad is not None
    assert found.clip.value.grad is not None
    assert torch.equal(x.grad, d * ((x >= 0) & (x <= alpha)))
    assert float(found.clip.value.grad) == pytest.approx(float(d[x > alpha].sum()), rel=1e-4)


def test_gradients_are_finite_differences_of_the_clip() -> None:
    found = learner(3, 1.0, signed=True)
    x, d, h = (normal(100).double() * 2).requires_grad_(), normal(100, seed=1).double(), 1e-6
    found(x).backward(d)
    data = x.detach().numpy()

    def loss(values: np.ndarray, alpha: float) -> float:
        return float((d.numpy() * np.clip(values, -alpha, alpha)).sum())

    by_clip = (loss(data, 1 + h) - loss(data, 1 - h)) / (2 * h)
    by_inputs = [(loss(data + h * e, 1.0) - loss(data - h * e, 1.0)) / (2 * h) for e in np.eye(len(data))]
    assert x.grad is not None
    assert found.clip.value.grad is not None
    assert float(found.clip.value.grad) == pytest.approx(by_clip, rel=1e-4)
    np.testing.assert_allclose(x.grad.numpy(), by_inputs, atol=1e-6)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 27])
def test_settles_on_what_it_gives(bits: int, signed: bool) -> None:
    found = learner(bits, 1.7, signed=signed)
    with torch.no_grad():
        found.clip.value *= 0.913
    x = normal(40, 30) * 2
    settled = found.settle()
    assert torch.equal(found(x), settled(x))
    assert settled.grid is not None
    assert settled.grid.low == (-settled.grid.high if signed else 0)


def test_two_levels_at_one_signed_bit() -> None:
    found = Pact().input(ActivationQuantizer(1, torch.tensor(0.5), None))
    x = torch.tensor([-2.0, -0.2, 0.0, 0.3, 4.0]).requires_grad_()
    values = found(x)
    values.backward(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert values.tolist() == [-0.5, -0.5, 0.5, 0.5, 0.5]
    assert torch.equal(found.settle()(x.detach()), values.detach())
    assert x.grad is not None
    assert found.clip.value.grad is not None
    assert x.grad.tolist() == [0, 2, 3, 4, 0]
    assert float(found.clip.value.grad) == pytest.approx(5 - 1)


def test_penalty_pulls_the_clip_down_and_it_stays_above_zero() -> None:
    found = learner(4, 3.0, signed=False)
    found(normal(8).requires_grad_())
    penalty = found.penalty()
    assert penalty is not None
    penalty.backward()
    assert float(penalty.detach()) == pytest.approx(DECAY * 9)
    assert found.clip.value.grad is not None
    assert float(found.clip.value.grad) == pytest.approx(DECAY * 6)
    with torch.no_grad():
        found.clip.value.fill_(-1)
    found.constrain()
    assert 0 < float(found.clip.value.detach()) < 0.01


def test_clip_of_the_networks_data_stays() -> None:
    found = learner(4, 3.0, signed=False)
    assert found.penalty() is None
    found(normal(8).requires_grad_())
    found(normal(8))
    assert found.penalty() is None


def test_gradients_leave_the_values_alone() -> None:
    """Also where there are several clips, whose gradients are no dot product."""
    x, alpha = normal(2, 50).requires_grad_(), torch.tensor([[0.5], [1.0]]).requires_grad_()
    values: Tensor = ClipToGrid.apply(x, alpha, Grid(-7, 7))  # type: ignore[no-untyped-call]
    before = values.detach().clone()
    values.sum().backward()
    assert torch.equal(values, before)
    data, ends = x.detach(), alpha.detach()
    expected = (data.sign() * (data.abs() > ends)).sum(1, keepdim=True)
    assert alpha.grad is not None
    torch.testing.assert_close(alpha.grad, expected)


def test_weights_are_those_of_dorefa() -> None:
    assert isinstance(Pact().weight(normal(2, 3), np.array([2, 3]), torch.ones(2)), DorefaWeight)
