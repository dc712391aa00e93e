"""Registers: codes by exact fractions, saturation, types that are wide enough, and gradients; and the integer model's shifts."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qsearch.errors import DataError, SpaceError
from qsearch.spiking.fixed_point import ConstantGrid, StateGrid, leak_grid, rounded, threshold_grid, wide_enough
from qsearch.testing.spiking import LARGEST, parts, shifted, whole

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def nearest_code(value: float, exponent: int, low: int, high: int) -> int:
    """Python rounds fractions half to even, and knows no widths."""
    return min(max(round(Fraction(value) / Fraction(2) ** exponent), low), high)


@given(FLOATS, st.integers(2, 31), st.integers(-40, 40))
def test_codes_of_states_by_fractions(value: float, bits: int, exponent: int) -> None:
    grid = StateGrid(bits, exponent)
    found = grid.codes(torch.tensor(value, dtype=torch.float64))
    assert int(found) == nearest_code(value, exponent, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


@given(st.floats(0, 2.0**20, width=32), st.integers(1, 31), st.integers(-40, 40), st.integers(0, 1))
def test_codes_of_constants_by_fractions(value: float, bits: int, exponent: int, fewest: int) -> None:
    grid = ConstantGrid(bits, exponent, fewest)
    expected = nearest_code(value, exponent, fewest, 2**bits - 1)
    number = torch.tensor(value, dtype=torch.float64)
    assert int(grid.codes(number)) == expected
    assert Fraction(float(grid.values(number))) == expected * Fraction(2) ** exponent


@given(st.integers(-LARGEST, LARGEST), st.integers(0, 90))
def test_shifts_to_the_right_round_half_to_even(number: int, places: int) -> None:
    assert int(shifted(np.array([number]), places)[0]) == round(Fraction(number, 2**places))


@given(st.integers(-LARGEST, LARGEST), st.integers(0, 90))
def test_shifts_to_the_left_saturate(number: int, places: int) -> None:
    expected = min(max(number * 2**places, -LARGEST), LARGEST)
    assert int(shifted(np.array([number]), -places)[0]) == expected


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(-40, 40))
def test_numbers_are_their_mantissas_and_exponents(value: float, exponent: int) -> None:
    mantissa, place = (int(part[0]) for part in parts(np.array([value])))
    assert Fraction(mantissa) * Fraction(2) ** place == Fraction(value)
    assert mantissa % 2 == 1 or value == 0
    code = round(Fraction(value) / Fraction(2) ** exponent)
    if abs(code) < LARGEST:
        assert int(whole(np.array([value]), exponent)[0]) == code


@pytest.mark.parametrize("bits", [1, 4, 8, 16, 24, 31])
def test_a_leak_of_one_becomes_the_greatest_below_one(bits: int) -> None:
    found = leak_grid(bits).values(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    assert found.tolist() == [0.0, 0.5, 1 - 2.0**-bits]


@given(st.floats(2.0**-20, 2.0**20, width=32), st.integers(1, 31))
def test_the_grid_of_thresholds_is_the_finest_that_holds_the_greatest(greatest: float, bits: int) -> None:
    grid = threshold_grid(bits, greatest)
    assert Fraction(greatest) <= grid.highest * Fraction(2) ** grid.exponent
    assert Fraction(greatest) > grid.highest * Fraction(2) ** (grid.exponent - 1)


def test_a_greatest_threshold_that_is_the_highest_code_stays_there() -> None:
    grid = threshold_grid(4, 15 * 2.0**-3)
    assert (grid.exponent, grid.highest) == (-3, 15)
    assert threshold_grid(4, math.nextafter(15 * 2.0**-3, 3)).exponent == -2


def test_thresholds_never_become_nothing() -> None:
    assert threshold_grid(2, 3.0).values(torch.tensor([1e-3, 0.4, 3.0])).tolist() == [1.0, 1.0, 3.0]


def test_types_are_wide_enough_and_no_wider() -> None:
    """The whole numbers that a type holds, and the first that it does not."""
    for bits, dtype in ((24, torch.float32), (53, torch.float64)):
        assert wide_enough(bits) is dtype
        assert int(torch.tensor(2**bits - 1, dtype=dtype)) == 2**bits - 1
        assert int(torch.tensor(2**bits + 1, dtype=dtype)) != 2**bits + 1
    assert wide_enough(25) is torch.float64
    with pytest.raises(SpaceError, match="53 bits; got 54"):
        wide_enough(54)


def test_rounding_is_half_to_even_and_passes_gradients() -> None:
    values = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.7], requires_grad=True)
    found = rounded(values)
    assert found.tolist() == [-2, -2, 0, 0, 2, 2, 1]
    (gradient,) = torch.autograd.grad((found * torch.arange(7.0)).sum(), values)
    assert gradient.tolist() == list(range(7))


def test_gradients_of_states_pass_within_the_range_only() -> None:
    values = torch.tensor([-3.0, -2.0, 0.3, 1.75, 2.0, 9.0], requires_grad=True)
    found = StateGrid(4, -2).codes(values)  # −2 … 1.75 in quarters
    assert found.tolist() == [-8, -8, 1, 7, 7, 7]
    (gradient,) = torch.autograd.grad(found.sum(), values)
    assert gradient.tolist() == [0, 4, 4, 4, 0, 0]


def test_constants_can_be_learnt_away_from_the_ends_of_their_registers() -> None:
    """A leak of one is no code of its register, and its gradient passes; what lies beyond has none."""
    values = torch.tensor([0.0, 0.97, 1.0, 1.1], requires_grad=True)
    found = leak_grid(2).values(values)
    assert found.tolist() == [0, 0.75, 0.75, 0.75]
    (gradient,) = torch.autograd.grad(found.sum(), values)
    assert gradient.tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize("bits", [1, 32])
def test_states_out_of_range_are_refused(bits: int) -> None:
    with pytest.raises(SpaceError, match=r"state's register must be within 2\.\.31"):
        StateGrid(bits, 0)


@pytest.mark.parametrize("bits", [0, 32])
def test_constants_out_of_range_are_refused(bits: int) -> None:
    with pytest.raises(SpaceError, match=r"constant's register must be within 1\.\.31"):
        leak_grid(bits)


def test_exponents_whose_steps_float_cannot_invert_are_refused() -> None:
    with pytest.raises(SpaceError, match="exponents of a state's register"):
        StateGrid(8, -127)


@pytest.mark.parametrize("greatest", [0.0, -1.0, math.inf, math.nan])
def test_thresholds_that_no_grid_holds_are_refused(greatest: float) -> None:
    with pytest.raises(DataError, match="finite and above 0"):
        threshold_grid(4, greatest)
