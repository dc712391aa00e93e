"""What agents remember of an episode: what was executed, its share of the reward, and the baseline."""

from __future__ import annotations

import numpy as np
import pytest
from agent_runs import agent, guarded, oracle_of
from gymnasium import spaces

from qsearch.agents.replay import EpisodeReplay, credited
from qsearch.envs.layerwise import LayerwiseEnv
from qsearch.testing.problems import separable

FEATURES, ACTIONS = 3, 1


def replay(capacity=8, **settings):
    box = spaces.Box(0.0, 1.0, (FEATURES,), np.float32)
    actions = spaces.Box(0.0, 1.0, (ACTIONS,), np.float32)
    return EpisodeReplay(capacity, box, actions, device="cpu", **settings)


def remember(buffer, first, count, reward=1.0):
    """Remember an episode whose observations count from ``first``; they tell transitions apart."""
    numbers = np.arange(first, first + count, dtype=np.float32)
    seen = np.repeat(numbers[:, None], FEATURES, axis=1)
    info = {"executed_observations": seen, "executed_actions": numbers[:, None] / 100}
    row = np.zeros((1, FEATURES), dtype=np.float32)
    for step in range(count):
        done = step == count - 1
        infos = [info if done else {}]
        buffer.add(row, row, np.zeros((1, 1)), np.asarray([reward if done else 0.0]), np.asarray([done]), infos)


@pytest.mark.parametrize(("credit", "expected"), [("every", [6, 6, 6]), ("share", [2, 2, 2]), ("last", [0, 0, 6])])
def test_credit(credit, expected):
    assert credited(6.0, 3, credit).tolist() == expected
    assert credited(6.0, 3, credit).dtype == np.float32
    buffer = replay(credit=credit)
    remember(buffer, 0, 3, reward=6.0)
    assert buffer.rewards[:3, 0].tolist() == expected


@pytest.mark.parametrize("credit", ["share", "last"])
def test_shares_add_up_to_the_reward(credit):
    assert credited(-3.7, 7, credit).sum() == pytest.approx(-3.7)


def test_transitions_of_an_episode():
    buffer = replay()
    remember(buffer, 10, 3)
    assert buffer.size() == buffer.pos == 3
    assert buffer.observations[:3, 0, 0].tolist() == [10, 11, 12]
    assert buffer.next_observations[:3, 0, 0].tolist() == [11, 12, 12]
    assert buffer.dones[:3, 0].tolist() == [0, 0, 1]
    assert buffer.actions[:3, 0, 0] == pytest.approx([2 * 0.10 - 1, 2 * 0.11 - 1, 2 * 0.12 - 1])


def test_an_unfinished_episode_is_not_stored():
    buffer = replay()
    row = np.zeros((1, FEATURES), dtype=np.float32)
    buffer.add(row, row, np.zeros((1, 1)), np.zeros(1), np.asarray([False]), [{}])
    assert buffer.size() == 0


@pytest.fixture
def learner():
    """A DDPG learner under a budget that does not allow the most bits, its environment and its problem."""
    problem, evaluator = separable(4, budget=0.4)
    with guarded(oracle_of(problem, evaluator)) as oracle:
        env = LayerwiseEnv(oracle)
        yield agent("ddpg")._model(oracle, env), env, problem


def test_what_was_executed_is_remembered_and_not_what_was_intended(learner):
    model, env, problem = learner
    model._setup_learn(1, None)
    observations, infos = model.env.reset(), []
    for _ in range(len(env.schedule)):  # all ask for the most bits: more than the budget allows
        model.env.step_async(np.ones((1, 1), dtype=np.float32))
        after, reward, done, infos = model.env.step_wait()
        model.replay_buffer.add(observations, after, np.ones((1, 1)), reward, done, infos)
        observations = after
    info, count = infos[0], len(env.schedule)
    executed = info["executed"]
    assert (executed < problem.space.highest).sum() > 0  # the projection did change the decisions
    assert problem.space.decode(executed) == info["trial"].assignment
    stored = (model.replay_buffer.actions[:count, 0, 0] + 1) / 2
    bins = np.minimum((stored * problem.space.choice_counts).astype(int), problem.space.choice_counts - 1)
    assert bins.tolist() == executed.tolist()
    assert stored == pytest.approx(info["executed_actions"][:, 0])
    bits = np.asarray([variable.choices[x] for variable, x in zip(problem.space.variables, executed, strict=True)])
    previous = model.replay_buffer.observations[:count, 0, env._place["previous"]]
    assert previous == pytest.approx([0.0, *(bits[:-1] / 8)])
    assert np.array_equal(model.replay_buffer.observations[:count, 0], info["executed_observations"])
    assert np.array_equal(model.replay_buffer.next_observations[: count - 1, 0], info["executed_observations"][1:])
    assert model.replay_buffer.rewards[:count, 0] == pytest.approx(np.full(count, reward[0] / count))


def test_an_action_that_stands_is_remembered_as_it_was():
    problem, evaluator = separable(3, budget=None)
    env = LayerwiseEnv(oracle_of(problem, evaluator))
    env.reset()
    for action in (0.03, 0.41, 0.97):
        *_, info = env.step(np.asarray([action], dtype=np.float32))
    assert info["executed_actions"][:, 0] == pytest.approx([0.03, 0.41, 0.97])


class TestBaseline:
    """B is the first batch's mean, then B + ½·(mean − B), and is taken off after it has moved."""

    def batches(self, rewards, **settings):
        """Sampled rewards, buffer by buffer of one reward each: batch means are known."""
        buffer = replay(2, **settings)
        found = []
        for reward in rewards:
            remember(buffer, 0, 2, reward=2 * reward)
            found.append(float(buffer.sample(16).rewards.mean()))
        return found, buffer

    def test_known_values(self):
        found, buffer = self.batches([4.0, 8.0, 0.0])  # B: 4, 6, 3
        assert found == pytest.approx([0.0, 2.0, -3.0])
        assert buffer.baseline == pytest.approx(3.0)

    def test_other_rates(self):
        assert self.batches([4.0, 8.0], baseline_rate=0.25)[0] == pytest.approx([0.0, 3.0])
        assert self.batches([4.0, 8.0], baseline_rate=1.0)[0] == pytest.approx([0.0, 0.0])

    def test_a_rate_of_0_takes_nothing_off(self):
        assert self.batches([4.0, 8.0], baseline_rate=0.0)[0] == pytest.approx([4.0, 8.0])

    def test_stored_rewards_stay_as_they_are(self):
        _, buffer = self.batches([4.0])
        assert buffer.rewards[:, 0].tolist() == [4.0, 4.0]


class TestRing:
    @pytest.mark.parametrize("episodes", [0, 1, 2, 3, 5])
    def test_state_and_restore_make_the_same_buffer(self, episodes):
        buffer = replay(7)
        for episode in range(episodes):
            remember(buffer, 10 * episode, 3, reward=float(episode))
        if episodes:
            buffer.sample(4)
        again = replay(7)
        again.restore(buffer.state())
        assert (again.size(), again.baseline) == (buffer.size(), buffer.baseline)
        for name, value in buffer.state().items():
            assert np.array_equal(value, again.state()[name], equal_nan=True), name

    def test_state_is_oldest_first(self):
        buffer = replay(4)
        for episode in range(3):
            remember(buffer, 10 * episode, 3)
        assert buffer.full
        assert buffer.state()["observations"][:, 0, 0].tolist() == [12, 20, 21, 22]

    def test_a_full_ring_goes_on_where_it_was(self):
        buffer, again = replay(4), replay(4)
        for episode in range(3):
            remember(buffer, 10 * episode, 3)
        again.restore(buffer.state())
        for each in (buffer, again):
            remember(each, 50, 2)
        assert again.state()["observations"][:, 0, 0].tolist() == [21, 22, 50, 51]
        assert np.array_equal(buffer.state()["observations"], again.state()["observations"])

    def test_the_newest_is_kept_where_not_all_fits(self):
        buffer, small = replay(6), replay(4)
        for episode in range(2):
            remember(buffer, 10 * episode, 3)
        small.restore(buffer.state())
        assert small.full
        assert small.state()["observations"][:, 0, 0].tolist() == [2, 10, 11, 12]

    def test_a_larger_ring_has_room(self):
        buffer, large = replay(4), replay(9)
        remember(buffer, 0, 3)
        remember(buffer, 10, 3)
        large.restore(buffer.state())
        assert (large.size(), large.full, large.pos) == (4, False, 4)
        assert set(large.sample(64).observations[:, 0].tolist()) == {2, 10, 11, 12}

    def test_capacity(self):
        buffer = replay(4)
        for episode in range(5):
            remember(buffer, 10 * episode, 3)
        assert buffer.size() == 4
        assert set(buffer.sample(64).observations[:, 0].tolist()) == {32, 40, 41, 42}


def test_ddpg_keeps_128_episodes(learner):
    model, env, _ = learner
    assert model.replay_buffer.buffer_size == 128 * len(env.schedule)
