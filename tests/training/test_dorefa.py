"""DoReFa's weights against its formula in numpy, and inputs on their calibrated grids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from qsearch.assignment import FLOAT_BITS
from qsearch.quantize.activations import ActivationQuantizer
from qsearch.quantize.grid import Grid
from qsearch.training.dorefa import Dorefa, DorefaWeight

BITS = np.array([0, 1, 2, 3, 7, 8, 16, 23, FLOAT_BITS])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def learner(weight: Tensor, bits: np.ndarray = BITS) -> DorefaWeight:
    return Dorefa().weight(weight, bits, torch.ones(len(bits)))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_levels_are_the_published_ones_up_to_a_scale(bits: int) -> None:
    weight = normal(5, 3, 3)
    found = learner(weight, np.full(5, bits))(weight).double().numpy()
    for k, w in enumerate(weight.double().numpy()):
        t, levels = np.tanh(w), 2**bits - 1
        published = 2 * np.rint(levels * (t / (2 * np.abs(t).max()) + 0.5)) / levels - 1
        scale = (w * published).sum() / (published**2).sum()
        np.testing.assert_allclose(found[k], published * scale, rtol=1e-5)


def test_one_bit_is_the_mean_magnitude() -> None:
    weight = normal(4, 50)
    found = learner(weight, np.full(4, 1))(weight)
    torch.testing.assert_close(found, weight.sign() * weight.abs().mean(1, keepdim=True))


@pytest.mark.parametrize("deep", [30, 31])
def test_settles_on_odd_codes_that_give_its_values(deep: int) -> None:
    weight = normal(10, 40)
    bits = np.array([*BITS, deep])
    found = learner(weight, bits)
    given = found(weight)
    settled = {each.bits: each for each in found.settle(weight)}
    assert torch.equal(given[-2], weight[-2])
    for k, b in enumerate(bits):
        if b == FLOAT_BITS:
            continue
        codes = settled[int(b)].codes[k].long()
        assert codes.abs().max() <= 2**b - 1
        assert bool((codes % 2 == (b > 0)).all())
        assert torch.equal(settled[int(b)].values[k], given[k])
        assert torch.equal((codes.double() * settled[int(b)].scales[k].double()).float(), given[k]) or b > 24
    assert settled[4 - 1].codes.dtype == torch.int8


def test_gradient_is_that_of_the_squashed_weight() -> None:
    weight, gradient = normal(3, 30), normal(3, 30, seed=1)
    w = weight.clone().requires_grad_()
    learner(weight, np.array([1, 4, FLOAT_BITS]))(w).backward(gradient)
    assert w.grad is not None
    for k, levels in ((0, 1), (1, 15)):
        t = weight[k].double().tanh()
        codes = 2 * torch.round(levels * (t / (2 * t.abs().max()) + 0.5)) - levels
        scale = (weight[k].double() * codes).sum() / codes.square().sum()
        h = 1e-6
        slope = ((weight[k].double() + h).tanh() - (weight[k].double() - h).tanh()) / (2 * h)
        expected = gradient[k].double() * slope * scale * levels / t.abs().max()
        torch.testing.assert_close(w.grad[k].double(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(w.grad[2], gradient[2])


def test_a_trained_network_starts_near_itself() -> None:
    """At 8 bits within a fiftieth where tanh is straight, whatever the size of the weights, which the paper's own scale would lose."""
    for size in (0.01, 0.1, 0.3):
        weight = size * normal(8, 200)
        error = (learner(weight, np.full(8, 8))(weight) - weight).norm() / weight.norm()
        assert error < (0.02 if size < 0.3 else 0.1)


def test_zero_kernels_stay_zero() -> None:
    weight = torch.cat([torch.zeros(1, 10), normal(1, 10)])
    found = learner(weight, np.array([1, 4]))
    assert torch.equal(found(weight)[0], torch.zeros(10))
    assert all(torch.equal(each.codes[0], torch.zeros_like(each.codes[0])) for each in found.settle(weight))
    assert all(float(each.scales[0]) == 1 for each in found.settle(weight))


@pytest.mark.parametrize("grid", [Grid(0, 15), Grid(-8, 7), None], ids=str)
def test_inputs_keep_their_calibrated_grid(grid: Grid | None) -> None:
    quantizer = ActivationQuantizer(4, torch.tensor(0.21), grid)
    found = Dorefa().input(quantizer)
    x, gradient = (normal(20, 5) * 3).requires_grad_(), normal(20, 5, seed=1)
    values = found(x)
    values.backward(gradient)
    assert torch.equal(values, quantizer(x.detach()))
    assert list(found.parameters()) == []
    low, high = (-0.21, 0.21) if grid is None else (grid.low * 0.21, grid.high * 0.21)
    assert x.grad is not None
    inside = (x.detach() >= low) & (x.detach() <= high)
    assert 0 < inside.float().mean() < 1
    assert torch.equal(x.grad, gradient * inside)
    assert float(found.settle().scale) == pytest.approx(0.21)
