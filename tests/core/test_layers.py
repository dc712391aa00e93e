"""Hand-computed geometries."""

from __future__ import annotations

import pytest

from qsearch.errors import SpaceError
from qsearch.layers import Layer

# layer; params, MACs, kernels, weights per kernel, input and output elements, positions
CASES = {
    # 3·3·3·16 = 432 weights at 32·32 positions
    "conv2d": (
        Layer("l", "conv", 3, 16, (3, 3), (1, 1), 1, (32, 32), (32, 32)),
        (432, 442_368, 16, 27, 3072, 16_384, 1024),
    ),
    # AlexNet's first layer: 11·11·3·64 = 23,232 weights at 55·55 positions
    "strided": (
        Layer("l", "conv", 3, 64, (11, 11), (4, 4), 1, (224, 224), (55, 55)),
        (23_232, 70_276_800, 64, 363, 150_528, 193_600, 3025),
    ),
    "depthwise": (
        Layer("l", "conv", 32, 32, (3, 3), (2, 2), 32, (10, 12), (5, 6)),
        (288, 8640, 32, 9, 3840, 960, 30),
    ),
    # each of 12 kernels sees 20/4 = 5 channels
    "grouped": (
        Layer("l", "conv", 20, 12, (3, 1), (1, 1), 4, (6, 5), (4, 5)),
        (180, 3600, 12, 15, 600, 240, 20),
    ),
    "conv1d": (Layer("l", "conv", 4, 8, (5,), (2,), 1, (20,), (8,)), (160, 1280, 8, 20, 80, 64, 8)),
    "conv3d": (
        Layer("l", "conv", 2, 6, (3, 3, 3), (1, 1, 1), 1, (4, 5, 6), (2, 3, 4)),
        (324, 7776, 6, 54, 240, 144, 24),
    ),
    "linear": (Layer("l", "linear", 64, 10), (640, 640, 10, 64, 64, 10, 1)),
    "tokens": (
        Layer("l", "linear", 40, 24, input_size=(7,), output_size=(7,)),
        (960, 6720, 24, 40, 280, 168, 7),
    ),
    "reused": (
        Layer("l", "linear", 40, 24, input_size=(7,), output_size=(7,), uses=3),
        (960, 20_160, 24, 40, 840, 504, 7),
    ),
    # Q·Kᵀ of 3 heads on 7 tokens: (7, 12)·(12, 7) each, 84 numbers of K a head
    "matmul": (
        Layer("l", "matmul", 12, 7, input_size=(7,), output_size=(7,), uses=3),
        (84, 1764, 7, 12, 252, 147, 7),
    ),
    # a table of 1000 rows of 16 numbers; 5 indices are read, 5 rows come out, nothing is multiplied
    "embedding": (
        Layer("l", "embedding", 1000, 16, input_size=(5,), output_size=(5,)),
        (16_000, 0, 1000, 16, 5, 80, 5),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_by_hand(name):
    layer, expected = CASES[name]
    assert (
        layer.params,
        layer.macs,
        layer.kernels,
        layer.kernel_params,
        layer.input_elements,
        layer.output_elements,
        layer.positions,
    ) == expected
    assert layer.kernels * layer.kernel_params == layer.params


def test_only_one_channel_per_group_is_depthwise():
    assert {name for name, (layer, _) in CASES.items() if layer.depthwise} == {"depthwise"}
    assert not Layer("l", "conv", 1, 4, (3,), (1,), 1, (4,), (4,)).depthwise
    assert Layer("l", "conv", 4, 8, (3,), (1,), 4, (4,), (4,)).depthwise


def test_site_names():
    layer = Layer("layer1.0.conv1", "linear", 2, 2)
    assert (layer.weight_site, layer.activation_site) == ("layer1.0.conv1.weight", "layer1.0.conv1.input")


def test_a_product_of_activations_has_an_other_operand_and_stores_nothing():
    layer = CASES["matmul"][0]
    assert (layer.weight_site, layer.activation_site) == ("l.other", "l.input")
    assert layer.stored_params == 0
    assert all(found.stored_params == found.params for name, (found, _) in CASES.items() if name != "matmul")


@pytest.mark.parametrize(
    "options",
    [
        {"in_channels": 0},
        {"out_channels": -1},
        {"groups": 0},
        {"uses": 0},
        {"kernel": (3, 0)},
        {"input_size": (0,)},
        {"output_size": (4, 0)},
    ],
)
def test_extents_are_at_least_one(options):
    with pytest.raises(SpaceError, match="every extent of layer 'l' must be at least 1"):
        Layer(**{"name": "l", "kind": "conv", "in_channels": 4, "out_channels": 4, **options})


@pytest.mark.parametrize(("c_in", "c_out", "groups"), [(5, 4, 2), (4, 5, 2), (4, 4, 3)])
def test_groups_divide_the_channels(c_in, c_out, groups):
    with pytest.raises(SpaceError, match="groups of layer 'l' must divide its channels"):
        Layer("l", "conv", c_in, c_out, (1,), (1,), groups)
