"""``Tabulated`` against a loop over kernels and assignments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsearch.errors import SpaceError
from qsearch.hardware.tabulated import Tabulated
from qsearch.layers import Layer
from qsearch.testing.cost_model import CostModelContract

KERNELS = 5
LAYER = Layer("conv", "conv", 3, KERNELS, (3, 3), (1, 1), 1, (4, 4), (4, 4))


class Products(Tabulated):
    """Costs w · a times the layer's weights; nothing at activations of 7 bits."""

    units = {"latency": "s"}  # noqa: RUF012

    def __init__(self, kernels="highest"):
        self.kernels = kernels
        self.asked = []

    def table(self, layer):
        self.asked.append(layer.name)
        found = np.arange(33.0)[:, None] * np.arange(33.0) * layer.params
        found[:, 7] = np.nan
        return {"latency": found}

    def refusal(self, layer, weight_bits, activation_bits):
        return SpaceError(f"{layer.name} has nothing", got=f"{weight_bits}/{activation_bits}")


class _Bits:
    weight_bits = (0, 1, 2, 4, 8, 32)
    activation_bits = (1, 4, 8, 32)


class TestHighest(_Bits, CostModelContract):
    def model(self):
        return Products()


class TestMean(_Bits, CostModelContract):
    def model(self):
        return Products("mean")


@settings(max_examples=50, deadline=None)
@given(
    weight=st.lists(st.lists(st.integers(0, 32), min_size=KERNELS, max_size=KERNELS), min_size=1, max_size=4),
    activation=st.sampled_from([1, 2, 6, 8, 32]),
)
def test_a_batch_is_a_loop(weight, activation):
    for rule, pick in (("highest", max), ("mean", lambda bits: sum(bits) / len(bits))):
        found = Products(rule).layer_costs(LAYER, np.asarray(weight), np.full(len(weight), activation))["latency"]
        assert found == pytest.approx([pick(bits) * activation * LAYER.params for bits in weight])


def test_one_number_for_all_kernels():
    found = Products("mean").layer_costs(LAYER, np.asarray([[3], [4]]), np.asarray([2, 8]))["latency"]
    assert found == pytest.approx([6 * LAYER.params, 32 * LAYER.params])


def test_bits_without_an_answer_are_refused_by_name():
    with pytest.raises(SpaceError, match=r"conv has nothing; got 4/7"):
        Products().layer_costs(LAYER, np.asarray([[3], [4]]), np.asarray([2, 7]))


def test_a_table_is_made_once_per_layer():
    model = Products()
    for _ in range(3):
        model.layer_cost(LAYER, np.full(KERNELS, 8), 8)
    assert model.asked == ["conv"]


def test_kernel_additive_follows_from_the_rule():
    assert Products("mean").kernel_additive
    assert not Products("highest").kernel_additive


def test_bits_may_come_in_8_bit_integers():
    narrow = Products("mean").looked_up(
        LAYER, Products().table(LAYER), np.full((2, KERNELS), 32, dtype=np.int8), np.asarray([8, 32], dtype=np.int8)
    )["latency"]
    assert narrow == pytest.approx([256 * LAYER.params, 1024 * LAYER.params])
