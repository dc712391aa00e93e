"""The environments as Gymnasium and Stable-Baselines3 want them, and what they say to bad input."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from small_networks import ENVIRONMENTS, LAYERS, length_of, oracle_of, play, problem_of, random_actions
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import qsearch.envs  # noqa: F401  # registers the environments
from qsearch.envs.kernelwise import KernelwiseEnv
from qsearch.envs.layerwise import LayerwiseEnv
from qsearch.errors import (
    BudgetExhausted,
    ConfigError,
    InfeasibleError,
    PluginError,
    QSearchError,
    SpaceError,
    UserError,
)
from qsearch.layers import Layer
from qsearch.problem import Bound, Problem

IDS = {
    "layerwise": "qsearch/Layerwise-v0",
    "kernelwise": "qsearch/Kernelwise-v0",
    "hierarchical": "qsearch/Hierarchical-v0",
}
VARIANTS = [
    (name, discrete, budget)
    for name in ENVIRONMENTS
    for discrete in (False, True)
    for budget in ("project", "mask")
    if not (discrete and name == "hierarchical")
]
SYMMETRIC = "We recommend you to use a symmetric and normalized Box action space"
"""Stable-Baselines3's advice; the issue demands Box(0, 1), and off-policy learners rescale it themselves."""


def bounded(**settings):
    return oracle_of(problem_of(bounds={"size": 0.5, "bops": 0.6}, **settings))


def make(name, oracle, **settings):
    return ENVIRONMENTS[name](oracle, **settings)


@pytest.mark.parametrize(("name", "discrete", "budget"), VARIANTS)
@pytest.mark.parametrize("render_mode", [None, "ansi", "rgb_array"])
def test_gymnasiums_checker(name, discrete, budget, render_mode):
    settings = {"discrete": True} if discrete else {}
    env = gymnasium.make(IDS[name], oracle=bounded(), budget=budget, render_mode=render_mode, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


@pytest.mark.parametrize(("name", "discrete", "budget"), VARIANTS)
def test_stable_baselines3s_checker(name, discrete, budget):
    settings = {"discrete": True} if discrete else {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=SYMMETRIC)
        sb3_check_env(make(name, bounded(), budget=budget, **settings), warn=True)


@pytest.mark.parametrize(("name", "discrete", "budget"), VARIANTS)
def test_spaces_are_those_of_the_issue(name, discrete, budget):
    env = make(name, bounded(), budget=budget, **({"discrete": True} if discrete else {}))
    if discrete:
        assert env.action_space == gymnasium.spaces.Discrete(4)
    else:
        width = 2 if name == "hierarchical" else 1
        assert env.action_space == gymnasium.spaces.Box(0.0, 1.0, (width,), np.float32)
    width = 10 if name == "layerwise" else 14
    assert env.observation_space == gymnasium.spaces.Box(0.0, 1.0, (width,), np.float32)
    assert length_of(env) == {"layerwise": 6, "kernelwise": 6 + 6 + 4 + 3, "hierarchical": 3}[name]


@pytest.mark.parametrize(("name", "discrete", "budget"), VARIANTS)
def test_an_episode_owes_nothing_to_the_one_before_and_reset_reproduces_it(name, discrete, budget):
    """The episode under test, after three others, against a fresh environment: bit for bit."""
    settings = {"budget": budget, **({"discrete": True} if discrete else {})}
    used = make(name, bounded(), **settings)
    for seed in range(3):
        play(used, random_actions(used, seed), seed=seed)
    used.reset(seed=3)
    used.step(random_actions(used, 9)[0])  # an episode broken off
    actions = random_actions(used, 7)
    again = play(used, actions, seed=7)
    fresh = play(make(name, bounded(), **settings), actions, seed=7)
    twice = play(used, actions, seed=7)
    for other in (fresh, twice):
        assert np.array_equal(again[0], other[0])
        assert np.array_equal(again[1], other[1])
        assert again[2].keys() == other[2].keys()
        for key in set(again[2]) - {"trial"}:
            assert np.array_equal(again[2][key], other[2][key]), key
        assert again[2]["trial"].assignment == other[2]["trial"].assignment


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_goals_of_an_episode_are_forgotten(name):
    env = make(name, bounded())
    actions = random_actions(env, 0)
    plain = play(env, actions)
    if name != "layerwise":
        play(env, actions, options={"goals": {"stem.weight": 7.0}})
    assert np.array_equal(play(env, actions)[0], plain[0])


def test_the_actions_seed_reproduces_random_play():
    """What ``reset(seed)`` promises besides: the environment's own generator starts over."""
    env = make("kernelwise", bounded())
    env.reset(seed=5)
    first = env.np_random.random(4)
    env.reset(seed=5)
    assert np.array_equal(env.np_random.random(4), first)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_make_takes_the_oracle_as_it_is(name):
    oracle = bounded()
    env = gymnasium.make(IDS[name], oracle=oracle)
    assert env.unwrapped.oracle is oracle
    play(env, random_actions(env.unwrapped, 0), seed=0)
    assert len(oracle.trials) == 1


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_make_vec_shares_one_oracle(name):
    oracle = bounded()
    envs = gymnasium.make_vec(IDS[name], num_envs=3, vectorization_mode="sync", oracle=oracle)
    assert all(env.unwrapped.oracle is oracle for env in envs.envs)
    single = make(name, bounded())
    actions = [random_actions(single, seed) for seed in range(3)]
    envs.reset(seed=0)
    for step in range(length_of(single)):
        _, reward, ended, _, info = envs.step(np.stack([column[step] for column in actions]))
        assert ended.all() == (step == length_of(single) - 1)
    assert len(oracle.trials) == 3
    for row in range(3):
        _, rewards, alone = play(single, actions[row])
        assert reward[row] == pytest.approx(rewards[-1])
        assert np.array_equal(info["executed"][row], alone["executed"])
        assert info["trial"][row].assignment == alone["trial"].assignment
    envs.close()


def test_the_terminal_step_goes_through_the_oracle_once():
    oracle = bounded()
    env = make("layerwise", oracle)
    _, rewards, info = play(env, random_actions(env, 0))
    assert oracle.trials == [info["trial"]]
    assert not np.any(rewards[:-1])
    assert oracle.evaluator.calls == 1
    play(env, random_actions(env, 0))
    assert oracle.evaluator.calls == 1, "a known assignment is evaluated again"


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_spent_budget_passes_through(name):
    env = make(name, oracle_of(problem_of(), evaluations=1))
    play(env, random_actions(env, 0))
    with pytest.raises(BudgetExhausted):
        play(env, random_actions(env, 1))


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_step_after_the_end_is_refused(name):
    env = make(name, bounded())
    play(env, random_actions(env, 0))
    with pytest.raises(UserError, match="reset"):
        env.step(env.action_space.sample())


def test_a_conclusion_needs_a_proposal():
    env = make("layerwise", bounded())
    _, _, info = play(env, random_actions(env, 0))
    env.reset()
    with pytest.raises(UserError, match="proposal"):
        env.conclude(info["trial"])


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize("budget", ["project", "mask"])
def test_a_space_of_one_site(name, budget):
    problem = problem_of(
        layers=(Layer("only", "linear", 3, 1),), weight_bits=(2, 4, 8), fixed={"activations": 8}, bounds={"size": 0.5}
    )
    env = make(name, oracle_of(problem), budget=budget)
    seen, rewards, info = play(env, random_actions(env, 0))
    assert length_of(env) == 1
    assert all(env.observation_space.contains(row) for row in seen)
    assert np.isfinite(rewards[-1])
    assert info["executed"].shape == (1,)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_space_of_one_choice(name):
    """Nothing can be chosen, every action means the same."""
    env = make(name, oracle_of(problem_of(weight_bits=(4,), activation_bits=(8,))), budget="mask")
    _, _, info = play(env, random_actions(env, 0))
    assert not info["executed"].any()


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    assert isinstance(error.value, QSearchError)
    return text


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_nothing_free_is_one_line(name):
    problem = problem_of(fixed={"weights": 4, "activations": 8})
    with pytest.raises(SpaceError) as error:
        make(name, oracle_of(problem))
    assert one_line(error) == ("an environment needs at least one free site; got every site is fixed; fix fewer sites")


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize("budget", ["project", "mask"])
def test_a_budget_below_the_floor_is_refused(name, budget):
    free = problem_of(weight_bits=(2, 4))
    floor = free.cost.floor("size")
    impossible = Problem(free.space, free.cost, free.objectives, (Bound("size", 0.9 * floor, False, "size <= 0.9"),))
    with pytest.raises(InfeasibleError) as error:
        make(name, oracle_of(impossible), budget=budget)
    assert "no assignment meets size <= 0.9" in one_line(error)
    exact = Problem(free.space, free.cost, free.objectives, (Bound("size", floor, False, "size <= floor"),))
    env = make(name, oracle_of(exact), budget=budget)
    _, _, info = play(env, random_actions(env, 0))
    assert problem_value(exact, info) == floor


def problem_value(problem, info):
    return problem.cost.estimate_many(info["executed"][None])["size"][0]


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"budget": "maks"}, ConfigError, ("budget", "'maks'", "did you mean 'mask'?", "project")),
        ({"render_mode": "rgb-array"}, ConfigError, ("render_mode", "did you mean 'rgb_array'?", "ansi")),
        ({"reward": "hak"}, PluginError, ("unknown reward 'hak'", "did you mean 'haq'?", "releq")),
        ({"reward": "releq", "reward_options": {"tresh": 1}}, ConfigError, ("tresh", "threshold")),
        ({"reward": "releq", "reward_options": {"cost": "sise"}}, ConfigError, ("'sise'", "did you mean 'size'?")),
        ({"reward": "autoq", "reward_options": {"weights": {"enrgy": 1}}}, ConfigError, ("'enrgy'", "known")),
    ],
)
def test_bad_settings_are_one_line_with_the_nearest_fix(name, settings, error, words):
    with pytest.raises(error) as found:
        make(name, bounded(), **settings)
    text = one_line(found)
    assert all(word in text for word in words), text


def test_goals_are_not_discrete():
    with pytest.raises(UserError, match="leave discrete out"):
        make("hierarchical", bounded(), discrete=True)


def test_a_goal_for_a_site_that_is_not_free():
    env = make("kernelwise", bounded(fixed={"head": 8}))
    with pytest.raises(SpaceError, match=r"'head\.weight' is none"):
        env.reset(options={"goals": {"head.weight": 4}})
    with pytest.raises(SpaceError, match=r"did you mean 'stem\.weight'"):
        env.reset(options={"goals": {"stem.wieght": 4}})


def test_ties_and_fixed_sites_are_not_asked_for():
    problem = problem_of(
        granularity="layer", ties=[("stem.weight", "head.weight")], fixed={"depthwise.weight": 8, "head.input": 4}
    )
    env = LayerwiseEnv(oracle_of(problem))
    assert [decision.variable.name for decision in env.schedule.decisions] == [
        "stem.weight",
        "stem.input",
        "depthwise.input",
    ]
    _, _, info = play(env, [[0.99], [0.0], [0.0]])
    assert dict(info["trial"].assignment) == {
        "stem.weight": 8,
        "stem.input": 4,
        "depthwise.weight": 8,
        "depthwise.input": 4,
        "head.weight": 8,
        "head.input": 4,
    }


def test_network_order_is_the_order_of_decisions():
    env = KernelwiseEnv(oracle_of(problem_of()))
    order = [(decision.variable.name, decision.kernel) for decision in env.schedule.decisions]
    assert order == [
        (site, kernel)
        for layer in LAYERS
        for site, kernels in ((layer.weight_site, layer.out_channels), (layer.activation_site, 1))
        for kernel in range(kernels)
    ]


@pytest.mark.parametrize("zeta", [-0.1, 1.1, float("nan")])
def test_zeta_is_a_share(zeta):
    with pytest.raises(ConfigError, match="zeta"):
        KernelwiseEnv(oracle_of(problem_of()), zeta=zeta)


def test_a_goal_is_a_number():
    env = KernelwiseEnv(oracle_of(problem_of()))
    name = env.schedule.space.variables[0].name
    with pytest.raises(SpaceError, match="goal"):
        env.reset(options={"goals": {name: float("nan")}})
