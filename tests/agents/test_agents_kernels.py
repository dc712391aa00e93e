"""Low-level controllers: the closed form, the one that tracks goals, and what can be learnt."""

from __future__ import annotations

import numpy as np
import pytest
from agent_runs import agent, guarded, oracle_of, run
from stable_baselines3.common.vec_env import DummyVecEnv

from qsearch.agents.cloning import clone, examples
from qsearch.agents.controllers import Learned, WaterFilling
from qsearch.agents.ddpg import Ddpg
from qsearch.agents.haq import Exploration
from qsearch.agents.hierarchical import HierarchicalDdpg
from qsearch.agents.learner import make_learner
from qsearch.agents.levels import Agent, kernel_decisions
from qsearch.agents.tensorboard import logger
from qsearch.envs.actions import bits_at
from qsearch.envs.controllers import GoalTracking
from qsearch.envs.hierarchical import HierarchicalEnv
from qsearch.search.water_filling import fill
from qsearch.testing.problems import kernels

SIZES = (6, 10)
FREE = 8.0
"""Mean bits of the budget that binds nothing."""


def environment(oracle, controller=None, **settings):
    table = oracle.sensitivity("one-at-a-time")
    made = HierarchicalEnv(oracle, sensitivity=table, **settings)
    made.controller = (
        controller(table) if controller is WaterFilling else GoalTracking() if controller is None else controller
    )
    return made, table


def play(env, actions):
    """One episode; its ``info`` and, by layer, the goal in bits, the executed choices and their mean."""
    env.reset()
    for action in actions:
        *_, info = env.step(action)
    layers = [
        (
            bits_at(float(np.float32(action[0])), step.weight.choices),
            info["executed"][step.weight.slice],
            env.kernels.mean_bits(step.weight, info["executed"]),
        )
        for step, action in zip(env.steps, actions, strict=True)
    ]
    return info, layers


def goals(count=40, seed=0):
    return np.random.default_rng(seed).random((count, len(SIZES), 2)).astype(np.float32)


@pytest.mark.parametrize("sizes", [(6, 10), (1, 33)])
def test_goal_tracking_is_within_half_a_bit(sizes):
    problem, evaluator = kernels(sizes, mean=FREE)
    env, _ = environment(oracle_of(problem, evaluator, 10_000))
    for actions in goals():
        for (goal, _, mean), size in zip(play(env, actions)[1], sizes, strict=True):
            assert abs(mean - goal) <= 0.5 / size + 1e-6


class TestWaterFilling:
    def test_fills_each_goal_as_the_closed_form_does(self):
        problem, evaluator = kernels(SIZES, mean=FREE)
        env, table = environment(oracle_of(problem, evaluator, 10_000), WaterFilling)
        for actions in goals():
            for step, (goal, chosen, mean) in zip(env.steps, play(env, actions)[1], strict=True):
                known = fill(table.damage[step.weight.name][:, 0], goal, step.weight.choices)
                assert chosen.tolist() == known.tolist()
                assert mean <= goal + 1e-9

    def test_choices_that_are_not_evenly_spaced(self):
        problem, evaluator = kernels(SIZES, choices=(0, 2, 3, 8), mean=FREE)
        env, _ = environment(oracle_of(problem, evaluator, 10_000), WaterFilling)
        for actions in goals():
            assert all(mean <= goal + 1e-9 for goal, _, mean in play(env, actions)[1])

    def test_under_a_budget_the_mask_rules(self):
        problem, evaluator = kernels(SIZES, mean=2.0)
        env, _ = environment(oracle_of(problem, evaluator, 10_000), WaterFilling, budget="mask")
        for actions in goals(5):
            info, _ = play(env, actions)
            assert info["trial"].feasible

    def test_better_than_tracking_the_same_goals(self):
        problem, evaluator = kernels(SIZES, mean=FREE)
        filled, _ = environment(oracle_of(problem, evaluator, 10_000), WaterFilling)
        tracked, _ = environment(oracle_of(problem, evaluator, 10_000))
        for actions in goals(10):
            if np.any(actions[:, 0] < 0.3):
                continue  # nearly nothing to share out
            losses = [play(env, actions)[0]["trial"].quality.loss for env in (filled, tracked)]
            assert losses[0] < losses[1]


@pytest.mark.slow
def test_a_copy_of_water_filling_acts_as_it_does_under_fresh_goals():
    """Within 0.07 of an action, rms: six tenths of one of nine choices."""
    problem, evaluator = kernels((16, 24), mean=FREE)
    with guarded(oracle_of(problem, evaluator, 10_000)) as oracle:
        searcher = Agent(oracle, HierarchicalDdpg.Options(hidden=(64, 64)))
        env, table = environment(oracle, WaterFilling)
        chosen = kernel_decisions(env)
        seen, known = examples(env, table, chosen)  # fresh: other goals than the copy was made from
        assert isinstance(searcher.controller, Learned)
        error = searcher.controller.policy(seen) - known
        assert np.sqrt(np.mean(error**2)) < 0.07
        assert abs(np.mean(error)) < 0.02
        naive = np.std(known)
        assert np.sqrt(np.mean(error**2)) < 0.35 * naive


def test_cloning_reports_its_error_and_moves_the_target_too():
    problem, evaluator = kernels(SIZES, mean=FREE)
    with guarded(oracle_of(problem, evaluator)) as oracle:
        env, table = environment(oracle, WaterFilling)
        model = learner(env, hidden=(16, 16))
        seen, taken = examples(env, table, kernel_decisions(env))
        assert seen.shape == (len(taken), 14)
        reported = clone(model, seen, taken)
        error = Learned(model).policy(seen) - taken
        assert reported == pytest.approx(np.sqrt(np.mean(error**2)), rel=0.3)
        for one, other in zip(model.actor.parameters(), model.actor_target.parameters(), strict=True):
            assert one.equal(other)


def test_examples_are_what_water_filling_sees_and_does():
    problem, evaluator = kernels(SIZES, mean=FREE)
    with guarded(oracle_of(problem, evaluator)) as oracle:
        env, table = environment(oracle, WaterFilling)
        seen, taken = examples(env, table, kernel_decisions(env))
        place = env.kernels._place
        for start in range(0, 4 * sum(SIZES), sum(SIZES)):  # the first layer of the first examples
            rows = slice(start, start + SIZES[0])
            goal = bits_at(float(seen[start, place["goal"]]), range(9))
            known = fill(table.damage["layer0.weight"][:, 0], goal, range(9))
            assert np.minimum((taken[rows] * 9).astype(int), 8).tolist() == known.tolist()
            first, then = seen[start, place["needed"]], seen[start + 1, place["needed"]]
            assert first == pytest.approx(seen[start, place["goal"]], abs=1e-6)
            left = (goal * SIZES[0] - known[0]) / (SIZES[0] - 1)
            assert bits_at(float(then), range(9)) == pytest.approx(np.clip(left, 0, 8), abs=1e-4)


def learner(env, **options):
    chosen = Ddpg.Options(**{"baseline_rate": 0.0, "actor_rate": 5e-4, **options})
    model = make_learner(
        DummyVecEnv([lambda: env.kernels]), chosen, Exploration(20, 0.3, 0.99), capacity=4096, gamma=0.0
    )
    model.set_logger(logger(None, "test"))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_learned_controller_tracks_any_goal_with_zeta_0(seed):
    """The intrinsic reward alone teaches it: within half a bit of any goal, from scratch."""
    problem, evaluator = kernels(SIZES, mean=FREE)
    with guarded(oracle_of(problem, evaluator, 10**6, seed=seed)) as oracle:
        env = HierarchicalEnv(oracle, zeta=0.0, reward=lambda trial: 0.0)
        low = learner(env, hidden=(32, 32))
        env.controller = controller = Learned(low)
        ends = np.ones(sum(SIZES), dtype=np.float32)
        for number, actions in enumerate(goals(400, seed)):
            controller.episode = number
            info, _ = play(env, actions)
            rewards = info["intrinsic"].astype(np.float32)
            low.replay_buffer.extend(info["kernel_observations"], info["kernel_actions"], rewards, ends)
            if number >= 20:
                low.train(32, 64)
        low.exploration = Exploration(0, 1e-6, 1.0)
        found = [abs(mean - goal) for actions in goals(60, 99) for goal, _, mean in play(env, actions)[1]]
    assert max(found) <= 0.5


def test_an_untrained_controller_does_not_track_goals():
    problem, evaluator = kernels(SIZES, mean=FREE)
    with guarded(oracle_of(problem, evaluator, 10**6)) as oracle:
        env = HierarchicalEnv(oracle, zeta=0.0, reward=lambda trial: 0.0)
        low = learner(env, hidden=(32, 32))
        env.controller = Learned(low)
        low.exploration = Exploration(0, 1e-6, 1.0)
        assert max(abs(mean - goal) for actions in goals(20) for goal, _, mean in play(env, actions)[1]) > 2


class TestAgent:
    def made(self, oracle, **options):
        return Agent(oracle, HierarchicalDdpg.Options(hidden=(16, 16), start="scratch", **options))

    def test_zeta_rises_from_first_to_last(self):
        problem, evaluator = kernels(SIZES)
        with guarded(oracle_of(problem, evaluator, 11)) as oracle:
            both = self.made(oracle, zeta=(0.2, 0.7))
            assert [both._zeta(number) for number in (0, 5, 10, 30)] == pytest.approx([0.2, 0.45, 0.7, 0.7])

    def test_kernels_learn_from_the_intrinsic_reward_and_goals_from_the_extrinsic(self):
        problem, evaluator = kernels(SIZES)
        with guarded(oracle_of(problem, evaluator, 11)) as oracle:
            both = self.made(oracle, zeta=(0.25, 0.25))
            reward = both.episode(0)
            trial = oracle.trials[0]
            low, high = both.low.replay_buffer, both.high.replay_buffer
            assert high.rewards[:2, 0] == pytest.approx([reward / 2] * 2)
            assert high.dones[:2, 0].tolist() == [0, 1]
            assert low.size() == sum(SIZES)
            assert low.dones[: low.size()].all()
            for layer, span in (("layer0.weight", slice(0, 6)), ("layer1.weight", slice(6, 16))):
                variable = next(v for v in problem.space.variables if v.name == layer)
                mean = np.mean(trial.assignment.vector(layer, variable.length))
                known = -0.75 * abs(mean - both.env.kernels.goal(variable)) + 0.25 * reward
                assert low.rewards[span, 0] == pytest.approx(np.full(variable.length, known), rel=1e-5)

    def test_the_goal_that_is_remembered_is_the_mean_where_the_budget_cut(self):
        problem, evaluator = kernels(SIZES, mean=1.0)
        with guarded(oracle_of(problem, evaluator, 11)) as oracle:
            both = self.made(oracle, warmup_episodes=4)  # goals are 4 bits on average, four times the budget
            for number in range(4):
                both.episode(number)
            replay = both.high.replay_buffer
            stored = [bits_at((float(a) + 1) / 2, range(9)) for a in replay.actions[: replay.size(), 0, 0]]
            means = [record.mean for record in replay.records[: replay.size()]]
            assert stored == pytest.approx(means, abs=1e-5)

    def test_only_activations_are_free(self):
        problem, evaluator = kernels(SIZES)
        sites = problem.space.sites
        space = type(problem.space)(sites, fixed={site.name: 4 for site in sites if site.role == "weight"})
        assert space.dimension == 2
        cost = type(problem.cost)(problem.cost.model, problem.layers, space)
        made = type(problem)(space, cost, problem.objectives)
        quality = type(evaluator)(space, np.ones(2))
        for controller in ("learned", "water-filling", "goal-tracking"):
            oracle = run(agent("hierarchical-ddpg", controller=controller, start="water-filling"), made, quality, 4)
            assert len(oracle.trials) == 1  # inputs have the choice of 8 bits only

    def test_water_filling_beats_goal_tracking_with_the_same_upper_level(self):
        problem, _ = kernels((16, 16), mean=3.0)
        best = {}
        for controller in ("water-filling", "goal-tracking"):
            searcher = agent("hierarchical-ddpg", controller=controller)
            oracle = run(searcher, problem, kernels((16, 16), mean=3.0)[1], 30)
            best[controller] = max(trial.quality.metric for trial in oracle.trials)
        assert best["water-filling"] > best["goal-tracking"]

    @pytest.mark.parametrize("mode", ["accuracy-guaranteed", "resource-constrained"])
    def test_modes(self, mode):
        problem, evaluator = kernels(SIZES)
        with guarded(oracle_of(problem, evaluator, 11)) as oracle:
            both = self.made(oracle, mode=mode)
            reward = both.episode(0)
            quality = oracle.trials[0].quality.metric
            weight = {"accuracy-guaranteed": 2.0, "resource-constrained": 1.0}[mode]
            assert reward == pytest.approx(weight * np.log(max(quality, 1e-3)))  # no latency, energy or area here

    def test_kernels_can_be_pruned(self):
        problem, evaluator = kernels(SIZES, mean=1.0)
        oracle = run(agent("hierarchical-ddpg", controller="water-filling"), problem, evaluator, 5)
        assert any(0 in np.ravel(trial.assignment["layer0.weight"]) for trial in oracle.trials)
