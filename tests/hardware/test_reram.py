"""``reram`` against ISAAC's numbers, layers by hand, a loop over groups, and the contract."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsearch.errors import ConfigError
from qsearch.hardware.reram import ReRam
from qsearch.layers import Layer
from qsearch.registry import create
from qsearch.testing.cost_model import CostModelContract

CONV = Layer("conv", "conv", 16, 32, (3, 3), (1, 1), 1, (8, 8), (8, 8))  # K = 144 rows, 64 positions
DEPTHWISE = Layer("dw", "conv", 32, 32, (3, 3), (1, 1), 32, (8, 8), (8, 8))
ADC, SHIFT, DAC, CELL = 16e-3 / 8 / 1.28e9, 0.2e-3 / 8 / 1.28e9, 4e-3 * 1e-7 / 1024, 2.4e-3 * 1e-7 / 8 / 128**2


def cost(layer, weight, activation, **options):
    model = ReRam(ReRam.Options(**options))
    return model.layer_cost(layer, np.broadcast_to(weight, (layer.kernels,)), activation)


class TestReRam(CostModelContract):
    def model(self):
        return create("cost_models", "reram")


class TestReRamSmallArrays(CostModelContract):
    """Few rows and columns, so that steps in the crossbars show on small layers."""

    def model(self):
        return ReRam(ReRam.Options(rows=8, columns=5, batch=3))


class TestReRamWideCells(CostModelContract):
    def model(self):
        return ReRam(ReRam.Options(cell_bits=4, dac_bits=3, saved_bits=0, adcs=2, columns=1024))


@pytest.mark.parametrize(
    ("options", "bits"),
    [
        ({"saved_bits": 0}, 9),  # 7 + 1 + 2 − 1
        ({}, 8),
        ({"saved_bits": 0, "dac_bits": 2}, 11),  # 7 + 2 + 2
        ({"saved_bits": 0, "cell_bits": 1, "dac_bits": 4}, 11),
        ({"rows": 100}, 8),
        ({"rows": 1, "cell_bits": 1}, 1),
    ],
)
def test_bits_of_a_converter(options, bits):
    assert ReRam(ReRam.Options(**options)).adc_bits == bits


def test_a_16_bit_weight_takes_8_cells_and_its_input_16_steps():
    found = cost(CONV, 16, 16)
    assert found["cells"] == 8 * 4_608
    assert found["latency"] == pytest.approx(64 * 16 * 100e-9)


def test_energy_by_hand():
    # 5 bits are 3 cells, 96 columns of one crossbar's 128; 144 rows are 2 crossbars; 3 bits are 3 steps
    steps, found = 64 * 3, cost(CONV, 5, 3)
    assert found["cells"] == 3 * 4_608
    assert found["energy"] == pytest.approx(steps * (2 * 96 * (ADC + SHIFT) + 144 * DAC + 3 * 4_608 * CELL), rel=1e-12)


def test_converters_take_about_half_of_the_energy():
    steps, found = 64 * 16, cost(CONV, 16, 16)
    conversions = 2 * 256 * ADC * steps
    assert 0.5 < conversions / found["energy"] < 0.9  # 58 % of a tile with its buffers, which are not counted here


def test_one_more_bit_of_a_converter_takes_twice_its_energy():
    flipped, plain = (cost(CONV, 8, 8, saved_bits=saved)["energy"] for saved in (1, 0))
    assert plain - flipped == pytest.approx(64 * 8 * 2 * 128 * ADC)


def test_bits_act_in_steps():
    for low, high in ((1, 2), (3, 4), (7, 8)):
        assert cost(CONV, low, 8) == cost(CONV, high, 8)
    assert cost(CONV, 2, 8)["energy"] < cost(CONV, 3, 8)["energy"]
    assert cost(CONV, 4, 5, dac_bits=4) == cost(CONV, 4, 8, dac_bits=4)
    assert cost(CONV, 2, 8)["latency"] == cost(CONV, 8, 8)["latency"]


def test_too_few_converters_set_the_pace():
    assert cost(CONV, 8, 8, columns=512)["latency"] == pytest.approx(64 * 8 * 400e-9)
    assert cost(CONV, 8, 8, columns=512, adcs=4)["latency"] == pytest.approx(64 * 8 * 100e-9)


def test_each_group_has_crossbars_of_its_own():
    # 32 groups of 9 rows and 4 columns: each row is driven in its own crossbar
    found = cost(DEPTHWISE, 8, 1)
    assert found["energy"] == pytest.approx(64 * (32 * 4 * (ADC + SHIFT) + 32 * 9 * DAC + 32 * 9 * 4 * CELL))


@given(st.sampled_from([1, 2, 4, 8]), st.integers(1, 4), st.integers(1, 7), st.integers(1, 9), st.data())
@settings(deadline=None)
def test_columns_and_crossbars_are_those_of_a_loop(groups, cell, columns, rows, data):
    layer = Layer("l", "conv", 16, 16, (3,), (1,), groups, (4,), (4,))
    bits = np.asarray(data.draw(st.lists(st.integers(0, 32), min_size=16, max_size=16)))
    length, taken, arrays = layer.kernel_params, 0, 0
    for group in np.split(bits, groups):
        wide = sum(math.ceil(b / cell) for b in group)
        taken, arrays = taken + wide, arrays + math.ceil(wide / columns)
    found = cost(layer, bits, 3, cell_bits=cell, columns=columns, rows=rows, saved_bits=0, dac_bits=2, adcs=9)
    depth = math.ceil(math.log2(rows)) + 2 + cell - (cell == 1)
    step = math.ceil(length / rows) * taken * (ADC * 2.0 ** (depth - 8) + SHIFT)
    step += arrays * length * 2 * DAC + taken * length * CELL
    assert found["cells"] == taken * length
    assert found["energy"] == pytest.approx(4 * 2 * step, rel=1e-12)


def test_a_layer_without_kernels_takes_nothing():
    assert cost(CONV, 0, 8) == {"latency": 0, "energy": 0, "cells": 0}


def test_embeddings_are_looked_up_elsewhere():
    layer = Layer("embed", "embedding", 100, 16, input_size=(5,), output_size=(5,))
    assert cost(layer, 8, 32) == {"latency": 0, "energy": 0, "cells": 0}


def test_every_number_has_a_unit_and_a_source():
    for constant in ReRam().constants.values():
        assert constant.unit
        assert constant.source[-3:] in ("[V]", "[C]", "[D]", "[M]")
    assert ReRam(ReRam.Options(rows=64)).constants["rows"].source == "set by an option of the campaign"


def test_options_that_do_not_fit():
    with pytest.raises(ConfigError, match="cell_bits"):
        create("cost_models", "reram", {"cell_bits": 0})
