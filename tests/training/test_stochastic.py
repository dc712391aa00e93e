"""Quantisers of training: known codes, steps by the largest magnitude, and rounding that is right on average."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qsearch.quantize.grid import Grid, unsigned_grid
from qsearch.training.stochastic import Codes, nearest, stochastic, symmetric_grid


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("bits", "peak"), [(2, 1), (4, 7), (8, 127)])
def test_grids_are_the_same_to_both_sides(bits: int, peak: int) -> None:
    assert symmetric_grid(bits) == Grid(-peak, peak)


def test_nearest_codes() -> None:
    found = nearest(torch.tensor([-3.5, 0.2, 0.3, 0.75, 1.25, 0.0]), symmetric_grid(4))
    assert float(found.step) == 0.5
    assert found.values.tolist() == [-7, 0, 1, 2, 2, 0]  # halves to the even code


def test_nearest_codes_of_what_has_no_sign() -> None:
    found = nearest(torch.tensor([[0.0, 3.0], [0.3, 0.5]]), unsigned_grid(4))
    assert float(found.step) == pytest.approx(0.2)
    assert found.values.tolist() == [[0, 15], [2, 2]]


@pytest.mark.parametrize("quantizer", [nearest, lambda x, grid: stochastic(x, grid, seeded())])
def test_zeros_stay_zeros(quantizer: object) -> None:
    found = quantizer(torch.zeros(3, 2), symmetric_grid(4))  # type: ignore[operator]
    assert isinstance(found, Codes)
    assert torch.equal(found.values, torch.zeros(3, 2))
    assert 0 < float(found.step) < 1e-30


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40), st.integers(2, 8), st.integers(0, 9))
def test_codes_are_the_two_around_a_number(numbers: list[float], bits: int, seed: int) -> None:
    x, grid = torch.tensor(numbers), symmetric_grid(bits)
    found = stochastic(x, grid, seeded(seed))
    assert torch.equal(found.values, found.values.round())
    assert grid.low <= float(found.values.min()) <= float(found.values.max()) <= grid.high
    assert bool(((found.values - x / found.step).abs() < 1 + 1e-5).all())
    assert bool((found.values * x >= 0).all())  # no sign is lost


def test_stochastic_rounding_is_unbiased() -> None:
    """The mean of 10,000 draws lies within 3σ of the number, for each of many numbers but a few."""
    draws, x = 10_000, torch.linspace(-1, 1, 201)
    found = stochastic(x.repeat(draws, 1), symmetric_grid(4), seeded())
    scaled = x * 7
    sigma = ((scaled - scaled.floor()) * (scaled.ceil() - scaled) / draws).sqrt()
    deviation = (found.values.mean(0) - scaled).abs()
    assert bool((deviation <= 5 * sigma + 1e-5).all())
    assert int((deviation > 3 * sigma + 1e-5).sum()) <= 3  # 0.27 % of 201 is one


def test_nearest_rounding_loses_what_is_below_half_a_step_and_stochastic_does_not() -> None:
    x = torch.full((10_001,), 0.02)
    x[0] = 1.0
    assert float(nearest(x, symmetric_grid(4)).values[1:].sum()) == 0
    found = stochastic(x, symmetric_grid(4), seeded())
    assert float((found.values * found.step)[1:].mean()) == pytest.approx(0.02, rel=0.1)


def test_draws_come_from_the_generator_alone() -> None:
    x = torch.rand(100, generator=seeded(1)) - 0.5
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = stochastic(x, symmetric_grid(4), seeded(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.values, stochastic(x, symmetric_grid(4), seeded(2)).values)
    assert not torch.equal(first.values, stochastic(x, symmetric_grid(4), seeded(3)).values)


def test_nan_stays_nan() -> None:
    x = torch.tensor([1.0, torch.nan])
    assert bool(stochastic(x, symmetric_grid(4), seeded()).values.isnan().all())
