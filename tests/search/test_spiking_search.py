"""Every searcher on a spiking network: states, leaks and thresholds are decisions like any other."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from spiking_digits import evaluator, problem, space

from qsearch import registry
from qsearch.assignment import BitAssignment
from qsearch.errors import BudgetExhausted
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Problem
from qsearch.search.water_filling import Filler
from qsearch.space import SearchSpace
from qsearch.trial import Quality

BUDGETED = ("auto", "optuna", "gp", "greedy", "grid", "random", "hawq", "ilp", "iqp", "water-filling")
OPTIONS: dict[str, dict[str, Any]] = {"gp": {"candidates": 100}, "auto": {"candidates": 100}}
TIGHT = ("auto", "greedy", "ilp", "iqp", "water-filling")
"""Searchers that begin with what is predicted to be best within the bound."""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def judge() -> Any:
    return evaluator()


@pytest.fixture(scope="module")
def answers(judge: Any) -> Mapping[BitAssignment, Quality]:
    """The quality of every assignment of a small space."""
    return {assignment: judge.evaluate(assignment) for assignment in few().enumerate()}


def searched(name: str, what: Problem, judge: Any, evaluations: int, **options: Any) -> CampaignOracle:
    """A searcher's run, as a campaign runs it."""
    oracle = CampaignOracle(what, judge, MemoryRecord(), Budget(evaluations))
    searcher = registry.create("searchers", name, {**OPTIONS.get(name, {}), **options})
    if hasattr(searcher, "check"):
        searcher.check(what)
    with contextlib.suppress(BudgetExhausted):
        searcher.search(oracle)
    return oracle


def few() -> SearchSpace:
    """A weight, a leak, a state and a threshold: 36 assignments."""
    return space(
        weight_bits=[2, 4, 8],
        leak_bits=[2, 8],
        state_bits=[3, 4, 6],
        threshold_bits=[1, 8],
        fixed={"conv": 8, "fire": 12, "fire.threshold": 8, "out.weight": 8, "voltage": 12},
    )


@pytest.mark.parametrize("granularity", ["layer", "kernel"])
@pytest.mark.parametrize("name", [*BUDGETED, "uniform"])
def test_every_searcher_stays_in_the_space_and_within_the_bound(name: str, granularity: str, judge: Any) -> None:
    what = problem(space(granularity=granularity), budget=0.5)
    oracle = searched(name, what, judge, 8)
    assert 1 <= oracle.spent <= 8
    assert all(trial.assignment in what.space for trial in oracle.trials)
    if name != "uniform":
        assert all(trial.feasible for trial in oracle.trials if trial.evaluated)
    assert all(trial.assignment["fc.input"] == trial.assignment["fire.leak"] == 1 for trial in oracle.trials)


@pytest.mark.parametrize("name", TIGHT)
def test_states_give_way_as_weights_do(name: str, judge: Any) -> None:
    what = problem(space(), budget=0.4)
    best = what.best(searched(name, what, judge, 6).trials)
    assert best is not None
    bits = [best.assignment[site.name] for site in what.space.sites if site.role == "state"]
    assert min(bits) < 12
    assert best.cost.totals["memory"] > 0.8 * what.bounds[0].limit


@pytest.mark.parametrize("name", ["auto", "gp", "grid", "optuna", "random"])
def test_with_the_budget_for_all_of_a_small_space_the_best_is_found(
    name: str, answers: Mapping[BitAssignment, Quality], judge: Any
) -> None:
    what = problem(few(), budget=0.6)
    within = [a for a in answers if what.cost.estimate(a).totals["memory"] <= what.bounds[0].limit]
    assert 5 < len(within) < len(answers) == 36
    best = max(answers[assignment].metric for assignment in within)
    found = what.best(searched(name, what, judge, len(answers)).trials)
    assert found is not None
    assert found.quality is not None
    assert found.quality.metric == best


@pytest.mark.parametrize("sensitivity", ["one-at-a-time", "fisher", "hessian", "noise", "quantization-error"])
def test_the_integer_program_is_exact_for_its_table(sensitivity: str, judge: Any) -> None:
    what = problem(few(), budget=0.6)
    table = registry.create("sensitivities", sensitivity, {}).table(what.space, judge)
    x = np.stack(list(np.ndindex(*what.space.choice_counts.tolist())))
    damage = sum(table.damage[v.name][0][x[:, v.start]] for v in what.space.variables)
    least = damage[what.cost_violations(x) <= 0].min()
    oracle = searched("ilp", what, judge, 1, sensitivity=sensitivity)
    found = what.space.encode(oracle.trials[0].assignment)
    predicted = sum(table.damage[v.name][0][found[v.start]] for v in what.space.variables)
    assert oracle.trials[0].feasible
    assert predicted == pytest.approx(least, rel=1e-9)


def test_bisection_keeps_the_accuracy_with_fewer_bits_of_every_role(judge: Any) -> None:
    bits = space()
    limit = judge.evaluate(bits.decode(bits.highest)).metric - 0.03
    what = problem(bits, objectives=[("memory", "minimize")], budget=None, accuracy=limit)
    for options in ({}, {"sensitivity": "one-at-a-time", "together": "site"}, {"order": "interaction"}):
        oracle = searched("bisection", what, judge, 60, **options)
        best = what.best(oracle.trials)
        assert best is not None
        assert best.quality is not None
        assert best.quality.metric >= limit
        lower = {bits.site(v.name).role for v in bits.variables if best.assignment[v.name] < v.choices[-1]}
        assert {"weight", "state", "threshold"} <= lower
        assert best.cost.totals["memory"] < 0.6 * oracle.trials[0].cost.totals["memory"]


@pytest.mark.parametrize("name", ["auto", "bisection", "greedy", "hawq", "ilp", "water-filling"])
def test_the_least_memory_that_keeps_the_accuracy_is_near_that_of_brute_force(
    name: str, answers: Mapping[BitAssignment, Quality], judge: Any
) -> None:
    bits = few()
    limit = answers[bits.decode(bits.highest)].metric - 0.03
    what = problem(bits, objectives=[("memory", "minimize")], budget=None, accuracy=limit)
    least = min(what.cost.estimate(a).totals["memory"] for a, found in answers.items() if found.metric >= limit)
    options = {"sensitivity": "one-at-a-time", "together": "site"} if name == "bisection" else {}
    oracle = searched(name, what, judge, len(answers), **options)
    best = what.best(oracle.trials)
    assert best is not None
    exact = len(oracle.trials) == len(answers) or name == "ilp"  # which goes up from the least predicted cost
    assert least <= best.cost.totals["memory"] <= (1.0 if exact else 1.5) * least


def test_auto_begins_with_what_a_fisher_table_predicts(judge: Any) -> None:
    what = problem(few(), budget=0.6)
    first = searched("auto", what, judge, 1).trials[0].assignment
    assert first == searched("ilp", what, judge, 1, sensitivity="fisher").trials[0].assignment


def test_water_filling_has_goals_for_weights_and_levels_for_all_else() -> None:
    bits = space(granularity="kernel")
    filler = Filler(problem(bits), np.ones(bits.dimension))
    assert [v.name for v in filler.weights] == ["conv.weight", "fc.weight", "out.weight"]
    assert {bits.site(v.name).role for v in filler.activations} == {"activation", "state", "leak", "threshold"}
    lowest = filler.assignment(filler.equal(np.zeros(len(filler.activations), dtype=np.int64)))
    assert all(lowest[v.start] == 0 for v in filler.activations)
