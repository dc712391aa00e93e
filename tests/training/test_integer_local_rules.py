"""Rules of integer-only training against what is known of them: registers, rounding at random, shifts, readouts, memory."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qsearch.assignment import FLOAT_BITS
from qsearch.training.local_errors import Penalties, Readout, normalised, slope
from qsearch.training.local_memory import Counts, in_float, memory
from qsearch.training.local_registers import nearest_exponent, power_above, signed, unsigned
from qsearch.training.local_weights import RANDOM_BITS, Weights, rounded_at_random, start, taken_over


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(1, 2**60))
def test_the_nearest_exponent_is_exact(number: int) -> None:
    """2^(k − ½) ≤ x < 2^(k + ½), squared so that it is a matter of whole numbers."""
    value = float(number)
    k = nearest_exponent(value)
    square = Fraction(value) ** 2
    assert Fraction(2) ** (2 * k - 1) <= square < Fraction(2) ** (2 * k + 1)


@given(st.floats(1e-6, 1e6))
def test_the_nearest_exponent_of_fractions_is_exact(value: float) -> None:
    k, square = nearest_exponent(value), Fraction(value) ** 2
    assert Fraction(2) ** (2 * k - 1) <= square < Fraction(2) ** (2 * k + 1)


def test_powers_above() -> None:
    assert [power_above(value) for value in (0.3, 0.5, 1.0, 1.01, 2.857)] == [0.5, 0.5, 1.0, 2.0, 4.0]


@given(st.integers(2, 16), st.floats(-1e9, 1e9))
def test_registers_saturate_and_never_wrap(bits: int, value: float) -> None:
    x = torch.tensor(value, dtype=torch.float64)
    for register, lowest, highest in (
        (signed(bits, 8.0), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1),
        (unsigned(bits, 1.0), 0, 2**bits - 1),
    ):
        held = float(register.hold(x))
        assert held == min(max(round(value), lowest), highest)  # Python's rounding is half to even as well


def test_a_float_register_ends_where_the_others_do() -> None:
    x = torch.tensor([-9.0, -0.3, 0.3, 9.0])
    assert signed(FLOAT_BITS, 8.0).hold(x).tolist() == pytest.approx([-8.0, -0.3, 0.3, 8.0])
    assert unsigned(FLOAT_BITS, 1.0).hold(x).tolist() == pytest.approx([0.0, 0.0, 0.3, 1.0])


@given(st.integers(-300, 300), st.integers(-3, 8))
def test_rounding_at_random_is_unbiased(code: int, places: int) -> None:
    """Over all numbers that can be drawn, the mean is what is rounded: exactly."""
    count = 1 << max(places, 0)
    drawn = torch.arange(count, dtype=torch.float64) * 2 ** (RANDOM_BITS - max(places, 0))
    gradient = torch.full((count,), float(code), dtype=torch.float64)
    found = rounded_at_random(gradient, torch.tensor(float(places)), drawn)
    assert bool((found == found.round()).all())
    assert float(found.mean()) == code * 2.0**-places
    assert float(found.max() - found.min()) <= 1


def test_lower_bits_of_a_random_number_do_not_count() -> None:
    drawn = torch.tensor([0.0, 2.0**28 - 1, 2.0**28, 2.0**31 - 1], dtype=torch.float64)  # n of 3 bits: 0, 0, 1, 7
    found = rounded_at_random(torch.ones(4, dtype=torch.float64), torch.tensor(3.0), drawn)
    assert found.tolist() == [1.0, 1.0, 0.0, 0.0]


def test_weights_move_by_the_rate_on_average() -> None:
    """The largest gradient of 8 bits, 2^7, moves a weight of 6 bits by 2^−3 of its range, 2^5: 4 codes."""
    weights = Weights([6], (1, 20000), 0)
    weights.move(torch.full((1, 20000), 2.0**7 - 0.0), 8, 3, generator())
    assert torch.equal(weights.codes, torch.full((1, 20000), -4.0, dtype=torch.float64))
    weights = Weights([3], (1, 20000), 0)
    weights.move(torch.full((1, 20000), 2.0**6), 8, 4, generator())  # 2^6 · 2^−9 = ⅛ of a code
    assert set(weights.codes.unique().tolist()) == {-1.0, 0.0}
    assert float(weights.codes.mean()) == pytest.approx(-1 / 8, abs=3 * math.sqrt(7 / 64 / 20000))


def test_each_kernel_has_weights_of_its_own_bits() -> None:
    weights = Weights([0, 2, 3, 5], (4, 50), 1)
    weights.put(torch.linspace(-3, 3, 50).repeat(4, 1))
    assert weights.step == 2.0 * 2**-4
    assert [row.abs().max().item() for row in weights.codes] == [0, 1, 3, 15]
    assert torch.equal(weights.values[1], 8 * weights.codes[1])
    weights.move(torch.full((4, 50), -127.0), 8, 1, generator())
    assert [row.abs().max().item() for row in weights.codes] == [0, 1, 3, 15]


def test_weights_act_with_few_bits_and_are_stored_with_more() -> None:
    """Of 2 bits stored with 5: codes −15 … 15 act as ⌊c/8⌉, half to even, within ±1, and worth half of 2^e each."""
    weights = Weights([2, 0, 6], (3, 31), 0, 5)
    weights.codes = torch.arange(-15, 16).double().repeat(3, 1)
    expected = [max(-1, min(1, round(Fraction(code, 8)))) for code in range(-15, 16)]
    assert (weights.values[0] * weights.step).tolist() == [code / 2 for code in expected]
    assert torch.equal(weights.values[2], weights.codes[2])
    weights.move(torch.full((3, 31), 2.0**7), 8, 4, generator())  # 2^−4 of the range: one code of 5 bits, two of 6
    assert weights.codes[0].tolist() == [-15, *range(-15, 15)]
    assert not weights.codes[1].any()
    assert weights.codes[2].tolist() == list(range(-17, 14))


@pytest.mark.parametrize("bits", [2, 3, 4, 8, FLOAT_BITS])
def test_random_weights_fill_half_of_their_range(bits: int) -> None:
    """Or one code of it, where half of it is less than one and a half codes."""
    weights = start([bits] * 64, (64, 96), generator())
    limit = {2: 1.0, 3: 2.0, 4: 4.0, 8: 64.0, FLOAT_BITS: 0.5}[bits]
    assert float(weights.codes.abs().max()) == pytest.approx(limit, rel=0.01)
    assert len(weights.codes.unique()) >= 3
    assert abs(float(weights.codes.mean())) < 0.03 * limit
    before = weights.values * weights.step
    weights.rescale(-3)
    assert torch.equal(weights.values * weights.step, before / 8)


def test_weights_are_taken_over() -> None:
    values = torch.tensor([[0.3, -1.2], [0.6, 0.0]])
    found = taken_over([8, 8], values)
    assert torch.allclose((found.values * found.step).float(), values, atol=2 / 2**8)
    assert torch.equal(taken_over([FLOAT_BITS] * 2, values).values.float() * 2, values)
    assert not taken_over([4, 4], torch.zeros(2, 2)).values.any()


@given(st.lists(st.integers(-(2**30), 2**30), min_size=1, max_size=8), st.integers(2, 16))
def test_codes_of_errors(numbers: list[int], bits: int) -> None:
    """x/shift(x) in b bits, by whole numbers alone."""
    x = torch.tensor(numbers, dtype=torch.float64)
    found = normalised(x, bits)
    if not any(numbers):
        assert not found.any()
        return
    exponent = nearest_exponent(max(abs(number) for number in numbers))
    high = 2 ** (bits - 1)
    expected = [min(max(round(Fraction(number * high) / 2**exponent), -high), high - 1) for number in numbers]
    assert found.tolist() == expected


def test_signs_of_the_readouts_agree_and_magnitudes_do_not() -> None:
    for bits in (2, 5, FLOAT_BITS):
        readout = Readout(40, 10, bits, 64.0, generator())
        assert readout.forward_weights is not None
        assert readout.backward_weights is not None
        assert torch.equal(readout.forward_weights.sign(), readout.backward_weights.sign())
        assert bool((readout.forward_weights != 0).all())
        assert bits == 2 or not torch.equal(readout.forward_weights, readout.backward_weights)
        assert 0.4 < float((readout.forward_weights > 0).double().mean()) < 0.6


def test_neurons_that_are_classes_are_read_as_they_are() -> None:
    readout = Readout(3, 3, 8, 4.0, generator())
    activity = torch.tensor([[4.0, 1.0, 0.0]], dtype=torch.float64)
    assert torch.equal(readout.read(activity), activity)
    assert readout.size == 0
    errors = readout.errors(activity, torch.tensor([1]), "sse", 8)
    assert errors.tolist() == [[127.0, -96.0, 0.0]]  # 4, −3, 0 in units of shift 4, times 2^7, saturated
    assert torch.equal(readout.spread(errors, activity), errors)


def test_an_output_at_the_wrong_end_is_brought_back_and_a_hidden_neuron_is_not() -> None:
    """Of σ at 0 where 4 is wanted, and the other way round; at the right ends nothing is left to learn."""
    activity = torch.tensor([[0.0, 4.0, 0.0]], dtype=torch.float64)
    output = Readout(3, 3, FLOAT_BITS, 4.0, generator())
    errors = output.errors(activity, torch.tensor([0]), "sse", FLOAT_BITS)
    assert output.spread(errors, activity).tolist() == [[-1.0, 1.0, 0.0]]
    hidden = Readout(3, 2, FLOAT_BITS, 4.0, generator())
    assert not hidden.spread(torch.ones(1, 2, dtype=torch.float64), activity).any()
    assert (hidden.spread(torch.ones(1, 2, dtype=torch.float64), activity.clamp(1, 3)) != 0).all()


def test_the_smooth_loss_cuts_errors() -> None:
    readout, activity = Readout(2, 2, 8, 4.0, generator()), torch.tensor([[12.0, 4.0]], dtype=torch.float64)
    assert readout.errors(activity, torch.tensor([1]), "sse", FLOAT_BITS).tolist() == [[12 / 16, 0.0]]
    assert readout.errors(activity, torch.tensor([1]), "smooth-l1", FLOAT_BITS).tolist() == [[1.0, 0.0]]


def test_penalties_keep_layers_awake_and_low() -> None:
    activity = torch.tensor([[0.0, 1.0, 0.0, 0.0]] * 4, dtype=torch.float64)  # a mean of 1/32 of 8
    potential = activity - 0.5
    delta = torch.zeros_like(activity)
    found = Penalties(silence=1 / 32).added(delta, potential, activity, 8.0, 8)
    assert torch.equal(found, -4 * slope(activity, 8.0))
    assert torch.equal(Penalties(silence=1 / 32).added(delta, potential, activity, 1.0, 8), delta)
    found = Penalties(activity=1 / 64).added(delta + 127, potential, activity, 8.0, 8)
    assert torch.equal(found, delta + 127)  # saturated
    found = Penalties(activity=1 / 64).added(delta, potential, activity, 8.0, 8)
    assert torch.equal(found, 2.0 * (potential > 0))


def test_memory_counted_by_hand() -> None:
    """Two layers: 6 → 4 spiking, read out at 3 classes, then 4 → 3 that do not spike."""
    first = Counts(6, (2, 4, 0, 4), 6, 4, 1, 3, 2 * 3 * 4, 10, 5, 3, 8, 4)
    second = Counts(4, (3, 3, 3), 4, 3, 0, 3, 0, 12, 7, 32, 8, 4)
    found = memory([first, second])
    assert found.weights * 8 == 6 * (2 + 4 + 4) + 3 * 5 + 1 * 3 + 4 * 9 + 3 * 7
    assert found.readouts * 8 == 24 * 4
    assert found.states * 8 == (6 + 6 + 4 + 4) * 10 + (4 + 4 + 3) * 12
    assert found.errors * 8 == max(3 + 4 + 6 * 3, 3 + 3 + 4 * 3) * 8
    assert found.total == found.weights + found.readouts + found.states + found.errors
    wide = in_float([first, second])
    assert wide.weights == 4 * (24 + 3 + 1 + 12 + 3)
    assert wide.readouts == 4 * 24
    assert wide.states == 4 * 31
    assert wide.errors == 4 * (3 + 4 + 24)
