"""How long the integer programs take, with room for slow machines; and that large ones are exact."""

from __future__ import annotations

import time
from itertools import islice
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Bound
from qsearch.protocols import SensitivityTable
from qsearch.search import knapsack
from qsearch.search import program as module
from qsearch.search.damage import Damage
from qsearch.search.ilp import IntegerProgram
from qsearch.search.knapsack import Knapsack, TooManyPartialSolutions
from qsearch.search.program import Program
from qsearch.search.units import Unit
from qsearch.testing.problems import kernels, optimal_loss


def random_program(units: int, choices: int, seed: int = 0) -> Program:
    rng = np.random.default_rng(seed)
    bits = 2.0 + np.arange(choices)
    options = np.arange(choices)[:, None]
    found = [
        Unit(np.asarray([u]), options, np.exp(rng.normal(0, 1.5)) * 4.0**-bits, {"size": rng.integers(27, 4608) * bits})
        for u in range(units)
    ]
    least, most = (sum(float(unit.costs["size"][end]) for unit in found) for end in (0, -1))
    return Program(tuple(found), {"size": 0.0}, (Bound("size", least + 0.3 * (most - least), False, "size"),))


def test_ten_thousand_kernels_in_two_seconds():
    program = random_program(10_000, 7)
    start = time.perf_counter()
    x = program.solve({})
    assert time.perf_counter() - start < 2.0
    assert x is not None
    assert program.cost(x, "size") <= program.bounds[0].limit * (1 + 1e-9)


def equal_kernels(layers: int, seed: int = 0) -> tuple[Program, int]:
    """10,000 kernels at 2 to 8 bits in layers of equal kernels; and how many a layer has."""
    rng = np.random.default_rng(seed)
    bits, options, count = 2.0 + np.arange(7), np.arange(7)[:, None], 10_000 // layers
    found = []
    for layer in range(layers):
        damage, cost = np.exp(rng.normal(0, 1.5)) * 4.0**-bits, rng.integers(27, 4608) * bits
        found += [Unit(np.asarray([layer * count + k]), options, damage, {"size": cost}) for k in range(count)]
    least, most = (sum(float(unit.costs["size"][end]) for unit in found) for end in (0, -1))
    return Program(tuple(found), {"size": 0.0}, (Bound("size", least + 0.3 * (most - least), False, "size"),)), count


@pytest.mark.parametrize("layers", [1, 20])
def test_ten_thousand_kernels_with_ties_in_two_seconds(layers):
    program, _ = equal_kernels(layers)
    start = time.perf_counter()
    found = list(islice(program.ranked({}), 4))
    assert time.perf_counter() - start < 2.0
    assert len({x.tobytes() for x in found}) == 4
    assert all(program.cost(x, "size") <= program.bounds[0].limit * (1 + 1e-9) for x in found)
    damages = [program.damage(x) for x in found]
    assert damages == pytest.approx(sorted(damages))


def test_ten_thousand_equal_kernels_are_optimal():
    """Equal costs per bit and convex damages: as even as the bits allow (Fox, Oper. Res. 14, 1966)."""
    program, _ = equal_kernels(1)
    x = program.solve({})
    share = program.bounds[0].limit / program.units[0].costs["size"][0] * 2  # bits that fit, at 2 bits a choice 0
    lower, more = divmod(int(np.floor(share + 1e-6)), 10_000)
    assert sorted(x.tolist()) == [lower - 2] * (10_000 - more) + [lower - 1] * more


@pytest.mark.parametrize("seed", range(6))
def test_a_program_with_ties_has_the_optimum_of_dynamic_programming(seed):
    """Four layers of 30 kernels of small whole costs: the least damage at each total, kernel by kernel."""
    rng = np.random.default_rng(seed)
    rows = [(np.sort(rng.exponential(size=5))[::-1], np.cumsum(rng.integers(1, 9, size=5))) for _ in range(4)]
    damage, cost = (np.repeat([row[part] for row in rows], 30, axis=0).astype(float) for part in (0, 1))
    room = int(cost[:, 0].sum() + rng.uniform(0.1, 0.8) * (cost[:, -1] - cost[:, 0]).sum())
    least = np.zeros(room + 1)
    for values, prices in zip(damage, cost.astype(int), strict=True):
        after = np.full(room + 1, np.inf)
        for value, price in zip(values, prices.tolist(), strict=True):
            after[price:] = np.minimum(after[price:], least[: room + 1 - price] + value)
        least = after
    each = np.arange(120)
    x = next(Knapsack.rounded(damage, cost, float(room)).ranked())
    assert cost[each, x].sum() <= room
    assert damage[each, x].sum() == pytest.approx(least[-1], rel=1e-12)


def test_next_best_solutions_are_cheap():
    program = random_program(50, 7)
    start = time.perf_counter()
    found = list(islice(program.ranked({}), 64))
    assert time.perf_counter() - start < 2.0
    damages = [program.damage(x) for x in found]
    assert damages == sorted(damages)
    assert len({x.tobytes() for x in found}) == 64


def test_other_damages_on_the_same_units():
    program = random_program(200, 7)
    damage = [unit.damage[::-1].copy() for unit in program.units]
    start = time.perf_counter()
    x = program.with_damage(damage).solve({})
    assert time.perf_counter() - start < 0.5
    np.testing.assert_array_equal(x, np.zeros(200))  # fewer bits are better now, and cheaper


def test_ten_thousand_kernels_through_the_searcher_are_optimal():
    problem, evaluator = kernels([64] * 100 + [1200] * 3, choices=range(2, 9), mean=4.0)
    variables = problem.space.variables
    assert problem.space.dimension == 10_000
    damage = {}
    for curvature, v in zip(evaluator.curvature, variables, strict=True):
        shares = evaluator.weight_errors(v.name, 0)
        damage[v.name] = curvature * (shares / shares.sum())[:, None] * 4.0 ** -np.asarray(v.choices, dtype=float)
    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=2))
    oracle.sensitivity = lambda name, options=None: SensitivityTable(damage, 0)
    start = time.perf_counter()
    IntegerProgram().search(oracle)
    assert time.perf_counter() - start < 8.0
    assert oracle.trials[0].value("loss") == pytest.approx(optimal_loss(problem, evaluator), rel=1e-9)


def test_damages_of_ten_thousand_kernels_by_the_thousand():
    rng = np.random.default_rng(0)
    damage = Damage(tuple(rng.normal(size=(10_000, 7))))
    x = rng.integers(0, 7, size=(1000, 10_000))
    start = time.perf_counter()
    found = damage(x)
    each = [damage(row[None])[0] for row in x[:100]]
    assert time.perf_counter() - start < 0.5
    assert each == found[:100].tolist()
    assert found[0] == pytest.approx(sum(values[k] for values, k in zip(damage.single, x[0], strict=True)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 4))
def test_all_solutions_of_a_knapsack_in_order(seed, units, choices):
    rng = np.random.default_rng(seed)
    damage, cost = rng.integers(0, 6, size=(2, units, choices)).astype(float)  # small numbers: many are the same
    damage[rng.random(damage.shape) < 0.2] = np.inf
    damage[:, 0] = np.where(np.isinf(damage[:, 0]), 3.0, damage[:, 0])
    room = float(rng.integers(-1, 4 * units))
    each = np.arange(units)
    expected = [
        damage[each, x].sum()
        for x in map(list, np.ndindex(*damage.shape[1:] * units))
        if cost[each, x].sum() <= room and np.isfinite(damage[each, x].sum())
    ]
    found = list(Knapsack(damage, cost, room).ranked())
    assert len({x.tobytes() for x in found}) == len(found)
    np.testing.assert_allclose([damage[each, x].sum() for x in found], sorted(expected), atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 8, 100_000]))
def test_all_solutions_of_a_knapsack_with_ties_in_order_each_once(seed, layers, choices, listed):
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 4, size=layers)
    damage, cost = (rng.integers(0, 4, size=(layers, choices)).repeat(count, axis=0).astype(float) for _ in range(2))
    order = rng.permutation(len(damage))
    damage, cost, each = damage[order], cost[order], np.arange(len(order))
    room = float(rng.integers(0, 4 * len(damage)))
    within = [x for x in map(list, np.ndindex(*[choices] * len(damage))) if cost[each, x].sum() <= room]
    with mock.patch.object(knapsack, "COUNTS", listed):
        found = list(Knapsack(damage, cost, room).ranked())
    assert sorted(x.tolist() for x in found) == sorted(within)
    damages = [damage[each, x].sum() for x in found]
    np.testing.assert_allclose(damages, np.sort(damages), atol=1e-9)


def test_choices_that_all_do_the_same_damage_are_solved_at_once():
    """Best first with ties would take up every beginning before the first ends: 7^64 of them."""
    damage, cost = np.zeros((64, 7)), np.tile(np.arange(7.0), (64, 1)) + np.arange(64)[:, None]
    found = list(islice(Knapsack.rounded(damage, cost, float(cost[:, 3].sum())).ranked(), 5))
    assert len({choices.tobytes() for choices in found}) == 5


@pytest.mark.parametrize("after", [0, 5])
def test_the_solver_goes_on_where_the_knapsack_gives_up(after, monkeypatch):
    program = random_program(6, 3)
    expected = [program.damage(x) for x in program.ranked({})]

    class Limited(Knapsack):
        def ranked(self):
            yield from islice(super().ranked(), after)
            raise TooManyPartialSolutions("too many")

    monkeypatch.setattr(module, "Knapsack", Limited)
    found = [program.damage(x) for x in islice(program.ranked({}), 12)]
    np.testing.assert_allclose(found, expected[:12], rtol=1e-9)
