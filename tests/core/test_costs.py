"""The one place where a cost model is called checks what it answers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.costs import NetworkCost
from qsearch.errors import CostModelError, SpaceError
from qsearch.layers import Layer
from qsearch.protocols import CostModel
from qsearch.sites import build_space
from qsearch.space import SearchSpace
from qsearch.trial import Cost

LAYERS = (Layer("a", "linear", 4, 3), Layer("b", "linear", 3, 2))


class Products(CostModel):
    """MACs times bits; what a plug-in author writes."""

    units: Mapping[str, str] = {"latency": "s"}

    def layer_cost(self, layer, weight_bits, activation_bits):
        return {"latency": layer.kernel_params * float(np.sum(weight_bits)) * activation_bits}


def network(model, **options):
    space = build_space(LAYERS, **{"weight_bits": (2, 4, 8), "activation_bits": (2, 4, 8), **options})
    return NetworkCost(model, LAYERS, space)


def answering(**answer):
    """A model that answers with these metrics for every layer."""

    class Model(Products):
        def layer_cost(self, layer, weight_bits, activation_bits):
            return answer

    return Model()


def test_estimate_has_totals_units_and_layers():
    cost = network(Products()).estimate(network(Products()).space.uniform(4))
    assert dict(cost.totals) == {"latency": 12 * 16 + 6 * 16}
    assert dict(cost.units) == {"latency": "s"}
    assert dict(cost.layers) == {"a": {"latency": 192.0}, "b": {"latency": 96.0}}


@given(st.integers(0, 2**32), st.sampled_from(["layer", "kernel"]))
def test_a_batch_equals_a_loop(seed, granularity):
    found = network(Products(), granularity=granularity)
    x = found.space.sample(np.random.default_rng(seed), 4)
    loop = [found.estimate(found.space.decode(one)).totals["latency"] for one in x]
    assert found.estimate_many(x)["latency"].tolist() == loop


BROKEN = [
    (answering(latency=-1.0), "latency of layer 'a' must be finite and at least 0; got -1.0"),
    (answering(latency=float("nan")), "must be finite and at least 0; got nan"),
    (answering(latency=float("inf")), "must be finite and at least 0; got inf"),
    (answering(latency=1.0, energy=2.0), "must have a unit, 'energy' has none; add it to units, which has: latency"),
    (answering(), "every metric it gives a unit for; got nothing for latency"),
    (answering(latency="fast"), "the cost model raised an error; got TypeError"),
]


@pytest.mark.parametrize(("model", "message"), BROKEN)
def test_answers_that_break_the_contract(model, message):
    found = network(model)
    with pytest.raises(CostModelError, match=message):
        found.estimate(found.space.uniform(4))


@pytest.mark.parametrize("model", [model for model, message in BROKEN if "energy" not in message])
def test_batched_answers_that_break_the_contract(model):
    with pytest.raises(CostModelError):
        network(model).estimate_many(network(model).space.lowest[None])


def test_a_layer_cost_of_the_wrong_type():
    class Model(Products):
        def layer_cost(self, layer, weight_bits, activation_bits):
            return 3.0

    with pytest.raises(CostModelError, match=r"must return a mapping .* got float"):
        network(Model()).estimate(network(Model()).space.uniform(4))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"latency": 1.0}, "estimate must return a Cost; got dict"),
        (Cost({"latency": "fast"}, {"latency": "s"}), "latency of the network must be a number; got fast"),
        (Cost({"latency": -2.0}, {"latency": "s"}), "latency of the network must be finite"),
        (Cost({"latency": 1.0}, {}, {"a": {"time": 1.0}}), "'time' has none"),
    ],
)
def test_an_estimate_of_the_wrong_type(answer, message):
    class Model(Products):
        additive = False

        def estimate(self, layers, assignment):
            return answer

    with pytest.raises(CostModelError, match=message):
        network(Model()).estimate(network(Model()).space.uniform(4))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"latency": np.ones(3)}, r"latency of a batch must have shape \(2,\); got \(3,\)"),
        ({"latency": 1.0}, r"must have shape \(2,\); got \(\)"),
        ({"latency": np.asarray([1.0, np.nan])}, "finite"),
        ({"latency": np.asarray([1.0, -1.0])}, "at least 0"),
        ({}, "nothing for latency"),
        ({"latency": np.ones(2), "energy": np.ones(2)}, "'energy' has none"),
        ({"latency": ["slow", "fast"]}, "the cost model raised an error"),
        (None, "the cost model raised an error"),
    ],
)
def test_a_batch_of_the_wrong_type(answer, message):
    class Model(Products):
        def estimate_many(self, layers, bits):
            return answer

    found = network(Model())
    with pytest.raises(CostModelError, match=message):
        found.estimate_many(np.repeat(found.space.lowest[None], 2, axis=0))


def test_what_a_model_raises_is_told_in_one_line():
    class Model(Products):
        def layer_cost(self, layer, weight_bits, activation_bits):
            return {"latency": 1 / 0}

    for ask in (
        lambda found: found.estimate(found.space.uniform(4)),
        lambda found: found.estimate_many(found.space.lowest[None]),
        lambda found: found.floor("latency"),
    ):
        with pytest.raises(CostModelError, match="raised an error; got ZeroDivisionError: division by zero"):
            ask(network(Model()))


@pytest.mark.parametrize("deviation", [-1.0, float("nan"), "much"])
def test_a_deviation_that_is_none(deviation):
    class Model(Products):
        def estimate(self, layers, assignment):
            found = super().estimate(layers, assignment)
            return Cost(found.totals, found.units, found.layers, {"latency": deviation})

    cost = network(Model())
    with pytest.raises(CostModelError, match="latency of a deviation of the network must be"):
        cost.estimate(cost.space.reference(8))


def test_errors_of_qsearch_pass_as_they_are():
    found = network(Products())
    with pytest.raises(SpaceError):
        found.estimate_many(np.asarray([[9, 0, 0, 0]]))


class TestFloor:
    def brute_force(self, found):
        return min(found.estimate(assignment).totals["latency"] for assignment in found.space.enumerate())

    @pytest.mark.parametrize("options", [{}, {"fixed": {"first": 8}}, {"fixed": {"a.input": 8}, "weight_bits": (0, 4)}])
    def test_is_the_least_of_all(self, options):
        found = network(Products(), **options)
        assert found.floor("latency") == self.brute_force(found)

    def test_with_ties_it_is_a_lower_bound(self):
        found = network(Products(), ties=[("a.weight", "b.weight")])
        assert found.floor("latency") <= self.brute_force(found)

    def test_without_ties_it_is_exact_even_where_more_bits_are_cheaper(self):
        class FourIsFast(Products):
            def layer_cost(self, layer, weight_bits, activation_bits):
                cost = super().layer_cost(layer, weight_bits, activation_bits)["latency"]
                return {"latency": cost / 8 if np.all(np.asarray(weight_bits) == 4) else cost}

        found = network(FourIsFast())
        assert found.floor("latency") == self.brute_force(found)

    def test_of_a_model_that_does_not_add_up(self):
        class Slowest(Products):
            additive = False

            def estimate(self, layers, assignment):
                parts = super().estimate(layers, assignment).layers
                return Cost({"latency": max(part["latency"] for part in parts.values())}, self.units, parts)

        found = network(Slowest())
        assert not found.additive
        assert found.floor("latency") == self.brute_force(found) == 48.0

    def test_an_embedding_has_weights_only(self):
        layers = (Layer("e", "embedding", 5, 4, input_size=(2,), output_size=(2,)), *LAYERS)
        space = build_space(layers, weight_bits=(2, 4), activation_bits=(2, 4))
        found = NetworkCost(Products(), layers, space)
        assert isinstance(space, SearchSpace)
        assert found.floor("latency") == found.estimate(space.decode(space.lowest)).totals["latency"]
