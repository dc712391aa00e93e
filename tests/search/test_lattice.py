"""The predicted path against brute force; moves stay in the space and are what they say."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsearch.costs import NetworkCost
from qsearch.problem import Bound, Objective, Problem
from qsearch.protocols import CostModel
from qsearch.search.damage import Damage
from qsearch.search.lattice import mutated, neighbours, predicted_best, predicted_path, projected, within_bounds
from qsearch.testing.problems import ACCURACY, ACCURACY_AND_SIZE, coupled, exhaust, kernels, separable


def additive(problem, evaluator):
    """The true damages of a separable problem."""
    return Damage(
        tuple(
            h * 4.0 ** -np.asarray(v.choices, float)
            for h, v in zip(evaluator.curvature, problem.space.variables, strict=True)
        )
    )


@pytest.mark.parametrize("seed", range(5))
def test_every_state_of_the_path_is_on_the_true_front_of_a_separable_problem(seed):
    problem, evaluator = separable(5, choices=(2, 3, 4, 8), budget=None, objectives=ACCURACY_AND_SIZE, seed=seed)
    known = exhaust(problem, evaluator)
    path = predicted_path(problem, additive(problem, evaluator))
    sizes = problem.cost.estimate_many(path)["size"]
    for size, loss in zip(sizes, evaluator.losses(path), strict=True):
        assert loss == pytest.approx(known.loss[known.costs["size"] <= size].min())


def test_the_path_leads_from_the_highest_to_the_lowest_by_one_decision_each():
    problem, evaluator = coupled(6, budget=None)
    path = predicted_path(problem, additive(problem, evaluator))
    assert path[0].tolist() == problem.space.highest.tolist()
    assert path[-1].tolist() == problem.space.lowest.tolist()
    assert set((np.diff(path, axis=0) != 0).sum(axis=1)) == {1}
    assert (np.diff(path, axis=0) <= 0).all()


class Steps(CostModel):
    """A cost with a cliff: only the widest layer counts, and 4 bits cost what 6 do."""

    units: Mapping[str, str] = {"latency": "s"}
    additive = False

    def layer_cost(self, layer, weight_bits, activation_bits):
        bits = int(weight_bits[0])
        return {"latency": float({2: 1, 4: 3, 6: 3, 8: 4}[bits])}

    def estimate(self, layers, assignment):
        found = super().estimate(layers, assignment)
        return type(found)({"latency": max(found.layers[x.name]["latency"] for x in layers)}, found.units, {})


def test_the_path_passes_plateaus_of_costs_that_are_no_sums():
    problem, evaluator = separable(3, budget=None)
    cost = NetworkCost(Steps(), problem.layers, problem.space)
    problem = Problem(problem.space, cost, (Objective("accuracy", "maximize"), Objective("latency", "minimize")))
    path = predicted_path(problem, additive(problem, evaluator))
    latency = problem.cost.estimate_many(path)["latency"]
    assert path[-1].tolist() == problem.space.lowest.tolist()
    assert (np.diff(latency) <= 0).all()
    assert set(latency) == {4, 3, 1}


def test_interactions_count_on_the_path():
    problem, _ = separable(2, choices=(2, 8), budget=None, objectives=ACCURACY_AND_SIZE)
    single = (np.asarray([1.0, 0.0]), np.asarray([1.1, 0.0]))
    params = [layer.params for layer in problem.layers]
    cheap = Damage(single, {(0, 1): np.zeros((2, 2))})
    assert len(predicted_path(problem, cheap)) == 3
    # with this pair, lowering the first layer alone helps, so that it goes first whatever it saves
    first = Damage(single, {(0, 1): np.asarray([[0.0, -5.0], [0.0, 0.0]])})
    second = Damage(single, {(0, 1): np.asarray([[0.0, 0.0], [-5.0, 0.0]])})
    assert min(params) > 0
    assert predicted_path(problem, first)[1].tolist() == [0, 1]
    assert predicted_path(problem, second)[1].tolist() == [1, 0]


def test_kernels_are_lowered_by_the_block_near_the_optimum():
    problem, evaluator = kernels(64)
    variances = evaluator.weight_errors("layer0.weight", 0)
    damage = Damage(tuple(v / variances.sum() * 4.0 ** -np.arange(9.0) for v in variances))
    path = predicted_path(problem, damage)
    assert len(path) <= 8 * 8 * 8
    inside = within_bounds(problem, path)
    assert (
        evaluator.losses(inside[:1])[0]
        < 0.35 * evaluator.losses(problem.space.encode(problem.space.uniform(4))[None])[0]
    )


def test_the_predicted_best_spend_the_budget_or_spread_over_the_front():
    problem, evaluator = separable(5, budget=0.5)
    best = predicted_best(problem, additive(problem, evaluator), 3)
    sizes = problem.cost.estimate_many(best)["size"]
    assert (problem.cost_violations(best) <= 0).all()
    assert list(sizes) == sorted(sizes, reverse=True)
    assert sizes[0] > 0.8 * problem.bounds[0].limit
    both = Problem(problem.space, problem.cost, ACCURACY_AND_SIZE)
    ends = predicted_best(both, additive(problem, evaluator), 4)
    assert ends[0].tolist() == problem.space.highest.tolist()
    assert ends[-1].tolist() == problem.space.lowest.tolist()
    assert len(ends) == 4


def test_neighbours_of_a_small_space_are_all_the_steps_and_swaps():
    space = separable(3, budget=None)[0].space
    x = np.asarray([1, 1, 1])
    found = {tuple(row) for row in neighbours(space, x, np.random.default_rng(0), 1000).tolist()}
    steps = {(0, 1, 1), (2, 1, 1), (1, 0, 1), (1, 2, 1), (1, 1, 0), (1, 1, 2)}
    swaps = {(2, 0, 1), (0, 2, 1), (2, 1, 0), (0, 1, 2), (1, 2, 0), (1, 0, 2)}
    runs = {(0, 0, 1), (2, 2, 1), (1, 0, 0), (1, 2, 2), (0, 0, 0), (2, 2, 2)}
    assert found == steps | swaps | runs


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 60), st.booleans())
def test_moves_stay_in_the_space_and_move(seed, limit, kernelwise):
    problem = (kernels([5, 3]) if kernelwise else coupled(4))[0]
    space, rng = problem.space, np.random.default_rng(seed)
    x = space.sample(rng, 1)[0]
    near, far = neighbours(space, x, rng, limit), mutated(space, x, rng, limit)
    assert len(near) <= limit
    assert far.shape == (limit, space.dimension)
    for batch in (near, far, projected(problem, rng, 3)):
        assert ((batch >= 0) & (batch <= space.highest)).all()
    assert (near != x).any(axis=1).all()


def test_a_space_without_decisions_has_no_moves():
    problem, _ = separable(2, choices=[4], budget=None)
    x = problem.space.lowest
    rng = np.random.default_rng(0)
    assert len(neighbours(problem.space, x, rng, 10)) == 0
    assert predicted_path(problem, Damage((np.zeros(1), np.zeros(1)))).tolist() == [[0, 0]]


def test_within_bounds_keeps_the_order_and_each_once():
    problem, _ = separable(2, choices=(2, 4), budget=None, objectives=ACCURACY)
    x = np.asarray([[1, 1], [0, 1], [1, 1], [0, 0]])
    assert within_bounds(problem, x).tolist() == [[1, 1], [0, 1], [0, 0]]
    top = problem.cost.estimate_many(x)["size"][0]
    bounded = Problem(problem.space, problem.cost, ACCURACY, (Bound("size", top - 1, False, "size"),))
    assert within_bounds(bounded, x).tolist() == [[0, 1], [0, 0]]
