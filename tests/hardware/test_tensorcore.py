"""Tensor cores: published peaks, hand-computed layers, storage at the precision of the arithmetic, and the contract."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raising_bits import check_no_bit_can_be_raised_at_a_saving

from qsearch.errors import ConfigError
from qsearch.hardware.roofline import Roofline
from qsearch.hardware.size import Size
from qsearch.hardware.tensorcore import PLATFORMS, TensorCore
from qsearch.layers import Layer
from qsearch.registry import create
from qsearch.testing.cost_model import CostModelContract

CONV = Layer("conv", "conv", 16, 32, (3, 3), (1, 1), 1, (8, 8), (8, 8))  # 4,608 weights, 294,912 MACs
EMBEDDING = Layer("embed", "embedding", 100, 16, input_size=(5,), output_size=(5,))
LONG = Layer("long", "linear", 10**7, 16, input_size=(16,), output_size=(16,))


def cost(model, layer, weight, activation):
    return model.layer_cost(layer, np.broadcast_to(weight, (layer.kernels,)), activation)


def tensorcore(**options) -> TensorCore:
    return TensorCore(TensorCore.Options(**options))


class TestT4(CostModelContract):
    def model(self):
        return create("cost_models", "tensorcore")


class TestT4ComputeBound(CostModelContract):
    """Small tiles and ample bandwidth, so that steps in the tiles show on small layers."""

    def model(self):
        return tensorcore(bandwidth=1e20, rows=2, columns=4)


class TestA100Batch(CostModelContract):
    def model(self):
        return tensorcore(platform="a100", batch=16)


class TestH100TinySram(CostModelContract):
    def model(self):
        return tensorcore(platform="h100", sram=100)


EQUAL = [((4, 8), (8, 8)), ((8, 4), (8, 8)), ((2, 2), (4, 4)), ((1, 3), (4, 4)), ((5, 2), (8, 8)), ((9, 4), (16, 16))]


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize(("low", "high"), [*EQUAL, ((8, 16), (16, 16)), ((17, 8), (32, 32))])
def test_a_pair_costs_what_the_native_precision_that_holds_both_costs(platform, low, high):
    """So 4-bit weights with 8-bit inputs cost what 8-bit weights do, in time, energy and size."""
    for batch in (1, 64):
        model = tensorcore(platform=platform, batch=batch)
        assert cost(model, CONV, *low) == cost(model, CONV, *high)


@pytest.mark.parametrize(("bits", "scale"), [(4, 1 / 2), (8, 1), (16, 2), (32, 8)])
def test_compute_bound_by_hand(bits, scale):
    # ⌈64/16⌉·⌈32/16⌉·(144 + 16 + 16)·16·16 slots at 65 Tera-MAC a second at 8 bits; four 16-bit products for 32
    model = tensorcore(bandwidth=1e20)
    assert cost(model, CONV, bits, bits)["latency"] == pytest.approx(4 * 2 * 176 * 256 / 65e12 * scale)


@pytest.mark.parametrize(("bits", "stored"), [((4, 4), 4), ((2, 3), 4), ((4, 8), 8), ((8, 2), 8), ((5, 12), 16)])
def test_memory_bound_by_hand(bits, stored):
    # 4,608 weights once, 1,024 inputs written and read, all at the precision of the arithmetic
    assert cost(tensorcore(), CONV, *bits)["latency"] == pytest.approx(stored * (4608 + 2 * 1024) / (320e9 * 8))


def test_an_h100_has_no_four_bits():
    model = tensorcore(platform="h100")
    assert cost(model, CONV, 4, 4) == cost(model, CONV, 8, 8)


@pytest.mark.parametrize(
    ("platform", "tops"),
    [
        ("t4", {4: 260, 8: 130, 16: 65}),
        ("a100", {4: 1248, 8: 624, 16: 312}),
        ("h100", {4: 1978.9, 8: 1978.9, 16: 989.4}),
    ],
)
def test_a_long_product_reaches_the_published_peak(platform, tops):
    model = tensorcore(platform=platform, bandwidth=1e20, sram=10**12)
    for bits, peak in tops.items():
        assert 2 * LONG.macs / cost(model, LONG, bits, bits)["latency"] == pytest.approx(peak * 1e12, rel=1e-5)


@given(st.sampled_from(["t4", "a100"]), st.sampled_from([4, 8, 16, 32]), st.integers(1, 64))
def test_at_its_native_precisions_it_is_the_roofline(platform, bits, batch):
    roof = Roofline(Roofline.Options(platform=platform, batch=batch))
    assert cost(tensorcore(platform=platform, batch=batch), CONV, bits, bits) == cost(roof, CONV, bits, bits)


@given(st.integers(1, 32), st.integers(1, 32))
def test_it_is_never_cheaper_than_a_roofline_that_packs_every_bit(weight, activation):
    found, roof = cost(tensorcore(), CONV, weight, activation), Roofline(Roofline.Options(platform="t4"))
    for metric, value in cost(roof, CONV, weight, activation).items():
        assert found[metric] >= value


class TestUnequalKernels:
    """64 kernels fill four tiles of 16; two kernels at 7 bits lift the first tile, but no weights of the others."""

    layer = replace(CONV, out_channels=64)
    bits = np.repeat([7, 2], [2, 62])

    def test_a_tile_runs_at_its_highest_kernel(self):
        found = cost(tensorcore(bandwidth=1e20), self.layer, self.bits, 3)["latency"]
        assert found == pytest.approx(4 * 176 * 256 / 65e12 * (1 + 3 / 2))

    def test_weights_are_stored_by_kernel_and_the_input_for_the_highest(self):
        found = cost(tensorcore(), self.layer, self.bits, 3)
        assert found["size"] == Size().layer_cost(self.layer, np.repeat([8, 4], [2, 62]), 8)["size"]
        assert found["latency"] == pytest.approx((144 * (8 * 2 + 4 * 62) + 2 * 8 * 1024) / (320e9 * 8))

    def test_pruned_kernels_take_nothing(self):
        found = cost(tensorcore(), self.layer, np.repeat([0, 2], 32), 8)
        assert found["size"] == Size().layer_cost(self.layer, np.repeat([0, 8], 32), 8)["size"]
        assert found["latency"] == pytest.approx((144 * 8 * 32 + 2 * 8 * 1024) / (320e9 * 8))


@settings(deadline=None)
@given(st.sampled_from(sorted(PLATFORMS)), st.integers(1, 40), st.integers(1, 3), st.integers(0, 32), st.data())
def test_it_is_the_roofline_at_the_bits_that_are_stored(platform, kernels, uses, activation, data):
    """Kernel by kernel, by the rule of the notation: the same numbers, bit for bit, but for what a tile runs at."""
    layer = replace(CONV, out_channels=kernels, uses=uses)
    bits = data.draw(st.lists(st.integers(0, 32), min_size=kernels, max_size=kernels))
    model, native = tensorcore(platform=platform, bandwidth=1.0), sorted(PLATFORMS[platform].peaks)
    ladder = [*native, *range(2 * native[-1], 33, native[-1])]
    held = [0, *(next(width for width in ladder if width >= number) for number in range(1, 33))]
    stored = [max(held[number], held[activation]) if number else 0 for number in bits]
    highest = max([*stored, held[activation]])
    found = cost(model, layer, bits, activation)
    assert found["size"] == Size().layer_cost(layer, np.array(stored), highest)["size"]
    weights, inputs = uses * layer.kernel_params * sum(stored), layer.input_elements * highest
    assert inputs <= model.platform.sram.value, "one pass over each operand"
    assert found["latency"] == weights + 2 * inputs


def test_rows_of_an_embedding_are_stored_at_their_own_precision():
    found = cost(tensorcore(), EMBEDDING, 3, 32)
    assert found["latency"] == pytest.approx((5 * 16 * 4 + 2 * 5 * 32) / (320e9 * 8))
    assert found["size"] == cost(Size(), EMBEDDING, 4, 32)["size"]


@st.composite
def geometries(draw):
    c_in, c_out = draw(st.integers(1, 20)), draw(st.integers(1, 12))
    size = (draw(st.integers(1, 6)),) * 2
    return Layer("l", "conv", c_in, c_out, (3, 3), (1, 1), 1, size, size, draw(st.integers(1, 3)))


MODELS = [tensorcore(), tensorcore(columns=3, bandwidth=1e20), tensorcore(sram=500), tensorcore(peaks={3: 5e9, 7: 2e9})]


@given(st.sampled_from(MODELS), geometries(), st.data())
@settings(max_examples=300, deadline=None)
def test_no_bit_can_be_raised_at_a_saving(model, layer, data):
    check_no_bit_can_be_raised_at_a_saving(partial(cost, model, layer), layer, data)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_number_has_a_unit_and_a_source(platform):
    constants = tensorcore(platform=platform).constants
    assert {"bandwidth", "dram", "peaks[8]"} <= set(constants)
    for constant in constants.values():
        assert constant.value != 0
        assert constant.unit
        assert constant.source[-3:] in ("[V]", "[C]", "[D]", "[M]")


def test_its_energy_is_another_than_a_rooflines():
    assert TensorCore.definitions["energy"] != Roofline.definitions["energy"]


def test_a_platform_that_has_no_tensor_cores_is_refused():
    with pytest.raises(ConfigError, match="platform"):
        create("cost_models", "tensorcore", {"platform": "edge"})
