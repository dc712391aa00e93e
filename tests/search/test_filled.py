"""Levels in place of bits per kernel: they cost, and do the damage of, the bits that they stand for."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.costs import NetworkCost
from qsearch.hardware.memory import Memory
from qsearch.layers import Layer
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Bound, Problem
from qsearch.protocols import SensitivityTable
from qsearch.search.damage import predicted_damage
from qsearch.search.filled import LEVELS, FilledOracle, fillings
from qsearch.sites import build_space
from qsearch.testing.problems import ACCURACY, QuadraticEvaluator, SizeAndBops, kernels, linear_layers
from qsearch.trial import Cost


class Squared(SizeAndBops):
    """Costs that do not add up."""

    additive = False

    def estimate(self, layers, assignment):
        found = super().estimate(layers, assignment)
        return Cost({metric: value**2 for metric, value in found.totals.items()}, found.units, found.layers)


def case(model=None, bounds=(), sizes=(3, 2), evaluations=1000, seed=0, **options):
    """An oracle on a space with bits per kernel, and the same seen by its levels."""
    given = {"weight_bits": (0, 2, 4), "activation_bits": (4, 8), "granularity": "kernel", **options}
    layers = linear_layers(sizes)
    space = build_space(layers, **given)
    rng = np.random.default_rng(seed)
    variances = {v.name: 4.0 ** rng.normal(0, 1.5, size=v.length) for v in space.variables if v.length > 1}
    evaluator = QuadraticEvaluator(space, np.ones(len(space.variables)), variances=variances)
    problem = Problem(space, NetworkCost(model or SizeAndBops(), layers, space), ACCURACY, tuple(bounds))
    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=evaluations))
    return oracle, FilledOracle(oracle, "one-at-a-time", {})


def every(space):
    return np.asarray(list(np.ndindex(*space.choice_counts.tolist())), dtype=np.int64)


@pytest.mark.parametrize("model", [SizeAndBops(), Squared()], ids=["additive", "not additive"])
def test_levels_cost_what_their_bits_cost(model):
    oracle, filled = case(model)
    x = every(filled.problem.space)
    many = filled.problem.cost.estimate_many(x)
    assert len(x) > 50
    for row, levels in enumerate(map(filled.problem.space.decode, x)):
        trial = filled.evaluate(levels)
        assert filled.problem.cost.estimate(levels) == oracle.trials[row].cost == trial.cost
        for metric, value in trial.cost.totals.items():
            assert many[metric][row] == pytest.approx(value, rel=1e-12)


def test_one_layer_of_levels_costs_what_its_part_of_the_network_does():
    _, filled = case()
    problem = filled.problem
    for levels in map(problem.space.decode, every(problem.space)[::5]):
        parts = problem.cost.estimate(levels).layers
        for layer in problem.layers:
            level = np.full(layer.kernels, levels[layer.weight_site])
            assert problem.cost.model.layer_cost(layer, level, levels[layer.activation_site]) == parts[layer.name]


def test_the_greatest_of_costs_stays_the_greatest():
    layers = tuple(Layer(n, "conv", 4, 4, (3, 3), (1, 1), 1, (s, s), (s, s)) for n, s in (("a", 8), ("b", 4)))
    space = build_space(layers, weight_bits=(2, 4), activation_bits=(2, 8), granularity="kernel")
    problem = Problem(space, NetworkCost(Memory(), layers, space), ACCURACY)
    evaluator = QuadraticEvaluator(space, np.ones(4))
    filled = FilledOracle(
        CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=100)), "one-at-a-time", {}
    )
    assert filled.problem.cost.model.maxima == {"peak_memory"}
    for levels in map(filled.problem.space.decode, every(filled.problem.space)):
        cost = filled.problem.cost.estimate(levels)
        assert cost.totals["peak_memory"] == max(part["peak_memory"] for part in cost.layers.values())
        assert cost.totals == filled.evaluate(levels).cost.totals


tables = st.integers(0, 10**6).map(np.random.default_rng)


@given(
    rng=tables,
    count=st.integers(2, 12),
    choices=st.sets(st.integers(0, 12), min_size=1, max_size=5).map(lambda bits: tuple(sorted(bits))),
)
def test_levels_rise_in_bits_from_the_fewest_to_the_most_and_damage_falls(rng, count, choices):
    layers = linear_layers([count])
    space = build_space(
        layers, weight_bits=choices, activation_bits=[8], granularity="kernel", fixed={"activations": 8}
    )
    scale = 4.0 ** rng.normal(0, 3, size=(count, 1)) * (rng.random((count, 1)) < 0.9)
    damage = scale * 4.0 ** -np.asarray(choices, dtype=float)
    found = fillings(space, SensitivityTable({"layer0.weight": damage}, 0))
    indices, bits = found.indices["layer0.weight"], found.bits["layer0.weight"]
    assert indices.shape == bits.shape
    assert 1 <= len(bits) <= LEVELS
    np.testing.assert_array_equal(bits, np.asarray(choices)[indices])
    assert (bits[0] == choices[0]).all()
    assert (bits[-1] == choices[-1]).all()
    assert (np.diff(bits.sum(axis=1)) > 0).all()
    total = np.take_along_axis(damage, indices.T, axis=1).sum(axis=0)
    assert (np.diff(total) <= 1e-12 * total[:-1]).all()


def test_the_damage_of_a_level_is_that_of_its_kernels():
    oracle, filled = case()
    table, levels = oracle.sensitivity("one-at-a-time"), filled.sensitivity("whatever", {"name": 1})
    exact, summed = (
        predicted_damage(oracle.problem.space, table),
        predicted_damage(filled.problem.space, levels),
    )
    x = every(filled.problem.space)
    for row in x:
        filled.evaluate(filled.problem.space.decode(row))
    bits = np.stack([oracle.problem.space.encode(trial.assignment) for trial in oracle.trials])
    np.testing.assert_allclose(summed(x), exact(bits), rtol=1e-12)
    for name in ("layer0.input", "layer1.input"):
        np.testing.assert_array_equal(levels.damage[name], table.damage[name])


def test_a_level_is_the_least_damage_at_its_bits():
    _, filled = case(sizes=(4, 2), weight_bits=range(4))
    oracle_table = filled._oracle.sensitivity("one-at-a-time").damage["layer0.weight"]
    lowest = oracle_table[:, 0]
    for bits in filled._fillings.bits["layer0.weight"]:
        rivals = [b for b in itertools.product(range(4), repeat=4) if sum(b) <= bits.sum()]
        best = min(float(lowest @ 4.0 ** -np.asarray(b, dtype=float)) for b in rivals)
        assert float(lowest @ 4.0 ** -bits.astype(float)) == pytest.approx(best, rel=1e-9)


def least_damage(damage, bits, most):
    """The least damage with a sum of bits of at most 0, 1, … ``most`` beyond the fewest, by dynamic programming."""
    least = np.zeros(most + 1)
    for row in damage:
        taken = np.full((len(bits), most + 1), np.inf)
        for choice, more in enumerate(np.asarray(bits) - bits[0]):
            taken[choice, more:] = least[: max(0, most + 1 - more)] + row[choice]
        least = taken.min(axis=0)
    return least


def drawn_damage(rng, kernels, choices, law):
    """Damages that do not follow 4^(−b): each kernel falls at a rate of its own, or by steps of any size."""
    scale = 4.0 ** rng.normal(0, 1.5, size=(kernels, 1))
    if law == "rates":
        return scale * np.exp(-rng.uniform(0.3, 2.5, size=(kernels, 1)) * np.asarray(choices, dtype=float))
    return scale * np.cumsum(rng.lognormal(0, 1.5, size=(kernels, len(choices))), axis=1)[:, ::-1]


def levels_of(damage, choices):
    """Bits of the levels of one layer, shape (S, K), and the damage of each."""
    layers = linear_layers([len(damage)])
    space = build_space(
        layers, weight_bits=choices, activation_bits=[8], granularity="kernel", fixed={"activations": 8}
    )
    found = fillings(space, SensitivityTable({"layer0.weight": damage}, 0))
    total = np.take_along_axis(damage, found.indices["layer0.weight"].T, axis=1).sum(axis=0)
    return found.bits["layer0.weight"], total


@pytest.mark.parametrize("law", ["rates", "steps"])
@pytest.mark.parametrize("choices", [(0, 2, 4, 8), tuple(range(2, 9))], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_no_bits_of_the_same_sum_do_less_damage_than_a_level(law, choices, seed):
    damage = drawn_damage(np.random.default_rng(seed), 48, choices, law)
    bits, total = levels_of(damage, choices)
    least = least_damage(damage, choices, 48 * (choices[-1] - choices[0]))
    assert (total <= least[bits.sum(axis=1) - 48 * choices[0]] * (1 + 1e-9)).all()


@pytest.mark.parametrize("law", ["rates", "steps"])
def test_what_a_level_leaves_of_its_goal_costs_little(law):
    choices, count = (0, 2, 4, 8), 200
    for seed in range(5):
        damage = drawn_damage(np.random.default_rng(seed), count, choices, law)
        bits, total = levels_of(damage, choices)
        assert len(bits) == LEVELS
        goals = np.linspace(0, 8 * count, LEVELS)
        assert (total <= 1.05 * least_damage(damage, choices, 8 * count)[goals.astype(int)]).all()
        assert (bits.sum(axis=1) <= goals + 1e-6).all()


def test_a_damage_that_leaps_is_filled_by_what_it_avoids_per_bit():
    """The first kernel gains nothing before it has all its bits; the second gains most at once; the third never."""
    damage = np.asarray([[9.0, 9.0, 0.0], [8.0, 1.0, 0.9], [-1.0, 0.0, 5.0]])
    bits, total = levels_of(damage, (0, 1, 2))
    assert bits.tolist() == [[0, 0, 0], [0, 1, 0], [2, 1, 0], [2, 2, 0], [2, 2, 1], [2, 2, 2]]
    np.testing.assert_allclose(total, [16, 9, 0, -0.1, 0.9, 5.9])


def test_trials_are_those_of_the_oracle_under_the_names_of_levels():
    oracle, filled = case(evaluations=4)
    space = filled.problem.space
    asked = [space.decode(x) for x in (space.lowest, space.highest, space.lowest)]
    found = filled.evaluate_many(asked)
    assert found[0] == found[2]
    assert [trial.assignment for trial in filled.trials] == asked[:2]
    assert filled.trials == tuple(found[:2])
    assert [replace(trial, assignment=ours.assignment) for trial, ours in zip(oracle.trials, found, strict=False)] == (
        found[:2]
    )
    assert oracle.trials[0].assignment == oracle.problem.space.decode(oracle.problem.space.lowest)
    assert filled.remaining == oracle.remaining == 2
    assert (filled.seed, filled.folder) == (oracle.seed, oracle.folder)
    filled.note(step=3.0)
    assert oracle.notes == {"step": 3.0}


def test_bounds_are_the_same_numbers_and_forbid_the_same():
    limit = Bound("size", 2.5 * 40, False, "size <= 2.5 bits")
    oracle, filled = case(bounds=[limit])
    assert filled.problem.bounds == oracle.problem.bounds == (limit,)
    x = every(filled.problem.space)
    over = filled.problem.cost_violations(x) > 0
    assert 0 < over.sum() < len(x)
    for row, forbidden in zip(x, over, strict=True):
        assert (filled.evaluate(filled.problem.space.decode(row)).state == "infeasible") == forbidden


def test_ties_are_one_level_and_what_is_fixed_or_has_one_bitwidth_stays():
    ties, fixed = [("layer0.weight", "layer1.weight")], {"layer2.weight": 4, "layer0.input": 8}
    oracle, filled = case(sizes=(3, 3, 2), ties=ties, fixed=fixed)
    space = filled.problem.space
    assert [v.name for v in space.variables] == ["layer0.weight", "layer1.input", "layer2.input"]
    assert space.variables[1].choices == (4, 8)
    filled.evaluate(space.decode([1, 0, 1]))
    bits = oracle.trials[0].assignment
    assert bits["layer0.weight"] == bits["layer1.weight"]
    assert (bits["layer2.weight"], bits["layer0.input"], bits["layer1.input"], bits["layer2.input"]) == (4, 8, 4, 8)
    assert bits.vector("layer0.weight", 3).sum() > 0


def test_one_choice_is_one_level():
    _, filled = case(weight_bits=[4], activation_bits=[8])
    assert filled.problem.space.size == 1
    assert filled.evaluate(filled.problem.space.decode(filled.problem.space.lowest)).state == "complete"


def test_damages_below_zero_and_of_nothing_leave_levels_in_order():
    layers = linear_layers([3])
    space = build_space(layers, weight_bits=(0, 1, 2), activation_bits=[8], granularity="kernel")
    for damage in (np.zeros((3, 3)), -np.ones((3, 3)), np.asarray([[1.0, 0.5, 0.1], [-1, 0, 1], [0, 0, 0]])):
        table = SensitivityTable({"layer0.weight": damage, "layer0.input": np.zeros((1, 1))}, 0)
        bits = fillings(space, table).bits["layer0.weight"]
        assert (np.diff(bits.sum(axis=1)) > 0).all()
        assert bits[0].tolist() == [0, 0, 0]
        assert bits[-1].tolist() == [2, 2, 2]


def test_thousands_of_kernels_are_a_few_levels():
    problem, evaluator = kernels((2000, 1000), seed=1)
    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=9))
    filled = FilledOracle(oracle, "one-at-a-time", {})
    assert filled.problem.space.size == LEVELS**2
    assert filled.evaluate(filled.problem.space.uniform(LEVELS // 2)).feasible
