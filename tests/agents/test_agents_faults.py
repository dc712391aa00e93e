"""What goes wrong around an agent, what it is told, and what it shows."""

from __future__ import annotations

import numpy as np
import pytest
from agent_runs import AGENTS, agent, oracle_of, run

from qsearch import registry
from qsearch.agents import tensorboard as tensorboard_module
from qsearch.agents.session import Episodes, Guarded, horizon
from qsearch.costs import NetworkCost
from qsearch.errors import ConfigError, EvaluationError, InfeasibleError, PluginError, UserError
from qsearch.layers import Layer
from qsearch.oracle import Budget
from qsearch.problem import Bound, Problem
from qsearch.sites import build_space
from qsearch.testing.problems import QuadraticEvaluator, SizeAndBops, coupled, kernels, separable
from qsearch.trial import Quality

every_agent = pytest.mark.parametrize("name", AGENTS)


@every_agent
class TestEvaluations:
    def test_nan_is_a_failed_trial_and_the_search_goes_on(self, name):
        problem, evaluator = coupled(5, budget=None)

        class Broken(type(evaluator)):
            def evaluate(self, assignment, *, fidelity=1.0, seed=0):
                quality = super().evaluate(assignment, fidelity=fidelity, seed=seed)
                if self.calls in (1, 3, 4):
                    return Quality(float("nan"), float("nan"), 10, 0.0)
                return quality

        broken = Broken(evaluator.space, evaluator.curvature, evaluator.interaction)
        oracle = run(agent(name), problem, broken, 12)
        assert [trial.state for trial in oracle.trials[:4]] == ["failed", "complete", "failed", "failed"]
        assert len(oracle.trials) >= 8
        assert np.isfinite(oracle.notes["reward"])

    def test_a_reward_of_nan_does_not_reach_the_learner(self, name, tmp_path):
        path = tmp_path / "rewards.py"
        path.write_text(
            "class Nothing:\n    def __init__(self, problem): pass\n    def __call__(self, trial): return float('nan')\n"
        )
        oracle = run(agent(name, reward=f"{path}:Nothing"), *coupled(5, budget=None), 12)
        assert len(oracle.trials) >= 8
        assert oracle.notes["reward"] == 0.0

    def test_an_evaluator_that_always_fails_ends_as_elsewhere(self, name):
        problem, evaluator = coupled(5)
        evaluator.fails_at = frozenset(range(1000))
        oracle = oracle_of(problem, evaluator, 50)
        with pytest.raises(EvaluationError, match="10 evaluations failed, the limit"):
            agent(name).search(oracle)
        assert evaluator.calls == 10

    def test_minutes_alone(self, name):
        problem, evaluator = coupled(5, budget=None)
        oracle = run(agent(name, patience=10**6), problem, evaluator, budget=Budget(minutes=0.01))
        assert len(oracle.trials) >= 1
        assert 0.6 <= oracle.elapsed < 20

    def test_whichever_of_minutes_and_evaluations_ends_first(self, name):
        oracle = run(agent(name), *coupled(5, budget=None), budget=Budget(5, 10.0))
        assert oracle.spent == 5


def below_the_floor(by_kernel):
    problem, evaluator = kernels((4, 3)) if by_kernel else separable(4, choices=(2, 4))
    lowest = float(problem.cost.estimate_many(problem.space.lowest[None])["size"][0])
    bounds = (Bound("size", lowest / 2 - 1, False, "size <= too little"),)
    return Problem(problem.space, problem.cost, problem.objectives, bounds), evaluator


@every_agent
class TestSpaces:
    @pytest.mark.parametrize("by_kernel", [False, True])
    def test_a_budget_below_the_floor_is_refused_before_anything_is_spent(self, name, by_kernel):
        problem, evaluator = below_the_floor(by_kernel)
        oracle = oracle_of(problem, evaluator)
        with pytest.raises(InfeasibleError, match="size"):
            agent(name).search(oracle)
        assert (oracle.trials, evaluator.calls) == ([], 0)

    @pytest.mark.parametrize("budget", ["project", "mask"])
    def test_one_site(self, name, budget):
        problem, evaluator = separable(1, choices=(2, 3, 4), budget=0.75)
        oracle = run(agent(name, budget=budget), problem, evaluator, 10)
        assert {trial.assignment["layer0.weight"] for trial in oracle.trials} <= {2, 3}
        assert all(trial.feasible for trial in oracle.trials)

    def test_one_kernel(self, name):
        oracle = run(agent(name), *kernels((1,), choices=(0, 2, 4), mean=2.0), 10)
        assert {trial.assignment["layer0.weight"] for trial in oracle.trials} <= {0, 2}

    def test_choices_of_many_numbers(self, name):
        layers = (Layer("a", "linear", 8, 4), Layer("b", "linear", 4, 3))
        space = build_space(layers, weight_bits=(2, 4, 8), activation_bits=(4, 8), granularity="kernel", fixed={"b": 8})
        problem = Problem(space, NetworkCost(SizeAndBops(), layers, space), coupled(1)[0].objectives)
        oracle = run(agent(name), problem, QuadraticEvaluator(space, np.ones(2)), 12)
        assert {trial.assignment["a.input"] for trial in oracle.trials} == {4, 8}
        assert {trial.assignment["b.weight"] for trial in oracle.trials} == {8}

    def test_nothing_free(self, name):
        layers = (Layer("a", "linear", 8, 4),)
        space = build_space(layers, weight_bits=(2,), activation_bits=(8,), fixed={"weights": 4, "activations": 4})
        problem = Problem(space, NetworkCost(SizeAndBops(), layers, space), coupled(1)[0].objectives)
        oracle = run(agent(name), problem, QuadraticEvaluator(space, np.zeros(0)), 3)
        assert [trial.assignment["a.weight"] for trial in oracle.trials] == [4]


class TestOptions:
    @pytest.mark.parametrize(
        ("name", "options", "match"),
        [
            ("ddpg", {"warmup_episode": 3}, "did you mean 'warmup_episodes'"),
            ("ddpg", {"environments": 3}, "unknown option 'environments'"),
            ("ppo", {"enviroments": 3}, "did you mean 'environments'"),
            ("hierarchical-ddpg", {"kernel_update": 3}, "did you mean 'kernel_updates'"),
            ("ddpg", {"credit": "shared"}, "credit"),
            ("ddpg", {"budget": "penalty"}, "budget"),
            ("ddpg", {"decisions": "kernels"}, "decisions"),
            ("hierarchical-ddpg", {"controller": "water_filling"}, "controller"),
            ("hierarchical-ddpg", {"mode": "guaranteed"}, "mode"),
            ("ddpg", {"warmup_episodes": -1}, "greater than or equal to 0"),
            ("ddpg", {"noise": -0.5}, "greater than 0"),
            ("ddpg", {"noise": float("inf")}, "finite"),
            ("ddpg", {"noise_decay": 1.5}, "less than or equal to 1"),
            ("ddpg", {"baseline_rate": -0.1}, "greater than or equal to 0"),
            ("ddpg", {"actor_rate": 0}, "greater than 0"),
            ("ddpg", {"critic_rate": float("nan")}, "critic_rate"),
            ("ddpg", {"hidden": [300, -1]}, "greater than 0"),
            ("ddpg", {"hidden": []}, "hidden"),
            ("ddpg", {"updates": 0}, "greater than or equal to 1"),
            ("ddpg", {"patience": 0}, "greater than or equal to 1"),
            ("ddpg", {"episodes": -600}, "greater than or equal to 1"),
            ("ppo", {"hidden": [0]}, "greater than 0"),
            ("ppo", {"environments": 0}, "greater than or equal to 1"),
            ("ppo", {"epochs": -1}, "greater than or equal to 1"),
            ("ppo", {"clip": 1.0}, "less than 1"),
            ("ppo", {"entropy": -0.1}, "greater than or equal to 0"),
            ("hierarchical-ddpg", {"relabel": -1}, "greater than or equal to 0"),
            ("hierarchical-ddpg", {"zeta": [0.1, 1.2]}, "less than or equal to 1"),
            ("hierarchical-ddpg", {"zeta": [-0.1, 0.8]}, "greater than or equal to 0"),
            ("hierarchical-ddpg", {"zeta": [0.1]}, "zeta"),
            ("hierarchical-ddpg", {"kernel_noise": 0}, "greater than 0"),
        ],
    )
    def test_wrong_options_are_answered_when_the_agent_is_made(self, name, options, match):
        with pytest.raises(ConfigError, match=match) as caught:
            registry.create("searchers", name, options)
        assert "\n" not in str(caught.value)

    @every_agent
    @pytest.mark.parametrize(
        ("options", "error", "match"),
        [
            ({"reward": "haqq"}, PluginError, "did you mean 'haq'"),
            ({"reward": "releq", "reward_options": {"treshold": 0.3}}, ConfigError, "did you mean 'threshold'"),
            ({"sensitivity": "one-at-the-time"}, PluginError, "did you mean 'one-at-a-time'"),
        ],
    )
    def test_wrong_plug_ins_are_answered_before_anything_is_spent(self, name, options, error, match):
        problem, evaluator = kernels((4, 3))
        oracle = oracle_of(problem, evaluator)
        with pytest.raises(error, match=match):
            agent(name, **options).search(oracle)
        assert (oracle.trials, evaluator.calls) == ([], 0)

    def test_water_filling_without_sensitivities(self):
        oracle = oracle_of(*kernels((4, 3)))
        with pytest.raises(UserError, match="water-filling needs a sensitivity"):
            agent("hierarchical-ddpg", controller="water-filling", sensitivity=None).search(oracle)
        assert oracle.trials == []


class Writer:
    """In the place of TensorBoard's, which writes files."""

    written: list

    def __init__(self, log_dir):
        self.folder = log_dir

    def add_scalar(self, key, value, step):
        self.written.append((self.folder, key, float(value), step))

    def flush(self):
        pass

    close = flush


@every_agent
class TestTensorboard:
    def test_not_installed(self, name, tmp_path, monkeypatch):
        monkeypatch.setattr(tensorboard_module, "find_spec", lambda package: None)
        oracle = oracle_of(*coupled(5))
        with pytest.raises(ConfigError, match="pip install tensorboard"):
            agent(name, tensorboard=str(tmp_path)).search(oracle)
        assert oracle.trials == []

    def test_rewards_are_logged_episode_by_episode(self, name, tmp_path, monkeypatch):
        from stable_baselines3.common import logger, utils

        monkeypatch.setattr(tensorboard_module, "find_spec", lambda package: "installed")
        monkeypatch.setattr(Writer, "written", [], raising=False)
        for module in (logger, utils):
            monkeypatch.setattr(module, "SummaryWriter", Writer)
        oracle = run(agent(name, tensorboard=str(tmp_path)), *coupled(5, budget=None), 12)
        rewards = [value for _, key, value, _ in Writer.written if key == "rollout/reward"]
        assert len(rewards) >= (10 if name != "ppo" else 2)  # a line for each episode; of PPO for each update
        top = max(10 * trial.quality.metric for trial in oracle.trials)
        assert max(rewards) <= top + 1e-6
        folders = {folder for folder, *_ in Writer.written}
        assert all(folder.startswith(str(tmp_path)) for folder in folders)
        assert len(folders) == (2 if name == "hierarchical-ddpg" else 1)
        assert any(key.startswith("train/") for _, key, *_ in Writer.written)


class TestProgress:
    @every_agent
    def test_every_episode_is_shown_with_its_reward(self, name):
        shown = []
        problem, evaluator = coupled(5, budget=None)
        oracle = run(agent(name), problem, evaluator, 8, on_note=lambda notes: shown.append(dict(notes)))
        assert [notes["episode"] for notes in shown] == list(range(1, len(shown) + 1))
        assert len(shown) >= 8
        rewards = {round(10 * trial.quality.metric, 4) for trial in oracle.trials}
        assert {round(notes["reward"], 4) for notes in shown} == rewards

    def episodes(self, patience):
        problem, evaluator = coupled(5, budget=None)
        oracle = oracle_of(problem, evaluator, 1000)
        return oracle, Episodes(oracle, patience)

    def propose(self, oracle, number):
        oracle.evaluate(oracle.problem.space.decode([number // 4 % 4, number % 4, 0, 0, 0]))

    def test_patience_counts_episodes_without_a_new_trial(self):
        oracle, episodes = self.episodes(3)
        for number in (0, 1, 1, 1, 2, 2, 2):
            self.propose(oracle, number)
            episodes.ended(0.5)
            assert not episodes.over
        episodes.ended(0.5)
        assert episodes.over
        assert episodes.count == 8

    def test_a_round_with_something_new_is_not_idle(self):
        oracle, episodes = self.episodes(3)
        for number in range(4):
            self.propose(oracle, number)
            episodes.ended(0.1, 0.2, 0.3, 0.4, 0.5)
            assert not episodes.over
        episodes.ended(0.1, 0.2, 0.3, 0.4, 0.5)
        assert episodes.over
        assert oracle.notes == {"episode": 25, "reward": 0.5}

    def test_impatience_does_not_end_a_search_side_by_side(self):
        oracle = run(agent("ppo", environments=8, patience=2), *coupled(6, budget=None), 40)
        assert oracle.spent > 8


class TestHorizon:
    def of(self, budget, episodes=None):
        return horizon(Guarded(oracle_of(*coupled(5), budget=budget), None), episodes)

    def test_as_many_as_the_budget_up_to_haqs(self):
        assert self.of(Budget(50)) == 50
        assert self.of(Budget(5000)) == 600
        assert self.of(Budget(5000), 70) == 70
        assert self.of(Budget(50), 700) == 700

    def test_time_spent_before_the_first_episode_does_not_change_it(self, monkeypatch):
        from qsearch import oracle as module

        clock = iter([0.0] * 2 + [0.01] * 4 + [50.0] * 100)
        monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
        guarded = Guarded(oracle_of(*coupled(5), budget=Budget(minutes=10)), None)
        for _ in range(20):
            late = guarded.remaining  # as after slow sensitivities
        assert late < 600
        assert horizon(guarded, None) == 600
