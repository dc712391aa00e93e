"""Projections: exact counts, the nearest point by brute force, and nothing left to do the second time."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qsearch.quantize.grid import TINY
from qsearch.training.projections import (
    kernel_mask,
    largest,
    largest_kernels,
    largest_mask,
    level_codes,
    level_distance,
    quantised,
)


def weight(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def apart(w: Tensor, z: Tensor) -> float:
    return float((w - z).double().square().sum())


@given(st.lists(st.sampled_from([-2.0, -1.0, 0.5, 1.0, 1.5]), min_size=1, max_size=7), st.data())
def test_the_largest_are_the_nearest_point_and_of_exact_count(values: list[float], data: st.DataObject) -> None:
    keep = data.draw(st.integers(0, len(values)))
    w = torch.tensor(values)
    z = largest(w, keep)
    assert int(z.count_nonzero()) == keep
    best = min(
        apart(w, torch.zeros_like(w).index_copy(0, torch.tensor(chosen, dtype=torch.long), w[list(chosen)]))
        for chosen in combinations(range(len(values)), keep)
    )
    assert apart(w, z) == pytest.approx(best)
    assert torch.equal(largest(z, keep), z)


@pytest.mark.parametrize("keep", range(6))
def test_whole_kernels_by_norm(keep: int) -> None:
    w = weight(5, 2, 3, 3)
    z = largest_kernels(w, keep)
    alive = [bool(kernel.any()) for kernel in z]
    assert sum(alive) == keep
    assert torch.equal(z[alive], w[alive])
    norms = w.flatten(1).norm(dim=1)
    assert sorted(norms[alive].tolist()) == sorted(norms.tolist())[5 - keep :]
    assert torch.equal(largest_kernels(z, keep), z)
    assert kernel_mask(w, keep).shape == (5, 1, 1, 1)


def test_equal_magnitudes_are_kept_from_the_first() -> None:
    assert largest_mask(torch.tensor([[1.0, -1.0], [1.0, 0.5]]), 2).tolist() == [[True, True], [False, False]]


def nearest_levels(w: Tensor, bits: int) -> float:
    """Least squared error over all levels of all weights, each with the best distance for them."""
    magnitudes = w.abs().double().numpy()
    levels = np.array(list(product(range(1, 2 ** (bits - 1) + 1), repeat=len(w))))
    gains = (levels @ magnitudes) ** 2 / (levels**2).sum(1)
    return float((magnitudes**2).sum() - gains.max())


@pytest.mark.parametrize("bits", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_levels_are_the_nearest_by_brute_force(bits: int, seed: int) -> None:
    w = weight(6, seed=seed)
    z = quantised(w, torch.ones(6, dtype=torch.bool), bits)
    assert apart(w, z) <= (1 + 1e-6) * nearest_levels(w, bits) + 1e-9


def test_one_bit_is_the_mean_magnitude() -> None:
    w = weight(100)
    assert level_distance(w, 1) == pytest.approx(float(w.abs().mean()))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8, 12])
def test_no_distance_of_a_fine_grid_is_much_better(bits: int) -> None:
    w = weight(300, seed=bits)
    found = apart(w, quantised(w, torch.ones(300, dtype=torch.bool), bits))
    peak = float(w.abs().max()) / 2 ** (bits - 1)
    tried = [apart(w, level_codes(w, q, bits) * q) for q in (peak * np.geomspace(0.05, 2.0, 500)).tolist()]
    assert found <= (1 + 1e-6 if bits <= 8 else 1.2) * min(tried)


@settings(max_examples=40)
@given(st.integers(1, 10), st.integers(0, 1000), st.integers(1, 40))
def test_levels_are_where_they_should_be_and_stay(bits: int, seed: int, count: int) -> None:
    w, kept = weight(count, seed=seed), weight(count, seed=seed + 1) > -0.5
    z = quantised(w, kept, bits)
    assert torch.equal(z != 0, kept)
    q = level_distance(w[kept], bits)
    codes = (z / q)[kept]
    torch.testing.assert_close(codes, codes.round(), rtol=1e-5, atol=1e-4)
    assert bool((codes.abs() <= 2 ** (bits - 1) + 1e-3).all())
    assert torch.equal(torch.sign(z[kept]), torch.where(w[kept] < 0, -1.0, 1.0))
    torch.testing.assert_close(quantised(z, kept, bits), z, rtol=1e-5, atol=1e-6)


def test_of_many_weights_a_part_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    w, kept = weight(3000), torch.ones(3000, dtype=torch.bool)
    exact = apart(w, quantised(w, kept, 4))
    monkeypatch.setattr("qsearch.training.projections.PLACES", 8000)
    assert exact <= apart(w, quantised(w, kept, 4)) <= 1.05 * exact


def test_nothing_kept_and_nothing_but_zeros() -> None:
    assert level_distance(torch.zeros(0), 3) == TINY
    assert level_distance(torch.zeros(4), 3) == TINY
    assert not quantised(weight(4), torch.zeros(4, dtype=torch.bool), 2).any()


@pytest.mark.parametrize("bits", [1, 4, 8, 31])
@pytest.mark.parametrize("peak", [0.0, TINY / 8, TINY])
def test_weights_next_to_zero_stay_there(bits: int, peak: float) -> None:
    """On levels, as what is kept is not zero, and with a distance that float32 can divide by."""
    w = torch.tensor([0.0, peak, -peak])
    z = quantised(w, torch.ones(3, dtype=torch.bool), bits)
    assert bool((z.abs() > 0).all())
    assert float(z.abs().max()) <= 2 * TINY
