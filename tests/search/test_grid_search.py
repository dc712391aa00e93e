"""The grid: its order by hand, all of a small space, and nothing tried twice that makes the same network."""

from __future__ import annotations

from itertools import islice, product

import numpy as np
import pytest

from qsearch.costs import NetworkCost
from qsearch.layers import Layer
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.overlay import ALL, Overlay
from qsearch.problem import Problem
from qsearch.protocols import Searcher
from qsearch.search.grid import ENUMERATED, Grid, alike, everything, layer_groups
from qsearch.sites import build_space, overlaid
from qsearch.space import SearchSpace, Site
from qsearch.testing.problems import ACCURACY, QuadraticEvaluator, WeightSize, coupled, separable
from qsearch.testing.searcher import SearcherContract


class TestGrid(SearcherContract):
    def searcher(self) -> Searcher:
        return Grid()


def run(problem: Problem, evaluator: QuadraticEvaluator, evaluations: int) -> CampaignOracle:
    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=evaluations))
    Grid().search(oracle)
    return oracle


def test_a_budget_that_holds_the_space_evaluates_all_of_it() -> None:
    problem, evaluator = coupled(3, choices=[2, 4, 8], budget=None)
    trials = run(problem, evaluator, 1000).trials
    assert {trial.assignment for trial in trials} == set(problem.space.enumerate())
    assert len(trials) == 27


def test_every_assignment_within_the_bounds_and_no_other() -> None:
    problem, evaluator = coupled(3, choices=[2, 4, 8], budget=0.5)
    trials = run(problem, evaluator, 1000).trials
    within = [a for a in problem.space.enumerate() if problem.cost_violations(problem.space.encode(a)[None])[0] <= 0]
    assert {trial.assignment for trial in trials} == set(within)
    assert all(trial.state == "complete" for trial in trials)


def test_the_order_by_hand() -> None:
    """Two layers of {2, 4, 8}: alike from the highest, then the first layer's, then the second's, each from the highest."""
    problem, evaluator = separable(2, choices=[2, 4, 8], budget=None)
    found = [tuple(problem.space.encode(t.assignment).tolist()) for t in run(problem, evaluator, 1000).trials]
    # more bits are better here, so that the best of the alike is (2, 2), and no move from it is
    assert found[:3] == [(2, 2), (1, 1), (0, 0)]
    assert found[3:7] == [(1, 2), (0, 2), (2, 1), (2, 0)]
    assert found[7:] == [(0, 1), (1, 0)]


def test_one_layer_at_a_time_reaches_the_optimum_of_a_separable_problem_without_bounds_on_costs() -> None:
    """Where layers do not interact and nothing binds, one round is enough: here fewer bits are made better at some layers."""
    problem, evaluator = separable(6, choices=[2, 4, 6, 8], budget=None, seed=3)
    evaluator.curvature = np.asarray([1.0, -1.0, 0.5, -0.2, 2.0, -3.0])
    trials = run(problem, evaluator, 4 + 6 * 3).trials
    best = problem.best(trials)
    assert best is not None
    assert problem.space.encode(best.assignment).tolist() == [3, 0, 3, 0, 3, 0]


def test_a_larger_budget_goes_on_where_the_smaller_ended() -> None:
    shorter = run(*coupled(4), 9).trials
    longer = run(*coupled(4), 40).trials
    assert longer[:9] == shorter
    assert len(longer) == 40


def test_sites_without_a_choice_take_the_nearest_when_all_are_alike() -> None:
    space = SearchSpace((Site("a", "a", "weight", (2, 8)), Site("b", "b", "weight", (4, 5))))
    found = [tuple(space.decode(x).values()) for x in alike(space)]
    assert found == [(8, 5), (2, 5), (2, 4), (2, 4)], "of 8, 5, 4 and 2 bits: 5 is as near to 2 as to 8, the lower wins"


def test_roles_are_combined() -> None:
    space = SearchSpace((Site("w", "l", "weight", (2, 4)), Site("x", "l", "activation", (6, 8))))
    found = [tuple(space.decode(x).values()) for x in alike(space)]
    assert found == [(4, 8), (4, 6), (2, 8), (2, 6)]


def test_enumeration_is_lexicographic_and_whole() -> None:
    space = coupled(3, choices=[2, 4, 8])[0].space
    assert [tuple(x) for x in everything(space)] == list(product(range(3), repeat=3))


def test_enumeration_takes_spaces_of_more_extents_than_an_array_may_have() -> None:
    sites = tuple(Site(f"s{i}", f"s{i}", "weight", (2, 4)) for i in range(100))
    assert [int(x[-1]) for x in islice(everything(SearchSpace(sites)), 3)] == [0, 1, 0]


def test_a_large_space_ends_when_no_layer_improves() -> None:
    problem, evaluator = separable(12, choices=[2, 4, 6, 8], budget=None)
    assert problem.space.size > ENUMERATED
    trials = run(problem, evaluator, 10_000).trials
    assert len(trials) == 4 + 12 * 3


def overlay_problem(kept: tuple[int, ...] = (0, 1, 32)) -> tuple[Problem, QuadraticEvaluator]:
    layers = (Layer("a", "linear", 64, 8), Layer("b", "linear", 64, 4))
    overlay = Overlay(32, kept)
    space = build_space(layers, weight_bits=[3, 4], activation_bits=[8], fixed={"activations": 8}, overlay=overlay)
    cost = NetworkCost(WeightSize(), overlaid(layers, space, overlay), space)
    return Problem(space, cost, ACCURACY), QuadraticEvaluator(space, np.ones(len(space.variables)))


def test_what_makes_the_same_network_is_tried_once() -> None:
    problem, evaluator = overlay_problem()
    trials = run(problem, evaluator, 10_000).trials
    of_one_layer = 1 + 2 * 2 + 2  # all ternary; one kept in blocks, or anywhere, at either bits; plain at either bits
    assert len(trials) == of_one_layer**2
    for trial in trials:
        for name in ("a", "b"):
            if trial.assignment[f"{name}.overlay"] == 0:
                assert (trial.assignment[f"{name}.weight"], trial.assignment[f"{name}.pattern"]) == (3, 0)
            if trial.assignment[f"{name}.overlay"] == ALL:
                assert trial.assignment[f"{name}.pattern"] == 0


def test_layers_move_with_all_their_sites() -> None:
    problem, _ = overlay_problem()
    names = [[variable.name for variable in group] for group in layer_groups(problem.space)]
    assert names == [["a.weight", "a.overlay", "a.pattern"], ["b.weight", "b.overlay", "b.pattern"]]


@pytest.mark.parametrize("evaluations", [1, 5])
def test_a_small_budget_is_kept(evaluations: int) -> None:
    problem, evaluator = overlay_problem()
    assert len(run(problem, evaluator, evaluations).trials) == evaluations
