"""``neuromorphic`` against published tables (G15), layers by hand, break-evens of the storage schemes, and the contract."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qsearch.errors import ConfigError
from qsearch.hardware import neuromorphic_tables as tables
from qsearch.hardware.energy45nm import sram_energy
from qsearch.hardware.neuromorphic import Chip, Neuromorphic
from qsearch.hardware.storage_schemes import matrix as structure
from qsearch.layers import Layer
from qsearch.registry import create
from qsearch.sites import build_space
from qsearch.testing.cost_model import CostModelContract

CONV = Layer("conv", "conv", 16, 32, (3, 3), (1, 1), 1, (8, 8), (8, 8))  # 4,608 weights, 294,912 MACs
LINEAR = Layer("fc", "linear", 40, 24, input_size=(7,), output_size=(7,))
EMBEDDING = Layer("embed", "embedding", 100, 16, input_size=(5,), output_size=(5,))


def cost(layer, weight, activation, **options):
    model = Neuromorphic(Neuromorphic.Options(**options))
    return model.layer_cost(layer, np.broadcast_to(weight, (layer.kernels,)), activation)


class TestNeuromorphic(CostModelContract):
    def model(self):
        return create("cost_models", "neuromorphic")


class TestNeuromorphicCrossbar(CostModelContract):
    def model(self):
        return Neuromorphic(Neuromorphic.Options(chip="odin", scheme="crossbar", scaling="none", batch=3, rate=1.0))


class TestNeuromorphicBitmap(CostModelContract):
    def model(self):
        return Neuromorphic(Neuromorphic.Options(chip="seneca", scheme="bitmap", density=0.3, state_bits=0))


class TestNeuromorphicCsr(CostModelContract):
    def model(self):
        return Neuromorphic(Neuromorphic.Options(scheme="csr", density=0.05, memory_within=True))


class TestNeuromorphicPublished(CostModelContract):
    weight_bits = (0, 2, 3, 4, 5, 6, 7, 8)
    activation_bits = (2, 3, 4, 5, 6, 7, 8)  # of the second operand of a product of activations too

    def model(self):
        return Neuromorphic(Neuromorphic.Options(chip="truenorth", scaling="published"))


class TestNeuromorphicPerEvent(CostModelContract):
    def model(self):
        return Neuromorphic(Neuromorphic.Options(update="per-event", scheme="crossbar", first="digital"))


class TestNeuromorphicInMemoryFirst(CostModelContract):
    def model(self):
        return Neuromorphic(Neuromorphic.Options(first="in-memory", cached=True, batch=2))


class TestNeuromorphicLearning(CostModelContract):
    def model(self):
        return Neuromorphic(Neuromorphic.Options(learning="backward-update", scheme="bitmap", density=0.5, errors=0.3))


class TestNeuromorphicLearningFromCsr(CostModelContract):
    def model(self):
        return Neuromorphic(Neuromorphic.Options(learning="backward-update", scheme="csr", first="digital"))


def test_published_breakdown():
    """Literature §8b: DRAM takes 70 to 82 % of the energy, arithmetic 2 % at most; bits act through what is moved."""
    *parts, whole = tables.BREAKDOWN.values()
    assert next(iter(tables.BREAKDOWN)) == "DRAM"
    shares = [parts[0][column].value / whole[column].value for column in range(3)]
    assert [round(share, 3) for share in shares] == [0.7, 0.817, 0.802]
    for column in range(3):
        unlisted = 1 - sum(part[column].value for part in parts) / whole[column].value
        assert 0.08 < unlisted < 0.14
        assert tables.BREAKDOWN["MAC"][column].value / whole[column].value < 0.02


def test_published_ratios():
    """G15: a ternary network takes 0.412 of the energy of 8 bits, one of 8 bits pruned by 80 % takes 1.457 of ternary."""
    energy = {bits: constant.value for bits, constant in tables.ENERGY_BY_BITS.items()}
    assert energy[tables.TERNARY] / energy[8] == pytest.approx(0.412, abs=5e-4)
    assert tables.ENERGY_PRUNED[80].value / energy[tables.TERNARY] == pytest.approx(1.457, abs=5e-4)
    product = 1e6 * energy[tables.TERNARY] * tables.CYCLES_BY_BITS[tables.TERNARY].value / 1e6
    assert product == pytest.approx(8.517e7, rel=1e-3)
    assert sorted(energy.values()) == [energy[bits] for bits in sorted(energy)]


def test_the_published_scaling_is_the_published_table():
    eight = cost(CONV, 8, 1, scaling="published")["energy"]
    for bits, constant in tables.ENERGY_BY_BITS.items():
        found = cost(CONV, bits, 1, scaling="published")["energy"]
        assert found / eight == pytest.approx(constant.value / 23.281, rel=1e-12)
    assert cost(CONV, 5, 1, scaling="published")["energy"] / eight == pytest.approx((18.858 + 22.166) / 2 / 23.281)
    assert eight == pytest.approx(0.1 * 20 * 294_912 * 23.6e-12)


@pytest.mark.parametrize("bits", [1, 9, 32])
def test_beyond_the_published_table_nothing_is_guessed(bits):
    with pytest.raises(ConfigError, match=f"from 2 to 8 weight bits; got {bits} bits for layer 'conv'"):
        cost(CONV, bits, 1, scaling="published")


def test_ten_chips():
    assert set(tables.CHIPS) == set(get_args(Chip))
    assert {name: chip.value for name, chip in tables.CHIPS.items()} == {
        "odin": 12.7,
        "reckon": 5.3,
        "ubrain": 26,
        "truenorth": 2.5,
        "tianjic": 1.54,
        "neuronflow": 20,
        "loihi": 23.6,
        "spinnaker": 45,
        "spinnaker2": 10,
        "seneca": 2.8,
    }


@pytest.mark.parametrize("chip", tables.CHIPS)
def test_a_synaptic_operation_of_8_bits_is_the_chips(chip):
    found = cost(CONV, 8, 1, chip=chip, memory_within=True, rate=0.25, steps=4, batch=3)
    assert found["synaptic_operations"] == 3 * 294_912
    assert found["energy"] == pytest.approx(3 * 294_912 * tables.CHIPS[chip].value * 1e-12)


def test_a_layer_by_hand():
    """Half of the weights are zero; 2 spikes of each of 1,024 inputs, 3 bits each; 4-bit weights, 10-bit states."""
    found = cost(CONV, 4, 3, density=0.5, state_bits=10, memory=2**18)
    operations = 2 * 0.5 * 294_912
    traffic = operations * (4 + 2 * 10) + 2 * 2 * 1_024 * 3
    assert found["synaptic_operations"] == pytest.approx(operations)
    assert found["memory_traffic"] == pytest.approx(traffic)
    assert found["energy"] == pytest.approx(operations * 23.6e-12 * 4 / 8 + traffic * 20e-12 / 64, rel=1e-3)
    assert found["size"] == 4_608 * 4 / 8


@pytest.mark.parametrize("scaling", ["none", "linear"])
def test_how_bits_enter_is_said(scaling):
    one, two = (cost(CONV, bits, 1, scaling=scaling, memory_within=True)["energy"] for bits in (3, 6))
    assert two == pytest.approx(one * (2 if scaling == "linear" else 1))
    paid = cost(CONV, 3, 1, scaling=scaling)
    assert paid["energy"] - one == pytest.approx(paid["memory_traffic"] * sram_energy(2**18))


def test_unequal_kernels_are_summed():
    bits = np.random.default_rng(0).permutation(np.repeat([0, 2, 6], [8, 8, 16]))
    found = cost(CONV, bits, 1, state_bits=0)
    assert found["synaptic_operations"] == pytest.approx(2 * 294_912 * 24 / 32)
    assert found["size"] == 144 * (8 * 2 + 16 * 6) / 8
    alone = [cost(CONV, b, 1, state_bits=0) for b in bits]
    for metric, value in found.items():
        assert value == pytest.approx(np.mean([one[metric] for one in alone]), rel=1e-12)


def test_an_embedding_reads_the_rows_it_looks_up():
    found = cost(EMBEDDING, 4, 32, scheme="csr")
    assert found["synaptic_operations"] == 0
    assert found["memory_traffic"] == 5 * 16 * 4
    assert found["size"] == 100 * 16 * 4 / 8


class TestSchemes:
    """Storage of a linear layer: n = 40 inputs, m = 24 outputs, 960 weights, a quarter of them not zero; 5 bits."""

    @pytest.mark.parametrize(
        ("scheme", "bits"),
        [
            ("crossbar", 960 * 5),
            ("bitmap", 960 + 240 * 5 + 40 * 10),
            ("csr", 240 * (5 + 5) + 41 * 8),
            ("functional", 960 * 5),
        ],
    )
    def test_a_linear_layer_by_hand(self, scheme, bits):
        found = cost(LINEAR, 5, 1, scheme=scheme, density=0.25, state_bits=0)
        assert found["size"] == bits / 8
        # 7 tokens, 2 spikes of each input, which read their rows; events of 1 bit, written and read
        read = 0.25 * 960 * 5 if scheme == "functional" else bits
        assert found["memory_traffic"] == pytest.approx(7 * 2 * read + 2 * 2 * 7 * 40)

    def test_a_convolution_connects_an_output_to_few_inputs(self):
        # n = 1,024 inputs, m = 2,048 outputs, 294,912 connections
        assert cost(CONV, 4, 1, scheme="crossbar")["size"] == 1_024 * 2_048 * 4 / 8
        csr = 294_912 * (4 + 11) + 1_025 * math.ceil(math.log2(294_913))
        assert cost(CONV, 4, 1, scheme="csr")["size"] == csr / 8
        assert cost(CONV, 4, 1, scheme="functional")["size"] * 64 == 294_912 * 4 / 8

    def test_padding_connects_to_nothing(self):
        tiny = replace(CONV, input_size=(1, 1), output_size=(1, 1))
        assert cost(tiny, 4, 1, scheme="bitmap")["size"] == (512 + 512 * 4 + 16 * 9) / 8

    def test_pruned_kernels_leave_only_what_addresses_them(self):
        assert cost(LINEAR, 0, 1, scheme="crossbar")["size"] == 0
        assert cost(LINEAR, 0, 1, scheme="bitmap")["size"] == (960 + 40 * 10) / 8
        assert cost(LINEAR, 0, 1, scheme="csr")["size"] == 0

    @given(st.integers(1, 512), st.integers(2, 512), st.integers(1, 32), st.floats(0.001, 1))
    def test_a_bitmap_beats_a_crossbar_below_its_break_even(self, n, m, bits, density):
        """Iff ρ < (b − 1)/b, pointers aside."""
        crossbar, bitmap = (matrix(scheme, n, m, bits, density) for scheme in ("crossbar", "bitmap"))
        bitmap -= n * math.ceil(math.log2(n * m))
        assume(abs(density - (bits - 1) / bits) > 1e-9)
        assert (bitmap < crossbar) == (density < (bits - 1) / bits)

    @given(st.integers(1, 512), st.integers(1, 9), st.integers(1, 32), st.floats(0.001, 1))
    def test_csr_beats_a_bitmap_below_its_break_even(self, n, log_m, bits, density):
        """Iff ρ < 1/log₂ m, pointers aside; m a power of two, so that an address is log₂ m bits."""
        m = 2**log_m
        bitmap, csr = (matrix(scheme, n, m, bits, density) for scheme in ("bitmap", "csr"))
        bitmap -= n * math.ceil(math.log2(n * m))
        csr -= (n + 1) * math.ceil(math.log2(density * n * m + 1))
        assume(abs(density - 1 / log_m) > 1e-9)
        assert (csr < bitmap) == (density < 1 / log_m)


def matrix(scheme, n, m, bits, density):
    """Bits of an n × m matrix that is all at the same bits."""
    entries = np.asarray([float(n * m)])
    return float(structure(scheme, n, m, entries, bits * entries, density).total[0])


@pytest.mark.parametrize("scaling", ["linear", "none", "published"])
@pytest.mark.parametrize("scheme", ["crossbar", "bitmap", "csr", "functional"])
@pytest.mark.parametrize("granularity", ["layer", "kernel"])
def test_a_batch_is_the_same_numbers_as_a_loop(scaling, scheme, granularity):
    """Bit for bit: an assignment that defines a budget is within it."""
    layers = (CONV, LINEAR, EMBEDDING)
    model = Neuromorphic(Neuromorphic.Options(scaling=scaling, scheme=scheme, density=0.3, rate=0.07, steps=7))
    space = build_space(layers, weight_bits=range(2, 9), activation_bits=(1, 3), granularity=granularity)
    x = space.sample(np.random.default_rng(0), 20)
    totals = model.estimate_many(layers, space.bits(x))
    for row, one in enumerate(x):
        alone = model.estimate(layers, space.decode(one)).totals
        assert {metric: value[row] for metric, value in totals.items()} == alone


def test_every_number_has_a_unit_and_a_source():
    for scaling in ("linear", "none", "published"):
        for constant in Neuromorphic(Neuromorphic.Options(scaling=scaling)).constants.values():
            assert constant.unit
            assert constant.source[-3:] in ("[V]", "[C]", "[D]", "[M]")


def test_a_definition_names_the_chip_and_its_source():
    definition = Neuromorphic(Neuromorphic.Options(chip="tianjic")).definitions["energy"]
    assert "tianjic: 1.54 pJ/SOp (PMC10326429, table 3 [V])" in definition


@pytest.mark.parametrize(
    ("options", "message"),
    [({"chip": "loihi3"}, "chip"), ({"rate": 0}, "rate"), ({"density": 2}, "density"), ({"step": 3}, "'steps'")],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        create("cost_models", "neuromorphic", options)
