"""Goals in the upper level's replay: which goal the lower level would have acted, and what changes with it."""

from __future__ import annotations

import numpy as np
import pytest
from agent_runs import oracle_of
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from qsearch.agents.goals import GoalReplay
from qsearch.agents.levels import layer_records
from qsearch.agents.relabel import DRAWS, LayerRecord, candidates, relabelled
from qsearch.envs.actions import bits_at, needed_positions, position_of
from qsearch.envs.features import AUTOQ, columns
from qsearch.envs.hierarchical import HierarchicalEnv
from qsearch.testing.problems import kernels

PLACE = columns(AUTOQ)
CHOICES = tuple(range(9))


def answers_needed(seen):
    """A policy that acts its goal exactly."""
    return seen[:, PLACE["needed"]]


def acted(goal, count=4, choices=CHOICES):
    """What a layer's kernels do under a policy that answers with the needed bits."""
    bits = []
    for j in range(count):
        needed = (goal * count - sum(bits)) / (count - j)
        index = min(int(position_of(needed, choices) * len(choices)), len(choices) - 1)
        bits.append(choices[index])
    bits = np.asarray(bits, dtype=np.float64)
    record = LayerRecord(np.zeros((count, len(AUTOQ)), np.float32), np.zeros(count, np.float32), bits, choices)
    return LayerRecord(record.seen_under(goal), needed_positions(bits, goal, choices).astype(np.float32), bits, choices)


class TestNeeded:
    def test_known_values(self):
        # goal 4 over (6, 4, 2): 12 in all; needed 4, then (12 − 6)/2 = 3, then (12 − 10)/1 = 2
        found = needed_positions(np.asarray([6.0, 4.0, 2.0]), 4.0, CHOICES)
        assert found == pytest.approx([(4 + 0.5) / 9, (3 + 0.5) / 9, (2 + 0.5) / 9])

    @given(
        st.lists(st.sampled_from((2, 3, 4, 8)), min_size=1, max_size=8),
        st.floats(2, 8),
    )
    def test_is_the_position_of_the_mean_that_is_left(self, bits, goal):
        choices = (2, 3, 4, 8)
        found = needed_positions(np.asarray(bits, dtype=float), goal, choices)
        for j, value in enumerate(found):
            needed = (goal * len(bits) - sum(bits[:j])) / (len(bits) - j)
            assert value == pytest.approx(position_of(needed, choices), abs=1e-9)


class TestCandidates:
    def test_the_old_goal_the_realised_mean_and_draws_around_it(self):
        record = acted(3.5)
        found = candidates(6.0, record, np.linspace(-2, 2, DRAWS))
        assert found[:2] == [6.0, 3.5]
        assert found[2:] == pytest.approx((3.5 + 0.5 * np.linspace(-2, 2, DRAWS)).tolist())
        assert DRAWS == 8

    def test_stay_within_the_choices(self):
        found = candidates(6.0, acted(0.0), np.full(DRAWS, -3.0))
        assert found == [6.0, 0.0, *[0.0] * DRAWS]


class TestChoice:
    @pytest.mark.parametrize("mean", [0.0, 2.0, 3.5, 8.0])
    @pytest.mark.parametrize("old", [1.0, 6.0])
    def test_the_realised_mean_where_the_policy_acts_its_goal(self, mean, old):
        record = acted(mean)
        assert record.mean == mean
        assert relabelled(answers_needed, [old, record.mean], record) == record.mean
        assert relabelled(answers_needed, candidates(old, record, np.linspace(-1, 1.1, DRAWS)), record) == record.mean

    def test_the_old_goal_where_it_still_explains_what_was_done(self):
        record = acted(3.5)

        def shifted(seen):  # the controller has learnt to give less than it is asked for
            return seen[:, PLACE["needed"]] - np.float32(0.1)

        taken = shifted(record.seen_under(5.0))
        record = LayerRecord(record.seen_under(5.0), taken, record.bits, record.choices)
        assert relabelled(shifted, [5.0, record.mean], record) == 5.0

    def test_the_first_of_equals(self):
        record = acted(3.5)
        assert relabelled(lambda seen: np.zeros(len(seen), np.float32), [6.0, 3.5, 2.0], record) == 6.0

    @given(st.integers(0, 2**32 - 1))
    def test_the_likelihood_is_the_greatest(self, seed):
        rng = np.random.default_rng(seed)
        weights = rng.normal(size=len(AUTOQ))
        bits = rng.integers(0, 9, 5).astype(float)
        seen, taken = rng.random((5, len(AUTOQ)), dtype=np.float32), rng.random(5, dtype=np.float32)
        record = LayerRecord(seen, taken, bits, CHOICES)
        goals = rng.uniform(0, 8, 6).tolist()

        def likelihood(goal):
            value = 0.0
            for j in range(5):
                row = seen[j].astype(float).copy()
                row[PLACE["goal"]] = position_of(goal, CHOICES)
                row[PLACE["needed"]] = position_of((goal * 5 - bits[:j].sum()) / (5 - j), CHOICES)
                value -= 0.5 * (taken[j] - row @ weights) ** 2
            return value

        found = relabelled(lambda rows: rows @ weights, goals, record)
        assert likelihood(found) == pytest.approx(max(map(likelihood, goals)), rel=1e-4, abs=1e-4)


@pytest.fixture
def env():
    problem, evaluator = kernels((4, 3, 5), mean=8.0)
    return HierarchicalEnv(oracle_of(problem, evaluator, 1000))


def episode(env, goals):
    """``info`` of an episode with these goals in bits; the default controller tracks them."""
    env.reset()
    for goal in goals:
        *_, info = env.step(np.asarray([position_of(goal, CHOICES), 0.5], dtype=np.float32))
    return info


def replay(env, capacity):
    box = spaces.Box(0.0, 1.0, (2,), np.float32)
    return GoalReplay(capacity, env.observation_space, box, device="cpu", handle_timeout_termination=False)


def remember(buffer, env, goals):
    info = episode(env, goals)
    ends = np.asarray([0, 0, 1], dtype=np.float32)
    seen, taken = info["executed_observations"], info["executed_actions"]
    buffer.extend_with_records(seen, taken, np.ones(3, np.float32), ends, layer_records(env, info))


def test_records_are_what_the_environment_showed(env):
    info = episode(env, (3.3, 5.0, 6.2))
    for step, record, goal in zip(env.steps, layer_records(env, info), (3.3, 5.0, 6.2), strict=True):
        assert record.choices == CHOICES
        assert record.mean == pytest.approx(env.kernels.mean_bits(step.weight, info["executed"]))
        assert record.seen_under(goal) == pytest.approx(record.observations, abs=1e-6)
        assert record.actions == pytest.approx(record.observations[:, PLACE["needed"]], abs=1e-6)


def test_relabelling_changes_the_action_and_what_was_seen_of_it(env):
    buffer = replay(env, 12)
    remember(buffer, env, (3.0, 5.0, 6.0))
    whole = {name: getattr(buffer, name).copy() for name in ("observations", "next_observations", "actions", "rewards")}
    for position, wrong in ((0, 7.0), (1, 1.0)):  # as if other goals had been given
        buffer.actions[position, 0, 0] = 2 * position_of(wrong, CHOICES) - 1
        buffer.next_observations[position, 0, PLACE["goal"]] = position_of(wrong, CHOICES)
        buffer.observations[position + 1, 0, PLACE["goal"]] = position_of(wrong, CHOICES)
    assert not np.allclose(buffer.observations[:3], whole["observations"][:3])
    np.random.seed(0)
    buffer.relabel(answers_needed, 50)
    for name, value in whole.items():
        assert getattr(buffer, name)[:3] == pytest.approx(value[:3], abs=1e-6), name


def test_the_last_goal_of_an_episode_does_not_reach_the_next_episode(env):
    buffer = replay(env, 12)
    remember(buffer, env, (3.0, 5.0, 6.0))
    remember(buffer, env, (2.0, 2.0, 2.0))
    first = buffer.observations[3].copy()
    buffer.actions[2, 0, 0] = 2 * position_of(1.0, CHOICES) - 1
    np.random.seed(0)
    buffer.relabel(answers_needed, 50)
    assert bits_at((buffer.actions[2, 0, 0] + 1) / 2, CHOICES) == pytest.approx(6.0, abs=1e-5)
    assert np.array_equal(buffer.observations[3], first)


def test_the_newest_goal_does_not_reach_the_oldest_transition(env):
    buffer = replay(env, 4)  # two episodes of three: the ring's end lies within an episode
    remember(buffer, env, (3.0, 5.0, 6.0))
    remember(buffer, env, (2.0, 1.0, 4.0))
    newest, oldest = (buffer.pos - 1) % 4, buffer.pos
    buffer.dones[newest, 0] = 0  # an episode that was cut off there
    buffer.actions[newest, 0, 0] = 2 * position_of(7.0, CHOICES) - 1
    before = buffer.observations[oldest].copy()
    np.random.seed(0)
    buffer.relabel(answers_needed, 50)
    assert bits_at((buffer.actions[newest, 0, 0] + 1) / 2, CHOICES) == pytest.approx(4.0, abs=1e-5)
    assert np.array_equal(buffer.observations[oldest], before)


@pytest.mark.parametrize("capacity", [3, 4, 7, 100])
def test_records_stay_with_their_transitions(env, capacity):
    buffer = replay(env, capacity)
    rng = np.random.default_rng(0)
    for _ in range(6):
        remember(buffer, env, rng.integers(0, 9, 3).tolist())
    for position in range(buffer.size()):
        goal = bits_at((float(buffer.actions[position, 0, 0]) + 1) / 2, CHOICES)
        assert buffer.records[position].mean == pytest.approx(goal, abs=1e-5)
    assert sum(record is not None for record in buffer.records) == buffer.size()


def test_without_a_record_nothing_is_relabelled(env):
    buffer = replay(env, 12)
    info = episode(env, (3.0, 5.0, 6.0))
    buffer.extend_with_records(
        info["executed_observations"],
        np.zeros((3, 2), np.float32),
        np.ones(3, np.float32),
        np.zeros(3, np.float32),
        [None, None, None],
    )
    buffer.relabel(answers_needed, 20)
    assert np.all(buffer.actions[:3] == -1)
