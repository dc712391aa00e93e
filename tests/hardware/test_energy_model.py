"""``energy-45nm`` against a layer by hand, its own properties, and the contract."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qsearch.errors import ConfigError
from qsearch.hardware.energy import Energy
from qsearch.layers import Layer
from qsearch.registry import create
from qsearch.testing.cost_model import CostModelContract

CONV = Layer("conv", "conv", 16, 32, (3, 3), (1, 1), 1, (8, 8), (8, 8))  # 4,608 weights, 294,912 MACs, 2,048 outputs
EMBEDDING = Layer("embed", "embedding", 100, 16, input_size=(5,), output_size=(5,))
DRAM = 20.3125
SMALL = 9.0243e-4 * 16**3 - 2.6885e-2 * 16**2 + 0.2089 * 16
"""pJ a bit of an SRAM of 8 KB, 2^16 bits: 10 pJ for 64 of them."""


def energy(layer, weight, activation, **options):
    model = Energy(Energy.Options(**options))
    return model.layer_cost(layer, np.broadcast_to(weight, (layer.kernels,)), activation)["energy"]


class TestEnergy(CostModelContract):
    def model(self):
        return create("cost_models", "energy-45nm")


class TestEnergyOnChip(CostModelContract):
    def model(self):
        return Energy(Energy.Options(batch=3, weights_on_chip=True, features_on_chip=True, reuse=1, sram=2**22))


class TestEnergyWideAccumulators(CostModelContract):
    def model(self):
        return Energy(Energy.Options(accumulator_bits=64, weights_on_chip=True, reuse=100, sram=1))


def test_a_layer_of_8_bits_by_hand():
    """G3: 0.2 pJ a multiplication, 0.1 pJ an addition of 32 bits, 10 pJ for 64 bits of an SRAM of 8 KB."""
    arithmetic = 294_912 * (0.2 + 0.1)
    sram = (294_912 * (8 + 8) / 16 + 2_048 * 32) * SMALL
    dram = (8 * 4_608 + 2 * 8 * 1_024) * DRAM
    found = energy(CONV, 8, 8, sram=8 * 8192)
    assert found == pytest.approx((arithmetic + sram + dram) * 1e-12, rel=1e-4)
    assert found == pytest.approx(1.226e-6, rel=1e-3)


def test_unequal_kernels_by_hand():
    """8 kernels pruned, 8 at 2 bits, 16 at 4, inputs of 3: 9,216 MACs each, without reuse, all on chip."""
    bits = np.random.default_rng(0).permutation(np.repeat([0, 2, 4], [8, 8, 16]))
    multiply = {w: 0.00299479 * w * 3 + 0.00104167 * (w + 3) / 2 for w in (2, 4)}
    arithmetic = 9_216 * (8 * multiply[2] + 16 * multiply[4] + 24 * 0.003125 * 20)
    reads = 9_216 * (8 * (2 + 3) + 16 * (4 + 3)) + 24 * 64 * 20
    homes = 144 * (8 * 2 + 16 * 4) + 2 * 3 * 1_024
    found = energy(CONV, bits, 3, sram=1, reuse=1, accumulator_bits=20, weights_on_chip=True, features_on_chip=True)
    assert found == pytest.approx((arithmetic + (reads + homes) * SMALL) * 1e-12, rel=1e-9)


def test_an_embedding_moves_the_rows_it_looks_up():
    assert energy(EMBEDDING, 4, 32) == pytest.approx((5 * 16 * 4 + 2 * 5 * 32) * DRAM * 1e-12)


def test_memory_on_chip_saves_what_dram_costs_more():
    away, weights, features = (
        energy(CONV, 4, 2, sram=1, **home)
        for home in ({}, {"weights_on_chip": True}, {"weights_on_chip": True, "features_on_chip": True})
    )
    assert away - weights == pytest.approx(4 * 4_608 * (DRAM - SMALL) * 1e-12, rel=1e-3)
    assert weights - features == pytest.approx(2 * 2 * 1_024 * (DRAM - SMALL) * 1e-12, rel=1e-3)


def test_a_batch_shares_the_weights():
    one, four = energy(CONV, 8, 8), energy(CONV, 8, 8, batch=4)
    weights = 8 * 4_608 * DRAM * 1e-12
    assert four == pytest.approx(4 * one - 3 * weights)
    assert energy(replace(CONV, uses=4), 8, 8) == pytest.approx(4 * one)


def test_a_layer_costs_the_mean_over_its_kernels():
    model, bits = Energy(), np.random.default_rng(1).integers(0, 9, size=32)
    assert model.kernel_additive
    alone = [energy(CONV, b, 5) for b in bits]
    assert energy(CONV, bits, 5) == pytest.approx(np.mean(alone), rel=1e-12)


def test_every_number_has_a_unit_and_a_source():
    for constant in Energy(Energy.Options(reuse=4)).constants.values():
        assert constant.unit
        assert constant.source[-3:] in ("[V]", "[C]", "[D]", "[M]")


def test_options_that_do_not_fit():
    with pytest.raises(ConfigError, match="reuse"):
        create("cost_models", "energy-45nm", {"reuse": 0})
    with pytest.raises(ConfigError, match="did you mean 'sram'"):
        create("cost_models", "energy-45nm", {"srma": 1})
