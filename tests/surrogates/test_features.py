"""Features against numbers worked out by hand, and ranges."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qsearch.layers import Layer
from qsearch.surrogates.features import FEATURES, Ranges, features, kind_of

CONV = Layer("conv", "conv", 32, 64, (3, 3), (2, 2), 2, (16, 16), (8, 8), uses=4)
DEPTHWISE = Layer("depthwise", "conv", 64, 64, (3, 3), (1, 1), 64, (8, 8), (8, 8))
SCORES = Layer("scores", "matmul", 32, 128, input_size=(16,), output_size=(16,), uses=4)
HEAD = Layer("head", "linear", 512, 128)
WORDS = Layer("words", "embedding", 1024, 32, input_size=(8,), output_size=(8,))


def test_features_by_hand() -> None:
    """Logarithms, base 2: 8·8 positions used 4 times at 4 bits are 2¹⁰; r = 32/2 · 9 = 144; stride 2·2, 16·16 in."""
    found = features([(CONV, 8, 4), (HEAD, 2, 8)])
    assert found.shape == (2, len(FEATURES))
    assert found[0].tolist() == pytest.approx([10, 6, 7.169925001442312, 3, 2, 3.169925001442312, 2, 1, 8, 0])
    assert found[1].tolist() == pytest.approx([3, 7, 9, 1, 3, 0, 0, 0, 0, 0])


def test_kinds() -> None:
    assert [kind_of(layer) for layer in (CONV, DEPTHWISE, HEAD, WORDS)] == ["conv", "depthwise", "linear", "embedding"]
    assert features([(DEPTHWISE, 2, 2)])[0, -1] != features([(CONV, 2, 2)])[0, -1]


def test_a_product_of_activations_is_next_to_a_linear_layer() -> None:
    """16 positions of 4 heads at 8 bits are 2⁹; nothing but the kind tells it from a layer with weights."""
    assert kind_of(SCORES) == "matmul"
    found, linear = features([(SCORES, 4, 8), (replace(SCORES, kind="linear"), 4, 8)])
    assert found.tolist() == [9, 7, 5, 2, 3, 0, 0, 0, 4, -1]
    assert linear.tolist() == [*found[:-1], 0]


def test_an_embedding_has_no_activation_bits() -> None:
    assert features([(WORDS, 4, 2)]).tolist() == features([(WORDS, 4, 8)]).tolist()


def test_no_points_have_features_too() -> None:
    assert features([]).shape == (0, len(FEATURES))


def test_a_layer_within_the_ranges() -> None:
    between = Layer("between", "linear", 300, 64)
    assert Ranges.of([HEAD, Layer("small", "linear", 256, 10)]).outside(between) == []


def test_how_far_outside() -> None:
    ranges = Ranges.of([HEAD, Layer("small", "linear", 256, 100)])
    large = Layer("large", "linear", 1024, 10)
    assert ranges.outside(large) == [
        "in_channels 1024 is 2 times the largest measured, 512",
        "out_channels 10 is 0.1 times the smallest measured, 100",
    ]
    assert ranges.outside(CONV)[0] == "kind conv was not measured, only linear"
