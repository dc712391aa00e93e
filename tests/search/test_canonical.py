"""What makes the same network: counted by the weights themselves, and by hand where sites are tied or fixed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from qsearch.layers import Layer
from qsearch.overlay import ALL, PATTERNS, Overlay
from qsearch.quantize.overlay import OverlayTable
from qsearch.quantize.weights import WeightTable
from qsearch.search.canonical import canonical
from qsearch.search.grid import everything
from qsearch.sites import build_space, overlaid
from qsearch.space import SearchSpace, Site

BLOCKS, POSITIONS, CHANNELS, FREE = range(len(PATTERNS))

CASES = {
    "kernels of 9 weights": (Layer("l", "conv", 1, 16, (3, 3), (1, 1), 1, (8, 8), (8, 8)), 7),
    "linear": (Layer("l", "linear", 64, 10), 17),
    "one run of three channels": (Layer("l", "conv", 3, 16, (3, 3), (1, 1), 1, (8, 8), (8, 8)), 11),
    "many runs": (Layer("l", "conv", 16, 8, (3, 3), (1, 1), 1, (8, 8), (8, 8)), 25),
    "pointwise": (Layer("l", "conv", 64, 8, (1, 1), (1, 1), 1, (8, 8), (8, 8)), 17),
}
"""A layer, and the networks that P = 32, k of 0, 1, 2, 4 and 8, three patterns, and 4 or 8 bits make of it."""


def only(layer: Layer, overlay: Overlay) -> tuple[SearchSpace, Sequence[Layer]]:
    """The space of one layer, whose input is fixed."""
    space = build_space([layer], weight_bits=[4, 8], activation_bits=[8], fixed={"activations": 8}, overlay=overlay)
    return space, overlaid([layer], space, overlay)


@pytest.mark.parametrize("case", CASES)
def test_what_is_left_are_the_networks_that_differ(case: str) -> None:
    """Each is the same as what it stands for, and none is the same as another."""
    layer, expected = CASES[case]
    shape = (layer.kernels, layer.in_channels, *layer.kernel)
    table = OverlayTable(WeightTable("l", torch.randn(shape, generator=torch.Generator().manual_seed(0))), 32)
    space, layers = only(layer, Overlay())

    def network(x: np.ndarray) -> bytes:
        chosen = space.decode(x)
        found = table.overlaid(chosen["l.weight"], chosen["l.overlay"], chosen["l.pattern"])
        return found.values.numpy().tobytes()

    stands_for = [(x, canonical(space, layers, x)) for x in everything(space)]
    assert all(network(x) == network(y) for x, y in stands_for)
    assert all((y <= x).all() for x, y in stands_for)
    kept = {y.tobytes(): y for _, y in stands_for}
    assert len(kept) == len({network(y) for y in kept.values()}) == expected
    assert all(np.array_equal(canonical(space, layers, y), y) for y in kept.values())


def test_patterns_that_are_not_offered_stand_for_none() -> None:
    space, layers = only(CASES["linear"][0], Overlay(32, (0, 2, 32), ("blocks", "channels")))
    x = space.encode(space.decode(np.asarray([1, 1, 1])))
    assert canonical(space, layers, x).tolist() == [1, 1, 1]
    assert canonical(space, layers, np.asarray([1, 2, 1])).tolist() == [1, 2, 0]


TIED = (
    Site("a.weight", "a", "weight", (3, 4)),
    Site("a.overlay", "a", "overlay", (0, 1, 4)),
    Site("a.pattern", "a", "pattern", (BLOCKS, POSITIONS, CHANNELS)),
    Site("b.weight", "b", "weight", (3, 4)),
)
LAYERS = (Layer("a", "linear", 64, 8, overlay=32), Layer("b", "linear", 64, 8))
SHORT = (Layer("a", "linear", 9, 8, overlay=32), Layer("b", "linear", 64, 8))


def test_a_tied_weight_is_not_lowered_for_an_overlay_that_keeps_nothing() -> None:
    """Its other site may not be overlaid so."""
    space = SearchSpace(TIED, ties=(("a.weight", "b.weight"),))
    x = np.asarray([1, 0, 2])
    assert canonical(space, LAYERS, x).tolist() == [1, 0, 0]
    assert x.tolist() == [1, 0, 2], "what is given is left as it is"


def test_a_tied_overlay_is_not_lowered() -> None:
    """One of 32 is none of 9, and one of 32 in the other layer; patterns and bits are the layer's own."""
    other = Site("b.overlay", "b", "overlay", (0, 1, 4))
    space = SearchSpace((*TIED, other), ties=(("a.overlay", "b.overlay"),))
    assert [variable.name for variable in space.variables] == ["a.weight", "a.overlay", "a.pattern", "b.weight"]
    assert canonical(space, SHORT, np.asarray([1, 1, 2, 1])).tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(("kept", "expected"), [(0, [0, 0]), (4, [1, 1]), (ALL, [1, 0])])
def test_a_fixed_overlay_counts_too(kept: int, expected: list[int]) -> None:
    space = SearchSpace(TIED[:3], fixed={"a.overlay": kept})
    assert canonical(space, LAYERS[:1], np.asarray([1, 2])).tolist() == expected


def test_layers_without_an_overlay_are_left_alone() -> None:
    space = build_space([LAYERS[1]], weight_bits=[3, 4], activation_bits=[8])
    assert canonical(space, LAYERS[1:], space.highest).tolist() == space.highest.tolist()
