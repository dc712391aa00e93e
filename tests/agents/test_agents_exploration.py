"""HAQ's exploration and the rhythm of its learning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from agent_runs import guarded, oracle_of
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from stable_baselines3.common.vec_env import DummyVecEnv

from qsearch.agents import learner as module
from qsearch.agents.ddpg import Ddpg
from qsearch.agents.haq import Exploration, HaqDDPG, truncated_normal
from qsearch.agents.learner import make_learner
from qsearch.agents.tensorboard import logger
from qsearch.envs.layerwise import LayerwiseEnv
from qsearch.testing.problems import coupled

UNIFORM = np.asarray([0.0, 1e-6, 0.01, 0.2, 0.5, 0.77, 0.99, 1 - 1e-6, 1.0])


class TestTruncatedNormal:
    @pytest.mark.parametrize("mean", [0.0, 0.1, 0.5, 0.93, 1.0])
    @pytest.mark.parametrize("scale", [0.005, 0.05, 0.5, 3.0])
    def test_quantiles(self, mean, scale):
        known = stats.truncnorm(-mean / scale, (1 - mean) / scale, loc=mean, scale=scale).ppf(UNIFORM)
        inner = slice(1, -1)  # at 0 and 1 the normal distribution's own quantiles round to infinity
        found = truncated_normal(np.full(len(UNIFORM), mean), scale, UNIFORM)
        assert found[inner] == pytest.approx(known[inner], abs=1e-7)
        assert np.all((found >= 0) & (found <= 1))

    @given(
        mean=st.floats(0, 1),
        scale=st.floats(1e-6, 1e3),
        uniform=st.floats(0, 1, exclude_max=True),
    )
    def test_stays_in_range_and_is_a_number(self, mean, scale, uniform):
        found = truncated_normal(np.asarray([mean]), scale, np.asarray([uniform]))
        assert 0 <= found[0] <= 1

    @given(mean=st.floats(0, 1), scale=st.floats(1e-3, 10))
    def test_rises_with_the_quantile(self, mean, scale):
        found = truncated_normal(np.full(21, mean), scale, np.linspace(0, 1, 21))
        assert np.all(np.diff(found) >= 0)

    def test_draws_are_of_that_distribution(self):
        np.random.seed(0)
        drawn = Exploration(0, 0.3, 1.0).draw(np.full(5000, 0.9), 0)
        known = stats.truncnorm(-0.9 / 0.3, 0.1 / 0.3, loc=0.9, scale=0.3)
        assert stats.kstest(drawn, known.cdf).pvalue > 0.01
        assert stats.kstest(drawn, stats.norm(0.9, 0.3).cdf).pvalue < 1e-6  # not clipped, not untruncated


class TestSchedule:
    def test_haqs_numbers(self):
        found = Exploration.over(600, None, 0.5, None)
        assert found.warmup == 20
        assert found.decay == pytest.approx(0.99)
        assert found.scale(20) == 0.5
        assert found.scale(21) == pytest.approx(0.5 * 0.99)
        assert found.scale(600) == pytest.approx(0.5 * 0.99**580)

    @pytest.mark.parametrize("horizon", [1, 3, 10, 60, 200, 600, 1000])
    def test_ends_at_haqs_share_whatever_the_horizon(self, horizon):
        found = Exploration.over(horizon, None, 0.5, None)
        assert found.warmup == min(20, horizon // 4)
        assert found.scale(horizon) == pytest.approx(0.5 * 0.99**580)

    def test_what_is_given_is_kept(self):
        assert Exploration.over(100, 7, 0.2, 0.9) == Exploration(7, 0.2, 0.9)
        assert Exploration.over(100, 0, 0.2, None).scale(0) == 0.2
        assert Exploration.over(10, 50, 0.2, None).scale(49) == np.inf  # a warm-up longer than the horizon

    def test_the_warm_up_is_uniform(self):
        np.random.seed(1)
        exploration = Exploration(3, 0.1, 1.0)
        for episode in range(3):
            drawn = exploration.draw(np.full(3000, 0.9), episode)
            assert stats.kstest(drawn, "uniform").pvalue > 0.01
        assert stats.kstest(exploration.draw(np.full(3000, 0.9), 3), "uniform").pvalue < 1e-6

    def test_a_late_episode_acts_as_the_policy(self):
        drawn = Exploration(0, 0.5, 0.5).draw(np.asarray([0.25, 1.0, 0.0]), 2000)
        assert drawn == pytest.approx([0.25, 1.0, 0.0], abs=1e-5)
        assert drawn.dtype == np.float32

    def test_idle_episodes_raise_the_noise_up_to_a_half(self):
        exploration = Exploration(5, 0.5, 0.5)
        settled = exploration.scale(20)
        assert [exploration.scale(20, k) for k in (0, 1, 4)] == pytest.approx([settled, settled + 0.05, settled + 0.2])
        assert exploration.scale(20, 100) == 0.5
        assert exploration.scale(4, 100) == np.inf
        assert Exploration(0, 0.8, 1.0).scale(3, 10) == 0.8


def test_an_agent_that_has_settled_spends_its_budget():
    problem, evaluator = coupled(6)
    oracle = oracle_of(problem, evaluator, 40)
    Ddpg(Ddpg.Options(hidden=(16, 16), noise=1e-3, warmup_episodes=1, updates=1)).search(oracle)
    assert oracle.spent == 40


class Watched(HaqDDPG):
    """Notes, after every update, how many episodes had ended."""

    seen: list  # set before it learns

    def train(self, gradient_steps, batch_size=100):
        before = self._n_updates
        super().train(gradient_steps, batch_size)
        rates = [group["lr"] for group in self.actor.optimizer.param_groups]
        critic = [group["lr"] for group in self.critic.optimizer.param_groups]
        self.seen.append((self._episode_num, self._n_updates - before, rates, critic))


@pytest.fixture
def updates(monkeypatch):
    """Episodes ended, updates and learning rates at each training of an agent."""
    found = []
    monkeypatch.setattr(Watched, "seen", found, raising=False)
    monkeypatch.setattr(module, "HaqDDPG", Watched)
    return found


def search(options, layers=5, evaluations=9, **settings):
    problem, evaluator = coupled(layers, budget=None, **settings)
    oracle = oracle_of(problem, evaluator, evaluations)
    Ddpg(Ddpg.Options(hidden=(16, 16), **options)).search(oracle)
    return oracle


def test_one_update_per_transition_after_each_episode_but_those_of_the_warm_up(updates):
    oracle = search({"warmup_episodes": 3, "noise_decay": 1.0})
    episodes = int(oracle.notes["episode"])
    assert episodes >= 9
    assert [episode for episode, *_ in updates] == list(range(4, episodes + 1))
    assert {count for _, count, *_ in updates} == {5}


def test_no_warm_up_learns_from_the_first_episode(updates):
    search({"warmup_episodes": 0, "noise_decay": 1.0}, evaluations=2)
    assert updates[0][:2] == (1, 5)


def test_the_number_of_updates_is_an_option(updates):
    search({"warmup_episodes": 0, "updates": 3}, evaluations=2)
    assert {count for _, count, *_ in updates} == {3}


def test_actor_and_critic_have_rates_of_their_own(updates):
    search({"warmup_episodes": 0, "actor_rate": 2e-4, "critic_rate": 3e-3}, evaluations=2)
    assert updates
    for _, _, actor, critic in updates:
        assert actor == [2e-4]
        assert critic == [3e-3]


def test_the_learner_is_haqs():
    problem, evaluator = coupled(5)
    options = Ddpg.Options()
    with guarded(oracle_of(problem, evaluator, 600)) as oracle:
        model = Ddpg(options)._model(oracle, LayerwiseEnv(oracle))
    assert (model.batch_size, model.tau, model.gamma) == (64, 0.01, 1.0)
    assert model.policy_delay == 1
    assert model.target_policy_noise in (0.0, 0.1)  # DDPG of Stable-Baselines3 clips it to 0
    assert model.target_noise_clip == 0.0
    assert model.learning_starts == model.exploration.warmup * 5
    assert model.policy.net_arch == list(options.hidden)


def test_actions_of_an_episode_explore_by_its_number(monkeypatch):
    episodes = []
    original = Exploration.draw

    def spy(self, means, episode, idle=0):
        episodes.append(episode)
        return original(self, means, episode, idle)

    monkeypatch.setattr(Exploration, "draw", spy)
    search({"warmup_episodes": 2, "noise_decay": 1.0}, evaluations=4)
    counts = np.bincount(episodes)
    assert set(counts[:-1].tolist()) == {5}  # five decisions in each episode


def test_a_learner_warms_up_even_if_it_is_longer_than_the_budget(updates):
    oracle = search({"warmup_episodes": 100}, evaluations=4)
    assert (updates, oracle.spent) == ([], 4)


class TestAnchor:
    """The actor's loss with an anchor; what it leaves alone is held against Stable-Baselines3's own update."""

    def learner(self, anchor, gamma=1.0, **options):
        """A learner with 64 remembered transitions whose actions are 0.8."""
        problem, evaluator = coupled(4, budget=None)
        env = LayerwiseEnv(oracle_of(problem, evaluator))
        torch.manual_seed(0)
        chosen = Ddpg.Options(hidden=(16, 16), **options)
        model = make_learner(DummyVecEnv([lambda: env]), chosen, Exploration(0, 0.5, 1.0), capacity=256, gamma=gamma)
        model.anchor = anchor
        model.set_logger(logger(None, "test"))
        rng = np.random.default_rng(0)
        seen = rng.random((64, 10), dtype=np.float32)
        taken, ends = np.full((64, 1), 0.8, np.float32), np.tile([0, 0, 0, 1], 16).astype(np.float32)
        model.replay_buffer.extend(seen, taken, rng.random(64).astype(np.float32), ends)
        return model

    @pytest.mark.parametrize("gamma", [0.0, 1.0])
    def test_an_anchor_of_next_to_nothing_is_the_ordinary_update(self, gamma):
        ours, theirs = self.learner(1e-12, gamma), self.learner(0.0, gamma)
        for model in (ours, theirs):
            np.random.seed(1)
            model.train(1, 64)
        assert ours._n_updates == theirs._n_updates == 1
        for part in ("critic", "critic_target"):
            found, known = (getattr(model, part).state_dict() for model in (ours, theirs))
            assert all(torch.allclose(found[key], value, atol=1e-6) for key, value in known.items())
        first = self.learner(0.0, gamma)
        for part in ("actor", "actor_target"):  # Adam's first step hardly depends on the scale, here 1 / mean |Q|
            start, found, known = (
                torch.nn.utils.parameters_to_vector(getattr(model, part).parameters())
                for model in (first, ours, theirs)
            )
            assert torch.cosine_similarity(found - start, known - start, dim=0) > 0.99
            assert (known - start).norm() > 0

    def test_a_heavy_anchor_keeps_the_actor_at_what_was_done(self):
        model = self.learner(1e4, actor_rate=1e-2)
        seen = model.replay_buffer.observations[:64, 0]
        before = model.predict(seen, deterministic=True)[0]
        model.train(200, 64)
        after = model.predict(seen, deterministic=True)[0]
        assert np.abs(before - 0.8).max() > 0.1
        assert np.abs(after - 0.8).max() < 0.03
