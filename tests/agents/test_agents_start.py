"""What an agent begins with: uniform assignments, real logs, checks before anything is spent."""

from __future__ import annotations

import pytest
from agent_runs import agent, run

from qsearch.errors import ConfigError, PluginError
from qsearch.search.draws import uniform_vectors
from qsearch.setting import Choosy
from qsearch.testing.problems import coupled, kernels, separable


@pytest.mark.parametrize("name", ["ddpg", "hierarchical-ddpg"])
def test_a_warm_start_begins_with_the_uniform_assignments(name):
    problem, evaluator = separable(5, budget=None)
    options = {"controller": "goal-tracking"} if name == "hierarchical-ddpg" else {}
    oracle = run(agent(name, warm_start=True, **options), problem, evaluator, 8)
    uniform = [problem.space.decode(x) for x in uniform_vectors(problem.space)]
    assert [trial.assignment for trial in oracle.trials[: len(uniform)]] == uniform
    assert len(oracle.trials) == 8


@pytest.mark.parametrize("name", ["ddpg", "hierarchical-ddpg"])
def test_a_warm_start_on_kernels(name):
    problem, evaluator = kernels((3, 4), choices=(0, 2, 4, 8), mean=8.0)
    options = {"controller": "goal-tracking"} if name == "hierarchical-ddpg" else {}
    oracle = run(agent(name, warm_start=True, **options), problem, evaluator, 6)
    means = [trial.assignment.mean_bits("layer1.weight") for trial in oracle.trials[:4]]
    assert means == [8, 4, 2, 0]


@pytest.mark.parametrize("name", ["ddpg", "ppo", "hierarchical-ddpg"])
def test_tensorboard_writes_events(name, tmp_path):
    pytest.importorskip("tensorboard")
    run(agent(name, tensorboard=str(tmp_path)), *coupled(5, budget=None), 12)
    assert list(tmp_path.rglob("events.out.tfevents.*"))


@pytest.mark.parametrize("name", ["ddpg", "ppo", "hierarchical-ddpg"])
@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"reward": "hag"}, PluginError, "unknown reward 'hag'.*haq"),
        ({"reward": "releq", "reward_options": {"thershold": 0.5}}, ConfigError, "threshold"),
        ({"sensitivity": "one-at-time"}, PluginError, "one-at-a-time"),
    ],
)
def test_what_the_options_name_is_checked_before_a_search(name, options, error, match):
    searcher = agent(name, **options)
    assert isinstance(searcher, Choosy)
    with pytest.raises(error, match=match):
        searcher.check(separable(3)[0])


def test_the_mode_is_checked_too():
    agent("hierarchical-ddpg", mode="accuracy-guaranteed").check(separable(3)[0])
