"""Episodes side by side, and PPO's masks."""

from __future__ import annotations

import numpy as np
import pytest
from agent_runs import agent, oracle_of, run

from qsearch.agents import ppo as ppo_module
from qsearch.agents.lockstep import LockstepVecEnv
from qsearch.agents.ppo import batch_size
from qsearch.envs import base as envs_base
from qsearch.envs.kernelwise import KernelwiseEnv
from qsearch.envs.layerwise import LayerwiseEnv
from qsearch.projection import project
from qsearch.testing.problems import coupled, kernels, separable


def count_calls(oracle):
    """Sizes of the batches that reach the oracle."""
    sizes, original = [], oracle.evaluate_many
    oracle.evaluate_many = lambda assignments: sizes.append(len(assignments)) or original(assignments)
    return sizes


@pytest.mark.parametrize("kind", [LayerwiseEnv, KernelwiseEnv])
@pytest.mark.parametrize("settings", [{}, {"discrete": True}, {"budget": "mask", "discrete": True}])
def test_side_by_side_is_as_one_after_the_other(kind, settings):
    count, rounds = 3, 2
    make = coupled if kind is LayerwiseEnv else lambda n: kernels((3, n - 3), choices=range(4), mean=1.5)
    side, alone = (oracle_of(*make(5)) for _ in range(2))
    sizes = count_calls(side)
    vector = LockstepVecEnv(lambda: kind(side, **settings), count)
    single = kind(alone, **settings)
    length = len(single.schedule)
    rng = np.random.default_rng(0)
    shape = (rounds, length, count)
    actions = rng.integers(0, 4, shape) if "discrete" in settings else rng.random((*shape, 1), dtype=np.float32)

    seen = [vector.reset()]
    rewards, infos = [], []
    for chosen in actions.reshape(-1, *actions.shape[2:]):
        vector.step_async(chosen)
        observation, reward, done, info = vector.step_wait()
        assert done.tolist() == [len(seen) % length == 0] * count
        seen.append(observation)
        rewards.append(reward)
        infos.append(info)
    for number in range(rounds):
        for row in range(count):
            observation, _ = single.reset()
            for t in range(length):
                assert np.array_equal(observation, seen[number * length + t][row])
                observation, reward, done, _, info = single.step(actions[number, t, row])
                assert reward == pytest.approx(float(rewards[number * length + t][row]), rel=1e-6)
            last = infos[(number + 1) * length - 1][row]
            assert done
            assert np.array_equal(observation, last["terminal_observation"])
            assert last["TimeLimit.truncated"] is False
            for key in ("executed", "executed_actions", "executed_observations"):
                assert np.array_equal(last[key], info[key])
    assert side.trials == alone.trials
    assert sizes == [count] * rounds


def test_ppo_asks_for_all_episodes_of_a_round_at_once():
    problem, evaluator = coupled(5, budget=None)
    oracle = oracle_of(problem, evaluator, 12)
    sizes = count_calls(oracle)
    agent("ppo", environments=4, episodes_per_update=8).search(oracle)
    assert set(sizes) == {4}
    assert oracle.spent == 12


def test_no_more_environments_than_evaluations():
    problem, evaluator = coupled(5, budget=None)
    oracle = oracle_of(problem, evaluator, 3)
    sizes = count_calls(oracle)
    agent("ppo", environments=8).search(oracle)
    assert sizes[0] == 3


@pytest.fixture
def changes(monkeypatch):
    """Whether the projection changed each of the episodes that ended."""
    found = []

    def spy(problem, x):
        executed = project(problem, x)
        found.append(not np.array_equal(executed, x))
        return executed

    monkeypatch.setattr(envs_base, "project", spy)
    return found


PROBLEMS = {"layers": lambda: separable(6, budget=0.4), "kernels": lambda: kernels((5, 3), choices=range(5), mean=1.5)}


@pytest.mark.parametrize("kind", PROBLEMS)
def test_masked_ppo_proposes_nothing_that_projection_would_change(kind, changes):
    oracle = run(agent("ppo", environments=3), *PROBLEMS[kind](), 24)
    assert len(changes) >= len(oracle.trials) >= 12
    assert not any(changes)


@pytest.mark.parametrize("kind", PROBLEMS)
def test_unmasked_ppo_is_projected(kind, changes):
    run(agent("ppo", environments=3, budget="project"), *PROBLEMS[kind](), 12)
    assert any(changes)


@pytest.mark.parametrize("kind", PROBLEMS)
def test_masks_reach_the_policy(kind, monkeypatch):
    batches = []

    class Watched(ppo_module.MaskablePPO):
        def train(self):
            buffer = self.rollout_buffer
            batches.append((buffer.action_masks.reshape(len(buffer.actions), self.n_envs, -1), buffer.actions.copy()))
            super().train()

    monkeypatch.setattr(ppo_module, "MaskablePPO", Watched)
    run(agent("ppo"), *PROBLEMS[kind](), 16)
    assert batches
    for masks, actions in batches:
        assert not masks.all()  # the budget does take choices away
        rows, columns = np.indices(masks.shape[:2])
        assert masks[rows, columns, actions[:, :, 0].astype(int)].all()


@pytest.mark.parametrize("transitions", [2, 3, 64, 65, 66, 129, 131, 257, 4161, 16 * 997])
def test_no_batch_holds_one_transition_alone(transitions):
    size = batch_size(transitions)
    assert 2 <= size <= 64
    assert transitions % size != 1
    assert size > 32 or transitions < 64


@pytest.mark.parametrize(
    "problem", [lambda: kernels(131, choices=range(3), mean=1.0), lambda: separable(1, budget=None)]
)
def test_one_environment_and_one_episode_an_update(problem):
    assert run(agent("ppo", environments=1, episodes_per_update=1), *problem(), 3).spent >= 1
