"""Accumulators of limited width: against loops in plain Python, worst cases, and rates of clamping on Gaussian data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qsearch.training import accumulators
from qsearch.training.accumulators import largest_sum, limit, product


def whole(rows: int, terms: int, peak: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-peak, peak + 1, (rows, terms), generator=generator).float()


def looped(a: Tensor, c: Tensor, bits: int, tile: int) -> tuple[list[list[int]], int]:
    """Y and the clamped sums, one number at a time, in whole numbers."""
    most, clamped = 2 ** (bits - 1) - 1, 0
    rows: list[list[int]] = []
    for one in a.int().tolist():
        rows.append([])
        for other in c.int().tolist():
            total = 0
            for start in range(0, len(one), tile):
                terms = zip(one[start : start + tile], other[start : start + tile], strict=True)
                found = sum(left * right for left, right in terms)
                clamped += abs(found) > most
                total += max(-most, min(most, found))
            rows[-1].append(total)
    return rows, clamped


@given(st.integers(1, 4), st.integers(1, 90), st.integers(2, 12), st.sampled_from([1, 3, 8, 32]), st.integers(0, 99))
def test_it_is_the_loop(rows: int, terms: int, bits: int, tile: int, seed: int) -> None:
    a, c = whole(rows, terms, 7, seed), whole(3, terms, 7, seed + 1)
    found, (values, clamped) = product(a, c, bits, tile), looped(a, c, bits, tile)
    assert found.values.int().tolist() == values
    assert int(found.clamped) == clamped
    assert found.sums == rows * 3 * -(-terms // tile)


def test_parts_that_are_worked_on_in_turn_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    a, c = whole(5, 300, 7), whole(6, 300, 7, 1)
    before = product(a, c, 8, 32)
    monkeypatch.setattr(accumulators, "HELD", 70)  # two tiles at a time, the last alone
    after = product(a, c, 8, 32)
    assert torch.equal(before.values, after.values)
    assert int(before.clamped) == int(after.clamped) > 0


def test_operands_may_lie_transposed() -> None:
    a, c = whole(70, 5, 7).T, whole(70, 6, 7, 1).T
    assert torch.equal(product(a, c, 8, 32).values, product(a.contiguous(), c.contiguous(), 8, 32).values)


@pytest.mark.parametrize("bits", [None, 8, 24])
def test_autocasting_does_not_round_sums(bits: int | None) -> None:
    ones = torch.full((1, 1011), 3.0)
    expected = product(ones, ones, bits, 32).values
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(product(ones, ones, bits, 32).values, expected)
    assert float(expected) == (31 * 127 + 127 if bits == 8 else 9 * 1011)


@pytest.mark.parametrize(("bits", "most"), [(2, 1), (8, 127), (12, 2047), (16, 32767)])
def test_limits(bits: int, most: int) -> None:
    assert limit(bits) == most


@pytest.mark.parametrize(("peak", "worst", "held"), [(7, 1568, 12), (15, 3360, 13)])
def test_worst_cases_of_a_tile(peak: int, worst: int, held: int) -> None:
    """32 products of 4-bit weights with signed and with unsigned 4-bit inputs."""
    assert largest_sum(32, peak, 7) == worst
    inputs, weights = torch.full((1, 64), float(peak)), torch.full((1, 64), -7.0)
    assert float(product(inputs, weights, None, 32).values) == -2 * worst
    exact = product(inputs, weights, held, 32)
    assert (float(exact.values), int(exact.clamped), exact.sums) == (-2 * worst, 0, 2)
    assert limit(held - 1) < worst
    clamped = product(inputs, weights, 8, 32)
    assert (float(clamped.values), int(clamped.clamped), clamped.sums) == (-254, 2, 2)


def test_tiles_clamp_less_than_one_long_sum() -> None:
    """What the published backward pass does is another number: 127 for the whole, not for each of its tiles."""
    ones = torch.full((1, 320), 2.0)
    assert float(product(ones, ones, 8, 320).values) == 127
    assert float(product(ones, ones, 8, 32).values) == 10 * 127
    assert float(product(ones, ones, 9, 32).values) == float((ones @ ones.T).item())


@pytest.mark.parametrize(
    ("one_sided", "clip", "percent"), [(False, 2.5, 0.45), (True, 2.67, 4.2)], ids=["signed", "relu"]
)
def test_rates_of_clamping_on_gaussian_data(one_sided: bool, clip: float, percent: float) -> None:
    """4-bit codes in 8-bit accumulators, 32 terms; the step is the ``clip``-th of σ over the largest code.

    With weights at 2.5 σ, 0.45 % of the sums of signed inputs leave the range, and 4.2 % of those behind a ReLU.
    """
    generator = np.random.default_rng(0)
    peak = 15 if one_sided else 7
    x, w = generator.standard_normal((2, 2048, 32))
    x = np.maximum(x, 0) if one_sided else x
    inputs, weights = np.clip(np.rint(x / clip * peak), -peak, peak), np.clip(np.rint(w / 2.5 * 7), -7, 7)
    found = product(torch.from_numpy(inputs), torch.from_numpy(weights), 8, 32)
    assert int(found.clamped) == int((np.abs(inputs @ weights.T) > 127).sum())
    assert 100 * int(found.clamped) / found.sums == pytest.approx(percent, abs=0.1 * percent)
