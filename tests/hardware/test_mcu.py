"""Microcontrollers: published rates, hand-computed layers, storage widths, and the contract on every platform."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raising_bits import check_no_bit_can_be_raised_at_a_saving

from qsearch.errors import ConfigError
from qsearch.hardware.mcu import PLATFORMS, Microcontroller
from qsearch.hardware.memory import Memory
from qsearch.layers import Layer
from qsearch.registry import create
from qsearch.testing.cost_model import CostModelContract

CONV = Layer("conv", "conv", 16, 32, (3, 3), (1, 1), 1, (8, 8), (8, 8))  # 4,608 weights, 294,912 MACs
STEM = replace(CONV, in_channels=3)  # 55,296 MACs
DEPTHWISE = Layer("dw", "conv", 32, 32, (3, 3), (1, 1), 32, (8, 8), (8, 8))
EMBEDDING = Layer("embed", "embedding", 100, 16, input_size=(5,), output_size=(5,))
BYTES = ("cortex-m7", "cortex-m4", "gap8")
DATA = Path(os.environ.get("QSEARCH_DATA", Path(__file__).parents[3] / "shared" / "data"))


def mcu(**options) -> Microcontroller:
    return Microcontroller(Microcontroller.Options(**options))


def cost(model, layer, weight, activation):
    return model.layer_cost(layer, np.broadcast_to(weight, (layer.kernels,)), activation)


def cycles(model, layer, weight, activation):
    return cost(model, layer, weight, activation)["latency"] * model.platform.frequency.value


class TestMpic(CostModelContract):
    def model(self):
        return create("cost_models", "mcu")


class TestCortexM7(CostModelContract):
    def model(self):
        return mcu(platform="cortex-m7")


class TestCortexM4Accumulators(CostModelContract):
    def model(self):
        return mcu(platform="cortex-m4", output_bits=32, scale_bits=32, field_bits=0)


class TestGap8WithoutUnpacking(CostModelContract):
    def model(self):
        return mcu(platform="gap8", unpack_weights=0.0, unpack_inputs=0.0)


class TestXpulpNN(CostModelContract):
    def model(self):
        return mcu(platform="xpulpnn")


@pytest.mark.parametrize("weight", [2, 4, 8])
@pytest.mark.parametrize("activation", [2, 4, 8])
def test_mpic_runs_at_its_measured_rates(weight, activation):
    """Against the table of the data folder, not the one in the code."""
    if not (DATA / "hw" / "mpic_lut.json").exists():
        pytest.skip("hw/mpic_lut.json is not in the data folder")
    table = json.loads((DATA / "hw" / "mpic_lut.json").read_text())
    rate = table["a_bit"][str(activation)][str(weight)]
    found = cost(mcu(), CONV, weight, activation)
    assert found["latency"] == pytest.approx(294_912 / rate / table["frequency_hz"], rel=1e-12)
    power = sum(table["power_mw"]) / 4 * 1e-3
    assert found["energy"] == pytest.approx(power * 294_912 / rate / table["frequency_hz"], rel=1e-12)


@pytest.mark.parametrize(("assigned", "runs"), [((1, 2), (2, 2)), ((3, 2), (4, 2)), ((5, 3), (8, 4)), ((7, 6), (8, 8))])
def test_mpic_rounds_each_operand_up(assigned, runs):
    assert cost(mcu(), CONV, *assigned) == cost(mcu(), CONV, *runs)


@pytest.mark.parametrize(("bits", "passes"), [((16, 8), 2), ((9, 8), 2), ((16, 16), 4), ((17, 8), 3), ((32, 32), 16)])
def test_beyond_eight_bits_are_passes_of_eight(bits, passes):
    for platform in PLATFORMS:
        model = mcu(platform=platform)
        assert cycles(model, CONV, *bits) == pytest.approx(passes * cycles(model, CONV, 8, 8))


class TestUnpacking:
    @pytest.mark.parametrize(
        ("weight", "activation", "factor"), [(8, 8, 1), (4, 8, 1.3), (2, 8, 1.3), (8, 4, 1.5), (3, 5, 1.3), (4, 2, 1.8)]
    )
    def test_the_narrowest_storage_takes_time_by_hand(self, weight, activation, factor):
        """cyc = m/τ·(1 + u_w[w < 8] + u_x[x < 8]); 5 bits are stored as 8."""
        for platform, rate in (("cortex-m7", 0.7), ("cortex-m4", 0.7 * 19.6 / 30), ("gap8", 16.0)):
            model = mcu(platform=platform, storage="smallest", unpack_weights=0.3, unpack_inputs=0.5)
            assert cycles(model, CONV, weight, activation) == pytest.approx(294_912 / rate * factor, rel=1e-12)

    @pytest.mark.parametrize("platform", BYTES)
    def test_the_narrowest_storage_saves_memory_at_the_price_of_time(self, platform):
        small, fast = mcu(platform=platform, storage="smallest"), mcu(platform=platform)
        for weight, activation in ((2, 8), (4, 4), (8, 2)):
            packed, wide = cost(small, CONV, weight, activation), cost(fast, CONV, weight, activation)
            assert packed["latency"] > wide["latency"]
            assert packed["flash"] + packed["peak_memory"] < wide["flash"] + wide["peak_memory"]
            assert wide == cost(fast, CONV, 8, 8)
        assert cost(small, CONV, 8, 8) == cost(fast, CONV, 8, 8)

    def test_costs_that_are_not_monotone_are_announced(self, caplog):
        with caplog.at_level(logging.WARNING, logger="qsearch"):
            mcu(platform="cortex-m7")
            assert not caplog.records
            small = mcu(platform="cortex-m7", storage="smallest")
        assert "latency and energy may rise where bits fall" in caplog.text
        assert cost(small, CONV, 4, 8)["latency"] > cost(small, CONV, 8, 8)["latency"]

    @pytest.mark.parametrize("platform", PLATFORMS)
    def test_memory_of_the_narrowest_storage_never_falls_with_bits(self, platform):
        model = mcu(platform=platform, storage="smallest")
        found = [cost(model, CONV, bits, bits) for bits in range(1, 33)]
        for metric in ("flash", "peak_memory"):
            assert np.all(np.diff([one[metric] for one in found]) >= 0)

    @pytest.mark.parametrize("platform", PLATFORMS)
    def test_no_storage_is_faster_than_the_fastest(self, platform):
        fast, small = mcu(platform=platform), mcu(platform=platform, storage="smallest")
        for layer in (CONV, STEM, replace(CONV, in_channels=1), DEPTHWISE):
            for low in range(1, 33):
                for activation in (1, 3, 8, 20):
                    least = min(
                        cost(small, layer, w, a)["latency"]
                        for w in (low, 8, 32)
                        for a in (activation, 8, 32)
                        if w >= low and a >= activation
                    )
                    assert cost(fast, layer, low, activation)["latency"] <= least


class TestNativeBelowEight:
    @pytest.mark.parametrize(
        ("bits", "speed"), [((8, 8), 1), ((4, 4), 2), ((2, 2), 4), ((3, 2), 2), ((2, 8), 1), ((2, 4), 2)]
    )
    def test_xpulpnn_speeds_up_with_the_wider_operand(self, bits, speed):
        model = mcu(platform="xpulpnn")
        assert cycles(model, CONV, *bits) == pytest.approx(294_912 / 16 / speed)

    def test_an_unequal_pair_is_stored_wider_rather_than_unpacked(self):
        fast, small = mcu(platform="xpulpnn"), mcu(platform="xpulpnn", storage="smallest")
        assert cost(fast, CONV, 2, 4) == cost(fast, CONV, 4, 4)
        assert cycles(small, CONV, 2, 4) == pytest.approx(294_912 / 32 * 1.4)
        assert cost(small, CONV, 2, 4)["flash"] < cost(fast, CONV, 2, 4)["flash"]

    def test_channels_fill_whole_bytes(self):
        # 3 channels are computed as 4 at 4 and at 2 bits
        model = mcu(platform="xpulpnn")
        assert cycles(model, STEM, 8, 8) == pytest.approx(55_296 / 16)
        assert cycles(model, STEM, 4, 4) == pytest.approx(55_296 * 4 / 3 / 32)
        assert cycles(model, STEM, 2, 2) == pytest.approx(55_296 * 4 / 3 / 64)

    def test_one_channel_is_fastest_in_bytes(self):
        layer = replace(CONV, in_channels=1)
        model = mcu()
        assert cycles(model, layer, 2, 2) == pytest.approx(18_432 / 2.1)  # 4 channels at 6.5 MAC/cycle would be slower
        assert cost(model, layer, 2, 2) == cost(model, layer, 8, 8)

    def test_depthwise_layers_are_not_filled_up(self):
        assert cycles(mcu(), DEPTHWISE, 2, 2) == pytest.approx(18_432 / 6.5)


class TestStorage:
    def test_flash_and_memory_are_those_of_the_widths(self):
        layer = replace(CONV, alive=100)
        found, expected = cost(mcu(), layer, 3, 5), cost(Memory(), layer, 4, 8)
        assert (found["flash"], found["peak_memory"]) == (expected["flash"], expected["peak_memory"])
        assert found["peak_memory"] == 16 * 64 + 32 * 64 + 100

    def test_a_layer_runs_in_the_format_of_its_highest_kernel_without_the_pruned(self):
        bits = np.repeat([0, 2, 4], [16, 15, 1])
        assert cycles(mcu(), CONV, bits, 4) == pytest.approx(294_912 / 2 / 3.5)
        kept = cost(mcu(), CONV, bits, 4)["flash"]
        assert kept == (16 * (4 * 144 + 16) + 32 * 6) / 8
        assert cycles(mcu(), CONV, 0, 8) == 0

    def test_an_embedding_is_looked_up_at_no_time_and_stored_at_its_narrowest(self):
        for platform in PLATFORMS:
            found = cost(mcu(platform=platform), EMBEDDING, 3, 32)
            assert (found["latency"], found["energy"]) == (0, 0)
            assert found["flash"] == (100 * (16 * 4 + 16) + 100 * 6) / 8
            assert found["peak_memory"] == 5 * 16


@st.composite
def geometries(draw):
    groups = draw(st.sampled_from([1, 1, 1, 2, 5]))
    c_in, c_out = groups * draw(st.integers(1, 10)), groups * draw(st.integers(1, 6))
    size = (draw(st.integers(1, 4)),) * 2
    return Layer(
        "l",
        "conv",
        c_in,
        c_out,
        (3, 3),
        (1, 1),
        groups,
        size,
        size,
        draw(st.integers(1, 3)),
        alive=draw(st.integers(0, 9)),
    )


@given(st.sampled_from(sorted(PLATFORMS)), geometries(), st.data())
@settings(max_examples=300, deadline=None)
def test_no_bit_can_be_raised_at_a_saving(platform, layer, data):
    model = mcu(platform=platform)
    check_no_bit_can_be_raised_at_a_saving(partial(cost, model, layer), layer, data)


def test_gap8_is_as_much_faster_than_a_cortex_m7_as_published():
    """21 to 25 times fewer cycles at 8 bits; 39.5 times less energy where cycles are 19.6 times fewer."""
    small, large = mcu(platform="cortex-m7"), mcu(platform="gap8")
    assert 21 <= cycles(small, CONV, 8, 8) / cycles(large, CONV, 8, 8) <= 25
    a_cycle = [model.platform.power.value / model.platform.frequency.value for model in (small, large)]
    assert 19.6 * a_cycle[0] / a_cycle[1] == pytest.approx(39.5)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_number_has_a_unit_and_a_source(platform):
    model = mcu(platform=platform)
    assert {"frequency", "power", "rates[(8, 8)]"} <= set(model.constants)
    for constant in model.constants.values():
        assert constant.unit
        assert constant.source[-3:] in ("[V]", "[C]", "[D]", "[M]")
    assert platform in model.definitions["energy"]


def test_energies_of_two_platforms_share_no_axis():
    assert len({mcu(platform=platform).definitions["energy"] for platform in PLATFORMS}) == len(PLATFORMS)


def test_an_option_takes_the_place_of_the_platform_and_says_so():
    model = create("cost_models", "mcu", {"platform": "gap8", "frequency": 175e6, "power": 0.1})
    assert cost(model, CONV, 8, 8)["energy"] == pytest.approx(294_912 / 16 / 175e6 * 0.1)
    assert model.constants["power"].source == "set by an option of the campaign"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"platform": "cortex-m0"}, "platform"), ({"storage": "packed"}, "storage"), ({"power": 0}, "power")],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        create("cost_models", "mcu", options)
