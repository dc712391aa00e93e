"""Goals and kernels: what the controller reaches, and that the hierarchy adds nothing to the kernel-wise episode."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import LAYERS, oracle_of, play, problem_of, random_actions

from qsearch.envs.actions import bits_at, position_of
from qsearch.envs.controllers import GoalTracking
from qsearch.envs.features import AUTOQ
from qsearch.envs.hierarchical import HierarchicalEnv
from qsearch.envs.kernelwise import KernelwiseEnv
from qsearch.layers import Layer
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.testing.problems import kernels


class Recorder:
    """A controller that acts at random, and keeps what it saw and did."""

    def __init__(self, seed=0):
        self._rng = np.random.default_rng(seed)
        self.goals, self.seen, self.actions = [], [], []

    def start(self, variable, goal):
        self.goals.append((variable.name, goal))

    def act(self, observation):
        self.seen.append(observation)
        self.actions.append(float(self._rng.random(dtype=np.float32)))
        return self.actions[-1]


def one_layer(kernels, bits):
    return problem_of(
        layers=(Layer("only", "linear", 3, kernels),), weight_bits=bits, activation_bits=(8,), fixed={"activations": 8}
    )


@given(
    st.integers(1, 70),
    st.integers(0, 8),
    st.integers(1, 9),
    st.floats(0, 1),
)
@settings(max_examples=200)
def test_goal_tracking_stays_within_half_a_bit(kernels, fewest, count, share):
    """ζ = 0, consecutive bits, any goal in range: |mean bits − goal| ≤ ½."""
    bits = range(fewest, fewest + count)
    env = HierarchicalEnv(oracle_of(one_layer(kernels, bits)), zeta=0.0)
    goal = bits[0] + share * (bits[-1] - bits[0])
    variable = env.steps[0].weight
    _, _, info = play(env, [[position_of(goal, variable.choices), 0.0]])
    mean = env.kernels.mean_bits(variable, info["executed"])
    assert abs(mean - goal) <= 0.5 + 1e-4
    if variable.length > 1:
        assert info["intrinsic"] == pytest.approx([-abs(env.kernels.goal(variable) - mean)] * kernels)


@given(
    st.integers(2, 70),
    st.sets(st.integers(0, 16), min_size=2, max_size=6).map(sorted),
    st.floats(0, 1),
)
@settings(max_examples=200)
def test_goal_tracking_among_choices_with_gaps(kernels, bits, share):
    """Within half a choice of the last kernel, which alone is rounded: half the widest gap, shared by all kernels."""
    env = HierarchicalEnv(oracle_of(one_layer(kernels, bits)), zeta=0.0)
    goal = bits[0] + share * (bits[-1] - bits[0])
    variable = env.steps[0].weight
    _, _, info = play(env, [[position_of(goal, variable.choices), 0.0]])
    widest = max(np.diff(bits))
    assert abs(env.kernels.mean_bits(variable, info["executed"]) - goal) <= widest / 2 / kernels + 1e-3


def test_the_controller_is_asked_kernel_by_kernel():
    controller = Recorder()
    env = HierarchicalEnv(oracle_of(problem_of()), controller=controller)
    actions = random_actions(env, 3)
    _, _, info = play(env, actions)
    weights = [step.weight for step in env.steps]
    assert controller.goals == [
        (weight.name, pytest.approx(bits_at(float(action[0]), weight.choices)))
        for weight, action in zip(weights, actions, strict=True)
    ]
    kernels = np.concatenate([np.arange(w.start, w.start + w.length) for w in weights])
    assert np.array_equal(np.stack(controller.seen), info["kernel_observations"][kernels])
    assert info["kernel_actions"][kernels, 0].tolist() == controller.actions


@pytest.mark.parametrize("budget", ["project", "mask"])
@pytest.mark.parametrize("bounds", [{}, {"size": 0.3}, {"size": 0.6, "bops": 0.2}])
@pytest.mark.parametrize("zeta", [0.0, 0.4, 1.0])
def test_the_kernels_episode_is_the_kernelwise_environments(budget, bounds, zeta):
    problem = problem_of(bounds=bounds)
    for seed in range(4):
        controller = Recorder(seed)
        env = HierarchicalEnv(oracle_of(problem), controller=controller, budget=budget, zeta=zeta)
        actions = random_actions(env, seed)
        _, rewards, info = play(env, actions)
        decided, flat = iter(controller.actions), []
        for step, action in zip(env.steps, actions, strict=True):
            flat += [[next(decided)] for _ in range(step.weight.length)] + [[action[1]]]
        alone = KernelwiseEnv(oracle_of(problem), budget=budget, zeta=zeta)
        seen, _, found = play(alone, flat, options={"goals": dict(controller.goals)})
        assert found["trial"].assignment == info["trial"].assignment
        assert np.array_equal(found["executed"], info["executed"])
        assert np.array_equal(found["executed_actions"], info["kernel_actions"])
        assert np.array_equal(found["executed_observations"], info["kernel_observations"])
        assert np.array_equal(found["intrinsic"], info["intrinsic"])
        assert rewards[-1] == alone.reward(found["trial"]), "the upper level earns the extrinsic reward"
        if not bounds:
            assert np.array_equal(seen[:-1], info["kernel_observations"])


@pytest.mark.parametrize("budget", ["project", "mask"])
def test_executed_goals_are_the_means_of_executed_bits(budget):
    problem = problem_of(bounds={"size": 0.3})
    env = HierarchicalEnv(oracle_of(problem), budget=budget)
    changed = 0
    for seed in range(10):
        actions = random_actions(env, seed)
        _, _, info = play(env, actions)
        for row, (step, action) in enumerate(zip(env.steps, actions, strict=True)):
            goal, activation = info["executed_actions"][row]
            span = step.weight.slice
            mean = np.asarray(step.weight.choices)[info["executed"][span]].mean()
            if goal != action[0]:
                changed += 1
                assert goal == pytest.approx(position_of(mean, step.weight.choices))
            else:
                assert abs(bits_at(float(goal), step.weight.choices) - mean) <= 2 / step.weight.length + 1e-6
            assert activation == info["kernel_actions"][step.activation.start, 0]
        before = np.vstack([np.zeros((1, 2)), info["executed_actions"][:-1]])
        place = [AUTOQ.index("goal"), AUTOQ.index("previous")]
        assert np.array_equal(info["executed_observations"][:, place], before.astype(np.float32))
    assert changed > 5


def test_intrinsic_rewards_by_hand():
    """Two layers of two kernels, ζ = 0.25: goals 4 and 6, means 6 and 5; the extrinsic reward is 8."""
    pair = tuple(Layer(f"l{i}", "linear", 3, 2) for i in range(2))
    problem = problem_of(layers=pair, weight_bits=(4, 6, 8), fixed={"activations": 8})
    env = KernelwiseEnv(oracle_of(problem), zeta=0.25, reward=lambda trial: 8.0)
    goals = {"l0.weight": 4.0, "l1.weight": 6.0}
    _, rewards, info = play(env, [[0.0], [0.99], [0.0], [0.5]], options={"goals": goals})
    assert info["trial"].assignment["l0.weight"] == (4, 8)
    assert rewards.tolist() == pytest.approx([0.0, -0.75 * 2, 0.0, -0.75 * 1 + 0.25 * 8])
    assert info["intrinsic"].tolist() == pytest.approx([-1.5 + 2.0] * 2 + [-0.75 + 2.0] * 2)


def test_intrinsic_rewards_are_of_executed_bits_and_activations_earn_the_extrinsic_part():
    problem = problem_of(bounds={"size": 0.0}, weight_bits=(2, 8))
    env = KernelwiseEnv(oracle_of(problem), zeta=0.5, reward=lambda trial: 3.0)
    _, _, info = play(env, [[1.0]] * len(env.schedule), options={"goals": {"stem.weight": 8.0}})
    stem, head_input = problem.space.variables[0], problem.space.variables[-1]
    assert info["intrinsic"][stem.slice].tolist() == pytest.approx([-0.5 * 6 + 0.5 * 3] * 6)
    assert info["intrinsic"][head_input.slice].tolist() == pytest.approx([1.5])


def test_goals_are_clipped_to_the_choices():
    env = KernelwiseEnv(oracle_of(problem_of(weight_bits=(2, 4, 8))))
    variable = env.schedule.space.variables[0]
    assert env.goal(variable) == 5.0
    env.reset(options={"goals": {"stem.weight": 99.0}})
    assert env.goal(variable) == 8.0
    env.set_goal(variable, -3.0)
    assert env.goal(variable) == 2.0
    assert env.observe()[AUTOQ.index("goal")] == np.float32(position_of(2.0, (2, 4, 8)))


def test_actions_beyond_the_space_count_as_its_ends():
    env = HierarchicalEnv(oracle_of(problem_of()))
    found = [
        play(env, [actions] * 3)[2]["trial"].assignment
        for actions in ([0.0, 1.0], [-np.inf, 7.0], [np.nan, np.inf], [-0.5, 1.5])
    ]
    assert found == [found[0]] * 4


def test_steps_of_layers_with_ties_fixed_sites_and_embeddings():
    layers = (Layer("words", "embedding", 5, 3, input_size=(2,), output_size=(2,)), *LAYERS)

    def steps(**settings):
        env = HierarchicalEnv(oracle_of(problem_of(layers=layers, **settings)))
        play(env, random_actions(env, 0))
        return [(s.weight and s.weight.name, s.activation and s.activation.name) for s in env.steps]

    full = [("words.weight", None), *((layer.weight_site, layer.activation_site) for layer in LAYERS)]
    assert steps() == full
    assert steps(fixed={"activations": 8}) == [(weight, None) for weight, _ in full]
    assert steps(fixed={"weights": 8}) == [(None, activation) for _, activation in full[1:]]
    assert steps(ties=[("stem.weight", "depthwise.weight")]) == [
        *full[:2],
        (None, "depthwise.input"),
        full[3],
    ]
    assert steps(ties=[("stem.input", "head.input")], fixed={"depthwise.weight": 4}) == [
        *full[:2],
        (None, "depthwise.input"),
        ("head.weight", None),
    ]


def test_goal_tracking_needs_no_preparation():
    controller = GoalTracking()
    observation = np.linspace(0, 1, len(AUTOQ), dtype=np.float32)
    assert controller.act(observation) == observation[AUTOQ.index("needed")]


def test_a_step_is_a_decision_and_a_conclusion():
    """Deciding and concluding apart, as agents do that evaluate several episodes at once."""
    problem = problem_of(bounds={"size": 0.3})
    whole, parts = (HierarchicalEnv(oracle_of(problem)) for _ in range(2))
    actions = random_actions(whole, 1)
    seen, rewards, info = play(whole, actions)
    parts.reset()
    assert [np.array_equal(parts.decide(action), row) for action, row in zip(actions, seen[1:], strict=True)] == [
        True
    ] * 3
    assert parts.done
    reward, found = parts.conclude(parts.oracle.evaluate(parts.proposal()))
    assert reward == rewards[-1]
    assert np.array_equal(found["executed_actions"], info["executed_actions"])


@pytest.mark.parametrize("count", [16, (6, 8)])
def test_with_masks_a_goal_stays_within_the_budget(count):
    problem, evaluator = kernels(count, mean=4.0)
    env = HierarchicalEnv(CampaignOracle(problem, evaluator, MemoryRecord(), Budget(9)), budget="mask")
    assert env.kernels.highest_mean() == pytest.approx(
        min(8.0, 4.0 * problem.space.dimension / env.steps[0].weight.length)
    )
    *_, info = play(env, np.ones((len(env.steps), 2), dtype=np.float32))
    means = [env.kernels.mean_bits(step.weight, info["executed"]) for step in env.steps]
    weights = [step.weight.length for step in env.steps]
    assert np.average(means, weights=weights) == pytest.approx(4.0)  # the whole budget, and no more
    goals = [bits_at(action, range(9)) for action in info["executed_actions"][:, 0].tolist()]
    assert goals == pytest.approx(means, abs=1e-5)
