"""Cost models against golden numbers, hand-computed layers, and their own properties."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raising_bits import check_no_bit_can_be_raised_at_a_saving

from qsearch.costs import NetworkCost
from qsearch.errors import ConfigError, CostModelError, SpaceError
from qsearch.hardware.base import VectorCostModel
from qsearch.hardware.bismo import Bismo
from qsearch.hardware.bitfusion import PASSES, SPLIT, STORED, BitFusion, fusion_factor
from qsearch.hardware.bops import Bops
from qsearch.hardware.energy import Energy
from qsearch.hardware.neuromorphic import Neuromorphic
from qsearch.hardware.reram import ReRam
from qsearch.hardware.roofline import Roofline
from qsearch.hardware.size import Size
from qsearch.layers import Layer
from qsearch.problem import Constraint, resolve
from qsearch.registry import create
from qsearch.sites import build_space
from qsearch.testing.networks import resnet20

CONV = Layer("conv", "conv", 16, 32, (3, 3), (1, 1), 1, (8, 8), (8, 8))  # 4,608 weights, 294,912 MACs
DEPTHWISE = Layer("dw", "conv", 32, 32, (3, 3), (1, 1), 32, (8, 8), (8, 8))  # 288 weights
WIDE = Layer("wide", "conv", 64, 64, (1, 1), (1, 1), 1, (4, 4), (4, 4))
EMBEDDING = Layer("embed", "embedding", 100, 16, input_size=(5,), output_size=(5,))
NAMES = ("size", "bops", "roofline", "bitfusion", "bismo", "energy-45nm", "reram", "neuromorphic")
MODELS = [
    Size(),
    Bops(),
    Bismo(),
    Bismo(Bismo.Options(rows=2, depth=5, columns=3, bandwidth=1e15)),
    BitFusion(),
    BitFusion(BitFusion.Options(rows=2, columns=3, batch=2, bandwidth=1e15)),
    Roofline(),
    Roofline(Roofline.Options(rows=2, columns=3, sram=500)),
    Roofline(Roofline.Options(columns=3, bandwidth=1e15, peaks={2: 5.3e9, 4: 3.1e9, 7: 1.7e9})),
    Energy(),
    Energy(Energy.Options(reuse=3, batch=2, weights_on_chip=True, sram=100_000)),
    ReRam(),
    ReRam(ReRam.Options(rows=3, columns=2, cell_bits=3, dac_bits=2)),
    Neuromorphic(),
    *(Neuromorphic(Neuromorphic.Options(scheme=s, density=0.3, rate=0.07)) for s in ("crossbar", "bitmap", "csr")),
]


def cost(model, layer, weight, activation):
    return model.layer_cost(layer, np.broadcast_to(weight, (layer.kernels,)), activation)


class TestSize:
    def test_codes_scales_and_fields(self):
        # 32 kernels of 144 weights: 4·4608 bits of codes, 32 scales of 16, 32 fields of 6
        assert cost(Size(), CONV, 4, 8)["size"] == (4 * 4608 + 32 * 16 + 32 * 6) / 8

    def test_options(self):
        bare = Size(Size.Options(scale_bits=0, field_bits=0))
        assert cost(bare, CONV, 3, 8)["size"] == 3 * 4608 / 8
        wide = Size(Size.Options(scale_bits=32, field_bits=0))
        assert cost(wide, CONV, 3, 8)["size"] == (3 * 4608 + 32 * 32) / 8

    def test_float_has_no_scale_and_pruned_kernels_keep_only_their_field(self):
        assert cost(Size(), CONV, 32, 8)["size"] == (32 * 4608 + 32 * 6) / 8
        half = np.repeat([0, 2], 16)
        assert cost(Size(), CONV, half, 8)["size"] == (16 * (2 * 144 + 16) + 32 * 6) / 8

    def test_an_embedding_is_stored_by_rows(self):
        assert cost(Size(), EMBEDDING, 4, 32)["size"] == (100 * (16 * 4 + 16) + 100 * 6) / 8

    def test_activations_take_no_storage(self):
        assert cost(Size(), CONV, 4, 2) == cost(Size(), CONV, 4, 8)


class TestBops:
    def test_macs_times_bits(self):
        assert cost(Bops(), CONV, 3, 5)["bops"] == 294_912 * 15
        assert cost(Bops(Bops.Options(batch=4)), CONV, 3, 5)["bops"] == 4 * 294_912 * 15

    def test_by_kernel(self):
        bits = np.arange(32) % 9
        assert cost(Bops(), CONV, bits, 2)["bops"] == 294_912 / 32 * bits.sum() * 2

    def test_embeddings_have_none(self):
        assert cost(Bops(), EMBEDDING, 8, 32)["bops"] == 0


class TestBismo:
    def test_peak_of_the_pynq_z1(self):
        """G4: 8 × 256 × 8 at 200 MHz is 6.5536 binary tera-operations a second."""
        assert Bismo().peak() == pytest.approx(6.5536e12, rel=1e-15)
        assert Bismo().peak(4, 2) == pytest.approx(6.5536e12 / 8, rel=1e-15)

    def test_a_layer_that_fills_the_array_runs_at_the_peak(self):
        layer = Layer("full", "linear", 1024, 64, input_size=(80,), output_size=(80,))
        model = Bismo(Bismo.Options(bandwidth=1e15))
        assert 2 * layer.macs / cost(model, layer, 3, 5)["latency"] == pytest.approx(model.peak(3, 5), rel=1e-12)

    def test_compute_bound_by_hand(self):
        # ⌈64/8⌉·⌈32/8⌉·⌈144/256⌉·8·8 = 2,048 cycles; 8·4608 + 2·8·1024 = 53,248 bits
        found = cost(Bismo(), CONV, 8, 8)
        assert found["latency"] == pytest.approx(2048 / 200e6)
        assert found["energy"] == pytest.approx(2048 * 5.0 / 200e6 + 53_248 * 20.3125e-12)

    def test_memory_bound_by_hand(self):
        # 8·4·1·4·2 = 256 cycles take 1.28 µs; 4·4608 + 2·2·1024 = 22,528 bits take 1.34 µs
        assert cost(Bismo(), CONV, 4, 2)["latency"] == pytest.approx(22_528 / 16.8e9)

    def test_unequal_kernels_fill_tiles_in_order_of_their_bits(self):
        # 32 kernels, tiles of 8: 12 at 6 bits and 20 at 3 give tiles at 6, 6, 3, 3
        bits = np.random.default_rng(0).permutation(np.repeat([6, 3], [12, 20]))
        cycles = Bismo().cycles(CONV, bits[None], np.asarray([5]))
        assert cycles.tolist() == [8 * 1 * 5 * (6 + 6 + 3 + 3)]

    def test_pruned_kernels_leave_the_array(self):
        bits = np.repeat([0, 4], [24, 8])
        assert Bismo().cycles(CONV, bits[None], np.asarray([2])).tolist() == [8 * 2 * 4]
        assert Bismo().cycles(CONV, np.zeros((1, 32), int), np.asarray([8])).tolist() == [0]

    def test_depthwise_kernels_lie_side_by_side(self):
        assert Bismo().cycles(DEPTHWISE, np.asarray([[8]]), np.asarray([8])).tolist() == [8 * 4 * 1 * 64]

    @given(st.integers(1, 32), st.integers(1, 32), st.integers(1, 300), st.integers(1, 70), st.integers(1, 20))
    def test_uniform_layers_follow_the_published_formula(self, w, a, inputs, outputs, tokens):
        layer = Layer("fc", "linear", inputs, outputs, input_size=(tokens,), output_size=(tokens,))
        expected = w * a * -(-tokens * 3 // 8) * -(-outputs // 8) * -(-inputs // 256)
        model = Bismo(Bismo.Options(batch=3))
        assert model.cycles(layer, np.asarray([[w]]), np.asarray([a])).tolist() == [expected]

    def test_a_larger_chip_is_no_slower(self):
        for layer in resnet20():
            small, large = (cost(Bismo(Bismo.Options(platform=p)), layer, 5, 3) for p in ("zynq-7020", "vu9p"))
            assert large["latency"] <= small["latency"]


class TestBitFusion:
    @pytest.mark.parametrize(("bits", "factor"), [((8, 8), 1), ((4, 4), 4), ((2, 2), 16), ((3, 5), 2), ((8, 2), 4)])
    def test_factors(self, bits, factor):
        """G5."""
        assert fusion_factor(*bits) == factor

    def test_steps(self):
        assert STORED[:10].tolist() == [0, 2, 2, 4, 4, 8, 8, 8, 8, 16]
        assert STORED[[16, 17, 24, 25, 32]].tolist() == [16, 24, 24, 32, 32]
        assert np.all(SPLIT[1:9] * STORED[1:9] == 8)
        assert PASSES[[8, 9, 16, 17, 32]].tolist() == [1, 2, 2, 3, 4]

    @pytest.mark.parametrize(
        ("weight", "activation", "chunks"),
        # 64 input channels, 16 rows: ⌈64 / (16 f)⌉, times the 8-bit passes
        [
            (8, 8, 4),
            (4, 4, 1),
            (2, 2, 1),
            (4, 8, 2),
            (3, 5, 2),
            (8, 2, 1),
            (16, 8, 8),
            (16, 16, 16),
            (16, 4, 4),
            (32, 32, 64),
        ],
    )
    def test_cycles_by_hand(self, weight, activation, chunks):
        # ⌈64/32⌉ column tiles, 4·4 positions, 1·1 kernels
        cycles = BitFusion().cycles(WIDE, np.asarray([[weight]]), np.asarray([activation]))
        assert cycles.tolist() == [2 * 16 * chunks]

    def test_compute_bound_by_hand(self):
        # ⌈32/32⌉·64·9·⌈16/16⌉ = 576 cycles at 500 MHz; 53,248 bits at 192 a cycle are 277.3
        found = cost(BitFusion(), CONV, 8, 8)
        assert found["latency"] == pytest.approx(576 / 500e6)
        weight_reads, input_reads, output_writes = 64 * 4608 * 8, 64 * 144 * 8, 64 * 32 * 32
        per_bit = [polynomial(np.log2(k * 8192)) for k in (64, 32, 16)]
        sram = weight_reads * per_bit[0] + input_reads * per_bit[1] + output_writes * per_bit[2]
        assert found["energy"] == pytest.approx(576 * 512 * 0.3e-12 + sram + 53_248 * 20.3125e-12, rel=1e-6)

    def test_memory_bound_at_few_bits(self):
        found = cost(BitFusion(BitFusion.Options(bandwidth=1e9)), CONV, 2, 2)
        assert found["latency"] == pytest.approx((2 * 4608 + 2 * 2 * 1024) / 1e9)

    def test_three_bits_cost_what_four_cost(self):
        for low, high in ((3, 4), (5, 8), (6, 8), (7, 8), (1, 2)):
            for layer in (CONV, WIDE, DEPTHWISE):
                fewer, more = cost(BitFusion(), layer, low, low), cost(BitFusion(), layer, high, high)
                assert fewer["latency"] == more["latency"]
                assert fewer["energy"] == more["energy"]
                assert fewer["size"] < more["size"]

    def test_few_input_channels_compute_no_faster(self):
        for layer in (DEPTHWISE, replace(CONV, in_channels=3)):
            eight, two = (BitFusion().cycles(layer, np.asarray([[b]]), np.asarray([b])) for b in (8, 2))
            assert eight == two

    def test_a_column_tile_runs_at_its_highest_bits(self):
        bits = np.repeat([8, 2], [1, 63])
        cycles = BitFusion().cycles(WIDE, bits[None], np.asarray([8]))
        assert cycles.tolist() == [16 * (4 + 1)]  # one tile at 8 × 8 bits, one at 2 × 8


def polynomial(x):
    """SRAM energy in J per bit, as published, at x = log2 of the capacity in bits (none below 2^16 here)."""
    x = max(x, 16.0)
    return (9.0243e-4 * x**3 - 2.6885e-2 * x**2 + 0.2089 * x) * 1e-12


class TestRoofline:
    @pytest.mark.parametrize(
        ("weight", "activation", "scale"),
        [
            (8, 8, 1),
            (4, 4, 1 / 2),
            (2, 2, 1 / 4),
            (1, 1, 1 / 4),
            (4, 8, 1),
            (3, 2, 1 / 2),
            (9, 8, 4),
            (16, 16, 4),
            (32, 8, 16),
        ],
    )
    def test_compute_bound_by_hand(self, weight, activation, scale):
        # ⌈64/16⌉·⌈32/32⌉·(144 + 16 + 32) = 768 cycles of 500 MHz at 8 bits
        model = Roofline(Roofline.Options(bandwidth=1e15))
        assert cost(model, CONV, weight, activation)["latency"] == pytest.approx(768 / 500e6 * scale)

    def test_energy_by_hand(self):
        mac = (0.00299479 * 64 + 0.00104167 * 8 + 0.003125 * (16 + np.log2(144))) * 1e-12
        sram = (4 * 36_864 + 64 * 144 * 8) * polynomial(np.log2(112 * 8192))
        expected = 294_912 * mac + sram + 53_248 * 20.3125e-12
        assert cost(Roofline(), CONV, 8, 8)["energy"] == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize(("sram", "traffic"), [(917_504, 53_248), (10_000, 53_248), (5_000, 90_112)])
    def test_what_does_not_fit_on_chip_is_read_again(self, sram, traffic):
        # W = 36,864 and X = 8,192 bits; at S = 5,000: min(2 W + X, 8 X + W) + X
        found = cost(Roofline(Roofline.Options(sram=sram, bandwidth=1.0)), CONV, 8, 8)
        assert found["latency"] == pytest.approx(traffic)

    def test_the_better_of_two_orders_is_taken(self):
        # W = 2,048 and X = 131,072 bits at S = 5,000: the weights stay, X is read once
        layer = Layer("l", "conv", 16, 16, (1, 1), (1, 1), 1, (32, 32), (32, 32))
        found = cost(Roofline(Roofline.Options(sram=5_000, bandwidth=1.0)), layer, 8, 8)
        assert found["latency"] == pytest.approx(2_048 + 2 * 131_072)

    def test_a_tile_runs_at_the_precision_that_holds_its_kernels_and_the_input(self):
        # tiles of 32: two kernels at 7 bits lift the first tile to 8, the input at 3 lifts the second to 4
        layer = replace(CONV, out_channels=64)
        bits = np.repeat([7, 2], [2, 62])
        model = Roofline(Roofline.Options(bandwidth=1e15))
        assert cost(model, layer, bits, 3)["latency"] == pytest.approx(768 / 500e6 * (1 + 1 / 2))

    @pytest.mark.parametrize(("platform", "tops"), [("t4", (260, 130, 65)), ("a100", (1248, 624, 312))])
    def test_a_long_product_reaches_the_published_peak(self, platform, tops):
        layer = Layer("long", "linear", 10**7, 16, input_size=(16,), output_size=(16,))
        model = Roofline(Roofline.Options(platform=platform, bandwidth=1e20, sram=10**12))
        for bits, peak in zip((4, 8, 16), tops, strict=True):
            assert 2 * layer.macs / cost(model, layer, bits, bits)["latency"] == pytest.approx(peak * 1e12, rel=1e-5)

    @pytest.mark.parametrize(
        "peaks", [{}, {0: 1e9}, {40: 1e9}, {8: -1.0}, {4: 1e9, 8: 1e9}, {4: 1e9, 8: 2e9}, {8: float("nan")}]
    )
    def test_peaks_that_make_no_sense(self, peaks):
        with pytest.raises(ConfigError, match="peaks must"):
            Roofline(Roofline.Options(peaks=peaks))


class TestEmbedding:
    """Looks up 5 rows of 16 numbers and 5 indices of 32 bits: no arithmetic."""

    @pytest.mark.parametrize("model", [Bismo(), BitFusion(), Roofline()])
    def test_moves_the_rows_it_looks_up(self, model):
        bits = 5 * 16 * 4 + 2 * 5 * 32
        found = cost(model, EMBEDDING, 4, 32)
        assert found["latency"] == pytest.approx(bits / model.platform.bandwidth.value)
        assert found["energy"] == pytest.approx(bits * 20.3125e-12)

    def test_rows_of_unequal_bits_count_by_their_mean(self):
        rows = np.repeat([2, 6], 50)
        assert cost(Bismo(), EMBEDDING, rows, 32)["latency"] == cost(Bismo(), EMBEDDING, 4, 32)["latency"]


@st.composite
def geometries(draw):
    groups = draw(st.sampled_from([1, 1, 2, 5]))
    c_in, c_out = groups * draw(st.integers(1, 20)), groups * draw(st.integers(1, 12))
    uses = draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["conv", "linear", "embedding"]))
    size = (draw(st.integers(1, 6)),) * draw(st.integers(1, 3))
    if kind == "conv":
        kernel = (draw(st.integers(1, 3)),) * len(size)
        return Layer("l", "conv", c_in, c_out, kernel, (1,) * len(size), groups, size, size, uses)
    return Layer("l", kind, c_in, c_out, input_size=size[:1], output_size=size[:1], uses=uses)


@given(st.sampled_from(MODELS), geometries(), st.data())
@settings(max_examples=600, deadline=None)
def test_no_bit_can_be_raised_at_a_saving(model, layer, data):
    check_no_bit_can_be_raised_at_a_saving(partial(cost, model, layer), layer, data)


@given(st.sampled_from(MODELS), st.lists(geometries(), min_size=1, max_size=4), st.booleans(), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_a_batch_is_the_same_numbers_as_a_loop(model, layers, by_kernel, seed):
    layers = tuple(replace(layer, name=f"l{index}") for index, layer in enumerate(layers))
    bits = range(9)
    space = build_space(
        layers, weight_bits=bits, activation_bits=bits[1:], granularity="kernel" if by_kernel else "layer"
    )
    x = space.sample(np.random.default_rng(seed), 3)
    totals = model.estimate_many(layers, space.bits(x))
    for row, one in enumerate(x):
        assert {metric: value[row] for metric, value in totals.items()} == model.estimate(
            layers, space.decode(one)
        ).totals


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_a_uniform_assignment_meets_the_budget_it_defines(name, bits):
    """Without a tolerance: violations of 1 × uniform-B are exactly 0 at B bits, scalar and batched."""
    layers = (*resnet20(), EMBEDDING, DEPTHWISE)
    space = build_space(layers, weight_bits=range(2, 9), activation_bits=range(2, 9))
    network = NetworkCost(create("cost_models", name), layers, space)
    totals = network.estimate_many(space.encode(space.uniform(bits))[None])
    for metric in network.units:
        bound = resolve(Constraint(metric, at_most=1.0, relative_to=f"uniform-{bits}"), network, {})
        assert bound.violation(totals[metric])[0] == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_a_hundred_thousand_assignments_of_a_resnet20(name):
    layers = resnet20()
    assert sum(layer.macs for layer in layers) == 40_551_040
    space = build_space(layers, weight_bits=range(2, 9), activation_bits=range(2, 9))
    x = space.sample(np.random.default_rng(0), 100_000)
    bits, model = space.bits(x), create("cost_models", name)
    start = time.perf_counter()
    totals = model.estimate_many(layers, bits)
    assert time.perf_counter() - start < 10  # a loop takes minutes
    for row in (0, 99_999):
        assert {m: v[row] for m, v in totals.items()} == model.estimate(layers, space.decode(x[row])).totals


def test_bits_of_one_row_serve_a_whole_batch():
    bits = {"conv.weight": np.asarray([[2], [4], [8]]), "conv.input": np.asarray([[8]])}
    totals = Bops().estimate_many((CONV,), bits)["bops"]
    assert totals.tolist() == [294_912 * 8 * w for w in (2, 4, 8)]


def test_plug_ins_see_as_many_rows_of_weights_as_of_activations():
    class Rows(VectorCostModel):
        units: Mapping[str, str] = {"rows": "1"}

        def layer_costs(self, layer, weight_bits, activation_bits):
            assert weight_bits.shape == (3, 1)
            assert activation_bits.shape == (3,)
            return {"rows": np.ones(3)}

    three, one = np.asarray([[2], [4], [8]]), np.asarray([[8]])
    for weight, activation in ((three, one), (one, three), (three, three)):
        assert (
            Rows().estimate_many((CONV,), {"conv.weight": weight, "conv.input": activation})["rows"].tolist() == [1] * 3
        )


def test_uses_multiply_arithmetic_and_features():
    twice = replace(CONV, uses=2)
    for model in (Bops(), Bismo(), BitFusion(), Roofline()):
        one, two = cost(model, CONV, 8, 8), cost(model, twice, 8, 8)
        for metric in set(one) - {"size"}:
            assert two[metric] == pytest.approx(2 * one[metric])


@pytest.mark.parametrize(
    ("weight", "activation", "message"),
    [
        ([-1] * 32, 8, "within 0..32; got -1"),
        ([33] * 32, 8, "got 33"),
        ([8] * 32, 40, "got 40"),
        ([8] * 5, 8, "32 kernels"),
        ([2.5] * 32, 8, "integers; got float64"),
    ],
)
def test_bits_that_no_layer_can_have(weight, activation, message):
    with pytest.raises(SpaceError, match=message):
        Bismo().layer_cost(CONV, np.asarray(weight), activation)


@pytest.mark.parametrize("name", ["bismo", "bitfusion", "roofline"])
def test_every_number_has_a_unit_and_a_source(name):
    platforms = {
        "bismo": ("pynq-z1", "zynq-7020", "vu9p"),
        "bitfusion": ("edge", "server"),
        "roofline": ("edge", "t4", "a100"),
    }
    for platform in platforms[name]:
        constants = create("cost_models", name, {"platform": platform}).constants
        assert {"bandwidth", "dram"} <= set(constants)
        for constant in constants.values():
            assert constant.value != 0
            assert constant.unit
            assert constant.source[-3:] in ("[V]", "[C]", "[D]", "[M]")


def test_an_option_takes_the_place_of_the_platform_and_says_so():
    model = create("cost_models", "bismo", {"frequency": 1e8, "columns": 16})
    assert model.peak() == 2 * 8 * 256 * 16 * 1e8
    assert model.constants["frequency"].source == "set by an option of the campaign"
    assert model.constants["rows"].source.endswith("[V]")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"platfrom": "vu9p"}, "did you mean 'platform'"),
        ({"platform": "vu9"}, "platform"),
        ({"batch": 0}, "batch"),
        ({"bandwidth": 0}, "bandwidth"),
        ({"frequency": float("inf")}, "frequency"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        create("cost_models", "bismo", options)


def test_a_metric_without_a_unit_is_refused():
    class Broken(VectorCostModel):
        units: Mapping[str, str] = {"latency": "s"}

        def layer_costs(self, layer, weight_bits, activation_bits):
            return {"time": np.ones(len(activation_bits))}

    with pytest.raises(CostModelError, match="'time' has none"):
        Broken().estimate_many((CONV,), {"conv.weight": np.asarray([[8]]), "conv.input": np.asarray([[8]])})
