"""``greedy``: against brute force where damages add up, its counters, its path, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from threshold_problems import (
    MadeUpEvaluator,
    any_limit,
    best_size,
    equal_layers,
    exact_table,
    least_size,
    run,
    with_limit,
)

from qsearch.assignment import BitArray, BitAssignment
from qsearch.costs import NetworkCost
from qsearch.errors import BudgetExhausted, UserError
from qsearch.layers import Layer
from qsearch.problem import Bound, Objective, Problem
from qsearch.protocols import CostModel, Searcher, SensitivityTable
from qsearch.registry import validate
from qsearch.search.damage import predicted_damage
from qsearch.search.greedy import Descent, Greedy
from qsearch.search.ordering import Together, at_level, groups_of, levels_of
from qsearch.search.spreading import spread
from qsearch.sites import build_space
from qsearch.space import SearchSpace
from qsearch.testing.problems import (
    ACCURACY,
    ACCURACY_AND_SIZE,
    QuadraticEvaluator,
    SizeAndBops,
    coupled,
    exhaust,
    linear_layers,
    separable,
)
from qsearch.testing.searcher import SearcherContract
from qsearch.trial import Cost


def greedy(**options: Any) -> Greedy:
    return Greedy(validate(Greedy.Options, options, "options"))


class TestGreedy(SearcherContract):
    def searcher(self) -> Searcher:
        return greedy()


@settings(max_examples=40, deadline=None)
@given(curvature=st.lists(st.floats(0.1, 20.0), min_size=1, max_size=6), share=st.floats(0.0, 1.0))
def test_the_right_order_finds_the_optimum_of_equal_layers(curvature: list[float], share: float) -> None:
    problem = equal_layers(len(curvature))
    evaluator = QuadraticEvaluator(problem.space, np.asarray(curvature))
    problem = with_limit(problem, any_limit(evaluator, problem, share))
    best = best_size(run(greedy(), problem, evaluator, exact_table(evaluator)))
    assert best == least_size(problem, evaluator)
    reverse = run(greedy(), problem, evaluator, exact_table(evaluator, sign=-1.0))
    assert best_size(reverse) >= best


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 6), limit=st.floats(0.01, 1.0), seed=st.integers(0, 99))
def test_under_a_threshold_evaluations_are_bounded_and_every_step_keeps_it(count: int, limit: float, seed: int) -> None:
    """Accuracies without any order: three lower levels for each of N layers, and the start."""
    problem = equal_layers(count, (2, 4, 8, 16), limit=limit)
    accuracies = np.random.default_rng(seed).random(problem.space.size)

    def accuracy(bits: BitAssignment) -> float:
        return float(accuracies[np.ravel_multi_index(tuple(problem.space.encode(bits)), (4,) * count)])

    evaluator = QuadraticEvaluator(problem.space, np.ones(count))
    oracle = run(greedy(), problem, MadeUpEvaluator(accuracy), exact_table(evaluator))
    assert oracle.spent <= 1 + 3 * count
    kept = [t for t in oracle.trials[1:] if t.feasible]
    sizes = [t.value("size") for t in kept]
    assert sizes == sorted(sizes, reverse=True)


def test_each_group_takes_the_lowest_level_that_keeps_the_target() -> None:
    """Layer 0 is good at 2 bits though not at 4; layer 1 only at 4; layer 2 at none."""
    problem = equal_layers(3, (2, 4, 8), limit=0.5)
    good = ({8, 2}, {8, 4}, {8})
    evaluator = MadeUpEvaluator(lambda bits: float(all(bits[f"layer{i}.weight"] in good[i] for i in range(3))))
    table = exact_table(QuadraticEvaluator(problem.space, np.asarray([1.0, 2.0, 3.0])))
    best = problem.best(run(greedy(), problem, evaluator, table).trials)
    assert best is not None
    assert [best.assignment[f"layer{i}.weight"] for i in range(3)] == [2, 4, 8]


def equal_and_bounded(curvature: list[float], share: float) -> tuple[Problem, QuadraticEvaluator]:
    base = equal_layers(len(curvature), (2, 3, 4, 6))
    top = float(base.cost.estimate_many(base.space.highest[None])["size"][0])
    bound = Bound("size", share * top, False, f"size <= {share:g} x highest")
    return Problem(base.space, base.cost, ACCURACY, (bound,)), QuadraticEvaluator(base.space, np.asarray(curvature))


@settings(max_examples=30, deadline=None)
@given(curvature=st.lists(st.floats(0.1, 20.0), min_size=1, max_size=5), share=st.floats(0.34, 1.0))
def test_neighbours_reach_at_least_what_the_first_assignment_does(curvature: list[float], share: float) -> None:
    problem, evaluator = equal_and_bounded(curvature, share)
    oracle = run(greedy(), problem, evaluator, exact_table(evaluator))
    first, best, known = oracle.trials[0], problem.best(oracle.trials), exhaust(problem, evaluator)
    assert best is not None
    assert first.feasible
    assert known.best_loss - 1e-12 <= -np.log(best.value("accuracy")) <= -np.log(first.value("accuracy")) + 1e-12


def test_steps_of_one_bit_are_optimal_for_equal_layers() -> None:
    """Convex damages, equal costs, steps of one bit: least damage per cost is optimal for every total (Fox, 1966)."""
    base = equal_layers(4, (2, 3, 4, 5), objectives=(("accuracy", "maximize"), ("size", "minimize")))
    problem = Problem(base.space, base.cost, base.objectives)
    evaluator = QuadraticEvaluator(problem.space, np.asarray([0.3, 1.0, 2.0, 7.0]))
    oracle = run(greedy(), problem, evaluator, exact_table(evaluator))
    known = exhaust(problem, evaluator)
    assert oracle.spent == 1 + 4 * 3
    for trial in oracle.trials:
        within = known.loss[known.costs["size"] <= trial.value("size")]
        assert trial.value("loss") == pytest.approx(within.min(), abs=1e-12)
    assert len({trial.value("size") for trial in oracle.trials}) == 13


@pytest.mark.parametrize("budget", [1, 2, 3, 5])
def test_a_small_budget_is_spread_over_the_path(budget: int) -> None:
    base = equal_layers(4, (2, 3, 4, 5), objectives=(("accuracy", "maximize"), ("size", "minimize")))
    problem = Problem(base.space, base.cost, base.objectives)
    accuracy = MadeUpEvaluator(lambda bits: 1.0)
    table = exact_table(QuadraticEvaluator(problem.space, np.asarray([0.3, 1.0, 2.0, 7.0])))
    with pytest.raises(BudgetExhausted):
        run(greedy(), problem, accuracy, table, evaluations=budget)
    sizes = [sum(bits[f"layer{i}.weight"] for i in range(4)) for bits in accuracy.asked]
    assert sizes == [20, 8, 14, 17, 11][:budget]


@given(count=st.integers(0, 60), beginning=st.integers(2, 60))
def test_spread_names_all_and_is_spread_from_its_beginning(count: int, beginning: int) -> None:
    order = spread(np.arange(count, dtype=np.float64))
    assert sorted(order) == list(range(count))
    shown = sorted(order[:beginning])
    if len(shown) > 1:
        gaps = np.diff(shown)
        assert gaps.max() <= 2 * gaps.min() + 1


class Steps(CostModel):
    """Size in steps: 3 bits cost what 4 do, 5 to 7 what 8 do."""

    units: Mapping[str, str] = {"size": "bit"}

    def layer_cost(self, layer: Layer, weight_bits: BitArray, activation_bits: int) -> Mapping[str, float]:
        return {"size": float(np.sum(2 ** np.ceil(np.log2(weight_bits))))}


class Peak(CostModel):
    """The greatest of the layers' sizes: no sum, and ties save nothing."""

    units: Mapping[str, str] = {"size": "bit"}
    additive = False

    def estimate(self, layers: Any, assignment: BitAssignment) -> Cost:
        return Cost({"size": float(max(assignment.mean_bits(layer.weight_site) for layer in layers))}, self.units)


def with_cost(model: CostModel, choices: tuple[int, ...], count: int, limit: float) -> tuple[Problem, SearchSpace]:
    base = equal_layers(count, choices)
    cost = NetworkCost(model, base.layers, base.space)
    return Problem(base.space, cost, ACCURACY, (Bound("size", limit, False, "size"),)), base.space


def test_plateaus_of_the_cost_are_passed_over() -> None:
    problem, space = with_cost(Steps(), (2, 3, 4, 5, 6, 7, 8), 2, 8 * (8 + 4))
    evaluator = QuadraticEvaluator(space, np.asarray([1.0, 3.0]))
    first = run(greedy(), problem, evaluator, exact_table(evaluator)).trials[0]
    assert [first.assignment[f"layer{i}.weight"] for i in range(2)] == [4, 8]


def test_a_peak_that_layers_tie_for_comes_down_too() -> None:
    problem, space = with_cost(Peak(), (2, 4, 8), 3, 4.0)
    evaluator = QuadraticEvaluator(space, np.asarray([1.0, 3.0, 2.0]))
    first = run(greedy(), problem, evaluator, exact_table(evaluator)).trials[0]
    assert {first.assignment[f"layer{i}.weight"] for i in range(3)} == {4}


def test_interactions_count_along_the_path() -> None:
    """Layers 0 and 1 are harmless alone and harmful together: only with the pair does the path leave one of them."""
    base = equal_layers(3, (2, 8))
    interaction = np.zeros((3, 3))
    interaction[0, 1] = interaction[1, 0] = 8.0
    evaluator = QuadraticEvaluator(base.space, np.asarray([1.0, 1.1, 1.3]), interaction)
    problem = Problem(base.space, base.cost, ACCURACY, (Bound("size", 64 * 12.0, False, "size"),))

    def first(pairs: bool) -> list[Any]:
        trial = run(greedy(), problem, evaluator, exact_table(evaluator, pairs=pairs)).trials[0]
        return [trial.assignment[f"layer{i}.weight"] for i in range(3)]

    assert first(pairs=False) == [2, 2, 8]
    assert first(pairs=True) == [2, 8, 2]


@pytest.mark.parametrize("seed", range(4))
def test_it_ends_where_no_neighbour_is_better(seed: int) -> None:
    problem, evaluator = coupled(5, seed=seed)
    table = exact_table(evaluator)
    oracle = run(greedy(), problem, evaluator, table)
    best = problem.best(oracle.trials)
    assert best is not None
    assert best.value("accuracy") >= oracle.trials[0].value("accuracy")
    damage = predicted_damage(problem.space, table)
    descent = Descent(problem, damage, tuple(groups_of(problem.space, "site")))
    around = descent.neighbours(problem.space.encode(best.assignment))
    known = {trial.assignment: trial.value("accuracy") for trial in oracle.trials}
    assert around
    assert all(known[problem.space.decode(y)] <= best.value("accuracy") for y in around)


def test_the_best_of_separable_damages_is_nearly_the_optimum() -> None:
    gaps = []
    for seed in range(6):
        problem, evaluator = separable(5, seed=seed)
        best = problem.best(run(greedy(), problem, evaluator, exact_table(evaluator)).trials)
        assert best is not None
        gaps.append(best.value("loss") / exhaust(problem, evaluator).best_loss)
    assert np.median(gaps) <= 1.01
    assert max(gaps) <= 2.0


def test_a_front_keeps_within_the_bounds() -> None:
    problem, evaluator = coupled(5, objectives=ACCURACY_AND_SIZE, budget=0.6)
    trials = run(greedy(), problem, evaluator, exact_table(evaluator)).trials
    assert len(trials) > 3
    assert all(trial.feasible for trial in trials)
    assert trials[1].assignment == problem.space.decode(problem.space.lowest)


def test_what_is_refused() -> None:
    problem, _ = separable(2)
    size = Objective("size", "minimize")
    with pytest.raises(UserError, match="keeps the quality; got minimize size; add the objective accuracy:max"):
        greedy().check(Problem(problem.space, problem.cost, (size,)))
    with pytest.raises(UserError, match="minimises costs; got maximize size"):
        greedy().check(Problem(problem.space, problem.cost, (Objective("size", "maximize"),)))
    with pytest.raises(UserError, match="unknown sensitivity"):
        greedy(sensitivity="hesian").check(problem)
    greedy().check(problem)
    table = SensitivityTable({}, 0)
    with pytest.raises(UserError, match="keeps the quality"):
        run(greedy(), Problem(problem.space, problem.cost, (size,)), MadeUpEvaluator(lambda bits: 1.0), table)


def grouped(granularity: str, share: float) -> tuple[Problem, QuadraticEvaluator]:
    """Weight and activation bits of three layers, or bits per kernel, under a bound that no level meets exactly."""
    layers = linear_layers([3, 5, 2])
    activations = [2, 4, 6, 8] if granularity == "layer" else [8]
    fixed = None if granularity == "layer" else {"activations": 8}
    space = build_space(
        layers, weight_bits=[2, 3, 4, 8], activation_bits=activations, granularity=granularity, fixed=fixed
    )
    cost = NetworkCost(SizeAndBops(), layers, space)
    least, most = (float(cost.estimate_many(x[None])["bops"][0]) for x in (space.lowest, space.highest))
    bound = Bound("bops", least + share * (most - least), False, "bops")
    curvature = np.random.default_rng(0).exponential(size=len(space.variables)) + 0.1
    return Problem(space, cost, ACCURACY, (bound,)), QuadraticEvaluator(space, curvature)


def kernel_table(evaluator: QuadraticEvaluator) -> SensitivityTable:
    """The exact table, a layer's damage shared out among its kernels, not alike."""
    rng = np.random.default_rng(1)
    rows = exact_table(evaluator).damage
    lengths = {v.name: v.length for v in evaluator.space.variables}
    return SensitivityTable({n: rng.dirichlet(np.ones(lengths[n]))[:, None] * row for n, row in rows.items()}, 0)


def joint_choices(problem: Problem, together: Together) -> list[tuple[NDArray[np.int64], set[tuple[int, ...]]]]:
    """Of each group, its decisions and what they are together at some level of bits."""
    space = problem.space
    levels = [at_level(space, bits) for bits in levels_of(space)]
    return [
        (group.decisions, {tuple(x[group.decisions].tolist()) for x in levels}) for group in groups_of(space, together)
    ]


@pytest.mark.parametrize("share", [0.1, 0.2, 0.37, 0.5, 0.8])
@pytest.mark.parametrize(("granularity", "together"), [("layer", "layer"), ("layer", "site"), ("kernel", "site")])
def test_what_moves_together_stays_together(granularity: str, together: Together, share: float) -> None:
    problem, evaluator = grouped(granularity, share)
    oracle = run(greedy(together=together), problem, evaluator, kernel_table(evaluator))
    assert problem.best(oracle.trials) is not None
    for trial in oracle.trials:
        x = problem.space.encode(trial.assignment)
        for decisions, allowed in joint_choices(problem, together):
            assert tuple(x[decisions].tolist()) in allowed


@pytest.mark.parametrize(("granularity", "together"), [("layer", "layer"), ("kernel", "site")])
def test_room_is_spent_group_by_group_until_none_can_be_higher(granularity: str, together: Together) -> None:
    problem, evaluator = grouped(granularity, 0.37)
    space = problem.space
    groups = tuple(groups_of(space, together))
    descent = Descent(problem, predicted_damage(space, kernel_table(evaluator)), groups)
    x = descent.raised(space.lowest)
    assert problem.cost_violations(x[None])[0] <= 0
    assert (x > space.lowest).any()
    for group in groups:
        assert all(problem.cost_violations(y[None])[0] > 0 for y in descent.higher(x, group))


def test_a_move_down_raises_no_member_of_its_group() -> None:
    problem, evaluator = grouped("layer", 0.5)
    descent = Descent(
        problem, predicted_damage(problem.space, kernel_table(evaluator)), tuple(groups_of(problem.space, "layer"))
    )
    for x in problem.space.sample(np.random.default_rng(0), 20):
        for group in descent.groups:
            assert (descent.lowered(x, group) <= x).all()
            assert (descent.higher(x, group) >= x).all()
