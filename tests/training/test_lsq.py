"""Learned steps: mixtures of bitwidths, what they settle on, and how fast they learn beside the weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from qsearch.assignment import FLOAT_BITS
from qsearch.quantize.activations import ActivationQuantizer
from qsearch.quantize.grid import Grid
from qsearch.quantize.weights import quantize_weight
from qsearch.training.lsq import SMALLEST_SHARE, LearnedStep, Lsq, LsqInput, LsqWeight, ends

BITS = np.array([0, 1, 2, 3, 8, 24, 25, 26, 31, FLOAT_BITS])
"""One kernel of each kind."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scales(weight: Tensor, bits: np.ndarray) -> Tensor:
    """As calibration finds them."""
    found = [
        quantize_weight(weight[k : k + 1], int(b)).scales[0] if 0 < b < FLOAT_BITS else 1.0 for k, b in enumerate(bits)
    ]
    return torch.tensor([float(scale) for scale in found])


def learner(weight: Tensor, bits: np.ndarray = BITS) -> LsqWeight:
    return Lsq().weight(weight, bits, scales(weight, bits))


def test_grids_of_kernels() -> None:
    low, high = ends(torch.tensor([0, 1, 2, 8, 31]))
    assert low.tolist() == [0, -1, -2, -128, -(2**30)]
    assert high.tolist() == [0, 1, 1, 127, 2**30 - 1]


def test_starts_as_post_training_quantisation_gives_it() -> None:
    weight = normal(10, 3, 2, 2)
    found = learner(weight)(weight)
    for k, b in enumerate(BITS):
        looked_up = weight if b == FLOAT_BITS else quantize_weight(weight, int(b)).values
        if b == 0 or b > 8:  # above 8 bits the search looks at more than one scale
            continue
        torch.testing.assert_close(found[k], looked_up[k], rtol=0, atol=0)
    assert torch.equal(found[0], torch.zeros(3, 2, 2))
    assert torch.equal(found[-1], weight[-1])


def test_settles_on_what_it_gives_to_the_last_bit() -> None:
    weight = normal(10, 40)
    trained = learner(weight)
    with torch.no_grad():
        trained.step.value *= 1 + 0.1 * normal(10, seed=1)
        weight += 0.1 * normal(10, 40, seed=2)
    given = trained(weight)
    settled = {found.bits: found for found in trained.settle(weight)}
    assert sorted(settled) == sorted(set(BITS) - {FLOAT_BITS})
    for k, b in enumerate(BITS[:-1]):
        assert torch.equal(settled[int(b)].values[k], given[k]), b
        codes = settled[int(b)].codes[k].double() * settled[int(b)].scales[k]
        assert torch.equal(codes.float(), given[k]), b


def test_kernels_learn_as_if_each_were_alone() -> None:
    weight, gradient = normal(4, 30), normal(4, 30, seed=1)
    bits = np.array([1, 2, 4, FLOAT_BITS])
    together = learner(weight, bits)
    w = weight.clone().requires_grad_()
    together(w).backward(gradient)
    assert w.grad is not None
    assert together.step.value.grad is not None
    for k, b in enumerate(bits[:-1]):
        alone = learner(weight[k : k + 1], np.array([b]))
        v = weight[k : k + 1].clone().requires_grad_()
        alone(v).backward(gradient[k : k + 1])
        assert v.grad is not None
        assert alone.step.value.grad is not None
        torch.testing.assert_close(v.grad[0], w.grad[k])
        torch.testing.assert_close(alone.step.value.grad[0], together.step.value.grad[k])
    assert torch.equal(w.grad[3], gradient[3])
    assert float(together.step.value.grad[3]) == 0


def test_scaling_counts_the_numbers_that_share_a_step() -> None:
    """g = 1/√(N·hi), N the weights of a kernel: of the tensor's count there is nothing."""
    few, many = normal(1, 50), normal(1, 50).repeat(8, 1)
    steps = []
    for weight in (few, many):
        found = learner(weight, np.full(len(weight), 4))
        found(weight.clone().requires_grad_()).backward(torch.ones_like(weight))
        assert found.step.value.grad is not None
        steps.append(float(found.step.value.grad[0]))
    assert steps[0] == pytest.approx(steps[1])
    x = few.numpy() / float(scales(few, np.array([4]))[0])
    slope = np.where(x < -8, -8, np.where(x > 7, 7, np.rint(x) - x)).sum()
    assert steps[0] == pytest.approx(slope / np.sqrt(50 * 7), rel=1e-4)


def test_step_of_an_input_counts_the_numbers_of_a_sample() -> None:
    x = normal(6, 4, 5).abs().requires_grad_()
    found = LsqInput(ActivationQuantizer(4, torch.tensor(0.1), Grid(0, 15)))
    found(x).sum().backward()
    codes = x.detach().numpy() / 0.1
    scaled = np.where(codes > 15, 15, np.rint(codes) - codes)
    assert found.step.value.grad is not None
    assert float(found.step.value.grad) == pytest.approx(scaled.sum() / np.sqrt(20 * 15), rel=1e-3)


@pytest.mark.parametrize("grid", [Grid(0, 15), Grid(-8, 7), Grid(-(2**25), 2**25 - 1), None], ids=str)
def test_an_input_settles_on_what_it_gives(grid: Grid | None) -> None:
    x = normal(50, 4) * 3
    found = LsqInput(
        ActivationQuantizer(4, torch.tensor(0.31 if grid is None else 4 / max(grid.high, -grid.low)), grid)
    )
    with torch.no_grad():
        found.step.value *= 1.037
    assert torch.equal(found(x), found.settle()(x))
    assert found.settle().grid == grid


def test_network_data_do_not_teach_a_step() -> None:
    """A gradient by the data would cost as much as the first layer's whole backward pass."""
    found = LsqInput(ActivationQuantizer(4, torch.tensor(0.1), Grid(0, 15)))
    assert not found(normal(5, 3).abs()).requires_grad
    assert found(normal(5, 3).abs().requires_grad_()).requires_grad


@pytest.mark.parametrize("start", [0.5, -0.5])
def test_steps_keep_their_signs(start: float) -> None:
    step = LearnedStep(torch.tensor([start, start, start]))
    with torch.no_grad():
        step.value.copy_(torch.tensor([start, -start, 2 * start]))
    step.constrain()
    expected = torch.tensor([start, start * SMALLEST_SHARE, 2 * start])
    torch.testing.assert_close(step.value.detach(), expected)


def test_steps_grow_with_their_kernels() -> None:
    weight, ratio = normal(4, 20), torch.tensor([2.0, -0.5, 1.0, 0.0])
    found = learner(weight, np.array([4, 4, 1, 2]))
    before = found(weight).detach()
    scaled = weight * ratio[:, None]
    found.rescale(ratio)
    assert torch.equal(found(scaled).detach(), before * ratio[:, None])
    found.constrain()
    assert torch.equal(found(scaled).detach(), before * ratio[:, None])


def test_zero_kernels_stay_zero_at_one_bit() -> None:
    weight = torch.cat([torch.zeros(1, 10), normal(1, 10)])
    found = learner(weight, np.array([1, 1]))
    assert torch.equal(found(weight)[0], torch.zeros(10))
    assert torch.equal(found.settle(weight)[0].values, found(weight).detach())


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_steps_and_weights_learn_at_like_rates(bits: int) -> None:
    """(|∂L/∂s|/s) / (‖∂L/∂w‖/‖w‖) is of order one per kernel; with the tensor's count it would be √K times smaller."""
    torch.manual_seed(0)
    kernels, size = 256, 144
    weight = (0.1 * torch.randn(kernels, size)).requires_grad_()
    found = learner(weight.detach(), np.full(kernels, bits))
    x = torch.randn(200, size)
    target = torch.randn(200, kernels)
    torch.nn.functional.mse_loss(x @ found(weight).T, target).backward()
    assert weight.grad is not None
    assert found.step.value.grad is not None
    steps = found.step.value.grad.abs() / found.step.value.detach().abs()
    weights = weight.grad.norm(dim=1) / weight.detach().norm(dim=1)
    ratio = float((steps / weights).median())
    assert 0.2 < ratio < 5
    assert ratio / np.sqrt(kernels) < 0.3


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_kernels_that_are_mirrored_give_what_they_gave_mirrored(bits: int) -> None:
    weight, ratio = normal(3, 20), torch.tensor([2.0, -0.5, 1.0])
    found = learner(weight, np.full(3, bits))
    before = found(weight).detach()
    found.rescale(ratio)
    weight = weight * ratio[:, None]
    torch.testing.assert_close(found(weight).detach(), before * ratio[:, None])
    (settled,) = found.settle(weight)
    assert torch.equal(settled.values, found(weight))
