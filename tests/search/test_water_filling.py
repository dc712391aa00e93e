"""The searcher ``water-filling``: the contract, known optima, and what it promises beyond them."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from qsearch import registry
from qsearch.costs import NetworkCost
from qsearch.errors import BudgetExhausted, ConfigError, EvaluationError, PluginError
from qsearch.layers import Layer
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Bound, Objective, Problem
from qsearch.protocols import Searcher, SensitivityTable
from qsearch.search.water_filling import BISECTIONS, REPEATS, WaterFilling
from qsearch.sites import build_space
from qsearch.space import SearchSpace, Site
from qsearch.testing.problems import (
    ACCURACY,
    ACCURACY_AND_SIZE,
    QuadraticEvaluator,
    SizeAndBops,
    WeightSize,
    exhaust,
    kernels,
    linear_layers,
    optimal_loss,
    separable,
)
from qsearch.testing.searcher import SearcherContract


class TestWaterFilling(SearcherContract):
    def searcher(self) -> Searcher:
        return registry.create("searchers", "water-filling")


def run(problem, evaluator, evaluations=30, seed=0, table=None) -> CampaignOracle:
    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=evaluations), seed=seed)
    if table is not None:
        oracle.sensitivity = lambda name, options=None: table
    with contextlib.suppress(BudgetExhausted):
        WaterFilling().search(oracle)
    return oracle


def losses(oracle: CampaignOracle) -> np.ndarray:
    return np.asarray([trial.quality.loss for trial in oracle.trials if trial.feasible])


@pytest.mark.parametrize("seed", range(4))
def test_one_layer_is_solved_at_once(seed):
    problem, evaluator = kernels(64, seed=seed)
    oracle = run(problem, evaluator)
    assert losses(oracle) == pytest.approx([optimal_loss(problem, evaluator)], rel=1e-9)
    assert oracle.trials[0].cost.totals["size"] == 4 * 64 * 8


@pytest.mark.parametrize("seed", range(4))
def test_several_layers_are_solved_by_one_level_and_finished_by_the_local_search(seed):
    problem, evaluator = kernels((16, 32, 16), seed=seed)
    found, best = losses(run(problem, evaluator, 60)), optimal_loss(problem, evaluator)
    assert found[0] <= 1.02 * best
    assert found[1] > 1.05 * best, "equal goals are a worse start: layers differ in scale"
    assert found.min() == pytest.approx(best, rel=1e-2)


@pytest.mark.parametrize("seed", range(4))
def test_a_bit_costs_what_its_kernel_has_in_weights(seed):
    rng = np.random.default_rng(seed)
    layers = (Layer("a", "linear", 4, 24), Layer("b", "linear", 64, 24))
    space = build_space(
        layers, weight_bits=range(9), activation_bits=[8], granularity="kernel", fixed={"activations": 8}
    )
    variances = {layer.weight_site: 4.0 ** rng.normal(0, 1.0, size=24) for layer in layers}
    evaluator = QuadraticEvaluator(space, np.ones(2), variances=variances)
    limit = 4.0 * sum(layer.params for layer in layers)
    problem = Problem(space, NetworkCost(WeightSize(), layers, space), ACCURACY, (Bound("size", limit, False, "size"),))
    first = run(problem, evaluator, 1).trials[0]
    assert first.quality.loss <= 1.08 * optimal_loss(problem, evaluator)
    small, large = (first.assignment.mean_bits(f"{name}.weight") for name in "ab")
    assert small - large == pytest.approx(0.5 * np.log2(64 / 4) + _offset(variances), abs=0.35)


def _offset(variances: dict[str, np.ndarray]) -> float:
    """Mean bits that the kernels of a want more than those of b, at equal weights and equal shares of the loss."""
    means = [np.mean(0.5 * np.log2(values / values.sum())) for values in variances.values()]
    return float(means[0] - means[1])


def test_layer_wise_spaces():
    ratios = []
    for seed in range(5):
        problem, evaluator = separable(7, choices=range(2, 9), seed=seed)
        found = losses(run(problem, evaluator, 40)) / optimal_loss(problem, evaluator)
        ratios.append((found[0], found.min()))
    first, best = np.asarray(ratios).T
    assert first.max() <= 1.5
    assert np.median(best) <= 1.05
    assert best.max() <= 1.3


def with_activations(granularity="kernel", bounds=(0.4,), objectives=ACCURACY, **options):
    """Two layers with activations of their own; a bound on bit operations, relative to the highest."""
    layers = linear_layers([6, 10])
    choices = {"weight_bits": range(9), "activation_bits": (2, 4, 8), **options}
    space = build_space(layers, granularity=granularity, **choices)
    cost = NetworkCost(SizeAndBops(), layers, space)
    top = float(cost.estimate_many(space.highest[None])["bops"][0])
    limits = tuple(Bound("bops", share * top, False, f"bops <= {share:g}") for share in bounds)
    rng = np.random.default_rng(0)
    variances = {v.name: 4.0 ** rng.normal(0, 1.5, size=v.length) for v in space.variables}
    evaluator = QuadraticEvaluator(space, rng.exponential(size=len(space.variables)), variances=variances)
    return Problem(space, cost, objectives, limits), evaluator


def test_uniform_activations_come_first_highest_first():
    problem, evaluator = with_activations()
    trials = run(problem, evaluator, 40).trials
    levels = [(trial.assignment["layer0.input"], trial.assignment["layer1.input"]) for trial in trials]
    assert list(dict.fromkeys(levels[:5])) == [(8, 8), (4, 4), (2, 2)]
    assert {(8, 4), (4, 8)} & set(levels[5:])


def test_every_proposal_meets_the_bounds_and_comes_close_to_them():
    problem, evaluator = with_activations(bounds=(0.25,))
    trials = run(problem, evaluator, 40).trials
    assert len(trials) == 40
    assert all(trial.state == "complete" for trial in trials)
    names = [f"layer{i}.weight" for i in (0, 1)]
    partial = [trial for trial in trials if sum(map(trial.assignment.mean_bits, names)) < 16]
    assert len(partial) > 20
    assert np.median([max(trial.violations.values()) for trial in partial]) > -0.05


def test_the_local_search_improves():
    problem, evaluator = with_activations(bounds=(0.2,))
    oracle = run(problem, evaluator, 80)
    found = losses(oracle)
    assert found[6:].min() < 0.95 * found[:6].min()


def test_the_highest_level_leaves_no_room_for_one_more_bit_in_the_network():
    problem, evaluator = kernels((16, 32, 16), mean=3.21)
    trials = run(problem, evaluator, 2).trials
    assert all(trial.cost.totals["size"] > 3.21 * 8 * 64 - 8 for trial in trials)


def test_without_bounds_the_first_is_the_highest():
    problem, evaluator = with_activations(bounds=())
    trials = run(problem, evaluator, 5).trials
    assert trials[0].assignment == problem.space.decode(problem.space.highest)


def test_the_cheapest_within_a_bound_on_quality():
    problem, evaluator = kernels((8, 8))
    bound = Bound("accuracy", 0.8, True, "accuracy >= 0.8")
    cheap = Problem(problem.space, problem.cost, (Objective("size", "minimize"),), (bound,))
    oracle = run(cheap, evaluator, 60)
    sizes = [trial.value("size") for trial in oracle.trials if trial.feasible]
    limits = np.linspace(1.0, 8.0, 113) * 128  # one bit of one kernel apart
    enough = next(
        limit for limit in limits if np.exp(-(4.0**4) * optimal_loss(_limited(problem, limit), evaluator)) >= 0.8
    )
    assert sizes[0] == 8 * 128
    assert enough <= min(sizes) <= 1.04 * enough
    first = [trial.value("size") for trial in oracle.trials[: 1 + BISECTIONS] if trial.feasible]
    assert min(first) <= enough + 8 * 128 / 2**BISECTIONS + 8, (
        "a bisection leaves a sixteenth of the range, and rounding"
    )


def _limited(problem: Problem, limit: float) -> Problem:
    return Problem(problem.space, problem.cost, problem.objectives, (Bound("size", limit, False, "size"),))


def test_a_front_is_explored_along_its_length():
    problem, evaluator = kernels((8, 8))
    problem = Problem(problem.space, problem.cost, ACCURACY_AND_SIZE)
    oracle = run(problem, evaluator, 80)
    front = problem.front(oracle.trials)
    sizes = [trial.value("size") / 128 for trial in front]
    assert len(front) > 20
    assert min(sizes) < 4
    assert max(sizes) == 8
    for trial in front:
        limit = optimal_loss(_limited(problem, trial.value("size")), evaluator)
        assert trial.quality.loss <= 3 * limit


def test_bounds_that_nothing_meets_end_the_search():
    problem, evaluator = with_activations(bounds=(1e-4,), weight_bits=(2, 4))
    oracle = run(problem, evaluator)
    assert [trial.state for trial in oracle.trials] == ["infeasible"]
    assert evaluator.calls == 0


def test_no_bound_on_quality_met_yet_still_searches_from_the_nearest():
    problem, evaluator = with_activations(bounds=(0.3,))
    bound = Bound("accuracy", 1.0, True, "accuracy >= 1")
    problem = Problem(problem.space, problem.cost, problem.objectives, (*problem.bounds, bound))
    oracle = run(problem, evaluator, 40)
    assert not any(trial.feasible for trial in oracle.trials)
    shortfall = [trial.violations[bound.label] for trial in oracle.trials]
    assert len(shortfall) == 40
    assert min(shortfall[6:]) < min(shortfall[:6])


def test_a_search_with_nothing_new_ends():
    problem, evaluator = separable(4, budget=0.5)
    counted, calls = problem.space.decode, []
    object.__setattr__(problem.space, "decode", lambda x: calls.append(x.tobytes()) or counted(x))
    oracle = run(problem, evaluator, 5000)
    assert 5 < oracle.spent < 5000
    assert len(calls) >= REPEATS
    assert len(set(calls[-REPEATS:])) < REPEATS
    assert set(calls[-REPEATS:]) <= set(calls[:-REPEATS])


def test_damages_of_zero_and_below_count_as_none():
    problem, evaluator = kernels((4, 4), choices=range(1, 9))
    damage = {v.name: np.tile(4.0 ** -np.arange(1.0, 9.0), (4, 1)) for v in problem.space.variables}
    damage["layer1.weight"][:, 0] = [-1e-3, 0.0, 0.25, 0.25]
    first = run(problem, evaluator, 1, table=SensitivityTable(damage, 0)).trials[0].assignment
    assert first.vector("layer0.weight", 4).tolist() == [5, 5, 5, 5]
    assert first.vector("layer1.weight", 4).tolist() == [1, 1, 5, 5]


def test_sensitivities_that_are_not_finite_are_told():
    problem, evaluator = kernels((4, 4))
    damage = {v.name: np.full((4, 9), np.nan) for v in problem.space.variables}
    with pytest.raises(EvaluationError, match=r"sensitivities of 'layer0\.weight' must be finite"):
        run(problem, evaluator, table=SensitivityTable(damage, 0))


def test_ties_fixed_sites_and_activations_alone():
    layers = linear_layers([4, 4])
    names = [(layer.weight_site, layer.activation_site) for layer in layers]
    sites = tuple(
        Site(name, layer.name, role, (2, 4, 8))
        for layer, pair in zip(layers, names, strict=True)
        for name, role in zip(pair, ("weight", "activation"), strict=True)
    )
    weights = {names[0][0]: 8, names[1][0]: 8}
    for ties, fixed in (([names[0]], {}), ([(names[0][0], names[1][0])], {}), ([], weights)):
        space = SearchSpace(sites, tuple(ties), fixed)
        cost = NetworkCost(SizeAndBops(), layers, space)
        top = float(cost.estimate_many(space.highest[None])["bops"][0])
        problem = Problem(space, cost, ACCURACY, (Bound("bops", 0.5 * top, False, "bops"),))
        evaluator = QuadraticEvaluator(space, np.arange(1.0, 1 + len(space.variables)))
        found = losses(run(problem, evaluator, 100))
        assert found.min() == pytest.approx(exhaust(problem, evaluator).best_loss)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"sensitivity": "one-at-time"}, PluginError, "did you mean 'one-at-a-time'"),
        ({"sensitivity_options": {"mesure": "kl"}}, ConfigError, "did you mean 'measure'"),
    ],
)
def test_wrong_sensitivities_are_answered_before_the_search(options, error, match):
    searcher = registry.create("searchers", "water-filling", options)
    with pytest.raises(error, match=match):
        searcher.check(kernels(4)[0])


def test_wrong_options_are_answered_when_the_searcher_is_made():
    with pytest.raises(ConfigError, match="did you mean 'sensitivity'"):
        registry.create("searchers", "water-filling", {"sensitivty": "one-at-a-time"})


def test_a_lower_bound_on_a_cost_is_no_reason_to_stay_at_the_floor():
    problem, evaluator = separable(4)
    least = Bound("size", 0.8 * problem.bounds[0].limit, True, "size >= 0.8 of the limit")
    oracle = run(Problem(problem.space, problem.cost, problem.objectives, (*problem.bounds, least)), evaluator, 15)
    assert sum(trial.feasible for trial in oracle.trials) > 5
