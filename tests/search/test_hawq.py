"""The front by dynamic programming against brute force, the order of evaluation, and the contract."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from qsearch.costs import NetworkCost
from qsearch.errors import BudgetExhausted, UserError
from qsearch.layers import Layer
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.pareto import non_dominated
from qsearch.problem import Bound, Objective, Problem
from qsearch.protocols import SensitivityTable
from qsearch.search import hawq_front
from qsearch.search.damage import predicted_damage
from qsearch.search.hawq import Hawq
from qsearch.search.hawq_front import every_assignment, monotone
from qsearch.search.units import additive_units
from qsearch.sensitivity.one_at_a_time import OneAtATime
from qsearch.sites import build_space
from qsearch.testing.problems import (
    ACCURACY,
    ACCURACY_AND_SIZE,
    SizeAndBops,
    coupled,
    exhaust,
    kernels,
    linear_layers,
    optimal_loss,
    separable,
)
from qsearch.testing.searcher import SearcherContract

SIZE = (Objective("size", "minimize"),)


class TestHawq(SearcherContract):
    def searcher(self):
        return Hawq(Hawq.Options(sensitivity="one-at-a-time"))


class TestMonotone(SearcherContract):
    def searcher(self):
        return Hawq(Hawq.Options(sensitivity="one-at-a-time", monotone=True))


def random_table(space, seed):
    rng = np.random.default_rng(seed)
    return SensitivityTable(
        {v.name: np.sort(rng.exponential(size=(v.length, len(v.choices))))[:, ::-1] for v in space.variables}, 0
    )


def all_points(space, cost, table, metric):
    x = np.asarray(list(np.ndindex(*space.choice_counts.tolist())))
    return x, predicted_damage(space, table)(x), cost.estimate_many(x)[metric]


def spaces():
    """Layer-wise weights, weights with activations, a tie across layers, kernels beside activations."""
    layers = linear_layers([5, 9, 3, 7, 4, 6, 8, 2])
    yield layers, build_space(layers, weight_bits=[2, 4, 8], activation_bits=[8], fixed={"activations": 8})
    yield layers[:3], build_space(layers[:3], weight_bits=[2, 4, 8], activation_bits=[4, 8])
    tie = [("layer0.weight", "layer2.weight"), ("layer1.input", "layer2.input")]
    names = {site.name for site in build_space(layers[:3], weight_bits=[2, 4], activation_bits=[4, 8]).sites}
    ties = [pair for pair in tie if set(pair) <= names]
    yield layers[:3], build_space(layers[:3], weight_bits=[2, 4], activation_bits=[4, 8], ties=ties)
    small = (Layer("a", "linear", 4, 3), Layer("b", "linear", 3, 2))
    yield small, build_space(small, weight_bits=[0, 2, 4], activation_bits=[4, 8], granularity="kernel")


@pytest.mark.parametrize("metric", ["size", "bops"])
@pytest.mark.parametrize("case", range(4))
def test_the_front_is_that_of_brute_force(case, metric):
    layers, space = list(spaces())[case]
    cost = NetworkCost(SizeAndBops(), tuple(layers), space)
    table = random_table(space, case)
    _, omega, price = all_points(space, cost, table, metric)
    keep = non_dominated(np.stack([omega, price], axis=1))
    expected = sorted({(round(c, 6), round(o, 9)) for c, o in zip(price[keep], omega[keep], strict=True)})
    units, constant = additive_units(cost, table, [metric])
    front = every_assignment(space, units, metric)
    assert [
        (round(c + constant[metric], 6), round(o, 9)) for c, o in zip(front.cost, front.omega, strict=True)
    ] == expected
    assert predicted_damage(space, table)(front.x) == pytest.approx(front.omega)
    assert cost.estimate_many(front.x)[metric] == pytest.approx(front.cost + constant[metric])


def test_the_monotone_front_is_that_of_brute_force_over_monotone_bits():
    layers = linear_layers([5, 9, 3, 7, 4, 6])
    space = build_space(layers, weight_bits=[2, 3, 4, 8], activation_bits=[8], fixed={"activations": 8})
    cost = NetworkCost(SizeAndBops(), tuple(layers), space)
    table = random_table(space, 5)
    x, omega, price = all_points(space, cost, table, "size")
    order = np.argsort([-table.damage[v.name][0, 0] for v in space.variables])
    allowed = (np.diff(x[:, order], axis=1) <= 0).all(axis=1)
    x, omega, price = x[allowed], omega[allowed], price[allowed]
    keep = non_dominated(np.stack([omega, price], axis=1))
    expected = sorted({(c, round(o, 9)) for c, o in zip(price[keep], omega[keep], strict=True)})
    units, constant = additive_units(cost, table, ["size"])
    front = monotone(space, units, "size")
    assert [(c + constant["size"], round(o, 9)) for c, o in zip(front.cost, front.omega, strict=True)] == expected
    assert (np.diff(front.x[:, order], axis=1) <= 0).all()
    assert cost.estimate_many(front.x)["size"] == pytest.approx(front.cost + constant["size"])


def test_a_thinned_front_keeps_its_ends_and_is_near_the_exact_one(monkeypatch):
    layers = linear_layers([5, 9, 3, 7, 4, 6, 8, 2])
    space = build_space(layers, weight_bits=[2, 3, 4, 8], activation_bits=[8], fixed={"activations": 8})
    cost = NetworkCost(SizeAndBops(), tuple(layers), space)
    units, _ = additive_units(cost, random_table(space, 1), ["size"])
    exact = every_assignment(space, units, "size")
    monkeypatch.setattr(hawq_front, "KEPT", 64)
    thin = every_assignment(space, units, "size")
    assert len(thin.cost) <= 64 < len(exact.cost)
    assert (thin.cost[0], thin.omega[-1]) == (exact.cost[0], exact.omega[-1])
    slack = len(units) / 62 * np.ptp(exact.cost)
    for omega, price in zip(thin.omega, thin.cost, strict=True):
        assert omega <= exact.omega[exact.cost <= price - slack].min(initial=np.inf)


def test_many_units_are_enumerated_along_the_convex_hull():
    problem, evaluator = kernels([80, 70, 60], choices=range(2, 9))
    table = OneAtATime(OneAtATime.Options()).table(problem.space, evaluator)
    units, constant = additive_units(problem.cost, table, ["size"])
    front = every_assignment(problem.space, units, "size")
    assert len(units) == 210 > hawq_front.MANY
    assert problem.cost.estimate_many(front.x)["size"] == pytest.approx(front.cost + constant["size"])
    assert predicted_damage(problem.space, table)(front.x) == pytest.approx(front.omega)
    assert front.x[0].tolist() == problem.space.lowest.tolist()
    assert front.x[-1].tolist() == problem.space.highest.tolist()
    within = front.x[problem.cost_violations(front.x) <= 0]
    assert evaluator.losses(within[-1:])[0] <= 1.01 * optimal_loss(problem, evaluator)


def run(problem, evaluator, evaluations, **options):
    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=evaluations))
    with contextlib.suppress(BudgetExhausted):
        Hawq(Hawq.Options(sensitivity="one-at-a-time", **options)).search(oracle)
    return oracle


def golden(objectives, bounds=()):
    """Two layers of 8 and 16 weights at 2, 4 or 8 bits; damages 4^(−b), three times that for the first."""
    layers = linear_layers([1, 2])
    space = build_space(layers, weight_bits=[2, 4, 8], activation_bits=[8], fixed={"activations": 8})
    evaluator = separable(2, choices=(2, 4, 8), budget=None)[1]
    evaluator.curvature = np.asarray([3.0, 1.0])
    return Problem(space, NetworkCost(SizeAndBops(), layers, space), objectives, bounds), evaluator


def bits(oracle):
    return [tuple(trial.assignment[f"layer{i}.weight"] for i in (0, 1)) for trial in oracle.trials]


def test_order_under_a_bound_is_least_damage_first_then_what_is_cheaper():
    # the front by size: (2,2) 48, (4,2) 64, (8,2) 96 is beaten by (4,4) 96, (8,4) 128, (8,8) 192
    found = run(*golden(ACCURACY, (Bound("size", 130, False, "size"),)), 10)
    assert bits(found) == [(8, 4), (4, 4), (4, 2), (2, 2)]


def test_order_for_two_objectives_is_the_ends_then_the_widest_gap():
    assert bits(run(*golden(ACCURACY_AND_SIZE), 10)) == [(8, 8), (2, 2), (8, 4), (4, 4), (4, 2)]


def test_the_cheapest_that_meets_a_bound_on_quality_is_found_by_bisection():
    problem, evaluator = separable(6, choices=(2, 3, 4, 8), budget=None, objectives=SIZE)
    known = exhaust(problem, evaluator)
    bound = Bound("accuracy", float(np.exp(-np.quantile(known.loss, 0.3))), True, "accuracy")
    oracle = run(Problem(problem.space, problem.cost, SIZE, (bound,)), evaluator, 9)
    sizes = known.costs["size"][np.exp(-known.loss) >= bound.limit]
    assert problem.best(oracle.trials).cost.totals["size"] == sizes.min()


def test_a_bound_on_quality_that_nothing_meets_goes_down_the_front():
    oracle = run(*golden(SIZE, (Bound("accuracy", 1.1, True, "accuracy"),)), 10)
    assert bits(oracle) == [(8, 8), (8, 4), (4, 4), (4, 2), (2, 2)]


def two_bounds(seed):
    """Weight and activation bits of four layers under bounds on size and operations; all damages, by brute force."""
    rng = np.random.default_rng(seed)
    layers = linear_layers(rng.integers(1, 9, size=4).tolist())
    space = build_space(layers, weight_bits=[2, 4, 8], activation_bits=[4, 8])
    cost, table = NetworkCost(SizeAndBops(), layers, space), random_table(space, seed)
    x, omega, _ = all_points(space, cost, table, "size")
    totals = cost.estimate_many(x)
    limits = {metric: float(np.quantile(totals[metric], rng.uniform(0.1, 0.6))) for metric in ("size", "bops")}
    bounds = tuple(Bound(metric, limit, False, metric) for metric, limit in limits.items())
    within = (totals["size"] <= limits["size"]) & (totals["bops"] <= limits["bops"])
    return space, cost, bounds, table, omega[within], {metric: value[within] for metric, value in totals.items()}


def test_two_bounds_in_either_order_give_nearly_the_least_damage_within_both():
    gaps = []
    for seed in range(20):
        space, cost, bounds, table, omega, _ = two_bounds(seed)
        first, second = (
            Hawq()._front(Problem(space, cost, ACCURACY, order), table, None) for order in (bounds, bounds[::-1])
        )
        np.testing.assert_array_equal(first.x, second.x)
        gaps.append(first.omega[-1] / omega.min() - 1)
    assert np.count_nonzero(np.asarray(gaps) < 1e-9) >= 18
    assert max(gaps) < 0.02


def test_a_bound_beside_the_cost_that_is_minimised_is_kept_at_little_damage():
    """The front of damage against size, within a bound on operations: near that of brute force all along."""
    for seed in range(10):
        space, cost, bounds, table, omega, totals = two_bounds(seed)
        problem = Problem(space, cost, ACCURACY_AND_SIZE, bounds[1:])
        front = Hawq()._front(problem, table, "size")
        assert (problem.cost_violations(front.x) <= 0).all()
        sizes = cost.estimate_many(front.x)["size"]
        assert (np.diff(sizes) > 0).all()
        assert (np.diff(front.omega) < 0).all()
        for limit in np.unique(totals["size"]):
            assert front.omega[sizes <= limit].min() <= 1.25 * omega[totals["size"] <= limit].min()


class Deepest(SizeAndBops):
    maxima = frozenset({"size"})


def test_a_limit_on_the_greatest_layer_strikes_out_choices_in_either_order():
    layers = linear_layers([5, 9, 3, 7])
    space = build_space(layers, weight_bits=[2, 4, 8], activation_bits=[4, 8])
    cost, table = NetworkCost(Deepest(), layers, space), random_table(space, 0)
    x, omega, _ = all_points(space, cost, table, "bops")
    totals = cost.estimate_many(x)
    bounds = tuple(Bound(m, float(np.quantile(totals[m], 0.4)), False, m) for m in ("size", "bops"))
    for order in (bounds, bounds[::-1]):
        problem = Problem(space, cost, ACCURACY, order)
        Hawq().check(problem)
        front = Hawq()._front(problem, table, None)
        assert front.omega[-1] == pytest.approx(omega[problem.cost_violations(x) <= 0].min())
    nothing = Problem(space, cost, ACCURACY, (Bound("size", 1.0, False, "size"),))
    assert len(Hawq()._front(nothing, table, None).x) == 0


def test_what_it_cannot_take_is_refused_in_one_line():
    problem, _ = coupled(3, objectives=ACCURACY_AND_SIZE)
    greatest = NetworkCost(Deepest(), problem.layers, problem.space)
    with pytest.raises(UserError, match="hawq needs a cost that is a sum over layers; got size, a maximum"):
        Hawq().check(Problem(problem.space, greatest, ACCURACY_AND_SIZE))
    with pytest.raises(UserError, match="hawq minimises costs"):
        Hawq().check(Problem(problem.space, problem.cost, (Objective("size", "maximize"),)))


def test_monotone_needs_a_cost_for_each_decision():
    layers = linear_layers([3, 4])
    space = build_space(layers, weight_bits=[2, 4], activation_bits=[4, 8])
    cost = NetworkCost(SizeAndBops(), layers, space)
    units, _ = additive_units(cost, random_table(space, 0), ["bops"])
    with pytest.raises(UserError, match="fix the activation bits"):
        monotone(space, units, "bops")
    problem = Problem(space, cost, ACCURACY, (Bound("bops", 1e4, False, "bops"),))
    with pytest.raises(UserError, match="fix the activation bits"):  # before the sensitivities are paid for
        Hawq(Hawq.Options(monotone=True)).check(problem)
    Hawq().check(problem)


def test_a_tie_of_weights_is_one_decision_in_the_order_of_the_bits():
    layers = linear_layers([5, 9, 3])
    ties = [("layer0.weight", "layer2.weight")]
    space = build_space(layers, weight_bits=[2, 4, 8], activation_bits=[8], fixed={"activations": 8}, ties=ties)
    problem = Problem(space, NetworkCost(SizeAndBops(), layers, space), ACCURACY_AND_SIZE)
    Hawq(Hawq.Options(monotone=True)).check(problem)
    units, _ = additive_units(problem.cost, random_table(space, 0), ["size"])
    assert (np.diff(monotone(space, units, "size").cost) > 0).all()


def test_too_many_joint_choices_are_refused():
    layer = Layer("a", "linear", 4, 16)
    space = build_space((layer,), weight_bits=[2, 4, 8], activation_bits=[4, 8], granularity="kernel")
    units, _ = additive_units(NetworkCost(SizeAndBops(), (layer,), space), random_table(space, 0), ["bops"])
    with pytest.raises(UserError, match="joint choices"):
        every_assignment(space, units, "bops")
