"""``auto`` against brute force: fronts, bounds, costs that do not add up, bits per kernel, and what it falls back on."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsearch import registry
from qsearch.costs import NetworkCost
from qsearch.errors import BudgetExhausted, ConfigError, EvaluationError, InfeasibleError, PluginError, UserError
from qsearch.hardware.memory import Memory
from qsearch.layers import Layer
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.pareto import hypervolume
from qsearch.problem import Bound, Objective, Problem
from qsearch.protocols import Evaluator, SensitivityTable
from qsearch.search.auto import JOINT, Auto
from qsearch.search.damage import blind_damage, predicted_damage
from qsearch.search.filled import LEVELS
from qsearch.sites import build_space
from qsearch.testing.problems import (
    ACCURACY,
    ACCURACY_AND_SIZE,
    QuadraticEvaluator,
    SizeAndBops,
    WeightSize,
    coupled,
    exhaust,
    kernels,
    linear_layers,
    optimal_loss,
)
from qsearch.trial import Cost, Quality

ACC, LOSS = Objective("accuracy", "maximize"), Objective("loss", "minimize")
SIZE, BOPS = Objective("size", "minimize"), Objective("bops", "minimize")
CHOICES = (2, 3, 4, 8)  # of 6 layers: 4,096 assignments


class Stepped(SizeAndBops):
    """Costs that do not add up: memory comes in pages, and every further kind of layer costs a reload."""

    additive = False

    def estimate(self, layers, assignment):
        found = super().estimate(layers, assignment)
        page = 256.0
        kinds = len({str(assignment[layer.weight_site]) for layer in layers})
        totals = {metric: np.ceil(value / page) * page + page * kinds for metric, value in found.totals.items()}
        return Cost(totals, found.units, found.layers)


@dataclass
class Blind(Evaluator):
    """Evaluates, and answers nothing on calibration data; the loss is moved by ``less``."""

    evaluator: QuadraticEvaluator
    less: float = 0.0
    asked: list[Any] = field(default_factory=list)

    def evaluate(self, assignment, *, fidelity=1.0, seed=0):
        self.asked.append(assignment)
        quality = self.evaluator.evaluate(assignment, fidelity=fidelity, seed=seed)
        return replace(quality, loss=quality.loss - self.less)


def run(problem, evaluator, evaluations, seed=0, searcher="auto", table=None, record=None, **options):
    budget = Budget(evaluations=evaluations)
    oracle = CampaignOracle(problem, evaluator, record or MemoryRecord(), budget, seed=seed)
    if table is not None:
        oracle.tables.update({f"{name} {{}}": table for name in ("fisher", "one-at-a-time")})
    with contextlib.suppress(BudgetExhausted):
        registry.create("searchers", searcher, options).search(oracle)
    return oracle


def values(oracle, metric):
    return np.asarray([trial.value(metric) for trial in oracle.trials if trial.feasible])


def shares(problem, evaluator, oracle, counts):
    """Hypervolume of the first trials, as a share of that of the whole space, as in benchmarks/hypervolume.py."""
    known = exhaust(problem, evaluator)
    points = np.stack([-np.exp(-known.loss), known.costs["size"]], axis=1)
    reference = points.max(axis=0) + 1e-9 * np.ptp(points, axis=0)
    found = np.stack([problem.minimised(trial) for trial in oracle.trials])
    return [hypervolume(found[:count], reference) / hypervolume(points, reference) for count in counts]


def later(seeds, quick):
    """Seeds, those beyond the first ``quick`` marked slow."""
    return [pytest.param(seed, marks=[pytest.mark.slow] if seed >= quick else []) for seed in range(seeds)]


def mixed(model=None, objectives=ACCURACY, granularity="layer", seed=0, sizes=(12, 30), bounds=(), weight=CHOICES):
    """Weights and activations of two layers, small enough for brute force."""
    rng = np.random.default_rng(seed)
    layers = linear_layers(sizes)
    space = build_space(layers, weight_bits=weight, activation_bits=(2, 4, 8), granularity=granularity)
    variances = {v.name: 4.0 ** rng.normal(0, 1.5, size=v.length) for v in space.variables if v.length > 1}
    evaluator = QuadraticEvaluator(space, rng.lognormal(0, 1, len(space.variables)), variances=variances)
    return Problem(
        space, NetworkCost(model or SizeAndBops(), layers, space), tuple(objectives), tuple(bounds)
    ), evaluator


def bounded(problem, metric, share, *, at_least=False):
    """With a bound on a cost at a share of that of the most bits."""
    limit = share * float(problem.cost.estimate_many(problem.space.highest[None])[metric][0])
    return replace(problem, bounds=(*problem.bounds, Bound(metric, limit, at_least, f"{metric} at {share:g}")))


# several objectives


@pytest.mark.parametrize("seed", later(5, 1))
def test_the_front_is_within_one_percent_after_64_evaluations(seed):
    problem, evaluator = coupled(6, choices=CHOICES, budget=None, objectives=ACCURACY_AND_SIZE, seed=seed)
    reached = shares(problem, evaluator, run(problem, evaluator, 64), (8, 64))
    assert problem.space.size == 4096
    assert reached[1] >= 0.99
    assert reached[0] >= 0.94


@pytest.mark.parametrize("seed", range(3))
def test_eight_evaluations_beat_random_ones(seed):
    problem, evaluator = coupled(6, choices=CHOICES, budget=None, objectives=ACCURACY_AND_SIZE, seed=seed)
    ours = shares(problem, evaluator, run(problem, evaluator, 8), (8,))[0]
    draws = [run(problem, evaluator, 8, seed=draw, searcher="random") for draw in range(5)]
    assert ours > max(shares(problem, evaluator, oracle, (8,))[0] for oracle in draws)


@pytest.mark.slow
def test_three_objectives_against_the_whole_front():
    problem, evaluator = mixed(objectives=(ACC, SIZE, BOPS))
    known = exhaust(problem, evaluator)
    points = np.stack([-np.exp(-known.loss), known.costs["size"], known.costs["bops"]], axis=1)
    reference = points.max(axis=0) + 1e-9 * np.ptp(points, axis=0)
    found = np.stack([problem.minimised(trial) for trial in run(problem, evaluator, 24).trials])
    assert hypervolume(found, reference) >= 0.97 * hypervolume(points, reference)


@pytest.mark.parametrize(("evaluations", "share"), [(8, 0.8), (24, 0.99)], ids=["at once", "in the end"])
@pytest.mark.parametrize("quantile", [pytest.param(0.6, marks=pytest.mark.slow), 0.9])
def test_several_costs_at_a_quality(quantile, evaluations, share):
    """What is cheap does not meet the quality: neither the predicted front nor what comes next may end there."""
    problem, evaluator = mixed(sizes=(8, 20, 33), objectives=(SIZE, BOPS), seed=1)
    known = exhaust(problem, evaluator)
    limit = float(np.quantile(np.exp(-known.loss), quantile))
    problem = replace(problem, bounds=(Bound("accuracy", limit, True, "a"),))
    points = np.stack([known.costs["size"], known.costs["bops"]], axis=1)[np.exp(-known.loss) >= limit]
    reference = points.max(axis=0) + 1e-9 * np.ptp(points, axis=0)
    oracle = run(problem, evaluator, evaluations)
    found = np.stack([problem.minimised(trial) for trial in oracle.trials if trial.feasible])
    assert hypervolume(found, reference) >= share * hypervolume(points, reference)


def test_a_cost_that_is_maximised():
    problem, evaluator = mixed()
    top = float(problem.cost.estimate_many(problem.space.highest[None])["size"][0])
    for objectives in ((Objective("size", "maximize"),), (ACC, Objective("size", "maximize"))):
        oracle = run(replace(problem, objectives=objectives), evaluator, 8)
        assert oracle.problem.best(oracle.trials).value("size") == top
        assert len(oracle.trials) == 8


def test_two_qualities_and_no_cost():
    problem, evaluator = mixed(objectives=(ACC, LOSS))
    problem = bounded(problem, "bops", 0.4)
    oracle = run(problem, evaluator, 20)
    known = exhaust(problem, evaluator)
    assert values(oracle, "loss").min() <= 1.02 * known.best_loss


# one objective


def test_the_best_under_a_budget_is_found_by_most_seeds():
    ratios = []
    for seed in range(6):
        problem, evaluator = coupled(6, choices=CHOICES, budget=0.5, seed=seed)
        ratios.append(values(run(problem, evaluator, 14), "loss").min() / exhaust(problem, evaluator).best_loss)
    assert np.mean(np.asarray(ratios) < 1 + 1e-9) >= 0.8
    assert max(ratios) < 1.2


@pytest.mark.slow
def test_the_best_under_a_budget_is_found_within_64_evaluations():
    ratios = []
    for seed in range(12):
        problem, evaluator = coupled(6, choices=CHOICES, budget=0.4, seed=seed)
        ratios.append(values(run(problem, evaluator, 64), "loss").min() / exhaust(problem, evaluator).best_loss)
    assert np.mean(np.asarray(ratios) < 1 + 1e-9) >= 0.8
    assert max(ratios) < 1.05


def threshold(seed, model=None, layers=6):
    """The least size at an accuracy that 40 % of the assignments have, and what it is."""
    problem, evaluator = coupled(layers, choices=CHOICES, budget=None, seed=seed)
    cost = NetworkCost(model or WeightSize(), problem.layers, problem.space)
    problem = replace(problem, cost=cost)
    known = exhaust(problem, evaluator)
    limit = float(np.quantile(np.exp(-known.loss), 0.6))
    best = float(known.costs["size"][np.exp(-known.loss) >= limit].min())
    wanted = Bound("accuracy", limit, True, f"accuracy >= {limit:g}")
    return replace(problem, objectives=(SIZE,), bounds=(wanted,)), evaluator, best


@pytest.mark.parametrize("seed", later(4, 1))
def test_the_cheapest_at_a_quality(seed):
    problem, evaluator, best = threshold(seed)
    found = values(run(problem, evaluator, 32), "size").min()
    assert best <= found <= 1.03 * best


def test_the_cheapest_at_a_quality_that_only_the_most_bits_have():
    problem, evaluator, _ = threshold(0, layers=3)
    top = evaluator.evaluate(problem.space.decode(problem.space.highest)).metric
    oracle = run(replace(problem, bounds=(Bound("accuracy", top, True, "top"),)), evaluator, 16)
    assert [trial.feasible for trial in oracle.trials] == [True] + [False] * 15


def test_a_quality_that_nothing_has_spends_the_budget_without_an_error():
    problem, evaluator, _ = threshold(0, layers=3)
    for model in (WeightSize(), Stepped()):
        cost = NetworkCost(model, problem.layers, problem.space)
        asked = replace(problem, cost=cost, bounds=(Bound("accuracy", 2.0, True, "accuracy >= 2"),))
        oracle = run(asked, evaluator, 12)
        assert len(oracle.trials) == 12
        assert not any(trial.feasible for trial in oracle.trials)


# costs that do not add up


@pytest.mark.parametrize("seed", later(3, 1))
def test_the_best_under_a_cost_that_does_not_add_up(seed):
    problem, evaluator = mixed(Stepped(), seed=seed)
    problem = bounded(problem, "bops", 0.4)
    oracle = run(problem, evaluator, 24)
    assert all(trial.state == "complete" for trial in oracle.trials)
    assert values(oracle, "loss").min() <= 1.05 * exhaust(problem, evaluator).best_loss


@pytest.mark.parametrize("seed", later(3, 1))
def test_the_cheapest_where_costs_do_not_add_up(seed):
    problem, evaluator, best = threshold(seed, Stepped(), layers=5)
    found = values(run(problem, evaluator, 40), "size").min()
    assert best <= found <= 1.05 * best


def test_the_front_where_costs_do_not_add_up():
    problem, evaluator = coupled(5, choices=CHOICES, budget=None, objectives=ACCURACY_AND_SIZE)
    problem = replace(problem, cost=NetworkCost(Stepped(), problem.layers, problem.space))
    assert shares(problem, evaluator, run(problem, evaluator, 32), (32,))[0] >= 0.97


def test_a_failure_on_the_path_counts_as_bits_too_few():
    problem, evaluator, best = threshold(0, Stepped(), layers=4)
    evaluator.fails_at = frozenset({0, 3})
    oracle = run(problem, evaluator, 32)
    assert [trial.state for trial in oracle.trials][:4:3] == ["failed", "failed"]
    assert values(oracle, "size").min() <= 1.1 * best


# bounds


@settings(max_examples=12)
@given(
    seed=st.integers(0, 1000),
    share=st.sampled_from([0.15, 0.3, 0.5, 1.0]),
    floor=st.sampled_from([0.0, 0.2, 0.6]),
    model=st.sampled_from([SizeAndBops(), Stepped()]),
    objectives=st.sampled_from([(ACC,), (ACC, SIZE), (SIZE,), (ACC, Objective("bops", "maximize")), (LOSS, BOPS)]),
    granularity=st.sampled_from(["layer", "kernel"]),
    blind=st.booleans(),
)
def test_nothing_over_a_bound_is_proposed_and_nothing_twice(seed, share, floor, model, objectives, granularity, blind):
    problem, evaluator = mixed(model, objectives, granularity, seed, sizes=(2, 3), weight=(2, 8))
    problem = bounded(bounded(problem, "bops", share), "size", floor, at_least=True)
    possible = int(exhaust(problem, evaluator).feasible.sum())
    if not possible:
        with pytest.raises(InfeasibleError, match=r"no assignment.*cost bounds"):
            run(problem, evaluator, 6)
        return
    oracle = run(problem, Blind(evaluator) if blind else evaluator, 6, seed)
    assert all(trial.state == "complete" for trial in oracle.trials)
    assert len({trial.assignment for trial in oracle.trials}) == len(oracle.trials)
    if granularity == "layer" or blind:
        assert len(oracle.trials) == min(6, possible)


@pytest.mark.parametrize("model", [WeightSize(), Stepped()], ids=["additive", "not additive"])
@pytest.mark.parametrize("objectives", [ACCURACY, ACCURACY_AND_SIZE, (SIZE,)], ids=["one", "two", "cost"])
@pytest.mark.parametrize("blind", [False, True])
def test_bounds_that_nothing_meets_are_told(model, objectives, blind):
    problem, evaluator = coupled(3, objectives=objectives)
    cost = NetworkCost(model, problem.layers, problem.space)
    problem = replace(problem, cost=cost, bounds=(Bound("size", 1.0, False, "size <= 1 bit"),))
    with pytest.raises(InfeasibleError, match=r"no assignment.*together.*size <= 1 bit") as caught:
        run(problem, Blind(evaluator) if blind else evaluator, 5)
    assert "\n" not in str(caught.value)


def test_bounds_that_only_contradict_each_other_are_told():
    problem, evaluator = mixed()
    problem = bounded(bounded(problem, "size", 0.9, at_least=True), "bops", 0.1)
    problem.check_floor()  # each can be met by itself
    with pytest.raises(InfeasibleError, match=r"no assignment.*together.*size at 0.9.*bops at 0.1"):
        run(problem, evaluator, 5)


def test_a_lower_bound_on_a_cost():
    problem, evaluator = mixed(objectives=(SIZE,))
    problem = bounded(problem, "size", 0.6, at_least=True)
    known = exhaust(problem, evaluator)
    assert values(run(problem, evaluator, 10), "size").min() == known.costs["size"][known.feasible].min()


# what it goes by


def test_sensitivities_are_taken_in_the_order_of_their_price():
    problem, evaluator = coupled(4)
    asked: list[str] = []

    def sensitivity(name, options=None):
        asked.append(name)
        if name == "fisher":
            raise PluginError("no float network")
        return original(name, options)

    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=3))
    original, oracle.sensitivity = oracle.sensitivity, sensitivity
    Auto().search(oracle)
    assert asked[:2] == ["fisher", "one-at-a-time"]
    assert set(asked[2:]) == {"one-at-a-time"}


def test_without_any_sensitivity_it_goes_by_the_quantisation_step():
    for objectives in (ACCURACY, ACCURACY_AND_SIZE):
        problem, evaluator = coupled(6, choices=CHOICES, budget=0.6, objectives=objectives)
        oracle = run(problem, Blind(evaluator), 24)
        assert len(oracle.trials) == 24
        if len(objectives) == 1:
            assert values(oracle, "loss").min() <= 1.2 * exhaust(problem, evaluator).best_loss
        else:
            rivals = [run(problem, Blind(evaluator), 24, seed, "random") for seed in range(3)]
            ours = shares(problem, evaluator, oracle, (24,))
            assert ours > max(shares(problem, evaluator, rival, (24,)) for rival in rivals)


def test_blind_damage_is_the_squared_step():
    space = coupled(2, choices=(2, 4))[0].space
    assert [row.tolist() for row in blind_damage(space).single] == [[1 / 16, 1 / 256]] * 2


def test_without_any_sensitivity_kernels_are_searched_one_by_one():
    problem, evaluator = mixed(granularity="kernel", sizes=(2, 3))
    problem = bounded(problem, "bops", 0.5)
    oracle = run(problem, Blind(evaluator), 24)
    assert len(oracle.trials) == 24
    assert values(oracle, "loss").min() <= 1.5 * exhaust(problem, evaluator).best_loss


@pytest.mark.parametrize(
    ("name", "match"), [("one-at-a-time", "without a method probe"), ("hessian", "without a method float_network")]
)
def test_a_sensitivity_that_is_named_must_be_had(name, match):
    problem, evaluator = coupled(3)
    blind = Blind(evaluator)
    with pytest.raises(PluginError, match=match) as caught:
        run(problem, blind, 5, sensitivity=name)
    assert "\n" not in str(caught.value)
    assert not blind.asked


def test_a_sensitivity_that_fails_is_told_if_it_was_named_and_passed_over_if_not():
    class Broken(QuadraticEvaluator):
        def probe(self, assignment):
            raise EvaluationError("outputs must be finite", got="NaN")

    problem, evaluator = coupled(3)
    broken = Broken(problem.space, evaluator.curvature, evaluator.interaction)
    with pytest.raises(EvaluationError, match=r"cannot be measured.*NaN"):
        run(problem, broken, 5, sensitivity="one-at-a-time")
    assert len(run(problem, broken, 5).trials) == 5


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"sensitivity": "fishr"}, PluginError, "did you mean 'fisher'"),
        ({"sensitivity": "fisher", "sensitivity_options": {"sample": 3}}, ConfigError, "did you mean 'samples'"),
        ({"sensitivity_options": {"samples": 3}}, UserError, "belong to a sensitivity.*name one, such as fisher"),
    ],
)
def test_wrong_sensitivities_are_refused_before_the_search(options, error, match):
    with pytest.raises(error, match=match):
        registry.create("searchers", "auto", options).check(coupled(3)[0])


def test_any_problem_is_taken():
    for problem in (coupled(3)[0], kernels(8)[0], threshold(0, layers=3)[0], mixed(Stepped(), (ACC, SIZE, BOPS))[0]):
        registry.create("searchers", "auto").check(problem)


@pytest.mark.parametrize("sensitivity", ["pairwise", "one-at-a-time"])
def test_a_named_sensitivity_with_options_is_what_it_goes_by(sensitivity):
    problem, evaluator = coupled(4)
    options = {"measure": "loss"} if sensitivity == "one-at-a-time" else {}
    oracle = run(problem, evaluator, 12, sensitivity=sensitivity, sensitivity_options=options)
    assert [key.partition(" ")[0] for key in oracle.tables] == [sensitivity]
    assert values(oracle, "loss").min() <= 1.05 * exhaust(problem, evaluator).best_loss


def test_damages_of_both_signs_and_of_nothing():
    problem, evaluator = coupled(4, objectives=ACCURACY_AND_SIZE)
    rng = np.random.default_rng(0)
    for draw in (rng.normal, np.zeros):
        table = SensitivityTable(
            {v.name: draw(size=(1, 4)) if draw is not np.zeros else np.zeros((1, 4)) for v in problem.space.variables},
            0,
        )
        for objectives in (ACCURACY, ACCURACY_AND_SIZE):
            assert len(run(replace(problem, objectives=objectives), evaluator, 8, table=table).trials) == 8


# bits per kernel


@pytest.mark.parametrize("count", [64, (16, 32, 16)])
@pytest.mark.parametrize("seed", range(2))
def test_bits_per_kernel_are_near_the_optimum_at_once(count, seed):
    problem, evaluator = kernels(count, seed=seed)
    losses = values(run(problem, evaluator, 4), "loss")
    assert losses[0] <= 1.03 * optimal_loss(problem, evaluator)
    assert losses.min() >= optimal_loss(problem, evaluator) * (1 - 1e-9)


def test_bits_per_kernel_with_activations_against_brute_force():
    problem, evaluator = mixed(granularity="kernel", sizes=(2, 3), weight=(0, 2, 4, 8))
    problem = bounded(problem, "bops", 0.4)
    oracle = run(problem, evaluator, 24)
    assert values(oracle, "loss").min() <= 1.1 * exhaust(problem, evaluator).best_loss
    assert any(not isinstance(trial.assignment["layer1.weight"], int) for trial in oracle.trials)


def test_the_cheapest_bits_per_kernel_at_a_quality():
    problem, evaluator = mixed(granularity="kernel", sizes=(2, 3), weight=(0, 2, 4, 8), objectives=(BOPS,))
    known = exhaust(problem, evaluator)
    problem = replace(problem, bounds=(Bound("accuracy", float(np.quantile(np.exp(-known.loss), 0.6)), True, "a"),))
    best = known.costs["bops"][problem.bounds[0].violation(np.exp(-known.loss)) <= 0].min()
    assert values(run(problem, evaluator, 40), "bops").min() <= 1.1 * best


@pytest.mark.slow
def test_kernels_where_costs_do_not_add_up_or_nothing_is_known():
    problem, evaluator = mixed(Stepped(), granularity="kernel", sizes=(2, 3), weight=(0, 2, 4, 8))
    problem = bounded(problem, "bops", 0.4)
    best = exhaust(problem, evaluator).best_loss
    assert values(run(problem, evaluator, 24), "loss").min() <= 1.2 * best


def test_ties_across_kernel_wise_sites_and_one_choice_among_them():
    layers = linear_layers([6, 6, 4])
    ties, fixed = [("layer0.weight", "layer1.weight")], {"layer2.weight": 8}
    space = build_space(
        layers, weight_bits=(2, 4, 8), activation_bits=(8,), granularity="kernel", ties=ties, fixed=fixed
    )
    shares_of = {"layer0.weight": 4.0 ** np.arange(6)}
    evaluator = QuadraticEvaluator(space, np.ones(len(space.variables)), variances=shares_of)
    problem = bounded(Problem(space, NetworkCost(WeightSize(), layers, space), ACCURACY), "size", 0.7)
    oracle = run(problem, evaluator, 10)
    assert values(oracle, "loss").min() <= 1.02 * exhaust(problem, evaluator).best_loss
    for trial in oracle.trials:
        assert trial.assignment["layer0.weight"] == trial.assignment["layer1.weight"]


def test_a_kernel_wise_site_with_one_choice():
    layers = linear_layers([6, 10])
    space = build_space(layers, weight_bits=(4,), activation_bits=(4, 8), granularity="kernel")
    evaluator = QuadraticEvaluator(space, np.ones(4))
    problem = Problem(space, NetworkCost(SizeAndBops(), layers, space), (ACC, BOPS))
    assert len(run(problem, evaluator, 20).trials) == space.size == 4


def test_a_layer_ends_when_all_its_levels_are_tried():
    problem, evaluator = kernels(64)
    oracle = run(replace(problem, bounds=()), evaluator, 60)
    assert len(oracle.trials) == LEVELS


def drawn(problem, seed):
    """A table whose kernels follow no law: each falls by steps of any size."""
    rng = np.random.default_rng(seed)
    damage = {}
    for v in problem.space.variables:
        steps = rng.lognormal(0, 1.5, size=(v.length, len(v.choices)))
        damage[v.name] = 4.0 ** rng.normal(0, 1.5, size=(v.length, 1)) * np.cumsum(steps, axis=1)[:, ::-1]
    return SensitivityTable(damage, 0)


@pytest.mark.parametrize("metric", ["size", "bops"])
@pytest.mark.parametrize("seed", range(2))
def test_the_first_bits_per_kernel_are_the_integer_programs(metric, seed):
    problem, evaluator = mixed(granularity="kernel", sizes=(12, 30), seed=seed)
    problem = bounded(problem, metric, 0.5)
    table = drawn(problem, seed)
    exact = run(problem, evaluator, 1, searcher="ilp", table=table).trials[0].assignment
    trials = run(problem, evaluator, 3, table=table).trials
    assert trials[0].assignment == exact
    damage = predicted_damage(problem.space, table)(np.stack([problem.space.encode(t.assignment) for t in trials]))
    assert damage[0] == damage.min()
    assert damage[1] <= 1.1 * damage[0]


def test_a_program_that_takes_long_is_left_to_levels():
    """Every kernel beside the activations of its layer: no knapsack, and too large to solve at once."""
    problem, evaluator = mixed(granularity="kernel", sizes=(700, 800))
    problem = bounded(problem, "bops", 0.4)
    assert JOINT < 1500 * 4 * 3
    start = time.perf_counter()
    assert run(problem, evaluator, 1).trials[0].feasible
    assert time.perf_counter() - start < 10


def test_kernels_without_any_damage_are_left_to_levels():
    problem, evaluator = kernels((300, 200))
    table = drawn(problem, 0)
    for damage in table.damage.values():
        damage[::2] = 0.0
    start = time.perf_counter()
    assert run(problem, evaluator, 1, table=table).trials[0].feasible
    assert time.perf_counter() - start < 10


def test_bounds_that_no_level_meets_but_bits_do():
    problem, evaluator = kernels(64, seed=1)
    levels = {trial.cost.totals["size"] for trial in run(replace(problem, bounds=()), evaluator, LEVELS).trials}
    between = next(size for size in range(1000, 2000, 8) if size not in levels)
    limits = (Bound("size", between, False, "at most"), Bound("size", between, True, "at least"))
    (trial,) = run(replace(problem, bounds=limits), evaluator, 5).trials
    assert trial.feasible
    assert trial.cost.totals["size"] == between


# metrics of which the network has the greatest


@pytest.mark.parametrize("granularity", ["layer", pytest.param("kernel", marks=pytest.mark.slow)])
def test_peak_memory_as_a_limit_and_as_an_objective(granularity):
    layers = (
        Layer("stem", "conv", 2, 2, (3, 3), (1, 1), 1, (32, 32), (32, 32)),
        Layer("late", "conv", 2, 2, (3, 3), (1, 1), 1, (8, 8), (8, 8)),
    )
    space = build_space(layers, weight_bits=(2, 8), activation_bits=(2, 4, 8), granularity=granularity)
    evaluator = QuadraticEvaluator(space, np.ones(4))
    peak = Objective("peak_memory", "minimize")
    limit = Bound("peak_memory", 2 * 1024 * 1.5, False, "ram")
    problem = Problem(space, NetworkCost(Memory(), layers, space), ACCURACY, (limit,))
    oracle = run(problem, evaluator, 12)
    assert all(trial.cost.totals["peak_memory"] <= limit.limit for trial in oracle.trials)
    assert values(oracle, "loss").min() == pytest.approx(exhaust(problem, evaluator).best_loss)
    known = exhaust(replace(problem, bounds=()), evaluator)
    for objectives in ((ACC, peak), (ACC, peak, Objective("flash", "minimize"))):
        several = run(replace(problem, objectives=objectives, bounds=()), evaluator, 18)
        names = [objective.metric for objective in objectives[1:]]
        points = np.stack([-np.exp(-known.loss), *(known.costs[name] for name in names)], axis=1)
        reference = points.max(axis=0) + 1e-9 * np.ptp(points, axis=0)
        found = np.stack([problem.__class__.minimised(several.problem, trial) for trial in several.trials])
        assert hypervolume(found, reference) >= 0.97 * hypervolume(points, reference)
    wanted = Bound("accuracy", float(np.quantile(np.exp(-known.loss), 0.7)), True, "a")
    cheapest = run(replace(problem, objectives=(peak,), bounds=(wanted,)), evaluator, 16)
    best = known.costs["peak_memory"][wanted.violation(np.exp(-known.loss)) <= 0].min()
    assert values(cheapest, "peak_memory").min() == best
    lower = replace(problem, bounds=(replace(limit, at_least=True),))
    assert all(trial.state == "complete" for trial in run(lower, evaluator, 8).trials)


# trajectories


CASES: dict[str, Any] = {
    "one": lambda: coupled(5, budget=0.6),
    "front": lambda: coupled(5, budget=0.8, objectives=ACCURACY_AND_SIZE),
    "cheapest": lambda: threshold(1, layers=5)[:2],
    "not additive": lambda: threshold(1, Stepped(), layers=5)[:2],
    "kernels": lambda: mixed(granularity="kernel", sizes=(3, 4)),
    "kernels under a bound": lambda: kernels((9, 7), choices=(0, 2, 4, 8)),
}


SLOW = {"one", "not additive", "kernels"}


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case in SLOW)) for case in CASES])
def test_a_larger_budget_goes_on_where_a_smaller_one_ended(case):
    short, long = (run(*CASES[case](), evaluations, seed=2) for evaluations in (16, 24))
    assert len(short.trials) == 16
    assert len(long.trials) == 24
    assert long.trials[:16] == short.trials


def test_batches_go_on_where_a_smaller_budget_ended():
    short, long = (run(*CASES["front"](), evaluations, batch=4) for evaluations in (18, 26))
    assert long.trials[:18] == short.trials


@pytest.mark.parametrize("case", ["front", "kernels under a bound", pytest.param("kernels", marks=pytest.mark.slow)])
def test_a_killed_search_goes_on_as_if_it_had_not_been(case):
    whole = run(*CASES[case](), 18, seed=3).trials
    for killed_after in (1, 15):
        record = MemoryRecord()
        for trial in whole[:killed_after]:
            record.append(trial)
        assert run(*CASES[case](), 18, seed=3, record=record).trials == whole


def test_a_budget_of_minutes_follows_the_same_trajectory():
    problem, evaluator = coupled(5, budget=0.6)
    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(minutes=0.01))
    start = time.perf_counter()
    with contextlib.suppress(BudgetExhausted):
        Auto().search(oracle)
    assert time.perf_counter() - start < 20
    assert oracle.trials
    assert run(*coupled(5, budget=0.6), len(oracle.trials)).trials == oracle.trials


# odd answers


@pytest.mark.parametrize("less", [0.05, 100.0])
def test_losses_of_zero_and_below(less):
    problem, evaluator = coupled(5, budget=0.6)
    oracle = run(replace(problem, objectives=(LOSS,)), Blind(evaluator, less), 32)
    assert len(oracle.trials) == 32
    assert values(oracle, "loss").min() + less <= 1.3 * exhaust(problem, evaluator).best_loss


def test_an_evaluator_that_always_says_the_same():
    class Constant(Evaluator):
        def evaluate(self, assignment, *, fidelity=1.0, seed=0):
            return Quality(0.5, 0.0, 10, 0.1)

    for objectives in ((LOSS,), ACCURACY_AND_SIZE):
        problem, _ = coupled(2, budget=None, objectives=objectives)
        assert len(run(problem, Constant(), 100).trials) == problem.space.size


def test_failures_leave_the_rest_of_the_budget_to_be_spent_well():
    problem, evaluator = coupled(6, choices=CHOICES, budget=0.5)
    evaluator.fails_at = frozenset({0, 1, 2, 9})
    oracle = run(problem, evaluator, 32)
    assert [trial.state for trial in oracle.trials].count("failed") == 4
    failed = {trial.assignment for trial in oracle.trials if trial.state == "failed"}
    known = exhaust(problem, evaluator)
    best = min(
        loss
        for loss, x in zip(known.loss[known.feasible], known.x[known.feasible], strict=True)
        if problem.space.decode(x) not in failed
    )
    assert values(oracle, "loss").min() <= 1.1 * best


def test_one_layer_of_few_choices_is_tried_as_a_whole():
    for objectives in (ACCURACY, ACCURACY_AND_SIZE, (SIZE,)):
        problem, evaluator = coupled(1, choices=(2, 4, 8), budget=None, objectives=objectives)
        assert len(run(problem, evaluator, 10).trials) == 3
