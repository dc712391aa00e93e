"""Agents on a spiking network: a state is decided as an input is, a leak or a threshold as a weight of one bitwidth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from agent_runs import AGENTS, agent, run
from spiking_digits import evaluator, problem, space

from qsearch.testing.problems import QuadraticEvaluator


@pytest.fixture(scope="module")
def judge() -> Any:
    return evaluator()


@pytest.mark.parametrize("granularity", ["layer", "kernel"])
@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_spends_its_budget_within_the_bound(name: str, granularity: str, judge: Any) -> None:
    what = problem(space(granularity=granularity), budget=0.5)
    oracle = run(agent(name), what, judge, 6)
    assert oracle.spent == len(oracle.trials) == 6
    assert all(trial.feasible and trial.assignment in what.space for trial in oracle.trials)
    for site in ("lif.state", "fire.threshold", "voltage.leak"):
        assert all(isinstance(trial.assignment[site], int) for trial in oracle.trials)
    if granularity == "kernel":
        assert any(len(set(np.ravel(trial.assignment["fc.weight"]).tolist())) > 1 for trial in oracle.trials)


@pytest.mark.parametrize("controller", ["goal-tracking", "water-filling"])
def test_the_upper_level_decides_states_itself(controller: str, judge: Any) -> None:
    what = problem(space(granularity="kernel"), budget=0.5)
    oracle = run(agent("hierarchical-ddpg", controller=controller), what, judge, 6)
    assert len({trial.assignment["lif.state"] for trial in oracle.trials}) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddpg", "hierarchical-ddpg"])
def test_an_agent_learns_which_sites_mind(name: str) -> None:
    """One state minds, all else does not: its bits are found though the bound allows few."""
    bits = space(fixed={"leaks": 8, "thresholds": 8, "activations": 8, "conv.weight": 8})
    minds = {"voltage.state": 40.0}
    curvature = np.asarray([minds.get(v.name, 0.01) for v in bits.variables])
    judge = QuadraticEvaluator(bits, curvature)
    what = problem(bits, budget=0.5)
    best = what.best(run(agent(name), what, judge, 80).trials)
    assert best is not None
    assert best.assignment["voltage.state"] == 12
