"""Metrics of which the network has the greatest of its layers': bounds and objectives against brute force."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from qsearch.costs import NetworkCost
from qsearch.errors import BudgetExhausted, InfeasibleError, UserError
from qsearch.hardware.memory import Memory
from qsearch.layers import Layer
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Bound, Objective, Problem
from qsearch.protocols import CostModel, SensitivityTable
from qsearch.search.damage import predicted_damage
from qsearch.search.ilp import IntegerProgram
from qsearch.sites import build_space
from qsearch.testing.problems import ACCURACY, QuadraticEvaluator, linear_layers


class SizeAndPeak(CostModel):
    """A size that adds up, a peak that depends on both bits of a layer, one of activations alone."""

    units: Mapping[str, str] = {"size": "bit", "peak": "byte", "buffer": "byte"}
    maxima = frozenset({"peak", "buffer"})
    kernel_additive = True

    def layer_cost(self, layer, weight_bits, activation_bits):
        number = 1 + int(layer.name[5:])
        mean = float(np.mean(weight_bits))
        return {
            "size": float(np.sum(weight_bits)) * layer.kernel_params,
            "peak": (mean * number + 3.0 * activation_bits) / 7.0,
            "buffer": (5.0 - number) * activation_bits,
        }


def instance(seed, bounds=(), objectives=ACCURACY, granularity="layer", fixed=None):
    """A problem with limits at a share of the range of each bounded metric, its table, and all assignments."""
    rng = np.random.default_rng(seed)
    layers = linear_layers([3, 2, 4] if granularity == "layer" else [3, 2])
    choices = {"weight_bits": (2, 4, 8), "activation_bits": (2, 3, 8)}
    space = build_space(layers, granularity=granularity, fixed=fixed, **choices)
    cost = NetworkCost(SizeAndPeak(), layers, space)
    x = np.asarray(list(np.ndindex(*space.choice_counts.tolist())))
    totals = cost.estimate_many(x)
    limits = tuple(Bound(m, float(np.percentile(totals[m], rng.uniform(10, 80))), False, m) for m in bounds)
    damage = {v.name: rng.normal(size=(v.length, len(v.choices))) for v in space.variables}
    problem = Problem(space, cost, objectives, limits)
    return problem, SensitivityTable(damage, 0), x[problem.cost_violations(x) <= 0]


def found(problem, table, evaluations):
    evaluator = QuadraticEvaluator(problem.space, np.ones(len(problem.space.variables)))
    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=evaluations))
    oracle.sensitivity = lambda name, options=None: table
    with contextlib.suppress(BudgetExhausted):
        IntegerProgram().search(oracle)
    return np.stack([problem.space.encode(trial.assignment) for trial in oracle.trials])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("bounds", [("peak",), ("peak", "size"), ("peak", "buffer", "size")])
def test_solutions_under_a_greatest_cost_are_the_best_in_order(seed, bounds):
    problem, table, x = instance(seed, bounds)
    if not len(x):
        with pytest.raises(InfeasibleError):
            found(problem, table, 1)
        return
    damage = predicted_damage(problem.space, table)
    solutions = found(problem, table, min(8, len(x)))
    np.testing.assert_allclose(damage(solutions), np.sort(damage(x))[: len(solutions)], rtol=1e-9, atol=1e-9)
    assert len(solutions) == min(8, len(x))


@pytest.mark.parametrize("seed", range(4))
def test_a_greatest_cost_is_minimised_exactly(seed):
    problem, table, x = instance(seed, ("size",), (Objective("peak", "minimize"),))
    solutions = found(problem, table, min(20, len(x)))
    peaks = problem.cost.estimate_many(solutions)["peak"]
    np.testing.assert_array_equal(peaks, np.sort(problem.cost.estimate_many(x)["peak"])[: len(peaks)])


@pytest.mark.parametrize("seed", range(4))
def test_the_front_against_a_greatest_cost(seed):
    objectives = (Objective("accuracy", "maximize"), Objective("peak", "minimize"))
    problem, table, x = instance(seed, ("size",), objectives)
    damage = predicted_damage(problem.space, table)
    points = np.stack([damage(x), problem.cost.estimate_many(x)["peak"]], axis=1).round(9)
    front = {tuple(p) for p in points if not np.any(np.all(points <= p, axis=1) & np.any(points < p, axis=1))}
    solutions = found(problem, table, len(front))
    reached = np.stack([damage(solutions), problem.cost.estimate_many(solutions)["peak"]], axis=1).round(9)
    assert {tuple(point) for point in reached} == front


@pytest.mark.parametrize("seed", range(4))
def test_with_bits_per_kernel_a_greatest_cost_of_activations_is_exact(seed):
    problem, table, x = instance(seed, ("buffer", "size"), granularity="kernel")
    damage = predicted_damage(problem.space, table)
    assert damage(found(problem, table, 1))[0] == pytest.approx(damage(x).min())


def test_with_bits_per_kernel_a_greatest_cost_of_weights_is_refused():
    problem, table, _ = instance(0, ("peak",), granularity="kernel")
    with pytest.raises(UserError, match=r"may not depend on the bits of weights.*'peak' of layer 'layer0'"):
        found(problem, table, 1)


def test_a_greatest_cost_of_fixed_layers_counts():
    fixed = {"layer0.weight": 8, "layer0.input": 8}
    problem, table, x = instance(1, (), fixed=fixed)
    least = float(problem.cost.estimate_many(x)["peak"].min())
    peak = problem.cost.model.layer_cost(problem.layers[0], np.full(3, 8), 8)["peak"]
    assert least == peak
    for limit, solutions in ((least, 1), (least * (1 - 1e-9), 0)):
        bounded = replace(problem, bounds=(Bound("peak", limit, False, "peak"),))
        if solutions:
            assert problem.cost.estimate_many(found(bounded, table, 1))["peak"][0] == limit
        else:
            with pytest.raises(InfeasibleError):
                found(bounded, table, 1)


def test_a_lower_bound_on_a_greatest_cost_is_refused_before_anything_is_paid_for():
    problem, table, _ = instance(0)
    bounded = replace(problem, bounds=(Bound("peak", 1.0, True, "peak >= 1"),))
    with pytest.raises(UserError, match=r"upper limits only.*peak >= 1"):
        IntegerProgram().check(bounded)
    with pytest.raises(UserError, match="upper limits only"):
        found(bounded, table, 1)


def test_peak_memory_bounds_the_activations_of_large_layers_alone():
    layers = (
        Layer("stem", "conv", 16, 16, (3, 3), (1, 1), 1, (32, 32), (32, 32)),
        Layer("late", "conv", 16, 16, (3, 3), (1, 1), 1, (8, 8), (8, 8)),
    )
    space = build_space(layers, weight_bits=(2, 8), activation_bits=(2, 4, 8))
    limit = 16 * 1024 * (4 / 8 + 1)  # stem's input at 4 bits, its output at 8
    problem = Problem(
        space, NetworkCost(Memory(), layers, space), ACCURACY, (Bound("peak_memory", limit, False, "ram"),)
    )
    damage = {v.name: 4.0 ** -np.asarray(v.choices, dtype=float)[None] for v in space.variables}
    bits = space.decode(found(problem, SensitivityTable(damage, 0), 1)[0])
    assert (bits["stem.input"], bits["late.input"], bits["stem.weight"]) == (4, 8, 8)
