"""Golden numbers of the 45 nm polynomials (G3 of the literature notes)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.hardware import energy45nm

BITS = st.integers(1, 32)


@pytest.mark.parametrize(("kilobytes", "picojoules"), [(8, 10.0), (32, 20.0), (1024, 100.0)])
def test_a_64_bit_read_from_sram(kilobytes, picojoules):
    assert 64 * energy45nm.sram_energy(kilobytes * 8192) * 1e12 == pytest.approx(picojoules, rel=1e-3)


@pytest.mark.parametrize(("bits", "picojoules"), [(8, 0.2), (32, 3.1)])
def test_a_multiplication(bits, picojoules):
    assert float(energy45nm.multiply_energy(bits, bits)) * 1e12 == pytest.approx(picojoules, rel=1e-5)


@pytest.mark.parametrize(("bits", "picojoules"), [(8, 0.025), (16, 0.05), (32, 0.1)])
def test_an_addition(bits, picojoules):
    assert float(energy45nm.add_energy(bits)) * 1e12 == pytest.approx(picojoules)


def test_a_64_bit_read_from_dram_is_1_3_nanojoules():
    assert 64 * energy45nm.dram_energy() * 1e9 == pytest.approx(1.3)


def test_sram_beyond_the_fit_costs_what_its_ends_cost():
    assert energy45nm.sram_energy(100) == energy45nm.sram_energy(2**16)
    assert energy45nm.sram_energy(2**30) == energy45nm.sram_energy(2**23)


def test_sram_energy_rises_with_capacity():
    energies = [energy45nm.sram_energy(2 ** (16 + step / 10)) for step in range(71)]
    assert energies == sorted(energies)
    assert energies[0] < energies[-1] < energy45nm.dram_energy()


@given(BITS, BITS)
def test_unequal_operands_lie_between_the_equal_ones_and_commute(w, a):
    low, high = min(w, a), max(w, a)
    energy = energy45nm.multiply_energy(w, a)
    assert energy45nm.multiply_energy(low, low) <= energy <= energy45nm.multiply_energy(high, high)
    assert energy == energy45nm.multiply_energy(a, w)
