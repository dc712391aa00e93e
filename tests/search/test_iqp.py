"""The quadratic program against brute force: interactions, ties, rows, bounds that hold, and nothing but sums."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ilp import random_problem

from qsearch.errors import BudgetExhausted, InfeasibleError
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Bound, Problem
from qsearch.protocols import SensitivityTable
from qsearch.search import quadratic
from qsearch.search.damage import Damage, predicted_damage
from qsearch.search.ilp import IntegerProgram
from qsearch.search.iqp import QuadraticProgram
from qsearch.search.semidefinite import COLUMNS, Limit, relieved
from qsearch.testing.problems import ACCURACY_AND_SIZE, QuadraticEvaluator, coupled, exhaust, separable
from qsearch.testing.searcher import SearcherContract


def closed_form(problem: Problem, evaluator: QuadraticEvaluator) -> SensitivityTable:
    """The loss of a closed-form problem as a table: exact, with all its interactions."""
    variables = problem.space.variables
    errors = [2.0 ** -np.asarray(v.choices, dtype=float) for v in variables]
    damage = {v.name: (h * e**2)[None] for v, h, e in zip(variables, evaluator.curvature, errors, strict=True)}
    pairs = {}
    for i, j in zip(*np.triu_indices(len(variables), 1), strict=True):
        if evaluator.interaction is not None:
            pairs[variables[i].name, variables[j].name] = evaluator.interaction[i, j] * np.outer(errors[i], errors[j])
    return SensitivityTable(damage, 0, pairs)


def run(searcher, problem, evaluator, table, evaluations):
    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=evaluations))
    oracle.sensitivity = lambda name, options=None: table
    with contextlib.suppress(BudgetExhausted):
        searcher.search(oracle)
    return oracle


def random_case(seed: int):
    """A random problem of layers with weights and activations, random damages, some random pairs, and all within."""
    problem, table = random_problem(seed, 3, most=3)
    rng = np.random.default_rng(seed)
    variables = problem.space.variables
    pairs = {
        (variables[i].name, variables[j].name): rng.normal(size=(len(variables[i].choices), len(variables[j].choices)))
        for i, j in zip(*np.triu_indices(len(variables), 1), strict=True)
        if rng.random() < 0.6
    }
    table = SensitivityTable(table.damage, 0, pairs)
    x = np.asarray(list(np.ndindex(*problem.space.choice_counts.tolist())))
    x = x.reshape(problem.space.size, problem.space.dimension)
    return problem, table, x[problem.cost_violations(x) <= 0]


def check_best_in_order(problem, table, x) -> None:
    evaluator = QuadraticEvaluator(problem.space, np.ones(len(problem.space.variables)))
    if not len(x):
        with pytest.raises(InfeasibleError):
            run(QuadraticProgram(), problem, evaluator, table, 1)
        return
    count = min(8, len(x))
    oracle = run(QuadraticProgram(), problem, evaluator, table, count)
    damage = predicted_damage(problem.space, table)
    found = np.stack([problem.space.encode(trial.assignment) for trial in oracle.trials])
    np.testing.assert_allclose(damage(found), np.sort(damage(x))[:count], rtol=1e-8, atol=1e-8)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_solutions_are_the_best_in_order(seed):
    check_best_in_order(*random_case(seed))


@pytest.mark.parametrize("seed", range(12))
def test_solutions_are_the_best_in_order_where_they_are_proven_by_the_additive_program(seed, monkeypatch):
    monkeypatch.setattr(quadratic, "ENUMERATED", 1)
    check_best_in_order(*random_case(seed))


def test_the_first_solution_is_the_optimum_of_coupled_layers_where_sums_mislead():
    misled = 0
    for seed in range(6):
        problem, evaluator = coupled(5, seed=seed)
        best, table = exhaust(problem, evaluator).best_loss, closed_form(problem, evaluator)
        losses = [
            run(searcher, problem, evaluator, table, 1).trials[0].value("loss")
            for searcher in (QuadraticProgram(), IntegerProgram())
        ]
        assert losses[0] == pytest.approx(best)
        misled += losses[1] > best * 1.001
    assert misled >= 1


@pytest.mark.parametrize("seed", range(4))
def test_local_search_stays_within_the_rows_and_above_a_bound_that_holds(seed, monkeypatch):
    problem, evaluator = coupled(7, seed=seed)
    known, table = exhaust(problem, evaluator), closed_form(problem, evaluator)
    monkeypatch.setattr(quadratic, "ENUMERATED", 1)
    searcher = QuadraticProgram(QuadraticProgram.Options(exact_up_to=20))
    oracle = run(searcher, problem, evaluator, table, 1)
    assert oracle.trials[0].feasible
    assert oracle.notes["bound"] <= known.best_loss + 1e-12
    assert known.best_loss * (1 - 1e-12) <= oracle.notes["damage"] <= 1.1 * known.best_loss
    sums = run(IntegerProgram(), problem, evaluator, table, 1).trials[0].value("loss")
    assert oracle.notes["damage"] <= sums + 1e-12


def test_every_solution_comes_out_once_beyond_what_is_proven(monkeypatch):
    problem, evaluator = coupled(4)
    monkeypatch.setattr(quadratic, "ENUMERATED", 1)
    searcher = QuadraticProgram(QuadraticProgram.Options(exact_up_to=5))
    oracle = run(searcher, problem, evaluator, closed_form(problem, evaluator), 1000)
    assert oracle.spent == exhaust(problem, evaluator).feasible.sum()


@pytest.mark.parametrize("objectives", [separable(1)[0].objectives, ACCURACY_AND_SIZE])
def test_without_interactions_it_is_the_integer_program(objectives):
    problem, evaluator = separable(5, objectives=objectives)
    table = closed_form(problem, evaluator)
    linear, paired = (run(s, problem, evaluator, table, 20).trials for s in (IntegerProgram(), QuadraticProgram()))
    assert [trial.assignment for trial in linear] == [trial.assignment for trial in paired]


def test_a_sweep_finds_the_front_of_coupled_layers():
    problem, evaluator = coupled(4, objectives=ACCURACY_AND_SIZE, budget=None)
    known = exhaust(problem, evaluator)
    points = np.stack([known.loss, known.costs["size"]], axis=1)
    front = {tuple(p) for p in points if not np.any(np.all(points <= p, axis=1) & np.any(points < p, axis=1))}
    oracle = run(QuadraticProgram(), problem, evaluator, closed_form(problem, evaluator), len(front))
    reached = {(round(t.value("loss"), 12), t.value("size")) for t in oracle.trials}
    assert reached == {(round(loss, 12), size) for loss, size in front}


def test_the_cheapest_solution_that_meets_a_bound_on_quality():
    problem, evaluator = coupled(5, budget=None, seed=1)
    known = exhaust(problem, evaluator)
    limit = float(np.quantile(np.exp(-known.loss), 0.8))
    bound = Bound("accuracy", limit, True, "accuracy")
    problem = replace(problem, objectives=(ACCURACY_AND_SIZE[1],), bounds=(bound,))
    best = problem.best(run(QuadraticProgram(), problem, evaluator, closed_form(problem, evaluator), 40).trials)
    assert best is not None
    assert best.value("size") == known.costs["size"][np.exp(-known.loss) >= limit].min()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(1, 3))
def test_diffusion_never_overestimates(seed, units, most):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, most + 1, size=units)
    pairs = rng.normal(size=(units, most, units, most)) * (rng.random((units, 1, units, 1)) < 0.7)
    pairs = pairs + pairs.transpose(2, 3, 0, 1)
    each = np.arange(units)
    pairs[each, :, each] = 0.0
    moved = quadratic.diffused(rng.normal(size=(units, most)), sizes, pairs)
    for x in np.ndindex(*sizes.tolist()):
        chosen = np.asarray(x)
        exact = 0.5 * pairs[each[:, None], chosen[:, None], each, chosen].sum()
        assert moved[each, chosen].sum() <= exact + 1e-9


def random_damage(rng, sizes) -> Damage:
    pairs = {
        (i, j): rng.normal(size=(sizes[i], sizes[j]))
        for i, j in zip(*np.triu_indices(len(sizes), 1), strict=True)
        if rng.random() < 0.8
    }
    return Damage(tuple(rng.normal(size=size) for size in sizes), pairs)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 3), min_size=1, max_size=5), st.integers(0, 2))
def test_what_is_not_negative_is_taken_out_and_nothing_else(seed, sizes, limits):
    rng = np.random.default_rng(seed)
    total = random_damage(rng, sizes)
    found = relieved(total, [Limit(random_damage(rng, sizes), float(rng.normal())) for _ in range(limits)])
    x = np.asarray(list(np.ndindex(*sizes)))
    assert (found(x) <= total(x) + 1e-9).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 60))
def test_damage_is_the_sum_of_its_terms_alone_and_in_batches(seed, sizes, batch):
    rng = np.random.default_rng(seed)
    damage = random_damage(rng, sizes)
    x = rng.integers(0, sizes, size=(batch, len(sizes)))
    expected = [
        sum(values[k] for values, k in zip(damage.single, row, strict=True))
        + sum(values[row[i], row[j]] for (i, j), values in damage.pairs.items())
        for row in x
    ]
    np.testing.assert_allclose(damage(x), expected, atol=1e-12)
    assert [damage(row[None])[0] for row in x] == damage(x).tolist()


def test_too_many_choices_are_not_relaxed():
    assert relieved(Damage(tuple(np.zeros((COLUMNS // 4 + 1, 4)))), ()) is None


def proven(problem, evaluator, monkeypatch) -> tuple[float, float]:
    """Damage of the first solution, and the bound before any is seen but the first of the additive program."""
    monkeypatch.setattr(quadratic, "ENUMERATED", 1)
    searcher = QuadraticProgram(QuadraticProgram.Options(exact_up_to=1))
    notes = run(searcher, problem, evaluator, closed_form(problem, evaluator), 1).notes
    return notes["damage"], notes["bound"]


@pytest.mark.parametrize(("coupling", "share"), [(0.3, 0.95), (1.0, 0.75)])
@pytest.mark.parametrize("seed", range(6))
def test_the_bound_is_close_where_damages_are_positive_semidefinite(seed, coupling, share, monkeypatch):
    problem, evaluator = coupled(6, seed=seed)
    assert evaluator.interaction is not None
    evaluator = replace(evaluator, interaction=coupling * evaluator.interaction)
    best = exhaust(problem, evaluator).best_loss
    assert share * best <= proven(problem, evaluator, monkeypatch)[1] <= best * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(2))
def test_twenty_layers_that_all_interact_are_bounded_from_below(seed, monkeypatch):
    problem, evaluator = coupled(20, choices=range(2, 9), seed=seed)
    damage, bound = proven(problem, evaluator, monkeypatch)
    assert 0.75 * damage <= bound <= damage


def test_the_bound_holds_with_weights_and_activations_and_several_rows(monkeypatch):
    monkeypatch.setattr(quadratic, "ENUMERATED", 1)
    checked = 0
    for seed in range(20):
        problem, table, x = random_case(seed)
        if len(x) and table.interactions:
            evaluator = QuadraticEvaluator(problem.space, np.ones(len(problem.space.variables)))
            oracle = run(QuadraticProgram(QuadraticProgram.Options(exact_up_to=1)), problem, evaluator, table, 1)
            best = predicted_damage(problem.space, table)(x).min()
            assert oracle.notes["bound"] <= best + 1e-9
            assert oracle.notes["damage"] >= best - 1e-9
            checked += 1
    assert checked > 5


class ClosedForm(QuadraticProgram):
    """On the exact table of the contract's problems, which are coupled or separable."""

    def search(self, oracle):
        evaluator = oracle.evaluator
        oracle.sensitivity = lambda name, options=None: closed_form(oracle.problem, evaluator)
        super().search(oracle)


class TestQuadraticProgram(SearcherContract):
    def searcher(self):
        return ClosedForm()
