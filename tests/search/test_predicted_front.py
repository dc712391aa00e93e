"""What several objectives begin with: the order by hypervolume, the bounds, the exact front where the path misses it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qsearch.costs import NetworkCost
from qsearch.pareto import hypervolume, non_dominated
from qsearch.problem import Bound, Objective, Problem
from qsearch.protocols import SensitivityTable
from qsearch.search import predicted_front
from qsearch.search.damage import predicted_damage
from qsearch.search.lattice import predicted_path
from qsearch.search.predicted_front import best_spread, by_hypervolume, predicted_points
from qsearch.sites import build_space
from qsearch.testing.problems import ACCURACY_AND_SIZE, SizeAndBops, WeightSize, linear_layers
from qsearch.trial import Cost

ACCURACY, SIZE, BOPS = (
    Objective("accuracy", "maximize"),
    Objective("size", "minimize"),
    Objective("bops", "minimize"),
)


class Squared(SizeAndBops):
    """Costs that do not add up: the square of the sum."""

    additive = False

    def estimate(self, layers, assignment):
        found = super().estimate(layers, assignment)
        return Cost({metric: value**2 for metric, value in found.totals.items()}, found.units, found.layers)


def instance(seed=0, objectives=(ACCURACY, SIZE), bounds=(), model=None, activations=(8,), choices=(2, 3, 4, 8)):
    """A problem, a table of damages that fall with the bits, and every assignment within the bounds."""
    rng = np.random.default_rng(seed)
    layers = linear_layers(rng.integers(4, 64, size=4 if len(activations) == 1 else 2).tolist())
    space = build_space(layers, weight_bits=choices, activation_bits=activations)
    cost = NetworkCost(model or SizeAndBops(), layers, space)
    damage = {
        v.name: -np.sort(-rng.exponential(size=(1, len(v.choices))) * rng.lognormal(0, 1.5)) for v in space.variables
    }
    problem = Problem(space, cost, tuple(objectives), tuple(bounds))
    x = np.asarray(list(np.ndindex(*space.choice_counts.tolist())))
    return problem, SensitivityTable(damage, 0), x[problem.cost_violations(x) <= 0]


def spread(problem, table, count):
    return best_spread(problem, predicted_damage(problem.space, table), table, count)


def front_of(problem, table, x):
    """The non-dominated predicted points of a batch."""
    points = predicted_points(problem, predicted_damage(problem.space, table), x)
    return points[non_dominated(points)]


@given(
    points=arrays.arrays(
        np.float64, st.tuples(st.integers(1, 9), st.integers(2, 3)), elements=st.integers(0, 12).map(float)
    ),
    count=st.integers(0, 6),
)
def test_each_choice_adds_the_most_that_any_could(points, count):
    order = by_hypervolume(points, count)
    assert len(order) == len(set(order)) == min(count, len(points))
    span = np.ptp(points, axis=0)
    scaled = (points - points.min(axis=0)) / np.where(span > 0, span, 1.0)
    reference = np.full(points.shape[1], 1.1)
    for number in range(len(order)):
        reached = [hypervolume(scaled[[*order[:number], place]], reference) for place in range(len(points))]
        assert reached[order[number]] == pytest.approx(max(reached), rel=1e-12)


def test_two_points_of_a_front_known_by_hand():
    points = np.asarray([[0.0, 1.0], [0.5, 0.1], [1.0, 0.0], [0.1, 0.9]])
    # boxes below (1.1, 1.1): 1.1 × 0.1, 0.6 × 1.0, 0.1 × 1.1, 1.0 × 0.2; the second covers most of all others
    assert by_hypervolume(points, 2) == [1, 3]
    assert by_hypervolume(points, 9) == [1, 3, 0, 2]


def test_no_point_and_points_that_are_all_alike():
    assert by_hypervolume(np.zeros((0, 2)), 3) == []
    assert sorted(by_hypervolume(np.ones((3, 2)), 9)) == [0, 1, 2]


@pytest.mark.parametrize("seed", range(4))
def test_the_exact_front_is_found_where_costs_add_up(seed):
    problem, table, x = instance(seed)
    found = spread(problem, table, len(x))
    points = predicted_points(problem, predicted_damage(problem.space, table), found)
    assert {tuple(p) for p in points.round(9)} == {tuple(p) for p in front_of(problem, table, x).round(9)}


def test_the_exact_front_has_what_the_predicted_path_lacks():
    gained = 0
    for seed in range(6):
        problem, table, x = instance(seed)
        damage = predicted_damage(problem.space, table)
        path = predicted_points(problem, damage, predicted_path(problem, damage))
        exact = predicted_points(problem, damage, spread(problem, table, len(x)))
        every = predicted_points(problem, damage, x)
        reference = every.max(axis=0) * 1.01
        best = hypervolume(every, reference)
        assert hypervolume(exact, reference) == pytest.approx(best, rel=1e-12)
        assert hypervolume(path, reference) <= best
        gained += hypervolume(path, reference) < best * (1 - 1e-6)
    assert gained >= 3


@pytest.mark.parametrize("model", [SizeAndBops(), Squared()], ids=["additive", "not additive"])
@pytest.mark.parametrize("count", [1, 5, 200])
def test_every_assignment_is_within_the_bounds_and_none_comes_twice(model, count):
    problem, table, x = instance(1, (ACCURACY, SIZE, BOPS), model=model, activations=(4, 8))
    totals = problem.cost.estimate_many(x)
    limits = (
        Bound("size", float(np.quantile(totals["size"], 0.6)), False, "size"),
        Bound("bops", float(np.quantile(totals["bops"], 0.1)), True, "bops"),
    )
    found = spread(replace(problem, bounds=limits), table, count)
    assert 1 <= len(found) <= count
    assert len(np.unique(found, axis=0)) == len(found)
    assert (replace(problem, bounds=limits).cost_violations(found) <= 0).all()


@pytest.mark.parametrize("model", [WeightSize(), Squared()], ids=["additive", "not additive"])
def test_nothing_within_the_bounds_is_an_empty_batch(model):
    problem, table, _ = instance(0, bounds=[Bound("size", 1.0, False, "size <= 1")], model=model)
    assert spread(problem, table, 5).shape == (0, problem.space.dimension)


def test_without_a_table_or_a_sum_the_path_is_what_there_is():
    for model, known in ((SizeAndBops(), False), (Squared(), True)):
        problem, table, _ = instance(2, model=model)
        damage = predicted_damage(problem.space, table)
        path = {tuple(row) for row in predicted_path(problem, damage).tolist()}
        found = best_spread(problem, damage, table if known else None, 6)
        assert {tuple(row) for row in found.tolist()} <= path


def test_two_qualities_have_one_best_prediction():
    problem, table, _ = instance(0, (ACCURACY, Objective("loss", "minimize")))
    assert spread(problem, table, 9).tolist() == [problem.space.highest.tolist()]


def test_costs_alone_are_traded_for_damage_where_quality_is_bounded():
    problem, table, _ = instance(0, (SIZE, BOPS))
    assert spread(problem, table, 9).tolist() == [problem.space.lowest.tolist()]
    bounded = replace(problem, bounds=(Bound("accuracy", 0.9, True, "accuracy >= 0.9"),))
    found = spread(bounded, table, 9)
    assert len(found) == 9
    assert problem.space.highest.tolist() in spread(bounded, table, 200).tolist()
    points = predicted_points(bounded, predicted_damage(bounded.space, table), found)
    assert points.shape == (9, 3)
    assert non_dominated(points).all()


def test_a_cost_that_is_maximised_is_worth_more_where_it_is_greater():
    problem, table, _ = instance(0, (ACCURACY, Objective("size", "maximize")))
    assert spread(problem, table, 9).tolist() == [problem.space.highest.tolist()]


def test_of_a_long_front_some_are_considered_with_both_ends(monkeypatch):
    monkeypatch.setattr(predicted_front, "CONSIDERED", 12)
    layers = linear_layers([7, 11, 13, 17, 19, 23])
    space = build_space(layers, weight_bits=range(2, 9), activation_bits=[8], fixed={"activations": 8})
    problem = Problem(space, NetworkCost(WeightSize(), layers, space), ACCURACY_AND_SIZE)
    damage = {v.name: (i + 1.0) * 4.0 ** -np.arange(2.0, 9)[None] for i, v in enumerate(space.variables)}
    table = SensitivityTable(damage, 0)
    found = spread(problem, table, 50)
    assert len(found) == 12
    rows = {tuple(row) for row in found.tolist()}
    assert {tuple(space.lowest.tolist()), tuple(space.highest.tolist())} <= rows
