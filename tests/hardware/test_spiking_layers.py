"""Neurons, their thresholds and layers that read spikes, on every other cost model: by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qsearch.errors import DataError
from qsearch.hardware.bismo import Bismo
from qsearch.hardware.bitfusion import BitFusion
from qsearch.hardware.bops import Bops
from qsearch.hardware.energy import Energy
from qsearch.hardware.energy45nm import sram_energy
from qsearch.hardware.lut import LookUpTable
from qsearch.hardware.mcu import Microcontroller
from qsearch.hardware.memory import Memory
from qsearch.hardware.reram import ReRam
from qsearch.hardware.roofline import Roofline
from qsearch.hardware.size import Size
from qsearch.hardware.tensorcore import TensorCore
from qsearch.layers import Layer
from qsearch.registry import create
from qsearch.sites import build_space
from qsearch.surrogates.features import FEATURES, Ranges, features

# 6 · 16 = 96 neurons, 5 steps
LEAKY = Layer("lif", "neuron", 6, 6, input_size=(4, 4), output_size=(4, 4), uses=5, constants=6, events=30.0)
FIRE = replace(LEAKY, name="if", constants=0)
LEVEL = replace(LEAKY, name="lif.threshold", kind="threshold")
CONV = Layer("conv", "conv", 2, 6, (3, 3), (2, 2), 1, (8, 8), (4, 4), uses=5, events=100.0)
DRAM = 20.3125e-12


def cost(model, layer, weight, activation=32):
    return model.layer_cost(layer, np.full(layer.kernels, weight), activation)


def multiply(w, a):
    return (0.00299479 * w * a + 0.00104167 * (w + a) / 2) * 1e-12


def add(b):
    return 0.003125e-12 * b


LEAK = 5 * 96 * (multiply(4, 10) + add(10))
STATE, LEAKS = 2 * 5 * 96 * 10, 5 * 6 * 4
"""Bits of 10-bit states read and written, of 4-bit leaks read, in 5 steps."""


@pytest.mark.parametrize(
    ("layer", "bits", "bytes_"),
    [
        (LEAKY, 4, (6 * 4 + 16 + 6) / 8),  # one scale and one field for all of them
        (LEAKY, 32, (6 * 32 + 6) / 8),
        (replace(LEAKY, constants=1), 20, (32 + 6) / 8),  # no more than a float
        (FIRE, 1, 0.0),
        (LEVEL, 8, (6 * 8 + 16 + 6) / 8),
        (replace(LEVEL, constants=96), 8, (96 * 8 + 16 + 6) / 8),
    ],
)
def test_constants_are_stored_and_states_are_not(layer, bits, bytes_):
    assert [cost(Size(), layer, bits, state)["size"] for state in (2, 16)] == [bytes_, bytes_]
    assert cost(Memory(), layer, bits, 8)["flash"] == bytes_


def test_bits_of_each_constant_are_added():
    bits = np.array([2, 2, 4, 4, 8, 8])
    assert Size().layer_cost(LEAKY, bits, 8)["size"] == (28 + 16 + 6) / 8


@pytest.mark.parametrize("output", [8, 32])
def test_neurons_need_their_currents_their_states_and_their_spikes(output):
    model = Memory(Memory.Options(output_bits=output))
    assert cost(model, LEAKY, 4, 10)["peak_memory"] == 96 * (output + 10 + 1) / 8
    assert cost(model, replace(LEAKY, alive=50), 4, 10)["peak_memory"] == np.ceil(
        (96 * (output + 11) + 50 * output) / 8
    )
    assert cost(model, LEVEL, 4)["peak_memory"] == 0.0
    assert cost(model, CONV, 4, 1)["peak_memory"] == (128 * 1 + 96 * output) / 8


def test_bit_operations_are_those_of_leaks():
    assert cost(Bops(Bops.Options(batch=2)), LEAKY, 4, 10) == {"bops": 2 * 5 * 96 * 4 * 10}
    assert cost(Bops(), FIRE, 1, 10) == cost(Bops(), LEVEL, 8) == {"bops": 0.0}
    assert cost(Bops(), replace(LEAKY, constants=1), 4, 10) == {"bops": 5 * 96 * 40}


def test_energy_of_neurons():
    """Arithmetic at 45 nm; states are at home where feature maps are, constants where weights are."""
    assert cost(Energy(), LEAKY, 4, 10)["energy"] == pytest.approx(LEAK + (STATE + LEAKS) * DRAM, rel=1e-9)
    assert cost(Energy(), FIRE, 1, 10)["energy"] == pytest.approx(5 * 96 * add(10) + STATE * DRAM, rel=1e-12)
    assert cost(Energy(), LEVEL, 6)["energy"] == pytest.approx(5 * 96 * add(6) + 5 * 36 * DRAM, rel=1e-12)
    near = Energy(Energy.Options(features_on_chip=True, batch=3))
    expected = 3 * LEAK + 3 * STATE * sram_energy(2**20) + LEAKS * DRAM
    assert cost(near, LEAKY, 4, 10)["energy"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("model", "bandwidth"), [(Bismo(), 16.8e9), (Roofline(), 96e9), (BitFusion(), 96e9)])
def test_neurons_run_beside_an_array(model, bandwidth):
    """8-bit states, 4-bit leaks, which BitFusion stores as they are: time is that of DRAM alone."""
    moved = 2 * 5 * 96 * 8 + LEAKS
    found = cost(model, LEAKY, 4, 8)
    assert found["latency"] == pytest.approx(moved / bandwidth, rel=1e-12)
    assert found["energy"] == pytest.approx(5 * 96 * (multiply(4, 8) + add(8)) + moved * DRAM, rel=1e-9)
    level = cost(model, LEVEL, 8)
    assert level["latency"] == pytest.approx(5 * 48 / bandwidth, rel=1e-12)
    assert level["energy"] == pytest.approx(5 * 96 * add(8) + 5 * 48 * DRAM, rel=1e-12)
    assert found["size"] == (6 * 4 + 22) / 8


def test_a_tensor_core_holds_states_at_a_precision_of_its_own():
    """10 bits as 16, 3 as 4."""
    model = TensorCore()
    assert cost(model, LEAKY, 3, 10) == cost(model, LEAKY, 4, 16)
    found = cost(model, LEAKY, 3, 10)
    moved = 2 * 5 * 96 * 16 + LEAKS
    assert found["latency"] == pytest.approx(moved / (320e9 * 8), rel=1e-12)
    assert found["energy"] == pytest.approx(5 * 96 * (multiply(4, 16) + add(16)) + moved * DRAM, rel=1e-9)


def test_crossbars_hold_no_neurons():
    for layer in (LEAKY, FIRE, LEVEL):
        assert set(cost(ReRam(), layer, 4, 10).values()) == {0.0}


def test_a_microcontroller_takes_time_for_leaks():
    """4-bit leaks, 8-bit states: 2.3 a cycle; 8-bit leaks, 16-bit states: two passes at 2.1."""
    model = Microcontroller()
    assert cost(model, LEAKY, 4, 8)["latency"] == pytest.approx(5 * 96 / 2.3 / 250e6, rel=1e-12)
    assert cost(model, LEAKY, 8, 10)["latency"] == pytest.approx(2 * 5 * 96 / 2.1 / 250e6, rel=1e-12)
    assert cost(model, FIRE, 1, 10)["latency"] == cost(model, LEVEL, 4)["latency"] == 0.0
    assert cost(model, FIRE, 1, 10)["peak_memory"] == 96 * (8 + 16 + 1) / 8
    assert cost(model, LEVEL, 3)["flash"] == (6 * 4 + 22) / 8


def test_a_table_has_rows_of_neurons(tmp_path):
    path = tmp_path / "chip.csv"
    path.write_text(
        "layer,weight_bits,activation_bits,latency [s]\n"
        "lif,4,8,1e-6\nlif,4,16,2e-6\nif,1,8,5e-7\nif,1,16,7e-7\nlif.threshold,8,8,1e-8\n"
    )
    model = LookUpTable(LookUpTable.Options(path=path, interpolation="wider"))
    assert cost(model, LEAKY, 3, 10) == {"latency": 2e-6}
    assert cost(model, FIRE, 1, 8) == {"latency": 5e-7}
    space = build_space((LEVEL,), weight_bits=(2,), activation_bits=(2,), threshold_bits=(4, 8))
    assert model.estimate((LEVEL,), space.decode(space.lowest)).totals == {"latency": 1e-8}
    with pytest.raises(DataError, match="has no layer 'other' of the network"):
        cost(model, replace(LEAKY, name="other"), 4, 8)


def test_features_tell_neurons_from_other_layers():
    found = features([(LEAKY, 4, 10), (LEVEL, 4, 10), (CONV, 4, 1)])
    assert np.isfinite(found).all()
    assert len(set(found[:, FEATURES.index("kind")])) == 3
    assert found[1, FEATURES.index("activation bits")] == 5.0  # a threshold has no input: 32
    assert "kind neuron was not measured, only conv" in Ranges.of([CONV]).outside(LEAKY)


@pytest.mark.parametrize("name", ["onnxruntime", "zigzag"])
def test_targets_cannot_run_neurons_and_say_so(name):
    pytest.importorskip(name)
    target = create("targets", name)
    for layer in (LEAKY, FIRE, LEVEL):
        assert tuple(target.precisions(layer)) == ()
    assert tuple(target.precisions(CONV))


@pytest.mark.parametrize(
    "model", [Size(), Memory(), Bops(), Energy(), Bismo(), Roofline(), TensorCore(), Microcontroller()]
)
def test_more_bits_of_a_state_or_a_leak_are_never_cheaper(model):
    for layer in (LEAKY, FIRE, LEVEL):
        for low, high in ((1, 2), (2, 4), (4, 8), (8, 16)):
            for fixed in (2, 8, 12):
                raised = (cost(model, layer, fixed, high), cost(model, layer, high, fixed))
                for more, less in zip(
                    raised, (cost(model, layer, fixed, low), cost(model, layer, low, fixed)), strict=True
                ):
                    assert all(more[metric] >= less[metric] >= 0 for metric in model.units)
