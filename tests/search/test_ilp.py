"""Integer programming against brute force, on random instances with ties, fixed sites and several rows."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from qsearch.costs import NetworkCost
from qsearch.errors import BudgetExhausted, CostModelError, EvaluationError, InfeasibleError, UserError
from qsearch.layers import Layer
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Bound, Objective, Problem
from qsearch.protocols import CostModel, SensitivityTable
from qsearch.search.ilp import IntegerProgram, Relaxed
from qsearch.search.program import Program
from qsearch.search.quiet import quiet_stdout
from qsearch.search.units import decision_damage
from qsearch.sites import build_space
from qsearch.space import SearchSpace, Site
from qsearch.testing.cost_model import CostModelContract
from qsearch.testing.problems import (
    ACCURACY,
    ACCURACY_AND_SIZE,
    QuadraticEvaluator,
    SizeAndBops,
    exhaust,
    linear_layers,
    separable,
)
from qsearch.trial import Cost

CHOICES = (2, 3, 4, 5, 6, 7, 8)


class TabledCost(CostModel):
    """Random costs per layer, weight bits and activation bits, of no shape that a solver could rely on."""

    units: Mapping[str, str] = {"time": "s", "energy": "J"}

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.table = rng.uniform(0.5, 2.0, size=(16, 2, 33, 33))

    def layer_cost(self, layer, weight_bits, activation_bits):
        time, energy = self.table[int(layer.name[5:]), :, weight_bits[0], activation_bits]
        return {"time": float(time), "energy": float(energy)}

    def estimate_many(self, layers, bits):
        total = np.zeros((2, 1))
        for layer in layers:
            index = int(layer.name[5:])
            activation = bits.get(layer.activation_site, np.full((1, 1), 32))
            total = total + self.table[index][:, bits[layer.weight_site][:, 0], activation[:, 0]]
        return dict(zip(self.units, total, strict=True))


def random_problem(seed: int, layers: int, most: int, objectives=ACCURACY, least: int = 1):
    """A random instance and its sensitivities: an embedding now and then, ties, fixed sites, up to three bounds."""
    rng = np.random.default_rng(seed)
    network = list(linear_layers([4] * layers))
    if rng.random() < 0.3:
        network[0] = Layer("layer0", "embedding", 10, 4)
    picks = [
        tuple(sorted(rng.choice(CHOICES, size=rng.integers(least, most + 1), replace=False).tolist())) for _ in "wa"
    ]
    sites = [Site(layer.weight_site, layer.name, "weight", picks[0]) for layer in network]
    sites += [
        Site(layer.activation_site, layer.name, "activation", picks[1]) for layer in network if layer.kind == "linear"
    ]
    names = rng.permutation([site.name for site in sites if site.role == "weight"]).tolist()
    ties = [tuple(names[:2])] if rng.random() < 0.4 and len(names) > 1 else []
    if picks[0] == picks[1] and sites[-1].role == "activation" and rng.random() < 0.5:
        ties.append((sites[-1].layer + ".weight", sites[-1].name))  # a layer whose bits are tied to each other
        ties = ties[-1:]
    fixed = {}
    tied = {name for tie in ties for name in tie}
    for site in sites:
        if rng.random() < 0.15 and site.name not in tied:
            fixed[site.name] = int(rng.choice([4, 8]))
    space = SearchSpace(tuple(sites), tuple(ties), fixed)
    cost = NetworkCost(TabledCost(seed), tuple(network), space)
    x = every(space)
    totals = cost.estimate_many(x)
    bounds = []
    for metric, at_least, low, high in (("time", False, 2, 60), ("energy", False, 5, 90), ("energy", True, 5, 40)):
        if rng.random() < 0.7:
            limit = float(np.percentile(totals[metric], rng.uniform(low, high)))
            bounds.append(Bound(metric, limit, at_least, f"{metric} {'>=' if at_least else '<='} {limit:.3g}"))
    damage = {v.name: rng.normal(size=(v.length, len(v.choices))) for v in space.variables}
    return Problem(space, cost, objectives, tuple(bounds)), SensitivityTable(damage, 0)


def every(space: SearchSpace) -> np.ndarray:
    """All index vectors of a space."""
    return np.stack(np.unravel_index(np.arange(space.size), space.choice_counts.tolist() or (1,)), axis=1)[
        :, : space.dimension
    ]


def predicted(problem: Problem, table: SensitivityTable, x: np.ndarray) -> np.ndarray:
    rows = decision_damage(problem.space, table)
    return sum((rows[d][x[:, d]] for d in range(problem.space.dimension)), np.zeros(len(x)))


def oracle_of(problem, table=None, evaluator=None, evaluations=1000) -> CampaignOracle:
    evaluator = evaluator or QuadraticEvaluator(problem.space, np.ones(len(problem.space.variables)))
    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=evaluations))
    if table is not None:
        oracle.sensitivity = lambda name, options=None: table
    return oracle


def relaxed(problem, table, **options) -> Relaxed:
    return Relaxed(oracle_of(problem, table), IntegerProgram.Options(**options))


def found(problem, table=None, evaluator=None, evaluations=1000, **options) -> tuple[np.ndarray, CampaignOracle]:
    """Index vectors in the order in which the searcher evaluated them."""
    oracle = oracle_of(problem, table, evaluator, evaluations)
    with contextlib.suppress(BudgetExhausted):
        IntegerProgram(IntegerProgram.Options(**options)).search(oracle)
    return np.stack([problem.space.encode(trial.assignment) for trial in oracle.trials]), oracle


def check_optimum(problem: Problem, table: SensitivityTable) -> None:
    x = every(problem.space)
    feasible = problem.cost_violations(x) <= 0
    if not feasible.any():
        with pytest.raises(InfeasibleError, match="all cost bounds together"):
            relaxed(problem, table).first()
        return
    solution = relaxed(problem, table).first()
    assert problem.cost_violations(solution[None])[0] <= 0
    best = predicted(problem, table, x[feasible]).min()
    assert predicted(problem, table, solution[None])[0] == pytest.approx(best, rel=1e-9, abs=1e-9)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_optimum_equals_brute_force(seed, layers):
    check_optimum(*random_problem(seed, layers, most=3))


LARGE = {"layers": 3, "most": 7, "least": 7}


@pytest.mark.parametrize("seed", range(16))
def test_optimum_equals_brute_force_on_large_instances(seed):
    check_optimum(*random_problem(seed, **LARGE))


def test_the_large_instances_are_large():
    sizes = [random_problem(seed, **LARGE)[0].space.size for seed in range(16)]
    assert sum(size >= 10**5 for size in sizes) >= 2


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_solutions_are_the_k_best_in_order(seed, layers):
    problem, table = random_problem(seed, layers, most=3)
    x = every(problem.space)
    x = x[problem.cost_violations(x) <= 0]
    if not len(x):
        return
    count = min(12, len(x))
    expected = np.sort(predicted(problem, table, x))[:count]
    solutions, _ = found(problem, table, evaluations=count)
    assert len(np.unique(solutions, axis=0)) == count
    assert (problem.cost_violations(solutions) <= 0).all()
    np.testing.assert_allclose(predicted(problem, table, solutions), expected, rtol=1e-9, atol=1e-9)


def test_all_solutions_come_out_once_and_then_the_search_ends():
    problem, table = random_problem(5, layers=2, most=3, least=3)
    feasible = int((problem.cost_violations(every(problem.space)) <= 0).sum())
    solutions, oracle = found(problem, table)
    assert len(solutions) == feasible == oracle.spent
    assert 5 < feasible < problem.space.size


@pytest.mark.parametrize("seed", range(8))
def test_a_slack_bound_changes_nothing(seed):
    problem, table = random_problem(seed, 3, most=3)
    slack = Bound("time", 1e3, False, "slack"), Bound("energy", 0.0, True, "slack too")
    more = Problem(problem.space, problem.cost, problem.objectives, (*problem.bounds, *slack))
    try:
        expected = predicted(problem, table, relaxed(problem, table).first()[None])
    except InfeasibleError:
        pytest.skip("this instance has no solution")
    assert predicted(more, table, relaxed(more, table).first()[None]) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_damage_does_not_rise_with_the_budget(seed):
    problem, table = random_problem(seed, 4, most=4)
    free = Problem(problem.space, problem.cost, problem.objectives)
    x = every(free.space)
    times = free.cost.estimate_many(x)["time"]
    damages = []
    for limit in np.linspace(times.min() * (1 + 1e-12), times.max(), 12):
        bounded = Problem(free.space, free.cost, free.objectives, (Bound("time", float(limit), False, "time"),))
        damages.append(predicted(free, table, relaxed(bounded, table).first()[None])[0])
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(damages))
    assert damages[-1] == pytest.approx(predicted(free, table, x).min())


@pytest.mark.parametrize("seed", range(6))
def test_a_sweep_finds_the_predicted_pareto_front(seed):
    objectives = (Objective("accuracy", "maximize"), Objective("time", "minimize"))
    problem, table = random_problem(seed, 3, most=3, objectives=objectives)
    x = every(problem.space)
    x = x[problem.cost_violations(x) <= 0]
    points = np.stack([predicted(problem, table, x), problem.cost.estimate_many(x)["time"]], axis=1)
    front = {tuple(p) for p in points if not np.any(np.all(points <= p, axis=1) & np.any(points < p, axis=1))}
    solutions, _ = found(problem, table, evaluations=len(front))
    reached = np.stack(
        [predicted(problem, table, solutions), problem.cost.estimate_many(solutions)["time"]], axis=1
    ).round(9)
    assert {tuple(point) for point in reached} == {tuple(np.round(point, 9)) for point in front}


def test_after_the_front_a_sweep_goes_on_to_what_is_left():
    objectives = (Objective("accuracy", "maximize"), Objective("time", "minimize"))
    problem, table = random_problem(4, 2, most=3, objectives=objectives, least=3)
    feasible = int((problem.cost_violations(every(problem.space)) <= 0).sum())
    assert feasible > 5
    assert found(problem, table)[1].spent == feasible


def test_a_sweep_spreads_its_first_evaluations_over_the_cost():
    problem, evaluator = separable(8, choices=range(2, 9), budget=None, objectives=ACCURACY_AND_SIZE)
    _, oracle = found(problem, evaluator=evaluator, evaluations=9)
    sizes = np.sort([trial.value("size") for trial in oracle.trials])
    assert len(sizes) == 9
    assert np.diff(sizes).max() < 0.2 * (sizes[-1] - sizes[0])


def test_a_sweep_alternates_between_costs():
    objectives = (Objective("accuracy", "maximize"), Objective("time", "minimize"), Objective("energy", "minimize"))
    problem, table = random_problem(3, 3, most=3, objectives=objectives)
    problem = Problem(problem.space, problem.cost, objectives)
    x = every(problem.space)
    totals = problem.cost.estimate_many(x)
    solutions, _ = found(problem, table, evaluations=12)
    costs = problem.cost.estimate_many(solutions)
    for metric in ("time", "energy"):
        assert costs[metric].min() == pytest.approx(totals[metric].min())


@pytest.mark.parametrize("limit", [0.3, 0.7, 0.9, 0.97])
def test_the_cheapest_solution_that_meets_a_bound_on_quality(limit):
    problem, evaluator = separable(5, choices=(2, 3, 4, 6, 8), budget=None, seed=4)
    bound = Bound("accuracy", limit, True, f"accuracy >= {limit}")
    problem = Problem(problem.space, problem.cost, (Objective("size", "minimize"),), (bound,))
    known = exhaust(problem, evaluator)
    expected = known.costs["size"][np.exp(-known.loss) >= limit].min()
    _, oracle = found(problem, evaluator=evaluator, evaluations=40)
    best = problem.best(oracle.trials)
    assert best is not None
    assert best.value("size") == expected


def test_a_bound_on_quality_that_nothing_meets_ends():
    problem, evaluator = separable(3, choices=(2, 3), budget=None)
    bound = Bound("accuracy", 1.5, True, "accuracy >= 1.5")
    problem = Problem(problem.space, problem.cost, (Objective("size", "minimize"),), (bound,))
    _, oracle = found(problem, evaluator=evaluator)
    assert oracle.spent == problem.space.size


def test_a_cost_alone_is_minimised_exactly():
    problem, table = random_problem(2, 4, most=4, objectives=(Objective("time", "minimize"),))
    x = every(problem.space)
    times = problem.cost.estimate_many(x[problem.cost_violations(x) <= 0])["time"]
    solutions, _ = found(problem, table, evaluations=5)
    np.testing.assert_allclose(problem.cost.estimate_many(solutions)["time"], np.sort(times)[:5])


def kernel_problem(seed: int):
    """Two layers of few kernels, with bits per kernel, and activation bits beside them."""
    layers = linear_layers([3, 2])
    space = build_space(layers, weight_bits=[2, 4, 8], activation_bits=[4, 8], granularity="kernel")
    cost = NetworkCost(SizeAndBops(), layers, space)
    rng = np.random.default_rng(seed)
    totals = cost.estimate_many(every(space))
    bounds = tuple(
        Bound(metric, float(np.percentile(totals[metric], rng.uniform(10, 60))), False, metric)
        for metric in ("size", "bops")
    )
    damage = {v.name: rng.normal(size=(v.length, len(v.choices))) for v in space.variables}
    return Problem(space, cost, ACCURACY, bounds), SensitivityTable(damage, 0)


@pytest.mark.parametrize("seed", range(8))
def test_bits_per_kernel_equal_brute_force(seed):
    problem, table = kernel_problem(seed)
    assert problem.space.size == 3**5 * 2**2
    check_optimum(problem, table)
    x = every(problem.space)
    x = x[problem.cost_violations(x) <= 0]
    solutions, _ = found(problem, table, evaluations=5)
    np.testing.assert_allclose(
        predicted(problem, table, solutions), np.sort(predicted(problem, table, x))[:5], rtol=1e-9, atol=1e-9
    )


def test_two_hundred_layers_with_49_choices_each_stay_close_to_their_linear_bound():
    rng = np.random.default_rng(0)
    layers = linear_layers(rng.integers(8, 512, size=200).tolist())
    space = build_space(layers, weight_bits=range(2, 9), activation_bits=range(2, 9))
    cost = NetworkCost(SizeAndBops(), layers, space)
    top = float(cost.estimate_many(space.highest[None])["bops"][0])
    problem = Problem(space, cost, ACCURACY, (Bound("bops", 0.3 * top, False, "bops"),))
    damage = {
        v.name: np.exp(rng.normal(0, 1.5)) * 4.0 ** -np.asarray(v.choices)[None] * rng.uniform(0.9, 1.1, (1, 7))
        for v in space.variables
    }
    state = relaxed(problem, SensitivityTable(damage, 0))
    solution = state.first()
    bound, step = linear_bound(state._additive)
    assert bound - 1e-9 <= state._additive.damage(solution) <= bound + step


def linear_bound(program: Program) -> tuple[float, float]:
    """The relaxed program's optimum, and the most that rounding its one split unit can cost."""
    damage = np.concatenate([unit.damage for unit in program.units])
    cost = np.concatenate([unit.costs["bops"] for unit in program.units])
    owner = np.repeat(np.arange(len(program.units)), [len(unit.damage) for unit in program.units])
    choose = (owner[None] == np.arange(len(program.units))[:, None]).astype(float)
    limit = program.bounds[0].limit
    result = linprog(damage, cost[None] / limit, [1.0], choose, np.ones(len(choose)), bounds=(0, 1))
    split = np.unique(owner[(result.x > 1e-6) & (result.x < 1 - 1e-6)])
    chosen = result.x > 1e-6
    return float(result.fun), float(sum(np.ptp(damage[(owner == unit) & chosen]) for unit in split)) + 1e-9


def test_a_gap_is_kept():
    problem, table = random_problem(7, 4, most=4)
    positive = SensitivityTable({name: np.abs(row) for name, row in table.damage.items()}, 0)
    exact = predicted(problem, positive, relaxed(problem, positive).first()[None])[0]
    loose = predicted(problem, positive, relaxed(problem, positive, gap=0.5).first()[None])[0]
    assert exact <= loose


def test_solutions_can_be_limited():
    problem, evaluator = separable(4)
    assert found(problem, evaluator=evaluator, solutions=3)[1].spent == 3


def test_failed_evaluations_are_passed_over():
    problem, evaluator = separable(4)
    evaluator.fails_at = frozenset({0})
    _, oracle = found(problem, evaluator=evaluator, evaluations=3)
    assert [trial.state for trial in oracle.trials] == ["failed", "complete", "complete"]


class TestSizeAndBops(CostModelContract):
    """What the problems with a known optimum cost, in batches and one by one."""

    def model(self):
        return SizeAndBops()


class Coupled(SizeAndBops):
    additive = False


class Overhead(SizeAndBops):
    """Claims to be additive, and is not."""

    def estimate(self, layers, assignment):
        cost = super().estimate(layers, assignment)
        return Cost({**cost.totals, "size": cost.totals["size"] * 2}, cost.units, cost.layers)


def with_model(model: CostModel, granularity="layer", objectives=ACCURACY) -> Problem:
    layers = linear_layers([3, 2])
    space = build_space(layers, weight_bits=[2, 4], activation_bits=[4, 8], granularity=granularity)
    return Problem(space, NetworkCost(model, layers, space), objectives, (Bound("size", 1e4, False, "size"),))


def test_what_cannot_be_solved_is_refused_before_anything_is_paid_for():
    asked = []
    for problem, match in (
        (with_model(Coupled()), "sum of its layers' costs.*Coupled, which is not additive.*'optuna' or 'random'"),
        (with_model(TabledCostWithSize(0), "kernel"), "kernel_additive.*granularity: layer"),
        (with_model(SizeAndBops(), objectives=(Objective("size", "maximize"),)), "maximize size"),
    ):
        oracle = oracle_of(problem)
        oracle.sensitivity = lambda name, options=None: asked.append(name)
        with pytest.raises(UserError, match=match):
            IntegerProgram().search(oracle)
        with pytest.raises(UserError, match=match):
            IntegerProgram().check(problem)
    assert asked == []
    IntegerProgram().check(with_model(SizeAndBops(), "kernel"))
    with pytest.raises(UserError, match="unknown option 'mesure'"):
        IntegerProgram(IntegerProgram.Options(sensitivity_options={"mesure": "kl"})).check(with_model(SizeAndBops()))


class TabledCostWithSize(TabledCost):
    units: Mapping[str, str] = {"size": "bit", "energy": "J"}


def test_a_cost_model_that_is_not_the_sum_it_claims_to_be_is_told():
    with pytest.raises(CostModelError, match="size of an additive cost model must be the sum"):
        IntegerProgram().search(oracle_of(with_model(Overhead())))


def test_sensitivities_must_be_finite_and_complete():
    problem, table = random_problem(1, 2, most=2)
    name = problem.space.variables[0].name
    broken = np.asarray(table.damage[name]).copy()
    broken[0, 0] = np.nan
    for damage in ({**table.damage, name: broken}, {k: v for k, v in table.damage.items() if k != name}):
        with pytest.raises(EvaluationError, match=rf"sensitivities of '{name}' must be finite"):
            relaxed(problem, SensitivityTable(damage, 0))


def test_quiet_stdout_drops_what_c_prints_and_nothing_else(capfd):
    libc = ctypes.CDLL(None)
    print("before")
    libc.puts(b"kept")
    with quiet_stdout():
        libc.puts(b"dropped")
    libc.puts(b"also kept")
    libc.fflush(None)
    print("after")
    assert sorted(capfd.readouterr().out.split("\n")) == sorted(["", "before", "kept", "also kept", "after"])
