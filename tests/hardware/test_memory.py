"""Peak memory: hand-computed layers, the contract, and metrics that are the greatest of the layers'."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qsearch.costs import NetworkCost
from qsearch.errors import SpaceError
from qsearch.hardware.memory import Memory
from qsearch.hardware.size import Size
from qsearch.layers import Layer
from qsearch.sites import build_space

STEM = Layer("stem", "conv", 3, 16, (3, 3), (1, 1), 1, (8, 8), (8, 8))  # 192 numbers in, 1,024 out
TWICE = Layer("twice", "conv", 16, 8, (1, 1), (1, 1), 1, (8, 8), (8, 8), uses=2)  # 1,024 in and 512 out, each use
EMBED = Layer("embed", "embedding", 50, 8, input_size=(6,), output_size=(6,))  # 48 out
KEPT = Layer("kept", "conv", 16, 16, (3, 3), (1, 1), 1, (8, 8), (8, 8), alive=500)
LAYERS = (STEM, TWICE, Layer("head", "linear", 300, 10))


@pytest.mark.parametrize(
    ("layer", "activation", "output", "expected"),
    [
        (STEM, 8, 8, 192 + 1024),
        (STEM, 4, 8, 96 + 1024),
        (STEM, 4, 32, 96 + 4096),
        (STEM, 3, 5, 72 + 640),
        (TWICE, 8, 8, 1024 + 512),
        (EMBED, 32, 8, 48),
        (replace(EMBED, alive=10), 32, 8, 48 + 10),
        (KEPT, 8, 8, 1024 + 1024 + 500),
        (KEPT, 2, 4, 256 + 512 + 250),
        (LAYERS[2], 1, 1, 39),  # 310 bits
    ],
)
def test_working_memory_of_a_layer(layer, activation, output, expected):
    model = Memory(Memory.Options(output_bits=output))
    weight = np.full(layer.kernels, 4)
    costs = model.layer_cost(layer, weight, activation)
    assert costs == {"flash": Size().layer_cost(layer, weight, activation)["size"], "peak_memory": expected}


def test_floor_and_ceiling_of_a_greatest_cost_are_met():
    space = build_space(LAYERS, weight_bits=(2, 8), activation_bits=(2, 4, 8))
    cost = NetworkCost(Memory(), LAYERS, space)
    x = np.asarray(list(np.ndindex(*space.choice_counts.tolist())))
    totals = cost.estimate_many(x)
    for metric in ("flash", "peak_memory"):
        assert cost.floor(metric) == totals[metric].min()
        assert cost.ceiling(metric) == totals[metric].max()
    assert totals["peak_memory"].max() == 1024 + 512
    assert totals["peak_memory"].min() == 192 * 2 // 8 + 1024


def test_a_residual_block_peaks_where_its_input_waits():
    """Three maps of 16 × 32 × 32 bytes while the second convolution of a CIFAR ResNet's block runs."""
    first = Layer("conv1", "conv", 16, 16, (3, 3), (1, 1), 1, (32, 32), (32, 32))
    layers = (first, replace(first, name="conv2", alive=16 * 32 * 32))
    space = build_space(layers, weight_bits=(2, 8), activation_bits=(2, 8))
    cost = NetworkCost(Memory(), layers, space)
    assert cost.estimate(space.reference(8)).totals["peak_memory"] == 3 * 16 * 32 * 32
    assert cost.estimate(space.reference(2)).totals["peak_memory"] == (2 + 1 / 4) * 16 * 32 * 32


def test_less_than_nothing_is_not_kept_alive():
    with pytest.raises(SpaceError, match="'stem' runs must be at least 0; got -1"):
        replace(STEM, alive=-1)
