"""Hutchinson's estimator: exact where it must be, its variance formula, and honest standard errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qsearch.sensitivity.hutchinson import diagonal_probe, estimate

Floats = NDArray[np.float64]


def probes(hessian: torch.Tensor, count: int, seed: int = 0) -> Floats:
    """vᵀHv of the loss ½ wᵀHw, for several probes."""
    w = torch.ones(len(hessian), dtype=hessian.dtype, requires_grad=True)
    gradients = torch.autograd.grad(0.5 * w @ hessian @ w, [w], create_graph=True)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        product = diagonal_probe(gradients, [w], generator)[0]
        assert product is not None
        found.append(float(product.sum()))
    return np.asarray(found)


def symmetric(size: int, seed: int) -> torch.Tensor:
    drawn = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return drawn @ drawn.T


def test_every_probe_of_a_diagonal_hessian_is_exact() -> None:
    hessian = torch.diag(torch.tensor([3.0, -1.0, 0.5, 7.0], dtype=torch.float64))
    assert probes(hessian, 20) == pytest.approx(np.full(20, 9.5), abs=1e-12)


def test_the_variance_formula() -> None:
    """G8: 2 (‖H‖²_F − Σ H_aa²), of a 6×6 matrix; the mean is the trace."""
    hessian = symmetric(6, 3)
    drawn = probes(hessian, 8000)
    expected = 2 * float(hessian.square().sum() - hessian.diagonal().square().sum())
    assert drawn.var(ddof=1) == pytest.approx(expected, rel=0.08)
    assert drawn.mean() == pytest.approx(float(hessian.trace()), abs=4 * (expected / len(drawn)) ** 0.5)


def test_other_leaves_add_their_coupling_to_the_variance() -> None:
    hessian = symmetric(6, 4)
    a, b = (torch.ones(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    w = torch.cat([a, b])
    gradients = torch.autograd.grad(0.5 * w @ hessian @ w, [a, b], create_graph=True)
    generator = torch.Generator().manual_seed(0)
    drawn = np.asarray([float(diagonal_probe(gradients, [a, b], generator)[0].sum()) for _ in range(8000)])
    block, beside = hessian[:3, :3], hessian[:3, 3:]
    expected = 2 * float(block.square().sum() - block.diagonal().square().sum()) + float(beside.square().sum())
    assert drawn.mean() == pytest.approx(float(block.trace()), abs=4 * (expected / len(drawn)) ** 0.5)
    assert drawn.var(ddof=1) == pytest.approx(expected, rel=0.1)


def gaussian(rng: np.random.Generator, calls: list[int]) -> object:
    def draw(count: int) -> Sequence[Mapping[str, Floats]]:
        calls.append(count)
        return [{"x": rng.normal([2.0, 1.0], [0.6, 0.8])} for _ in range(count)]

    return draw


def test_standard_errors_are_honest() -> None:
    """The interval of ±1.96 standard errors holds the trace in about 95 % of cases."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        trace = estimate(gaussian(rng, []), 1e-9, probes=40, most=40)["x"]
        hits += abs(trace.value - 3.0) <= 1.96 * trace.standard_error
    assert 0.91 < hits / 400 < 0.985


def test_rounds_go_on_until_the_standard_error_is_met() -> None:
    calls: list[int] = []
    trace = estimate(gaussian(np.random.default_rng(1), calls), 0.05, probes=8, most=400)["x"]
    assert len(calls) > 1
    assert trace.probes == sum(calls) < 400
    assert trace.within(0.05)
    assert trace.standard_error == pytest.approx((1 / trace.probes) ** 0.5, rel=0.4)


def test_it_ends_at_the_most_probes() -> None:
    calls: list[int] = []
    trace = estimate(gaussian(np.random.default_rng(1), calls), 1e-6, probes=8, most=20)["x"]
    assert calls == [8, 8, 4]
    assert not trace.within(1e-6)


def test_a_leaf_that_the_loss_does_not_depend_on_has_no_product() -> None:
    a, b = (torch.ones(2, requires_grad=True) for _ in range(2))
    gradients = torch.autograd.grad(a.pow(3).sum(), [a, b], create_graph=True, allow_unused=True)
    found = diagonal_probe(gradients, [a, b], torch.Generator())
    assert found[0] is not None
    assert found[0].tolist() == [6.0, 6.0]
    assert found[1] is None
