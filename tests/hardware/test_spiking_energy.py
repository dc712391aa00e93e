"""``neuromorphic`` on measured spikes: synaptic operations by looping over events, layers by hand, phases and schemes."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsearch.errors import ConfigError
from qsearch.hardware import energy45nm
from qsearch.hardware.neuromorphic import Neuromorphic
from qsearch.hardware.reram import ReRam
from qsearch.layers import Layer
from qsearch.registry import create
from qsearch.sites import build_space

T = 5
CONV = Layer("conv", "conv", 2, 6, (3, 3), (1, 1), 1, (8, 8), (8, 8), uses=T, events=130.0)  # 108 weights, 128 inputs
FIRE = Layer("lif", "neuron", 6, 6, input_size=(8, 8), output_size=(8, 8), uses=T, constants=6, events=40.0)
LEVEL = Layer(
    "lif.threshold", "threshold", 6, 6, input_size=(8, 8), output_size=(8, 8), uses=T, constants=6, events=40.0
)
HEAD = Layer("head", "linear", 384, 10, uses=T, events=40.0)
VOLTAGE = Layer("out", "neuron", 10, 10, uses=T)
NETWORK = (CONV, FIRE, LEVEL, HEAD, VOLTAGE)
SRAM = energy45nm.sram_energy(2**18)


def cost(layer, weight, activation=1, **options):
    model = Neuromorphic(Neuromorphic.Options(**options))
    return model.layer_cost(layer, np.broadcast_to(weight, (layer.kernels,)), activation)


def multiply(w, a):
    return (0.00299479 * w * a + 0.00104167 * (w + a) / 2) * 1e-12


def add(b):
    return 0.003125e-12 * b


def operations_of(layer, spikes, padding):
    """Synaptic operations of a spike tensor (T, c_in, *extents), event by event: how many outputs each of them reaches."""
    total = 0
    per_group = layer.out_channels // layer.groups
    for event in np.argwhere(spikes):
        reach = per_group
        for place, extent, stride, outputs in zip(
            event[2:], layer.kernel, layer.stride, layer.output_size, strict=True
        ):
            reach *= sum(0 <= place + padding - o * stride < extent for o in range(outputs))
        total += reach * int(spikes[tuple(event)])
    return total


GEOMETRIES = [  # c_in, c_out, kernel, stride, padding, groups, size
    (2, 6, 3, 1, 1, 1, 8),
    (2, 4, 3, 2, 1, 1, 8),
    (4, 4, 3, 1, 1, 4, 5),
    (4, 6, 2, 2, 0, 2, 6),
    (3, 5, 5, 1, 2, 1, 7),
    (2, 3, 3, 1, 0, 1, 9),
    (2, 16, 5, 2, 1, 1, 34),
    (1, 2, 3, 2, 1, 1, 9),
]


def geometry(c_in, c_out, kernel, stride, padding, groups, size):
    out = (size + 2 * padding - kernel) // stride + 1
    return Layer("c", "conv", c_in, c_out, (kernel,) * 2, (stride,) * 2, groups, (size,) * 2, (out,) * 2, uses=3)


@pytest.mark.parametrize("given", GEOMETRIES)
def test_a_loop_over_events_finds_as_many_operations(given):
    """A spike, or two, at every input: exact without padding; with it, products in the padding are counted on top."""
    layer = geometry(*given)
    spikes = np.full((3, given[0], given[6], given[6]), 2)
    found = cost(replace(layer, events=float(spikes.sum())), 4)["synaptic_operations"]
    counted = operations_of(layer, spikes, given[4])
    padded = operations_of(layer, np.pad(spikes, ((0, 0), (0, 0), *[(given[4],) * 2] * 2), constant_values=2), 0)
    assert found == pytest.approx(padded if given[4] else counted, rel=1e-12)
    assert counted <= found


@pytest.mark.parametrize("given", [geometry for geometry in GEOMETRIES if geometry[4] == 0])
def test_spikes_anywhere_reach_as_many_on_average(given):
    """Spikes that fall anywhere alike: the mean of the loops over 200 tensors, within 4 standard errors."""
    layer = geometry(*given)
    rng = np.random.default_rng(0)
    tensors = [rng.random((3, given[0], given[6], given[6])) < 0.03 for _ in range(200)]
    counted = np.array([operations_of(layer, spikes, 0) for spikes in tensors], dtype=float)
    found = np.array([cost(replace(layer, events=float(spikes.sum())), 4)["synaptic_operations"] for spikes in tensors])
    error = np.std(counted - found) / math.sqrt(len(tensors))
    assert abs(np.mean(counted - found)) <= 4 * error + 1e-9


def test_spikes_in_the_middle_of_a_map_are_exact():
    """None of them is near a border: each reaches 3 · 3 outputs of 6 channels."""
    spikes = np.zeros((T, 2, 8, 8), dtype=int)
    spikes[:, :, 1:7, 1:7] = np.random.default_rng(3).integers(0, 3, (T, 2, 6, 6))
    found = cost(replace(CONV, events=float(spikes.sum())), 4)["synaptic_operations"]
    assert found == operations_of(CONV, spikes, 1) == spikes.sum() * 54


@pytest.mark.parametrize("density", [1.0, 0.25])
def test_a_linear_layer_is_exact_for_any_spikes(density):
    spikes = np.random.default_rng(1).integers(0, 3, (T, 384))
    found = cost(replace(HEAD, events=float(spikes.sum())), 4, density=density)
    assert found["synaptic_operations"] == pytest.approx(density * spikes.sum() * 10, rel=1e-12)


def test_a_convolution_in_time_and_without_overlap_is_exact_for_any_spikes():
    layer = Layer("c", "conv", 3, 4, (2, 2, 2), (2, 2, 2), 1, (2, 6, 6), (1, 3, 3), events=77.0)
    spikes = np.random.default_rng(2).integers(0, 2, (1, 3, 2, 6, 6))
    found = cost(replace(layer, events=float(spikes.sum())), 4)["synaptic_operations"]
    assert found == pytest.approx(operations_of(layer, spikes, 0)) == pytest.approx(spikes.sum() * 4)


def test_measured_spikes_take_the_place_of_the_rate():
    """As many spikes as the rate says: the same operations, from a layer that is used once a step."""
    guessed = Layer("fc", "linear", 40, 24)
    measured = replace(guessed, uses=20, events=0.1 * 20 * 40)
    assert cost(measured, 4)["synaptic_operations"] == pytest.approx(cost(guessed, 4)["synaptic_operations"])
    for options in ({"rate": 0.9}, {"steps": 77}):
        assert cost(measured, 4, **options) == cost(measured, 4)
    silent = cost(replace(measured, events=0.0), 4)
    assert silent["synaptic_operations"] == silent["energy"] == silent["memory_traffic"] == 0.0
    assert silent["size"] == 40 * 24 * 4 / 8


def test_a_layer_by_hand():
    """130 spikes on 128 inputs, which reach 54 outputs each; addresses have 7 bits."""
    found = cost(CONV, 4, batch=3)
    operations = 3 * 130 * 54
    traffic = 4 * operations + 3 * 130 * 7
    assert found["synaptic_operations"] == pytest.approx(operations, rel=1e-12)
    assert found["memory_traffic"] == pytest.approx(traffic, rel=1e-12)
    assert found["energy"] == pytest.approx(operations * 23.6e-12 * 4 / 8 + traffic * SRAM, rel=1e-12)
    assert found["size"] == found["memory"] == 108 * 4 / 8


def test_neurons_by_hand():
    """384 states of 10 bits, read and written 5 times, 6 leaks of 4 bits read 5 times, 40 addresses of 9 bits."""
    found = cost(FIRE, 4, 10)
    traffic = 2 * T * 384 * 10 + T * 6 * 4 + 40 * 9
    assert found["memory_traffic"] == traffic
    assert found["energy"] == pytest.approx(T * 384 * (multiply(4, 10) + add(10)) + traffic * SRAM, rel=1e-9)
    assert (found["synaptic_operations"], found["size"], found["memory"]) == (0.0, 3.0, 3 + 384 * 10 / 8)


def test_thresholds_by_hand():
    found = cost(LEVEL, 6, 32)
    assert found["memory_traffic"] == T * 6 * 6
    assert found["energy"] == pytest.approx(T * 384 * add(6) + T * 36 * SRAM, rel=1e-12)
    assert found["size"] == found["memory"] == 36 / 8


def test_neurons_that_forget_nothing_store_nothing():
    found = cost(VOLTAGE, 1, 12)
    assert found["memory_traffic"] == 2 * T * 10 * 12
    assert found["energy"] == pytest.approx(T * 10 * add(12) + 2 * T * 10 * 12 * SRAM, rel=1e-12)
    assert (found["size"], found["memory"]) == (0.0, 15.0)


def test_per_event_charges_states_where_spikes_arrive():
    """In either way of updating once: at each step in the neurons, or at each operation in the layer before them."""
    stepped, event = ({"update": update, "state_bits": 12} for update in ("per-step", "per-event"))
    layer = {name: cost(CONV, 4, **options) for name, options in (("step", stepped), ("event", event))}
    more = layer["event"]["memory_traffic"] - layer["step"]["memory_traffic"]
    assert more == pytest.approx(2 * 12 * layer["step"]["synaptic_operations"], rel=1e-12)
    neurons = [cost(FIRE, 4, 10, **options)["memory_traffic"] for options in (stepped, event)]
    assert neurons[0] - neurons[1] == 2 * T * 384 * 10
    guessed = replace(CONV, events=None, uses=1)
    assert cost(guessed, 4, **stepped) == cost(guessed, 4, **event)
    assert cost(replace(guessed, uses=T), 4, **stepped) != cost(replace(guessed, uses=T), 4, **event)


def test_memory_within_the_figure_holds_the_states_too():
    found = cost(FIRE, 4, 10, memory_within=True)
    assert found["energy"] == pytest.approx(T * 384 * (multiply(4, 10) + add(10)), rel=1e-9)
    assert found["memory_traffic"] > 0


class TestFirst:
    """A layer that reads numbers in a network of 5 steps: 320 positions, 108 weights, 128 numbers."""

    LAYER = replace(CONV, events=None)

    def test_digital(self):
        macs = T * 64 * 108
        traffic = macs * 4 + 2 * T * 128 * 8
        found = cost(self.LAYER, 4, 8, first="digital")
        assert found["energy"] == pytest.approx(macs * (multiply(4, 8) + add(32)) + traffic * SRAM, rel=1e-9)
        assert found["memory_traffic"] == traffic
        assert found["synaptic_operations"] == 0.0
        assert found["size"] == 54.0

    def test_in_memory_is_what_crossbars_take(self):
        crossbars = ReRam().layer_cost(self.LAYER, np.full(6, 4), 8)
        found = cost(self.LAYER, 4, 8, first="in-memory")
        moved = 2 * T * 128 * 8
        assert found["energy"] == pytest.approx(crossbars["energy"] + moved * SRAM, rel=1e-12)
        assert found["memory_traffic"] == moved
        assert found["size"] == crossbars["cells"] * 2 / 8 == 108 * 4 / 8

    def test_in_memory_by_hand(self):
        """18 rows; 6 kernels of 2 cells a weight; 8 steps of an input: E = 18·E_dac·8 + 216·8·E_cell + 12·8·(E_adc + E_sh)."""
        adc, shift = 16e-3 / 8 / 1.28e9, 0.2e-3 / 8 / 1.28e9
        dac, cell = 4e-3 * 1e-7 / 1024, 2.4e-3 * 1e-7 / 8 / 128**2
        once = 64 * 8 * (18 * dac + 216 * cell + 12 * (adc + shift))
        found = cost(self.LAYER, 4, 8, first="in-memory", cached=True)
        assert found["energy"] == pytest.approx(once + 2 * 128 * 8 * SRAM, rel=1e-9)

    @pytest.mark.parametrize("first", ["digital", "in-memory"])
    def test_a_cached_output_is_computed_once(self, first):
        each, once = (cost(self.LAYER, 4, 8, first=first, cached=cached) for cached in (False, True))
        assert each["energy"] == pytest.approx(T * once["energy"], rel=1e-12)
        assert each["size"] == once["size"]

    @pytest.mark.parametrize("first", ["digital", "in-memory"])
    def test_what_reads_spikes_stays(self, first):
        for layer, bits in ((CONV, 1), (FIRE, 10), (HEAD, 1)):
            assert cost(layer, 4, bits, first=first) == cost(layer, 4, bits)

    def test_numbers_taken_for_spikes_are_told_once(self, caplog):
        layers = (self.LAYER, FIRE, LEVEL)
        assignment = build_space(layers, weight_bits=(4,), activation_bits=(8,)).reference(8)
        with caplog.at_level(logging.WARNING):
            for first in ("digital", "in-memory"):
                create("cost_models", "neuromorphic", {"first": first}).estimate(layers, assignment)
            create("cost_models", "neuromorphic").estimate((self.LAYER,), assignment)
            assert not caplog.records
            model = create("cost_models", "neuromorphic")
            model.estimate(layers, assignment)
            model.estimate(layers, assignment)
        assert len(caplog.records) == 1
        assert "input of conv for spikes" in caplog.text

    def test_uses_are_steps_and_are_not_multiplied_again(self):
        """Numbers that are taken for spikes at 0.1 a step, of 5, cost what 0.1 · 5 · 128 measured spikes do, but addresses."""
        measured = cost(replace(self.LAYER, events=0.1 * T * 128), 4)
        found = cost(self.LAYER, 4)
        assert found["synaptic_operations"] == pytest.approx(0.1 * T * 64 * 108)
        assert found["synaptic_operations"] == pytest.approx(measured["synaptic_operations"])
        learning = {"learning": "backward-update"}
        added = [
            cost(layer, 4, **learning)["memory_traffic"] - cost(layer, 4)["memory_traffic"]
            for layer in (CONV, self.LAYER)
        ]
        assert added[1] == pytest.approx(added[0])

    def test_a_module_that_is_run_twice_in_each_step_is_told_by_steps(self):
        once, twice = (cost(replace(self.LAYER, uses=uses), 4, steps=20) for uses in (1, 2))
        assert twice["synaptic_operations"] == pytest.approx(2 * once["synaptic_operations"])
        assert once == cost(replace(self.LAYER, uses=1), 4)

    @pytest.mark.parametrize(("uses", "steps"), [(T, 20), (1, None)])
    def test_steps_that_would_multiply_steps_are_refused(self, uses, steps):
        layers = (replace(self.LAYER, uses=uses), *(replace(layer, uses=uses) for layer in (FIRE, LEVEL)))
        space = build_space(layers, weight_bits=(4,), activation_bits=(8,))
        model = Neuromorphic(Neuromorphic.Options(steps=steps))
        for estimated in (
            lambda model: model.estimate(layers, space.decode(space.lowest)).totals,
            lambda model: model.estimate_many(layers, space.bits(space.lowest[None])),
        ):
            with pytest.raises(ConfigError, match=f"layer 'conv', uses: {uses}, steps: 20; set first: digital"):
                estimated(model)
            for options in ({"first": "digital", "steps": steps}, {"steps": 1}):
                found = estimated(Neuromorphic(Neuromorphic.Options(**options)))
                assert np.isfinite(found["energy"])


class TestLearning:
    """Errors of 8 bits at a half of 10 outputs, 5 steps; 384 · 10 weights of 4 bits, of which a quarter are not zero."""

    OPTIONS = {"density": 0.25, "errors": 0.5}  # noqa: RUF012
    DATA, BITMAP, CSR = 960 * 4, 3840 + 384 * 12, 960 * 4 + 385 * 10

    @pytest.mark.parametrize(
        ("scheme", "backward", "update"),
        [
            ("crossbar", 0.5 * 4 * DATA, 2 * 0.5 * 4 * DATA),
            ("bitmap", BITMAP + 0.5 * DATA, BITMAP + 2 * 0.5 * DATA),
            ("csr", CSR + DATA, CSR + 2 * 0.5 * DATA),
            ("functional", 0.5 * DATA, 2 * 0.5 * 4 * DATA),
        ],
    )
    def test_phases_by_hand(self, scheme, backward, update):
        forward = cost(HEAD, 4, scheme=scheme, **self.OPTIONS)
        found = cost(HEAD, 4, scheme=scheme, learning="backward-update", **self.OPTIONS)
        traffic = T * (backward + update + 2 * 0.5 * 10 * 8)
        macs = 2 * T * 0.5 * 960
        assert found["memory_traffic"] - forward["memory_traffic"] == pytest.approx(traffic, rel=1e-9)
        energy = macs * (multiply(4, 8) + add(32)) + traffic * SRAM
        assert found["energy"] - forward["energy"] == pytest.approx(energy, rel=1e-9)
        assert found["memory"] - forward["memory"] == 10 * 8 / 8
        assert found["size"] == forward["size"]
        assert found["synaptic_operations"] == forward["synaptic_operations"]

    def test_csr_is_scanned_for_a_single_error(self):
        """A column of a crossbar is there for few errors; CSR pays for all of its weights."""
        few = {"learning": "backward-update", "errors": 0.0}
        crossbar, csr = (cost(HEAD, 4, scheme=scheme, **few) for scheme in ("crossbar", "csr"))
        forward = [cost(HEAD, 4, scheme=scheme) for scheme in ("crossbar", "csr")]
        assert crossbar["memory_traffic"] == pytest.approx(forward[0]["memory_traffic"])
        structure = 8 * forward[1]["size"]
        assert csr["memory_traffic"] - forward[1]["memory_traffic"] == pytest.approx(
            T * (structure + structure - 3840 * 4)
        )

    def test_functional_encoding_of_a_convolution_learns_with_less(self):
        """§8c: published −58 % of the energy of backward and update against indices; shared weights are few to change."""
        dense = {"learning": "backward-update"}
        added = {}
        for scheme in ("functional", "bitmap", "csr", "crossbar"):
            with_it, without = (cost(CONV, 4, scheme=scheme, **options) for options in (dense, {}))
            added[scheme] = with_it["energy"] - without["energy"]
        assert added["functional"] < 0.6 * min(added["bitmap"], added["csr"])
        assert added["crossbar"] > added["functional"]

    def test_neurons_embeddings_and_products_do_not_learn(self):
        embedding = Layer("e", "embedding", 10, 4, input_size=(3,), output_size=(3,))
        product = Layer("p", "matmul", 4, 4, input_size=(3,), output_size=(3,))
        for layer in (FIRE, LEVEL, VOLTAGE, embedding, product):
            assert cost(layer, 4, 8, learning="backward-update") == cost(layer, 4, 8)


@settings(max_examples=40, deadline=None)
@given(
    scheme=st.sampled_from(["crossbar", "bitmap", "csr", "functional"]),
    update=st.sampled_from(["per-step", "per-event"]),
    learning=st.sampled_from(["none", "backward-update"]),
    events=st.tuples(st.floats(0, 640), st.floats(0, 640)),
    bits=st.tuples(st.integers(1, 8), st.integers(2, 16)),
)
def test_more_spikes_are_never_cheaper(scheme, update, learning, events, bits):
    options = {"scheme": scheme, "update": update, "learning": learning}
    few, many = (
        {layer.name: cost(replace(layer, events=number), bits[0], bits[1], **options) for layer in (CONV, FIRE, HEAD)}
        for number in sorted(events)
    )
    for name, found in few.items():
        for metric, value in found.items():
            assert many[name][metric] >= value * (1 - 1e-12), (name, metric)


@pytest.mark.parametrize("scheme", ["crossbar", "bitmap", "csr", "functional"])
def test_a_network_is_the_sum_of_its_layers(scheme):
    model = Neuromorphic(Neuromorphic.Options(scheme=scheme, learning="backward-update"))
    space = build_space(NETWORK, weight_bits=(2, 4, 8), activation_bits=(8,), state_bits=(8, 12, 16))
    x = space.sample(np.random.default_rng(0), 6)
    totals = model.estimate_many(NETWORK, space.bits(x))
    for row, one in enumerate(x):
        assignment = space.decode(one)
        found = model.estimate(NETWORK, assignment)
        assert found.totals == {metric: values[row] for metric, values in totals.items()}
        for metric, total in found.totals.items():
            assert total == pytest.approx(sum(part[metric] for part in found.layers.values()), rel=1e-12)


def test_states_are_most_of_the_memory_of_a_small_network():
    """108 + 3,840 weights, 394 states, 12 constants: what the search sees to make smaller."""
    space = build_space(NETWORK, weight_bits=(2,), activation_bits=(8,), state_bits=(16,), leak_bits=(4,))
    found = Neuromorphic().estimate(NETWORK, space.decode(space.lowest)).totals
    assert found["memory"] == (3948 * 2 + 394 * 16 + 6 * 4 + 6 * 2) / 8
    assert found["size"] == (3948 * 2 + 6 * 4 + 6 * 2) / 8


def test_a_definition_says_how_spikes_and_neurons_are_counted():
    options = {"update": "per-event", "first": "in-memory", "learning": "backward-update", "scheme": "csr"}
    said = Neuromorphic(Neuromorphic.Options(**options)).definitions
    for words in (
        "csr",
        "spikes as measured, else at a rate of 0.1",
        "states per-event",
        "ISAAC's cells",
        "with learning",
    ):
        assert words in said["energy"]
    assert (
        said["memory"]
        == "the structure that holds the weights, csr, other inputs' in ISAAC's cells, and constants of neurons, and their"
        " states, and errors of 8 bits"
    )


_ONES = {"first": "digital", "learning": "backward-update", "update": "per-event"}


@pytest.mark.parametrize(
    "other",
    [
        {"scheme": "csr"},
        {"density": 0.5},
        {"cached": True},
        {"memory": 2**20},
        {"rate": 0.2},
        {"steps": 7},
        {"batch": 2},
        {"state_bits": 8},
        {"errors": 0.5},
        {"error_bits": 4},
        *({name: value} for name, value in {"first": "in-memory", "learning": "none", "update": "per-step"}.items()),
    ],
)
def test_energies_that_count_otherwise_are_defined_otherwise(other):
    layers = (*NETWORK, replace(CONV, name="numbers", events=None), Layer("product", "matmul", 4, 4, uses=2))
    one, two = (Neuromorphic(Neuromorphic.Options(**{**_ONES, **options})) for options in ({}, other))
    space = build_space(layers, weight_bits=(4,), activation_bits=(8,))
    found = [model.estimate(layers, space.decode(space.lowest)).totals for model in (one, two)]
    assert found[0]["energy"] != found[1]["energy"]
    for metric, words in one.definitions.items():
        if found[0][metric] != found[1][metric]:
            assert words != two.definitions[metric], metric


def test_every_number_has_a_unit_and_a_source():
    model = Neuromorphic(Neuromorphic.Options(first="in-memory", learning="backward-update"))
    assert "first.adc_energy" in model.constants
    for constant in model.constants.values():
        assert constant.unit
        assert constant.source[-3:] in ("[V]", "[C]", "[D]", "[M]")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update": "sometimes"}, "update"),
        ({"first": "analog"}, "first"),
        ({"errors": 2}, "errors"),
        ({"phase": 1}, "phase"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        create("cost_models", "neuromorphic", options)
