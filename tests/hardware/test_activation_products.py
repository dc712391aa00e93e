"""Products of two activations, as attention has two of, on every cost model: by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsearch.costs import NetworkCost
from qsearch.errors import ConfigError
from qsearch.hardware.base import VectorCostModel
from qsearch.hardware.bismo import Bismo
from qsearch.hardware.bitfusion import BitFusion
from qsearch.hardware.bops import Bops
from qsearch.hardware.energy import Energy
from qsearch.hardware.mcu import Microcontroller
from qsearch.hardware.memory import Memory
from qsearch.hardware.neuromorphic import Neuromorphic
from qsearch.hardware.reram import ReRam
from qsearch.hardware.roofline import Roofline
from qsearch.hardware.size import Size
from qsearch.hardware.tensorcore import TensorCore
from qsearch.layers import Layer
from qsearch.registry import create
from qsearch.sites import build_space
from qsearch.testing.networks import minilm

# Q·Kᵀ of 12 heads on 128 tokens: (128, 32) · (32, 128); 12·128·128·32 = 6,291,456 MACs, 12·128·32 = 49,152 numbers each
SCORES = Layer("scores", "matmul", 32, 128, input_size=(128,), output_size=(128,), uses=12)
LINEAR = replace(SCORES, kind="linear")
MACS, OPERAND = 6_291_456, 49_152
DRAM, ADD = 20.3125e-12, 0.003125e-12


def multiply(w, a):
    return (0.00299479 * w * a + 0.00104167 * (w + a) / 2) * 1e-12


def cost(model, second, first, layer=SCORES):
    return model.layer_cost(layer, np.full(layer.kernels, second), first)


def test_bit_operations():
    assert cost(Bops(Bops.Options(batch=2)), 4, 8) == {"bops": 2 * MACS * 32}


def test_nothing_is_stored():
    assert cost(Size(), 8, 8) == {"size": 0.0}
    assert cost(Memory(), 8, 8)["flash"] == 0.0


@pytest.mark.parametrize(("second", "first", "output"), [(8, 8, 8), (4, 8, 8), (3, 5, 32)])
def test_both_operands_are_in_the_working_memory(second, first, output):
    outputs = 12 * 128 * 128
    bits = OPERAND * first + OPERAND * second + (outputs + 100) * output
    found = cost(Memory(Memory.Options(output_bits=output)), second, first, replace(SCORES, alive=100))
    assert found["peak_memory"] == bits / 8


def test_bismo():
    """⌈128/8⌉ × ⌈128/8⌉ tiles of 8 × 256 × 8, once a head; both operands are written and read."""
    found = cost(Bismo(), 4, 8)
    cycles, dram = 12 * 16 * 16 * 4 * 8, 2 * OPERAND * (4 + 8)
    assert found["latency"] == pytest.approx(cycles / 200e6, rel=1e-12)
    binary = 5 / (8 * 256 * 8 * 200e6)
    assert found["energy"] == pytest.approx(cycles * 16_384 * binary + dram * DRAM, rel=1e-12)
    bound = cost(Bismo(Bismo.Options(bandwidth=1e6)), 4, 8)
    assert bound["latency"] == pytest.approx(dram / 1e6, rel=1e-12)


def test_samples_of_a_batch_fill_no_tile_together():
    """3 rows of each of 4 samples: 4 passes over 8 rows where each has an operand of its own, 2 where they share weights."""
    few = replace(SCORES, uses=1, input_size=(3,), output_size=(3,))
    model = Bismo(Bismo.Options(batch=4))
    bits = np.ones((1, 1), dtype=np.int64), np.ones(1, dtype=np.int64)
    assert model.cycles(few, *bits).tolist() == [4 * 16]
    assert model.cycles(replace(few, kind="linear"), *bits).tolist() == [2 * 16]


@pytest.mark.parametrize(("second", "first", "steps"), [(8, 8, 2), (4, 4, 1), (4, 8, 1), (16, 8, 4)])
def test_bitfusion(second, first, steps):
    """12 · 128 positions · ⌈128/32⌉ tiles · steps along the 32 numbers of a dot product, 16 rows at a time."""
    found = cost(BitFusion(), second, first)
    assert found["latency"] == pytest.approx(12 * 128 * 4 * steps / 500e6, rel=1e-12)
    assert found["size"] == 0.0


def test_roofline():
    """96 row tiles of 32 + 16 + 32 cycles, 4 column tiles; the memory roof is lower."""
    found = cost(Roofline(), 8, 8)
    assert found["latency"] == pytest.approx(12 * 8 * 80 * 16 * 32 * 4 / (16 * 32 * 500e6), rel=1e-12)
    assert found["size"] == 0.0


@pytest.mark.parametrize(("sram", "pieces"), [(40_000, 1), (10_000, 4)])
def test_roofline_keeps_the_operand_of_one_head_on_chip(sram, pieces):
    """An operand of one head has 32,768 bits: in 4 pieces, the other one is read 4 times; both were written before."""
    found = cost(Roofline(Roofline.Options(sram=sram, bandwidth=1e6)), 8, 8)
    assert found["latency"] == pytest.approx((pieces + 1 + 2) * 8 * OPERAND / 1e6, rel=1e-12)


def test_roofline_of_a_reused_layer_keeps_its_weights_of_one_use_on_chip():
    found = cost(Roofline(Roofline.Options(sram=40_000, bandwidth=1e6)), 8, 8, LINEAR)
    assert found["latency"] == pytest.approx((1 + 1 + 1) * 8 * OPERAND / 1e6, rel=1e-12)


def test_tensor_cores_multiply_equal_operands():
    model = TensorCore()
    assert cost(model, 4, 8) == cost(model, 8, 8) == cost(model, 8, 3)
    found = cost(model, 8, 8)
    assert found["size"] == 0.0
    compute = 12 * 8 * (32 + 16 + 16) * 16 * 16 * 8 / 65e12
    assert found["latency"] == pytest.approx(max(compute, 4 * 8 * OPERAND / (320e9 * 8)), rel=1e-12)


def test_energy_keeps_the_second_operand_where_feature_maps_are():
    here = Energy(Energy.Options(weights_on_chip=True))
    there = Energy(Energy.Options(features_on_chip=True))
    assert cost(here, 4, 8)["energy"] == cost(Energy(), 4, 8)["energy"]
    moved = 2 * OPERAND * (4 + 8)
    on_chip = (9.0243e-4 * 20**3 - 2.6885e-2 * 20**2 + 0.2089 * 20) * 1e-12
    array = MACS * (multiply(4, 8) + 32 * ADD) + (MACS * 12 / 16 + 12 * 128 * 128 * 32) * on_chip
    assert cost(here, 4, 8)["energy"] == pytest.approx(array + moved * DRAM, rel=1e-12)
    assert cost(there, 4, 8)["energy"] == pytest.approx(array + moved * on_chip, rel=1e-12)


def test_microcontroller():
    found = cost(Microcontroller(), 8, 4)
    assert found["latency"] == pytest.approx(MACS / 2.1 / 250e6, rel=1e-12)
    assert found["flash"] == 0.0
    assert found["peak_memory"] >= (OPERAND * 4 + OPERAND * 8) / 8 + 12 * 128 * 128


def test_crossbars_are_written_for_every_head():
    """32 rows of 128 · 4 cells for 8 bits; beyond what a layer with weights takes, 12 writings of 32 rows."""
    found, stored = cost(ReRam(), 8, 8), cost(ReRam(), 8, 8, LINEAR)
    assert found["cells"] == stored["cells"] == 32 * 128 * 4
    assert found["latency"] - stored["latency"] == pytest.approx(12 * 32 * 50.88e-9, rel=1e-9)
    assert found["energy"] - stored["energy"] == pytest.approx(12 * 32 * 128 * 4 * 3.91e-9, rel=1e-9)


@pytest.mark.parametrize("scheme", ["crossbar", "bitmap", "csr", "functional"])
def test_spikes_meet_no_synapses(scheme):
    """20 steps at a rate of 0.1: each spike reads 128 numbers of the operand, and writes its share of it before."""
    found = cost(Neuromorphic(Neuromorphic.Options(scheme=scheme, density=0.3)), 4, 2)
    operations = 2 * MACS
    assert found["size"] == 0.0
    assert found["synaptic_operations"] == pytest.approx(operations, rel=1e-12)
    traffic = 4 * operations + 2 * 4 * OPERAND + 2 * 2 * 2 * OPERAND + 2 * 16 * operations
    assert found["memory_traffic"] == pytest.approx(traffic, rel=1e-12)


def test_published_energies_of_spikes_end_at_8_bits_for_operands_too():
    model = Neuromorphic(Neuromorphic.Options(scaling="published"))
    with pytest.raises(ConfigError, match=r"got 16 bits for layer 'scores'; narrow the bits of 'scores.other'"):
        cost(model, 16, 8)


PER_SAMPLE: list[tuple[type[VectorCostModel], dict[str, float]]] = [
    (Bops, {}),
    (Bismo, {"rows": 3, "columns": 5, "depth": 4}),
    (BitFusion, {"rows": 3, "columns": 5}),
    (Roofline, {"rows": 3, "columns": 5, "sram": 300}),
    (TensorCore, {}),
    (Energy, {}),
    (ReRam, {}),
    (Neuromorphic, {}),
]


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 20)] * 3),
    uses=st.integers(1, 4),
    batch=st.integers(1, 5),
    bits=st.tuples(st.integers(1, 32), st.integers(1, 32)),
    which=st.integers(0, len(PER_SAMPLE) - 1),
)
def test_a_batch_costs_what_its_samples_cost_one_by_one(sizes, uses, batch, bits, which):
    """No weights are shared; what is held at once, such as cells, is that of one."""
    model, options = PER_SAMPLE[which]
    layer = Layer("product", "matmul", sizes[0], sizes[1], input_size=(sizes[2],), output_size=(sizes[2],), uses=uses)
    alone = cost(model(model.Options(**options)), *bits, layer)
    together = cost(model(model.Options(**options, batch=batch)), *bits, layer)
    for metric in alone:
        share = 1 if metric in {"size", "memory", "cells"} else batch
        assert together[metric] == pytest.approx(share * alone[metric], rel=1e-9), metric


@settings(max_examples=25, deadline=None)
@given(sizes=st.tuples(*[st.integers(1, 20)] * 3), bits=st.tuples(st.integers(1, 8), st.integers(1, 8)))
def test_the_transposed_product_takes_as_many_bit_operations_and_as_much_memory(sizes, bits):
    """(A·B)ᵀ = Bᵀ·Aᵀ: operands change places, with their bits."""
    rows, inner, columns = sizes
    one = Layer("one", "matmul", inner, columns, input_size=(rows,), output_size=(rows,), uses=3)
    other = Layer("other", "matmul", inner, rows, input_size=(columns,), output_size=(columns,), uses=3)
    for model in (Bops(), Memory()):
        assert cost(model, bits[0], bits[1], one) == cost(model, bits[1], bits[0], other)


def test_a_minilm_by_hand():
    """6 · (128 · (4·384² + 2·384·1,536) + 2 · 12·128·128·32) multiply-accumulates; 384 rows and columns of tables."""
    layers = minilm()
    linear = 128 * (4 * 384**2 + 2 * 384 * 1536)
    assert sum(layer.macs for layer in layers) == 6 * (linear + 2 * MACS) == 1_434_451_968
    assert sum(layer.stored_params for layer in layers) == 384 * (30_522 + 512 + 2) + 6 * linear // 128
    assert [layer.kind for layer in layers].count("matmul") == 12
    assert len({layer.name for layer in layers}) == len(layers) == 51


@pytest.mark.parametrize("model", [Bismo(), BitFusion(), TensorCore(), Size(), Memory(), ReRam()])
def test_a_search_space_of_a_minilm_is_priced(model):
    """Both operands are sites; the size is that of the layers with weights."""
    layers = minilm()
    space = build_space(layers, weight_bits=(2, 4, 8), activation_bits=(4, 8))
    cost = NetworkCost(model, layers, space)
    x = space.sample(np.random.default_rng(0), 3)
    totals = cost.estimate_many(x)
    for row, one in enumerate(x):
        alone = cost.estimate(space.decode(one)).totals
        assert {metric: values[row] for metric, values in totals.items()} == alone
    for metric in totals:
        assert cost.floor(metric) <= totals[metric].min() <= totals[metric].max() <= cost.ceiling(metric)
    stored = [layer for layer in layers if layer.kind != "matmul"]
    if "size" in totals:
        sizes = [cost.estimate(space.reference(8)).layers[layer.name]["size"] for layer in stored]
        assert cost.estimate(space.reference(8)).totals["size"] == pytest.approx(sum(sizes))


@pytest.mark.parametrize("name", ["onnxruntime", "zigzag"])
def test_targets_without_such_products_say_so(name):
    pytest.importorskip(name)
    assert tuple(create("targets", name).precisions(SCORES)) == ()
    assert tuple(create("targets", name).precisions(LINEAR))
