"""What overlays are charged: by hand, at both ends, and for every cost model in the same way."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from qsearch.assignment import BitAssignment
from qsearch.costs import NetworkCost
from qsearch.errors import ConfigError, SpaceError
from qsearch.layers import Layer
from qsearch.overlay import ALL, PATTERNS, REGULAR, Overlay
from qsearch.overlay_costs import Charge, Choice, OverlayPrices
from qsearch.protocols import CostModel
from qsearch.registry import create
from qsearch.sites import build_space, overlaid

PLAIN = (
    Layer("a", "conv", 16, 16, (3, 3), (1, 1), 1, (8, 8), (8, 8)),
    Layer("depthwise", "conv", 16, 16, (3, 3), (1, 1), 16, (8, 8), (8, 8)),
    Layer("b", "linear", 1024, 10),
)
BLOCKS, POSITIONS, CHANNELS, FREE = range(len(PATTERNS))
OVERLAY = Overlay(32, (0, 1, 2, 4, 8, 16, 32))
BITS = (2, 3, 4, 8)
MODELS = ("size", "memory", "bops", "bismo", "bitfusion", "energy-45nm", "mcu", "reram", "roofline", "tensorcore")
NEUROMORPHIC = "neuromorphic"


def network(name: str, charge: Charge | None = None) -> NetworkCost:
    space = build_space(PLAIN, weight_bits=BITS, activation_bits=[4, 8], overlay=OVERLAY)
    return NetworkCost(create("cost_models", name), overlaid(PLAIN, space, OVERLAY), space, charge or Charge())


def chosen(cost: NetworkCost, weight: int, kept: int, pattern: int = CHANNELS, activation: int = 8) -> BitAssignment:
    value = {"weight": weight, "activation": activation, "overlay": kept, "pattern": pattern}
    return BitAssignment({site.name: value[site.role] for site in cost.space.sites})


def test_size_by_hand() -> None:
    """The conv: 16 kernels of 144, of which 18 are kept; scales of 16 bits for either part, fields of 6 bits."""
    cost = network("size")
    bits = 16 * (1.6 * 144 + 16 + 18 * 8 + 16 + (4 * 16 + 7) + 6)
    found = cost.estimate(chosen(cost, 8, 4))
    assert found.layers["a"]["size"] == pytest.approx(bits / 8)
    blocks = 16 * (1.6 * 144 + 16 + 18 * 8 + 16 + 6) + 4 * (4 * 5 + 4)
    assert cost.estimate(chosen(cost, 8, 4, BLOCKS)).layers["a"]["size"] == pytest.approx(blocks / 8)
    unpacked = network("size", Charge(packed=False)).estimate(chosen(cost, 8, 4)).layers["a"]["size"]
    assert unpacked == pytest.approx((bits + 16 * 0.4 * 144) / 8)


def test_ternary_size_by_hand() -> None:
    cost = network("size")
    for weight in BITS:
        found = cost.estimate(chosen(cost, weight, 0)).layers["a"]["size"]
        assert found == pytest.approx(16 * (1.6 * 144 + 16 + 6) / 8)


def test_storage_of_hardware_that_rounds_bits_by_hand() -> None:
    """A tensor core stores 2 bits as 8. The conv: all of its 16 kernels of 144 once more for an eighth of the weights and of
    the scales, and the index in bits of what is stored, (8·144 + 16) / (8·144) of a bit."""
    cost = network("tensorcore")
    whole = 16 * (8 * 144 + 16 + 6) / 8
    for weight in BITS:
        assert cost.estimate(chosen(cost, weight, 0)).layers["a"]["size"] == pytest.approx(whole)
        found = cost.estimate(chosen(cost, weight, 4)).layers["a"]["size"]
        index = 16 * (4 * 16 + 7) / 8 * (8 * 144 + 16) / (8 * 144)
        assert found == pytest.approx(whole + 18 / 144 * 16 * (8 * 144 + 16) / 8 + index)
        assert cost.estimate(chosen(cost, weight, ALL)).layers["a"]["size"] == pytest.approx(whole)


def test_short_kernels_are_charged_what_they_keep() -> None:
    """Depthwise kernels of 9: of a period of 32 with 4 kept one weight, at one of 9 places; with 2 kept none."""
    cost = network("size")
    one = cost.estimate(chosen(cost, 8, 4)).layers["depthwise"]["size"]
    assert one == pytest.approx(16 * (1.6 * 9 + 16 + 8 + 16 + 4 + 6) / 8)
    none = cost.estimate(chosen(cost, 8, 2)).layers["depthwise"]["size"]
    assert none == cost.estimate(chosen(cost, 8, 0)).layers["depthwise"]["size"]


def test_arithmetic_by_hand() -> None:
    """Bit operations: all of the layer with 2 bits, and its kept share with b."""
    cost = network("bops")
    kept, macs = 18 / 144, 64 * 144 * 16
    assert cost.estimate(chosen(cost, 8, 4)).layers["a"]["bops"] == pytest.approx(macs * 8 * (2 + kept * 8))
    decoded = network("bops", Charge(decode=0.5)).estimate(chosen(cost, 8, 4)).layers["a"]["bops"]
    assert decoded == pytest.approx(macs * 8 * (2 + 1.5 * kept * 8))


@pytest.mark.parametrize("name", MODELS)
def test_both_ends_and_between(name: str) -> None:
    """All kept costs what plain weights do; nothing kept the same at any bits; nothing falls with k, b or the pattern."""
    cost = network(name)
    model = create("cost_models", name)
    storage = {metric for metric, unit in model.units.items() if unit == "byte"}
    for weight in BITS:
        plain = model.estimate(
            PLAIN,
            BitAssignment(
                {
                    s.name: weight if s.role == "weight" else 8
                    for s in cost.space.sites
                    if s.role in ("weight", "activation")
                }
            ),
        )
        for pattern in range(len(PATTERNS)):
            assert cost.estimate(chosen(cost, weight, ALL, pattern)).totals == pytest.approx(plain.totals, rel=1e-12)
    two = cost.estimate(chosen(cost, 2, ALL)).totals
    ternary = cost.estimate(chosen(cost, 8, 0)).totals
    assert {m: v for m, v in ternary.items() if m not in storage} == {m: v for m, v in two.items() if m not in storage}
    assert all(ternary[metric] <= two[metric] for metric in storage)
    for metric in cost.units:
        table = np.asarray(
            [
                [[cost.estimate(chosen(cost, w, k, p)).totals[metric] for k in (0, 1, 2, 4, 8, 16)] for w in BITS]
                for p in range(len(REGULAR))
            ]
        )
        for axis in range(3):
            assert (np.diff(table, axis=axis) >= -1e-12 * table.max()).all(), (metric, axis)


@pytest.mark.parametrize("name", MODELS)
def test_batches_are_the_same_numbers_bit_for_bit(name: str) -> None:
    cost = network(name)
    x = cost.space.sample(np.random.default_rng(0), 64)
    found = cost.estimate_many(x)
    alone = [cost.estimate(cost.space.decode(row)).totals for row in x]
    for metric in cost.units:
        assert found[metric].tolist() == [totals[metric] for totals in alone]


@pytest.mark.parametrize("name", ["size", "memory", "bitfusion"])
def test_floor_and_ceiling_by_brute_force(name: str) -> None:
    space = build_space(PLAIN[:2], weight_bits=(2, 8), activation_bits=[4, 8], overlay=Overlay(32, (0, 4, 16, 32)))
    cost = NetworkCost(create("cost_models", name), overlaid(PLAIN[:2], space, OVERLAY), space)
    every = cost.estimate_many(np.asarray(list(np.ndindex(*space.choice_counts.tolist())), dtype=np.int64))
    for metric in cost.units:
        assert cost.floor(metric) == pytest.approx(every[metric].min())
        assert cost.ceiling(metric) == pytest.approx(every[metric].max())


def test_a_dense_overlay_may_cost_more_than_plain_weights() -> None:
    """1.6 + ½·2 bits and an index against 2: what is charged is what it takes."""
    cost = network("size")
    dense, plain = (cost.estimate(chosen(cost, 2, kept)).totals["size"] for kept in (16, ALL))
    assert dense > plain


def test_layers_that_may_not_be_overlaid_cost_what_they_did() -> None:
    overlay = Overlay(32, (0, 4), layers=("a",))
    space = build_space(PLAIN, weight_bits=BITS, activation_bits=[8], overlay=overlay)
    cost = NetworkCost(create("cost_models", "size"), overlaid(PLAIN, space, overlay), space)
    found = cost.estimate(chosen(cost, 4, 4))
    plain = create("cost_models", "size").layer_cost(PLAIN[2], np.full(10, 4), 8)
    assert found.layers["b"] == plain


def test_an_assignment_that_names_no_overlay_is_plain() -> None:
    cost = network("size")
    bits = {site.name: 8 for site in cost.space.sites if site.role in ("weight", "activation")}
    assert cost.estimate(BitAssignment(bits)).totals == cost.estimate(cost.space.reference(8)).totals


def test_the_greatest_layer_counts_where_a_metric_is_a_maximum() -> None:
    cost = network("memory")
    found = cost.estimate(chosen(cost, 8, 4))
    assert found.totals["peak_memory"] == max(part["peak_memory"] for part in found.layers.values())
    assert found.totals["peak_memory"] == cost.estimate(cost.space.reference(8)).totals["peak_memory"]


class Whole(CostModel):
    units: Mapping[str, str] = {"latency": "s"}
    additive = False

    def layer_cost(self, layer, weight_bits, activation_bits):
        return {"latency": 1.0}


def test_models_that_do_not_add_up_are_refused() -> None:
    space = build_space(PLAIN, weight_bits=BITS, activation_bits=[8], overlay=OVERLAY)
    with pytest.raises(
        ConfigError, match=r"adds up what its layers cost; got Whole, which is not additive; choose another"
    ):
        NetworkCost(Whole(), overlaid(PLAIN, space, OVERLAY), space)
    NetworkCost(Whole(), PLAIN, build_space(PLAIN, weight_bits=BITS, activation_bits=[8]))


def test_integer_programs_are_not_told_that_costs_add_up_over_bits() -> None:
    assert not network("size").additive
    assert NetworkCost(
        create("cost_models", "size"), PLAIN, build_space(PLAIN, weight_bits=BITS, activation_bits=[8])
    ).additive


class Counting(CostModel):
    """Sees only layers without an overlay, and is asked once for what it has said."""

    units: Mapping[str, str] = {"energy": "J"}

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int]] = []

    def layer_cost(self, layer, weight_bits, activation_bits):
        assert layer.overlay == 0, "a cost model knows nothing of overlays"
        self.asked.append((layer.name, int(weight_bits[0]), activation_bits))
        return {"energy": float(weight_bits[0] * activation_bits)}


def test_what_a_model_has_said_is_kept() -> None:
    model = Counting()
    space = build_space(PLAIN, weight_bits=BITS, activation_bits=[4, 8], overlay=OVERLAY)
    cost = NetworkCost(model, overlaid(PLAIN, space, OVERLAY), space)
    x = cost.space.sample(np.random.default_rng(0), 256)
    first = cost.estimate_many(x)["energy"]
    asked = len(model.asked)
    assert np.array_equal(cost.estimate_many(x)["energy"], first)
    assert len(model.asked) == asked


def test_refusals_are_one_line() -> None:
    prices, layer = OverlayPrices(create("cost_models", "size")), overlaid(PLAIN, network("size").space, OVERLAY)[0]
    with pytest.raises(SpaceError, match="layer 'a' has one bitwidth; got bits per kernel"):
        prices.layer(layer, Choice((2, *[4] * 15), 8, 4))
    with pytest.raises(SpaceError, match=r"a pattern is one of 0\.\.3; got 7"):
        prices.layer(layer, Choice(4, 8, 4, 7))
    with pytest.raises(ConfigError, match="finite and at least 0; got -1"):
        Charge(decode=-1.0)
