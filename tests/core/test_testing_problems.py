"""Problems with a known optimum: what they say of themselves, recomputed."""

from __future__ import annotations

import numpy as np
import pytest

from qsearch import registry
from qsearch.assignment import FLOAT_BITS
from qsearch.costs import NetworkCost
from qsearch.layers import Layer
from qsearch.problem import Bound, Problem
from qsearch.protocols import CalibrationProbe
from qsearch.sensitivity.probing import WeightErrors
from qsearch.sites import build_space
from qsearch.testing.problems import (
    ACCURACY,
    QuadraticEvaluator,
    WeightSize,
    coupled,
    exhaust,
    kernels,
    optimal_loss,
    separable,
)


def test_loss_of_bits_per_kernel_is_the_sum_over_kernels():
    problem, evaluator = kernels((3, 5), seed=1)
    x = problem.space.sample(np.random.default_rng(0), 20)
    variances = np.concatenate([evaluator.variances[v.name] for v in problem.space.variables])
    expected = (variances * 4.0 ** -x.astype(float)).sum(1) / variances.sum()
    assert evaluator.losses(x) == pytest.approx(expected, rel=1e-12)
    for row, loss in zip(x, expected, strict=True):
        quality = evaluator.evaluate(problem.space.decode(row))
        assert quality.loss == pytest.approx(loss, rel=1e-12)
        assert quality.metric == pytest.approx(np.exp(-(4.0**4) * loss))


@pytest.mark.parametrize("mean", [2.0, 4.0])
def test_scale_of_loss_and_accuracy(mean):
    problem, evaluator = kernels((16, 32), mean=mean)
    assert evaluator.losses(problem.space.lowest[None]) == pytest.approx(1.0)
    uniform = evaluator.evaluate(problem.space.uniform(int(mean)))
    assert uniform.loss == pytest.approx(4.0**-mean)
    assert uniform.metric == pytest.approx(np.exp(-1))


def test_the_bound_is_the_mean_number_of_bits_per_weight():
    problem, _ = kernels((4, 12), mean=3.5)
    (bound,) = problem.bounds
    assert bound.label == "size <= 3.5 bits per weight"
    assert bound.limit == 3.5 * 8 * 16
    x = np.asarray([[3] * 8 + [4] * 8, [3] * 7 + [4] * 9])
    assert (problem.cost_violations(x) <= 0).tolist() == [True, False]


def test_one_layer_is_searched_kernel_by_kernel_and_activations_are_fixed():
    problem, _ = kernels(64)
    (variable,) = problem.space.variables
    assert (variable.name, variable.length, variable.choices) == ("layer0.weight", 64, tuple(range(9)))
    assert problem.space.fixed == {"layer0.input": 8}


@pytest.mark.parametrize("seed", range(5))
def test_variances_are_wide_apart(seed):
    _, evaluator = kernels(64, seed=seed)
    bits = 0.5 * np.log2(evaluator.variances["layer0.weight"])
    assert 1.1 < np.std(bits) < 1.9
    assert np.ptp(bits) > 4


def test_the_seed_makes_the_problem():
    first, again, other = (kernels((8, 8), seed=seed)[1] for seed in (0, 0, 1))
    assert all(np.array_equal(first.variances[name], again.variances[name]) for name in first.variances)
    assert not np.array_equal(first.variances["layer0.weight"], other.variances["layer0.weight"])
    assert first.curvature[0] != pytest.approx(first.curvature[1], rel=0.05)


@pytest.mark.parametrize(
    ("count", "choices", "mean"),
    [
        (4, range(5), 2.0),
        (5, (2, 4, 8), 4.3),
        ((2, 3), (0, 2, 3, 4), 1.7),
        (1, range(9), 4.9),
        ((1, 2, 1), (0, 5), 0.0),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_optimal_loss_equals_brute_force(count, choices, mean, seed):
    problem, evaluator = kernels(count, choices=choices, mean=mean, seed=seed)
    assert optimal_loss(problem, evaluator) == pytest.approx(exhaust(problem, evaluator).best_loss, rel=1e-12)


def test_optimal_loss_where_kernels_differ_in_size():
    layers = (Layer("a", "linear", 6, 2), Layer("b", "linear", 9, 3))
    space = build_space(
        layers, weight_bits=range(4), activation_bits=[8], granularity="kernel", fixed={"activations": 8}
    )
    rng = np.random.default_rng(0)
    variances = {layer.weight_site: rng.exponential(size=layer.kernels) for layer in layers}
    evaluator = QuadraticEvaluator(space, np.asarray([0.7, 0.3]), variances=variances)
    for limit in (0.0, 25.0, 50.0, 83.0, 200.0):
        bound = Bound("size", limit, False, "size")
        problem = Problem(space, NetworkCost(WeightSize(), layers, space), ACCURACY, (bound,))
        assert optimal_loss(problem, evaluator) == pytest.approx(exhaust(problem, evaluator).best_loss, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_optimal_loss_of_a_layer_wise_problem(seed):
    problem, evaluator = separable(5, seed=seed)
    assert optimal_loss(problem, evaluator) == pytest.approx(exhaust(problem, evaluator).best_loss, rel=1e-12)


def test_optimal_loss_without_a_bound_is_that_of_the_most_bits():
    problem, evaluator = separable(3, budget=None)
    assert optimal_loss(problem, evaluator) == pytest.approx(evaluator.losses(problem.space.highest[None])[0])


def test_optimal_loss_is_not_known_with_interactions():
    with pytest.raises(ValueError, match="no interactions"):
        optimal_loss(*coupled(3))


def test_optimal_loss_is_infinite_where_nothing_fits():
    problem, evaluator = kernels(3, choices=(2, 4), mean=1.0)
    assert optimal_loss(problem, evaluator) == np.inf


@pytest.mark.parametrize("measure", ["kl", "loss"])
def test_damages_one_at_a_time_are_those_of_the_kernels(measure):
    problem, evaluator = kernels((5, 9), seed=2)
    assert isinstance(evaluator, CalibrationProbe)
    assert isinstance(evaluator, WeightErrors)
    table = registry.create("sensitivities", "one-at-a-time", {"measure": measure}).table(problem.space, evaluator)
    total = sum(variances.sum() for variances in evaluator.variances.values())
    for variable in problem.space.variables:
        expected = evaluator.variances[variable.name][:, None] * 4.0 ** -np.arange(9.0) / total
        np.testing.assert_allclose(table.damage[variable.name], expected, rtol=1e-9)


def test_kernels_that_are_alike_share_equally():
    problem, evaluator = coupled(3)
    assert evaluator.weight_errors("layer1.weight", 2).tolist() == [4.0**-2]
    assert evaluator.probe(problem.space.reference(FLOAT_BITS)).loss == pytest.approx(0.0, abs=1e-15)
