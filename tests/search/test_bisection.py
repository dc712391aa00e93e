"""``bisection``: against brute force where its order is right, its counters, and what it refuses."""

from __future__ import annotations

import hashlib
from math import ceil, log2
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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

from qsearch.assignment import BitAssignment
from qsearch.costs import NetworkCost
from qsearch.errors import BudgetExhausted, ConfigError, EvaluationError, UserError
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Bound, Objective, Problem
from qsearch.protocols import Evaluator, Searcher, SensitivityTable
from qsearch.registry import validate
from qsearch.search.bisection import Bisection
from qsearch.search.damage import predicted_damage
from qsearch.search.ordering import DamageOrder, at_level, group_damage, groups_of, levels_of
from qsearch.sites import build_space
from qsearch.testing.problems import QuadraticEvaluator, SizeAndBops, coupled, exhaust, linear_layers
from qsearch.testing.searcher import SearcherContract
from qsearch.trial import Quality


def bisection(**options: Any) -> Bisection:
    return Bisection(validate(Bisection.Options, options, "options"))


class ThresholdContract(SearcherContract):
    """The contract, on its problems turned into ones of the least size at an accuracy to keep."""

    def run(self, problem: Problem, evaluator: Evaluator, **settings: Any) -> CampaignOracle:
        return super().run(_as_threshold(problem), evaluator, **settings)

    def test_too_many_failures_are_told(self) -> None:
        problem, evaluator = coupled(5)
        evaluator.fails_at = frozenset(range(100))
        budget = Budget(evaluations=20)
        oracle = CampaignOracle(_as_threshold(problem), evaluator, MemoryRecord(), budget, max_failures=2)
        with pytest.raises(EvaluationError, match="2 evaluations failed"):
            self.searcher().search(oracle)


def _as_threshold(problem: Problem) -> Problem:
    keep = Bound("accuracy", 0.7, True, "accuracy >= 0.7")
    return Problem(problem.space, problem.cost, (Objective("size", "minimize"),), (*problem.cost_bounds, keep))


class TestBySensitivity(ThresholdContract):
    def searcher(self) -> Searcher:
        return bisection(sensitivity="one-at-a-time")


class TestAtRandom(ThresholdContract):
    def searcher(self) -> Searcher:
        return bisection(order="random")


curvatures = st.lists(st.floats(0.1, 20.0), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(curvature=curvatures, share=st.floats(0.0, 1.0))
def test_the_right_order_finds_the_optimum_of_equal_layers(curvature: list[float], share: float) -> None:
    problem = equal_layers(len(curvature))
    evaluator = QuadraticEvaluator(problem.space, np.asarray(curvature))
    problem = with_limit(problem, any_limit(evaluator, problem, share))
    best = best_size(run(bisection(), problem, evaluator, exact_table(evaluator)))
    assert best == least_size(problem, evaluator)
    reverse = run(bisection(recheck=False), problem, evaluator, exact_table(evaluator, sign=-1.0))
    assert best_size(reverse) >= best


def test_three_levels_with_room_for_each() -> None:
    """Damages a decade apart: of three layers one can go to 2 bits, one to 4, and one stays at 8."""
    problem = equal_layers(3, (2, 4, 8))
    evaluator = QuadraticEvaluator(problem.space, np.asarray([0.01, 1.0, 100.0]))
    problem = with_limit(problem, float(np.exp(-0.01)))
    oracle = run(bisection(), problem, evaluator, exact_table(evaluator))
    best = problem.best(oracle.trials)
    assert best is not None
    assert [best.assignment[f"layer{i}.weight"] for i in range(3)] == [2, 4, 8]
    assert best_size(oracle) == least_size(problem, evaluator)


def hub() -> tuple[Problem, QuadraticEvaluator]:
    """Three layers. The first looks least sensitive by itself, but couples with both others: only they go down together."""
    problem = equal_layers(3, (2, 8))
    interaction = np.zeros((3, 3))
    interaction[0, 1:] = interaction[1:, 0] = 8.0
    evaluator = QuadraticEvaluator(problem.space, np.asarray([1.0, 1.1, 1.3]), interaction)
    return with_limit(problem, float(np.exp(-0.3))), evaluator


def test_the_diagonal_alone_fails_where_the_order_by_interaction_finds_the_optimum() -> None:
    problem, evaluator = hub()
    table, optimum = exact_table(evaluator, pairs=True), least_size(problem, evaluator)
    by_interaction = run(bisection(order="interaction"), problem, evaluator, table)
    by_diagonal = run(bisection(order="sensitivity"), problem, evaluator, table)
    assert best_size(by_interaction) == optimum == (8 + 2 + 2) * 64
    assert best_size(by_diagonal) == (2 + 8 + 8) * 64


def test_measured_interactions_find_it_too() -> None:
    problem, evaluator = hub()
    optimum = least_size(problem, evaluator)
    assert best_size(run(bisection(order="interaction"), problem, evaluator)) == optimum
    assert best_size(run(bisection(sensitivity="one-at-a-time"), problem, evaluator)) > optimum


def test_the_order_by_interaction_of_a_quadratic_shares_out_its_loss() -> None:
    """Damage with pairs is the loss of a quadratic to 1e-9, and the scores of all groups sum up to it."""
    problem, evaluator = coupled(5, budget=None)
    damage = predicted_damage(problem.space, exact_table(evaluator, pairs=True))
    known = exhaust(problem, evaluator)
    assert np.allclose(damage(known.x), known.loss, rtol=0, atol=1e-9)
    groups = groups_of(problem.space, "layer")
    for y in known.x[::97]:
        assert group_damage(damage, groups, y).sum() == pytest.approx(damage(y[None])[0], abs=1e-12)


def test_second_mixed_differences_are_the_off_diagonal_blocks_of_the_hessian() -> None:
    """I = L(i, j) − L(i) − L(j) + L(0) = ΔW_iᵀ H_ij ΔW_j, to 1e-9; and half of it moves both in the order."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(12, 12))
    hessian, weights = root @ root.T, rng.normal(size=12)
    change = np.round(weights) - weights
    blocks = [slice(0, 4), slice(4, 8), slice(8, 12)]

    def loss(*moved: int) -> float:
        delta = np.zeros(12)
        for block in moved:
            delta[blocks[block]] = change[blocks[block]]
        return float(0.5 * delta @ hessian @ delta)

    problem = equal_layers(3)
    names = [variable.name for variable in problem.space.variables]
    pairs = {}
    for i, j in ((0, 1), (0, 2), (1, 2)):
        mixed = loss(i, j) - loss(i) - loss(j) + loss()
        assert mixed == pytest.approx(change[blocks[i]] @ hessian[blocks[i], blocks[j]] @ change[blocks[j]], abs=1e-9)
        pairs[names[i], names[j]] = np.asarray([[mixed, 0.0], [0.0, 0.0]])
    table = SensitivityTable({name: np.asarray([[loss(i), 0.0]]) for i, name in enumerate(names)}, 0, pairs)
    scores = group_damage(
        predicted_damage(problem.space, table), groups_of(problem.space, "layer"), problem.space.lowest
    )
    others = [loss(0, 1, 2) - loss(*(j for j in range(3) if j != i)) for i in range(3)]
    assert scores == pytest.approx([(loss(i) + others[i]) / 2 for i in range(3)], abs=1e-9)


def at_random(assignment: BitAssignment) -> float:
    """An accuracy without any order: the search must keep to its counters on it too."""
    digest = hashlib.sha256(repr(sorted(assignment.items())).encode()).digest()
    return digest[0] / 255


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 9), limit=st.floats(0.01, 1.0), seed=st.integers(0, 9), recheck=st.booleans())
def test_evaluations_are_bounded(count: int, limit: float, seed: int, recheck: bool) -> None:
    problem = equal_layers(count, (2, 4, 8, 16), limit=limit)
    oracle = run(bisection(order="random", recheck=recheck), problem, MadeUpEvaluator(at_random), seed=seed)
    assert oracle.spent <= 1 + 3 * (ceil(log2(count + 1)) + 2 * recheck)


def test_one_level_of_seven_layers_takes_three_evaluations() -> None:
    for kept in range(8):
        problem = equal_layers(7, limit=0.5)
        low = {f"layer{i}.weight" for i in range(kept)}
        evaluator = MadeUpEvaluator(lambda bits, low=low: float({s for s in bits if bits[s] == 4} <= low))
        evaluator_table = SensitivityTable({f"layer{i}.weight": np.asarray([[i, 0.0]]) for i in range(7)}, 0)
        oracle = run(bisection(recheck=False), problem, evaluator, evaluator_table)
        assert oracle.spent == 1 + 3
        assert best_size(oracle) == (8 * 7 - 4 * kept) * 64


def ranked_table(problem: Problem) -> SensitivityTable:
    """Variables in network order, the first least sensitive."""
    damage = {
        variable.name: np.linspace(rank + 1, 0, len(variable.choices))[None]
        for rank, variable in enumerate(problem.space.variables)
    }
    return SensitivityTable(damage, 0)


@pytest.mark.parametrize(("good", "found"), [({0, 1, 2}, {0, 1, 2}), ({0, 2}, {0, 2})])
def test_the_recheck_looks_beyond_the_edge(good: set[int], found: set[int]) -> None:
    """Layer 1 alone is too much after layer 0; with layer 2 it is not, or layer 2 can go in its place."""
    problem = equal_layers(4, limit=0.5)

    def accuracy(bits: BitAssignment) -> float:
        low = {i for i in range(4) if bits[f"layer{i}.weight"] == 4}
        return float(low in (set(), {0}, good))

    def lowered(recheck: bool) -> set[int]:
        oracle = run(bisection(recheck=recheck), problem, MadeUpEvaluator(accuracy), ranked_table(problem))
        best = problem.best(oracle.trials)
        assert best is not None
        return {i for i in range(4) if best.assignment[f"layer{i}.weight"] == 4}

    assert lowered(recheck=False) == {0}
    assert lowered(recheck=True) == found


def test_weight_and_activation_of_a_layer_move_together_unless_asked_otherwise() -> None:
    problem = equal_layers(4, (4, 8, 16), activations=True, limit=0.5)
    oracle = run(bisection(), problem, MadeUpEvaluator(at_random), ranked_table(problem))
    pairs = [
        (t.assignment[f"layer{i}.weight"], t.assignment[f"layer{i}.input"]) for t in oracle.trials for i in range(4)
    ]
    assert all(weight == activation for weight, activation in pairs)
    assert len({weight for weight, _ in pairs}) > 1
    oracle = run(bisection(together="site"), problem, MadeUpEvaluator(at_random), ranked_table(problem))
    assert any(t.assignment["layer1.weight"] != t.assignment["layer1.input"] for t in oracle.trials)


def test_layers_that_a_tie_joins_move_together() -> None:
    network = linear_layers([8, 8, 8])
    ties = [("layer0.input", "layer2.input")]
    space = build_space(network, weight_bits=[4, 8], activation_bits=[4, 8], ties=ties)
    groups = groups_of(space, "layer")
    assert [group.name for group in groups] == ["layer0.weight", "layer1.weight"]
    assert [group.decisions.tolist() for group in groups] == [[0, 1, 4], [2, 3]]
    assert [group.decisions.tolist() for group in groups_of(space, "site")] == [[0], [1], [2], [3], [4]]


def test_all_kernels_of_a_layer_move_together() -> None:
    space = build_space(linear_layers([3, 2]), weight_bits=[2, 4], activation_bits=[8], granularity="kernel")
    assert [group.decisions.tolist() for group in groups_of(space, "layer")] == [[0, 1, 2, 3], [4, 5, 6]]


def test_a_level_is_the_lowest_choice_of_at_least_so_many_bits() -> None:
    space = build_space(linear_layers([8]), weight_bits=[2, 6, 16], activation_bits=[4])
    assert levels_of(space) == [16, 6, 4, 2]
    assert [at_level(space, bits).tolist() for bits in levels_of(space)] == [[2, 0], [1, 0], [1, 0], [0, 0]]


def test_choices_that_differ_reach_their_lowest() -> None:
    network = linear_layers([8, 8])
    space = build_space(network, weight_bits=[2, 6, 16], activation_bits=[4, 8])
    bounds = (Bound("accuracy", 0.0, True, "accuracy >= 0"),)
    problem = Problem(space, NetworkCost(SizeAndBops(), network, space), (Objective("size", "minimize"),), bounds)
    oracle = run(bisection(), problem, MadeUpEvaluator(lambda bits: 1.0), ranked_table(problem))
    assert oracle.trials[-1].assignment == space.decode(space.lowest)


def test_a_random_order_is_its_seeds() -> None:
    problem = equal_layers(8, limit=0.5)
    runs = [run(bisection(order="random"), problem, MadeUpEvaluator(at_random), seed=seed) for seed in (0, 1, 2, 0)]
    asked = [tuple(trial.assignment for trial in oracle.trials) for oracle in runs]
    assert asked[0] == asked[3]
    assert len(set(asked)) == 3
    assert not any(oracle.tables for oracle in runs)


class Samples(Evaluator):
    """Five hundred samples, of which each lowered layer loses one."""

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        scores = np.ones(500, np.float32)
        scores[: sum(bits == 4 for bits in assignment.values())] = 0
        return Quality.from_outcomes(scores, 0.0)


def test_confidence_sets_how_many_layers_go_down() -> None:
    """Limit 0.99: five losses of 500 by the point estimate; fewer are certified, more are not refuted."""
    problem = equal_layers(20, limit=0.99)
    problem = Problem(
        problem.space, problem.cost, problem.objectives, problem.bounds, float_outcomes=np.ones(500, np.float32)
    )
    lowered = []
    for confidence in (0.95, 0.5, 0.05):
        oracle = run(bisection(confidence=confidence), problem, Samples(), ranked_table(problem))
        lowered.append(int(oracle.notes["lowered"]))
    assert lowered[1] == 5
    assert lowered[0] < 5 < lowered[2]


def test_a_start_over_a_cost_bound_is_gone_on_from() -> None:
    base = equal_layers(4, (4, 8), limit=0.2)
    bounds = (*base.bounds, Bound("size", 4 * 64 * 6.0, False, "size <= 6 bits"))
    problem = Problem(base.space, base.cost, base.objectives, bounds)
    evaluator = MadeUpEvaluator(lambda bits: 1 - 0.1 * sum(bits[f"layer{i}.weight"] == 4 for i in range(4)))
    oracle = run(bisection(), problem, evaluator, ranked_table(problem))
    assert oracle.trials[0].state == "infeasible"
    assert best_size(oracle) == 4 * 64 * 4


def test_interactions_are_asked_for_and_a_table_without_them_is_refused() -> None:
    problem, evaluator = hub()
    with pytest.raises(UserError, match=r"interactions; got 'pairwise', whose table has none; sensitivity: pairwise"):
        run(bisection(order="interaction"), problem, evaluator, exact_table(evaluator))
    assert evaluator.calls == 0
    single = equal_layers(1)
    run(bisection(order="interaction"), single, MadeUpEvaluator(at_random), ranked_table(single))


def test_what_is_refused() -> None:
    problem, evaluator = coupled(3)
    for searcher in (bisection(), bisection(order="random")):
        with pytest.raises(UserError, match="bisection minimises a cost") as caught:
            searcher.check(problem)
        assert "size:min" in str(caught.value)
    with pytest.raises(UserError, match="unknown sensitivity 'hesian'"):
        bisection(sensitivity="hesian").check(_as_threshold(problem))
    bisection(order="random", sensitivity="hesian").check(_as_threshold(problem))
    with pytest.raises(ConfigError, match="confidence"):
        bisection(confidence=1.0)
    assert evaluator.calls == 0


def test_the_plug_in_that_is_asked_follows_the_order() -> None:
    assert bisection().sensitivity == "hessian"
    assert bisection(order="interaction").sensitivity == "pairwise"
    assert bisection(order="interaction", sensitivity="mine").sensitivity == "mine"


def test_equal_scores_stay_in_network_order() -> None:
    problem = equal_layers(5)
    damage = predicted_damage(
        problem.space, SensitivityTable({f"layer{i}.weight": np.zeros((1, 2)) for i in range(5)}, 0)
    )
    groups = groups_of(problem.space, "layer")
    assert DamageOrder(damage)(groups, problem.space.lowest) == groups


def test_a_budget_too_small_ends_it() -> None:
    problem = equal_layers(7, limit=0.5)
    with pytest.raises(BudgetExhausted):
        run(bisection(order="random"), problem, MadeUpEvaluator(at_random), evaluations=2)
