"""The examples are plug-ins like any other: found by path, held to the contracts, and they do what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qsearch import registry
from qsearch.costs import NetworkCost
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Bound, Problem
from qsearch.protocols import Searcher
from qsearch.sites import build_space
from qsearch.testing.problems import ACCURACY, QuadraticEvaluator, coupled, exhaust, linear_layers
from qsearch.testing.searcher import SearcherContract

EXAMPLES = Path(__file__).parents[2] / "examples"


class TestHillClimbing(SearcherContract):
    def searcher(self) -> Searcher:
        return registry.create("searchers", f"{EXAMPLES / 'my_searcher.py'}:HillClimbing")


def test_hill_climbing_solves_a_coupled_problem():
    problem, evaluator = coupled(5)
    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=100))
    registry.create("searchers", f"{EXAMPLES / 'my_searcher.py'}:HillClimbing").search(oracle)
    best = problem.best(oracle.trials)
    assert best is not None
    assert best.value("loss") == pytest.approx(exhaust(problem, evaluator).best_loss)


def test_the_cost_model_serves_an_integer_program():
    layers = linear_layers([4, 8])
    space = build_space(layers, weight_bits=[2, 4, 8], activation_bits=[4, 8])
    model = registry.create("cost_models", f"{EXAMPLES / 'my_accelerator.py'}:MyAccelerator")
    cost = NetworkCost(model, layers, space)
    lanes = 4096 * 200e6
    assert cost.estimate(space.uniform(8)).totals["latency"] == pytest.approx(8 * 12 * 8 * 8 / lanes)
    bound = Bound("latency", 8 * 12 * 4 * 8 / lanes, False, "latency <= half")
    problem = Problem(space, cost, ACCURACY, (bound,))
    evaluator = QuadraticEvaluator(space, np.asarray([3.0, 0.5, 1.0, 0.1]))
    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=1))
    registry.create("searchers", "ilp").search(oracle)
    assert oracle.trials[0].value("loss") == pytest.approx(exhaust(problem, evaluator).best_loss)


@pytest.mark.parametrize("name", ["my_searcher.py", "my_accelerator.py"])
def test_the_examples_stay_short(name):
    assert len((EXAMPLES / name).read_text().splitlines()) < 30
