"""A cost model in the place of a target, on a spiking network: at which bits it is asked, and what it is asked for."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from qsearch import registry
from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.costs import NetworkCost
from qsearch.layers import Layer
from qsearch.protocols import CostModel
from qsearch.sites import STATE_BITS, build_space
from qsearch.target_plugin import ModelTarget
from qsearch.trial import Cost

CONV = Layer("conv", "conv", 1, 4, (3, 3), (1, 1), 1, (6, 6), (4, 4), uses=4)
FC = Layer("fc", "linear", 6, 2, uses=4, events=9.0)
LIF = Layer("lif", "neuron", 2, 2, uses=4, constants=1, events=3.0)
LEVEL = Layer("lif.threshold", "threshold", 2, 2, uses=4, constants=1, events=3.0)
OUT = Layer("out", "neuron", 2, 2, uses=4)
NETWORK = (CONV, FC, LIF, LEVEL, OUT)


class Asked(CostModel):
    """Remembers the sites that it was asked for."""

    units: Mapping[str, str] = {"size": "byte"}

    def __init__(self) -> None:
        self.sites: list[set[str]] = []

    def estimate(self, layers: Sequence[Layer], assignment: BitAssignment) -> Cost:
        self.sites.append(set(assignment))
        return Cost({"size": 1.0}, {"size": "byte"}, {})


def test_a_layer_is_asked_for_at_the_bits_that_it_may_have() -> None:
    target = ModelTarget(Asked(), {})
    pairs = {layer.name: target.precisions(layer) for layer in NETWORK}
    usual = {*range(1, 9), 10, 12, 16, FLOAT_BITS}
    weights, inputs = ({name: {pair[place] for pair in found} for name, found in pairs.items()} for place in range(2))
    assert weights == {"conv": usual, "fc": usual, "lif": usual, "lif.threshold": usual, "out": {1}}
    assert inputs == {"conv": usual, "fc": {1}, "lif": usual, "lif.threshold": {FLOAT_BITS}, "out": usual}
    assert usual >= set(STATE_BITS)
    assert all(len(found) == len(weights[name]) * len(inputs[name]) for name, found in pairs.items())


def test_only_sites_that_there_are_have_bits() -> None:
    model = Asked()
    space = build_space(NETWORK, weight_bits=(8,), activation_bits=(8,))
    for layer in NETWORK:
        ModelTarget(model, {}).measure(layer, 8, 8)
    assert model.sites == [{site.name for site in space.sites if site.layer == layer.name} for layer in NETWORK]


def test_relative_budgets_on_a_table_of_what_the_network_can_have(tmp_path: Path) -> None:
    """Latency of w · a µs for each pair of the space and of uniform 8 bits: a leak of one has no row but that at 1 bit."""
    bits = {
        "conv": [(w, 8) for w in (2, 8)],
        "fc": [(w, 1) for w in (2, 8)],
        "lif": [(w, a) for w in (1, 2, 8) for a in (4, 8)],
        "lif.threshold": [(w, FLOAT_BITS) for w in (2, 8)],
        "out": [(1, a) for a in (4, 8)],
    }
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["layer", "weight_bits", "activation_bits", "latency [s]"])
        writer.writerows([name, w, a, w * a * 1e-6] for name, pairs in bits.items() for w, a in pairs)
    space = build_space(
        NETWORK, weight_bits=(2, 8), activation_bits=(8,), state_bits=(4, 8), leak_bits=(1, 2, 8), threshold_bits=(2, 8)
    )
    cost = NetworkCost(registry.create("cost_models", "lut", {"path": tmp_path / "t.csv"}), NETWORK, space)
    expected = 64 + 8 + 64 + 8 * FLOAT_BITS + 8
    assert cost.estimate(space.reference(8)).totals["latency"] == pytest.approx(expected * 1e-6)
    assert (space.reference(8)["out.leak"], space.reference(8)["lif.leak"]) == (1, 8)
