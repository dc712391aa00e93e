"""Rounding with a gradient, against numpy, finite differences of what the gradients are of, and the published rules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from qsearch.quantize.grid import Grid, fake_quantize
from qsearch.training.rounding import (
    Profile,
    inverse_tanh,
    round_to_grid,
    sign_times_step,
    signs,
    with_gradient_of,
)

GRIDS = [Grid(-8, 7), Grid(0, 15), Grid(-2, 1), Grid(0, 1), Grid(-3, 3)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def expected(
    v: NDArray[np.float64], s: NDArray[np.float64], d: NDArray[np.float64], grid: Grid
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two gradients of a plain straight-through rounding, number by number, and each step's sum; (K, n) and (K, 1)."""
    by_values, by_steps = np.zeros_like(v), np.zeros_like(s)
    for k, n in np.ndindex(v.shape):
        x = v[k, n] / s[k, 0]
        if x < grid.low:
            by_steps[k, 0] += d[k, n] * grid.low
        elif x > grid.high:
            by_steps[k, 0] += d[k, n] * grid.high
        else:
            by_values[k, n] = d[k, n]
            by_steps[k, 0] += d[k, n] * (np.rint(x) - x)
    return by_values, by_steps


def gradients(v: Tensor, s: Tensor, d: Tensor, grid: Grid, *, tensors: bool) -> tuple[Tensor, Tensor, Tensor]:
    v, s = v.clone().requires_grad_(), s.clone().requires_grad_()
    low, high = (torch.full_like(s, end).detach() if tensors else float(end) for end in (grid.low, grid.high))
    found = round_to_grid(v, s, low, high)
    found.backward(d)
    assert v.grad is not None
    assert s.grad is not None
    return found.detach(), v.grad, s.grad


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize("kernels", [1, 5])
def test_both_gradients_are_the_published_ones(grid: Grid, tensors: bool, kernels: int) -> None:
    v, d = normal(kernels, 60).double() * grid.high, normal(kernels, 60, seed=1).double()
    s = torch.linspace(0.5, 1.5, kernels).double()[:, None] * torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])[:kernels, None]
    found, by_values, by_steps = gradients(v, s, d, grid, tensors=tensors)
    values, steps = expected(v.numpy(), s.numpy(), d.numpy(), grid)
    torch.testing.assert_close(found, torch.clamp(torch.round(v / s), grid.low, grid.high) * s, rtol=0, atol=0)
    np.testing.assert_allclose(by_values.numpy(), values)
    np.testing.assert_allclose(by_steps.numpy(), steps, rtol=1e-9)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_values_are_those_that_are_looked_up_later(grid: Grid) -> None:
    v, s = normal(4, 1000) * grid.high, torch.tensor(0.7311)
    found = round_to_grid(v, s.view(1, 1), float(grid.low), float(grid.high))
    assert torch.equal(found, fake_quantize(v, s, grid))


@pytest.mark.parametrize("x", [-9.3, -2.4, 0.3, 5.6, 11.7])
def test_gradients_are_finite_differences_with_the_rounding_held(x: float) -> None:
    """Away from the edges the gradients are those of s·(clip(v/s) + e), e the rounding's error as a constant."""
    at, h = np.array([x * 0.4, 0.4]), 1e-6
    error = np.rint(np.clip(x, -8, 7)) - np.clip(x, -8, 7)

    def held(point: NDArray[np.float64]) -> float:
        v, s = point
        return float(s * (np.clip(v / s, -8, 7) + error))

    slopes = [(held(at + h * unit) - held(at - h * unit)) / (2 * h) for unit in np.eye(2)]
    v, s = (torch.tensor([[value]]).requires_grad_() for value in at)
    round_to_grid(v, s, -8.0, 7.0).sum().backward()
    assert v.grad is not None
    assert s.grad is not None
    np.testing.assert_allclose([float(v.grad), float(s.grad)], slopes, atol=1e-8)


def test_value_on_its_code_leaves_the_step_alone() -> None:
    s = torch.tensor([[0.25]]).requires_grad_()
    v = torch.arange(-8, 8).float()[None] * 0.25
    round_to_grid(v, s, -8.0, 7.0).backward(normal(1, 16))
    assert s.grad is not None
    assert float(s.grad) == 0


def test_ends_of_the_grid_are_inside() -> None:
    v = torch.tensor([[-0.8, -0.0, 0.0, 0.7, 0.71]]).requires_grad_()
    round_to_grid(v, torch.tensor([[0.1]]), -8.0, 7.0).sum().backward()
    assert v.grad is not None
    assert v.grad.tolist() == [[1, 1, 1, 1, 0]]


def test_scaling_scales_the_step_only() -> None:
    v, s, d = normal(3, 50), torch.full((3, 1), 0.3), normal(3, 50, seed=1)
    plain, scaled = s.clone().requires_grad_(), s.clone().requires_grad_()
    round_to_grid(v, plain, -4.0, 3.0).backward(d)
    round_to_grid(v, scaled, -4.0, 3.0, torch.tensor([[1.0], [0.5], [0.25]])).backward(d)
    assert plain.grad is not None
    assert scaled.grad is not None
    torch.testing.assert_close(scaled.grad, plain.grad * torch.tensor([[1.0], [0.5], [0.25]]))


@pytest.mark.parametrize("profile", ["linear", "inverse-tanh"])
@pytest.mark.parametrize("one", [True, False])
def test_element_wise_scaling_is_the_published_one(profile: Profile, one: bool) -> None:
    v, d = normal(3, 100) * 3, normal(3, 100, seed=1)
    s = torch.full((1, 1) if one else (3, 1), 0.5)
    v.requires_grad_()
    round_to_grid(v, s, -4.0, 3.0, 1.0, 5e-3, profile).backward(d)
    x = v.detach() / s
    offset = (x - x.round()).numpy()
    shape = offset if profile == "linear" else 0.5 * np.arctanh(1.9 * offset) / np.arctanh(1.9 / 2)
    factor = 1 + 5e-3 * np.sign(d.numpy()) * shape
    inside = ((x >= -4) & (x <= 3)).numpy()
    assert v.grad is not None
    assert inside.mean() < 1
    np.testing.assert_allclose(v.grad.numpy(), d.numpy() * factor * inside, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("profile", ["linear", "inverse-tanh"])
def test_mirrored_grid_scales_gradients_as_the_grid_that_it_mirrors(profile: Profile) -> None:
    """Levels −3·s … 4·s and their gradients are the same, whether the codes are −4 … 3 of −s or −3 … 4 of s."""
    v, d = normal(2, 100) * 2, normal(2, 100, seed=1)
    found = []
    for s, low, high in ((0.5, -3.0, 4.0), (-0.5, -4.0, 3.0)):
        w = v.clone().requires_grad_()
        values = round_to_grid(w, torch.full((2, 1), s), low, high, 1.0, 0.1, profile)
        values.backward(d)
        assert w.grad is not None
        assert not torch.equal(w.grad, d * (w.grad != 0))
        found.append((values.detach(), w.grad))
    torch.testing.assert_close(found[0], found[1])


def test_inverse_tanh_ends_at_half_and_is_odd() -> None:
    offsets = torch.linspace(-0.5, 0.5, 101).double()
    found = inverse_tanh(offsets)
    torch.testing.assert_close(found[[0, 50, 100]], torch.tensor([-0.5, 0.0, 0.5]).double())
    torch.testing.assert_close(found, -found.flip(0))
    slopes = found.diff()
    assert slopes.min() == slopes[[49, 50]].min()
    assert slopes.argmax() in (0, 99)


def test_signs_and_their_gradients() -> None:
    v = torch.tensor([[-3.0, -0.2, -0.0, 0.0, 0.4, 2.0]]).requires_grad_()
    s = torch.tensor([[0.5]]).requires_grad_()
    d = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    found = sign_times_step(v, s, 0.1)
    found.backward(d)
    assert found.tolist() == [[-0.5, -0.5, 0.5, 0.5, 0.5, 0.5]]
    assert v.grad is not None
    assert s.grad is not None
    assert v.grad.tolist() == [[0, 2, 3, 4, 5, 0]]
    assert float(s.grad) == pytest.approx(0.1 * (-1 - 2 + 3 + 4 + 5 + 6))
    assert signs(torch.tensor([-0.0, 0.0, -1.0, 1e-30])).tolist() == [1, 1, -1, 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_at_the_end_only(dtype: torch.dtype) -> None:
    v = (normal(2, 500) * 20).to(dtype).requires_grad_()
    s = torch.tensor([[0.1357]]).requires_grad_()
    found = round_to_grid(v, s, -128.0, 127.0)
    found.float().sum().backward()
    wide = v.detach().float().requires_grad_()
    t = s.detach().clone().requires_grad_()
    round_to_grid(wide, t, -128.0, 127.0).sum().backward()
    assert found.dtype == dtype
    assert torch.equal(found, fake_quantize(v.detach(), s.detach()[0, 0], Grid(-128, 127)))
    assert v.grad is not None
    assert v.grad.dtype == dtype
    assert s.grad is not None
    assert t.grad is not None
    assert s.grad.dtype == torch.float32
    torch.testing.assert_close(s.grad, t.grad, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kernels", [1, 2])
def test_signs_of_half_precision_have_the_gradients_of_single(dtype: torch.dtype, kernels: int) -> None:
    v, d = normal(2, 300).to(dtype), normal(2, 300, seed=1).to(dtype)
    gradients = []
    for values in (v, v.float()):
        x, s = values.clone().requires_grad_(), torch.full((kernels, 1), 0.7).requires_grad_()
        sign_times_step(x, s).backward(d.to(values.dtype))
        assert x.grad is not None
        assert s.grad is not None
        assert x.grad.dtype == values.dtype
        gradients.append((x.grad.float(), s.grad))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_steps_of_values_in_any_memory_layout() -> None:
    v, d = normal(2, 3, 4, 5), normal(2, 3, 4, 5, seed=1)
    steps = []
    for layout in (torch.contiguous_format, torch.channels_last):
        s = torch.full((1, 1, 1, 1), 0.3).requires_grad_()
        round_to_grid(v.contiguous(memory_format=layout), s, -4.0, 3.0).backward(d)
        steps.append(s.grad)
    torch.testing.assert_close(*steps)


def test_values_with_the_gradient_of_something_else() -> None:
    x = normal(10).requires_grad_()
    found = with_gradient_of(torch.full((10,), 7.0), x.square())
    found.sum().backward()
    assert found.tolist() == [7.0] * 10
    assert x.grad is not None
    torch.testing.assert_close(x.grad, 2 * x.detach())
