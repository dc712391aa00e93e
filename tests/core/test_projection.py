"""The projection against a literal walk of HAQ's action wall, one step at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsearch.costs import NetworkCost
from qsearch.hardware.size import Size
from qsearch.layers import Layer
from qsearch.problem import Bound, Objective, Problem
from qsearch.projection import project
from qsearch.protocols import CostModel
from qsearch.registry import create, names
from qsearch.sites import build_space
from qsearch.testing.problems import separable

METRICS = ("latency", "energy")


class Tables(CostModel):
    """Random monotone tables, one entry per pair of bits and layer, scaled by the mean over its kernels."""

    units: Mapping[str, str] = dict.fromkeys(METRICS, "s")

    def __init__(self, layers, rng):
        steps = {layer.name: rng.integers(0, 4, size=(len(METRICS), 9, 9)) for layer in layers}
        self.tables = {name: step.cumsum(axis=1).cumsum(axis=2) for name, step in steps.items()}

    def layer_cost(self, layer, weight_bits, activation_bits):
        rows = self.tables[layer.name][:, np.asarray(weight_bits), activation_bits].sum(axis=1)
        return dict(zip(METRICS, rows.astype(float), strict=True))

    def estimate_many(self, layers, bits):
        totals = dict.fromkeys(METRICS, 0.0)
        for layer in layers:
            weight, activation = bits[layer.weight_site], bits[layer.activation_site]
            weight = np.broadcast_to(weight, (len(weight), layer.kernels))
            rows = self.tables[layer.name][:, weight, activation].sum(axis=2)
            totals = {metric: totals[metric] + row for metric, row in zip(METRICS, rows.astype(float), strict=True)}
        return totals


class KernelTables(Tables):
    """The same, and says that it adds up over kernels."""

    kernel_additive = True


def random_problem(seed, *, bounds=1, model=Tables, whole=False):
    """A problem with random layers, granularity, ties and fixed sites; bounds anywhere from the floor to the top.

    Costs are whole numbers; bounds that are ``whole`` too are met exactly by many an assignment.
    """
    rng = np.random.default_rng(seed)
    layers = tuple(Layer(f"l{i}", "linear", 3, int(rng.integers(1, 5))) for i in range(rng.integers(1, 6)))
    space = build_space(
        layers,
        weight_bits=rng.choice(np.arange(9), size=rng.integers(1, 7), replace=False).tolist(),
        activation_bits=rng.choice(np.arange(1, 9), size=rng.integers(1, 7), replace=False).tolist(),
        granularity=str(rng.choice(["layer", "kernel"])),
        ties=[("l0.input", "l1.input")] if len(layers) > 1 and rng.random() < 0.3 else [],
        fixed={"last": 5} if len(layers) > 2 and rng.random() < 0.5 else {},
    )
    cost = NetworkCost(model(layers, rng), layers, space)
    ends = cost.estimate_many(np.stack([space.lowest, space.highest]))
    limits = {metric: rng.uniform(*ends[metric]) for metric in METRICS[:bounds]}
    limits = {metric: np.floor(limit) if whole else limit for metric, limit in limits.items()}
    problem = Problem(
        space,
        cost,
        (Objective("loss", "minimize"),),
        tuple(Bound(metric, float(limit), False, metric) for metric, limit in limits.items()),
    )
    return problem, space.sample(rng, 1)[0], ends


def wall(problem, x):
    """Decisions from last to first, each one choice lower, over and over, until every bound is met."""
    x = x.copy()
    while problem.cost_violations(x[None])[0] > 0 and np.any(x > 0):
        for index in reversed(range(len(x))):
            x[index] = max(x[index] - 1, 0)
            if problem.cost_violations(x[None])[0] <= 0:
                return x
    return x


@given(st.integers(0, 2**32), st.sampled_from([1, 2]))
@settings(max_examples=200, deadline=None)
def test_equals_the_literal_wall(seed, bounds):
    problem, x, _ = random_problem(seed, bounds=bounds)
    assert np.array_equal(project(problem, x), wall(problem, x))


@given(st.integers(0, 2**32), st.sampled_from([1, 2]), st.booleans())
@settings(max_examples=300, deadline=None)
def test_equals_the_literal_wall_by_tables_of_kernels(seed, bounds, whole):
    problem, x, _ = random_problem(seed, bounds=bounds, model=KernelTables, whole=whole)
    assert np.array_equal(project(problem, x), wall(problem, x))


class Pooled(Tables):
    """A layer runs at the highest bits of its kernels, and the dearest one tells the network's energy."""

    maxima = frozenset({"energy"})

    def layer_cost(self, layer, weight_bits, activation_bits):
        highest = np.full(layer.kernels, np.max(weight_bits))
        return super().layer_cost(layer, highest, activation_bits)

    estimate_many = CostModel.estimate_many


class Whole(Pooled):
    """Knows one network, and nothing of its layers alone."""

    def __init__(self, layers, rng):
        super().__init__(layers, rng)
        self.count = len(layers)

    def estimate_many(self, layers, bits):
        assert len(layers) == self.count, "not my network"
        return super().estimate_many(layers, bits)


@given(st.integers(0, 2**32), st.sampled_from([1, 2]), st.booleans(), st.sampled_from([Pooled, Whole]))
@settings(max_examples=300, deadline=None)
def test_equals_the_literal_wall_by_prices_of_layers(seed, bounds, whole, model):
    problem, x, _ = random_problem(seed, bounds=bounds, model=model, whole=whole)
    assert np.array_equal(project(problem, x), wall(problem, x))
    assert np.array_equal(project(problem, problem.space.highest), wall(problem, problem.space.highest))


def by_the_model(problem, x):
    """The walk with no other answers than the model's."""
    del problem.cost.__dict__["kernel_table"], problem.cost.__dict__["layer_prices"]
    problem.cost.__dict__.update(kernel_table=None, layer_prices=None)
    return project(problem, x)


MADE_UP = (
    Layer("a", "conv", 3, 6, (3, 3), (1, 1), 1, (8, 8), (8, 8)),
    Layer("b", "linear", 12, 9),
    Layer("c", "linear", 9, 4),
)


@pytest.mark.parametrize("name", sorted(set(names("cost_models")) - {"lut", "surrogate"}))
@given(seed=st.integers(0, 2**32), share=st.floats(0.05, 0.95))
@settings(max_examples=25, deadline=None)
def test_every_cost_model_is_walked_as_if_it_were_asked_of_each_state(name, seed, share):
    rng = np.random.default_rng(seed)
    space = build_space(MADE_UP, weight_bits=(2, 4, 8), activation_bits=(2, 4, 8), granularity="kernel")
    for metric in create("cost_models", name).units:
        cost = NetworkCost(create("cost_models", name), MADE_UP, space)
        low, high = cost.estimate_many(np.stack([space.lowest, space.highest]))[metric]
        limit = Bound(metric, float(low + share * (high - low)), False, metric)
        problem = Problem(space, cost, (Objective("loss", "minimize"),), (limit,))
        x = space.sample(rng, 1)[0]
        assert cost.layer_prices is not None or cost.kernel_table is not None or not cost.additive
        found = project(problem, x)
        assert np.array_equal(found, by_the_model(problem, x))


@pytest.mark.parametrize("name", sorted(set(names("cost_models")) - {"lut", "surrogate"}))
@given(seed=st.integers(0, 2**32), granularity=st.sampled_from(["layer", "kernel"]))
@settings(max_examples=25, deadline=None)
def test_estimates_are_those_of_layers_whose_bits_are_checked_each(name, seed, granularity):
    """``VectorCostModel.estimate`` against the protocol's, which asks ``layer_cost``: the same numbers, bit for bit."""
    model = create("cost_models", name)
    space = build_space(MADE_UP, weight_bits=(0, 2, 4, 8), activation_bits=(2, 4, 8), granularity=granularity)
    assignment = space.decode(space.sample(np.random.default_rng(seed), 1)[0])
    found, expected = model.estimate(MADE_UP, assignment), CostModel.estimate(model, MADE_UP, assignment)
    assert found.totals == expected.totals
    assert found.layers == expected.layers
    assert found.units == expected.units


def test_a_subclass_with_a_layer_cost_of_its_own_is_asked_for_it():
    class Doubled(Size):
        def layer_cost(self, layer, weight_bits, activation_bits):
            return {"size": 2 * super().layer_cost(layer, weight_bits, activation_bits)["size"]}

    space = build_space(MADE_UP, weight_bits=(2, 8), activation_bits=(2, 8), granularity="layer")
    assignment = space.uniform(8)
    assert (
        Doubled().estimate(MADE_UP, assignment).totals["size"]
        == 2 * Size().estimate(MADE_UP, assignment).totals["size"]
    )


def test_tables_of_kernels_answer_and_leave_to_the_model_what_rounding_decides():
    layers = (Layer("a", "linear", 3, 40), Layer("b", "linear", 3, 30))
    space = build_space(layers, weight_bits=range(9), activation_bits=range(1, 9), granularity="kernel")
    x = space.highest

    def asked(limit):
        model = KernelTables(layers, np.random.default_rng(0))
        cost = NetworkCost(model, layers, space)
        assert cost.kernel_table is not None
        problem = Problem(space, cost, (Objective("loss", "minimize"),), (Bound("latency", limit, False, "latency"),))
        assert np.array_equal(project(problem, x), wall(problem, x))
        fresh = replace(problem, cost=NetworkCost(model, layers, space))
        _, questions = fresh.cost.kernel_table, []
        estimate = model.estimate
        model.estimate = lambda *arguments: questions.append(arguments) or estimate(*arguments)
        project(fresh, x)
        return len(questions)

    cost = NetworkCost(KernelTables(layers, np.random.default_rng(0)), layers, space)
    exact = cost.estimate_many(x[None])["latency"][0]
    np.testing.assert_allclose(cost.kernel_table.totals(x[None])["latency"], exact, rtol=1e-12)
    assert asked(np.floor(0.7 * exact) + 0.5) == 1  # of the state that was found, which the oracle will ask for again
    assert asked(exact) == 1


def test_prices_of_layers_ask_for_few_of_them():
    class Counted(Pooled):
        asked = 0

        def layer_cost(self, layer, weight_bits, activation_bits):
            type(self).asked += 1
            return super().layer_cost(layer, weight_bits, activation_bits)

    layers = tuple(Layer(f"l{i}", "linear", 3, 20) for i in range(30))
    space = build_space(layers, weight_bits=range(2, 9), activation_bits=range(2, 9), granularity="kernel")
    cost = NetworkCost(Counted(layers, np.random.default_rng(0)), layers, space)
    limit = 0.5 * float(cost.estimate_many(space.highest[None])["latency"][0])
    problem = Problem(space, cost, (Objective("loss", "minimize"),), (Bound("latency", limit, False, "latency"),))
    assert cost.layer_prices is not None
    Counted.asked = 0
    found = project(problem, space.highest)
    # all passes, a layer or two in each of log₂ 630 questions, and the model itself of what was found
    assert Counted.asked <= 7 * len(layers) + 3 * 10 + len(layers)
    assert np.array_equal(found, by_the_model(problem, space.highest))


def test_no_table_for_a_model_that_does_not_add_up_as_it_says():
    class Liar(KernelTables):
        def layer_cost(self, layer, weight_bits, activation_bits):
            found = super().layer_cost(layer, weight_bits, activation_bits)
            return {metric: value * float(np.max(weight_bits)) for metric, value in found.items()}

        estimate_many = CostModel.estimate_many

    layers = (Layer("a", "linear", 3, 5),)
    space = build_space(layers, weight_bits=range(2, 9), activation_bits=[8], granularity="kernel")
    assert NetworkCost(Liar(layers, np.random.default_rng(0)), layers, space).kernel_table is None


@pytest.mark.parametrize("kernel_additive", [True, False])
def test_a_model_that_does_not_add_up_and_is_not_found_out_by_samples_is_walked_by_what_it_says(kernel_additive):
    class Liar(CostModel):
        units = {"energy": "J"}  # noqa: RUF012

        def layer_cost(self, layer, weight_bits, activation_bits):
            pruned = float(np.mean(np.asarray(weight_bits) == 0))
            index = 1.3 if 0.5 < pruned < 1 else 1.0  # of a sparse layer
            return {"energy": index * float(np.mean(weight_bits)) * activation_bits}

    Liar.kernel_additive = kernel_additive
    layers = (Layer("a", "linear", 30, 40), Layer("b", "linear", 40, 40))
    space = build_space(layers, weight_bits=[0, 2, 3, 4, 8], activation_bits=[2, 8], granularity="kernel")
    cost = NetworkCost(Liar(), layers, space)
    assert (cost.kernel_table is not None) == kernel_additive
    for x in space.sample(np.random.default_rng(0), 10):
        for limit in (1.0, 2.0, 4.0, 6.0, 8.0):
            problem = Problem(space, cost, (Objective("loss", "minimize"),), (Bound("energy", limit, False, "energy"),))
            assert problem.overruns(project(problem, x)[None])[0] <= 0


@given(st.integers(0, 2**32))
@settings(deadline=None)
def test_within_the_bound_idempotent_and_never_above_the_start(seed):
    problem, x, _ = random_problem(seed)
    before = x.copy()
    found = project(problem, x)
    assert np.array_equal(x, before)
    assert problem.cost_violations(found[None])[0] <= 0
    assert np.all(found <= x)
    assert np.array_equal(project(problem, found), found)
    assert problem.space.decode(found) in problem.space


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_every_bound_from_floor_to_top_is_met(seed):
    problem, _, ends = random_problem(seed)
    low, high = ends["latency"]
    for limit in np.linspace(low, high, 9):
        bounded = Problem(
            problem.space, problem.cost, problem.objectives, (Bound("latency", float(limit), False, "latency"),)
        )
        found = project(bounded, problem.space.highest)
        assert problem.cost.estimate_many(found[None])["latency"][0] <= limit


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_a_budget_below_the_floor_gives_the_floor_and_no_budget_changes_nothing(seed):
    problem, x, ends = random_problem(seed)
    out_of_reach = Bound("latency", float(ends["latency"][0]) - 1.0, False, "latency")
    impossible = Problem(problem.space, problem.cost, problem.objectives, (out_of_reach,))
    assert np.array_equal(project(impossible, x), problem.space.lowest)
    free = Problem(problem.space, problem.cost, problem.objectives)
    assert np.array_equal(project(free, x), x)


def test_by_hand():
    """Four decisions at 8 bits, each bit of each costs one: 28 of 32 is met after the last four steps of a pass."""

    class Sum(CostModel):
        units: Mapping[str, str] = {"latency": "s"}

        def layer_cost(self, layer, weight_bits, activation_bits):
            return {"latency": float(weight_bits[0] + activation_bits)}

    layers = (Layer("a", "linear", 1, 1), Layer("b", "linear", 1, 1))
    space = build_space(layers, weight_bits=range(2, 9), activation_bits=range(2, 9))
    cost = NetworkCost(Sum(), layers, space)
    for limit, bits in ((32, (8, 8, 8, 8)), (30, (8, 8, 7, 7)), (28, (7, 7, 7, 7)), (27, (7, 7, 7, 6)), (8, (2,) * 4)):
        problem = Problem(
            space, cost, (Objective("loss", "minimize"),), (Bound("latency", float(limit), False, "latency"),)
        )
        assert tuple(space.decode(project(problem, space.highest)).values()) == bits


def test_a_lower_bound_is_no_reason_to_lower_bits():
    problem, _ = separable(4, budget=0.6)
    top = float(problem.cost.estimate_many(problem.space.highest[None])["size"][0])
    both = replace(problem, bounds=(*problem.bounds, Bound("size", 0.99 * top, True, "size >= 0.99")))
    assert np.array_equal(project(both, problem.space.highest), project(problem, problem.space.highest))
