"""Budgets: masks against brute force over all completions, and projected episodes against their own replay."""

from __future__ import annotations

import numpy as np
import pytest
from cost_tables import METRICS, Peak, Tables
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import ENVIRONMENTS, oracle_of, play, problem_of, random_actions

from qsearch import registry
from qsearch.envs.kernelwise import KernelwiseEnv
from qsearch.envs.layerwise import LayerwiseEnv
from qsearch.envs.shares import CostShares
from qsearch.layers import Layer
from qsearch.problem import Bound, Problem
from qsearch.projection import project
from qsearch.testing.problems import WeightSize

SMALL = (
    Layer("a", "conv", 3, 3, (3, 3), (1, 1), 1, (5, 5), (5, 5)),
    Layer("b", "conv", 3, 3, (3, 3), (1, 1), 3, (5, 5), (5, 5)),
)
PAIR = (Layer("a", "linear", 3, 4), Layer("b", "linear", 4, 2))
WORDS = (Layer("words", "embedding", 4, 6, input_size=(3,), output_size=(3,)), Layer("head", "linear", 6, 2))


def bismo(**options):
    return registry.create("cost_models", "bismo", {"rows": 2, "depth": 4, "columns": 2, **options})


SPACES = {
    "size": {"layers": SMALL, "model": WeightSize(), "bounds": {"size": 0.4}},
    "size and bops": {"bounds": {"size": 0.5, "bops": 0.3}, "layers": SMALL, "activation_bits": (2, 4, 8)},
    "bytes of the real model": {
        "layers": SMALL,
        "model": registry.create("cost_models", "size"),
        "bounds": {"size": 0.35},
    },
    "bops": {"layers": PAIR, "model": registry.create("cost_models", "bops"), "bounds": {"bops": 0.3}},
    "bismo": {"layers": SMALL, "model": bismo(), "bounds": {"latency": 0.3}},
    "bismo, bound by memory": {"layers": SMALL, "model": bismo(bandwidth=1e6), "bounds": {"latency": 0.3}},
    "bismo, three bounds": {
        "layers": SMALL,
        "model": bismo(),
        "bounds": {"latency": 0.5, "energy": 0.4, "size": 0.45},
    },
    "bitfusion": {
        "layers": SMALL,
        "model": registry.create("cost_models", "bitfusion"),
        "bounds": {"latency": 0.4, "energy": 0.5},
    },
    "kernels in tiles": {"layers": PAIR, "model": Tables(PAIR, "alike"), "bounds": dict.fromkeys(METRICS, 0.5)},
    "kernels in places": {"layers": PAIR, "model": Tables(PAIR, "placed"), "bounds": dict.fromkeys(METRICS, 0.5)},
    "the dearest layer": {"layers": PAIR, "model": Peak(PAIR, "alike"), "bounds": {"latency": 0.4, "energy": 0.6}},
    "the dearest layer, in places": {"layers": PAIR, "model": Peak(PAIR, "placed"), "bounds": {"latency": 0.4}},
    "tied kernels": {
        "layers": SMALL,
        "model": bismo(),
        "bounds": {"latency": 0.3, "size": 0.5},
        "ties": [("a.weight", "b.weight")],
    },
    "tied inputs": {
        "layers": PAIR,
        "model": Tables(PAIR, "alike"),
        "bounds": {"latency": 0.4},
        "ties": [("a.input", "b.input")],
    },
    "a fixed layer": {"layers": PAIR, "model": Tables(PAIR, "summed"), "bounds": {"energy": 0.4}, "fixed": {"a": 4}},
    "an embedding": {"layers": WORDS, "model": bismo(), "bounds": {"latency": 0.4, "size": 0.6}},
    "no bound": {"layers": PAIR},
    "the floor itself": {"layers": SMALL, "bounds": {"size": 0.0}},
}


def allowed_by_brute_force(schedule, problem):
    """Prefix of choices → choices after which some completion meets every bound."""
    counts = schedule.counts
    taken = np.asarray(list(np.ndindex(*counts.tolist())), dtype=np.int64)
    repeats = np.asarray([decision.stop - decision.start for decision in schedule.decisions])
    x = np.repeat(taken, repeats, axis=1)
    found: dict[tuple[int, ...], set[int]] = {}
    for row in taken[problem.cost_violations(x) <= 1e-12].tolist():
        for t, index in enumerate(row):
            found.setdefault(tuple(row[:t]), set()).add(index)
    return found


@pytest.mark.parametrize("name", ["layerwise", "kernelwise"])
@pytest.mark.parametrize("case", SPACES)
def test_masks_equal_brute_force_over_all_completions(case, name):
    """Every prefix that masks or brute force can reach; with three choices per kernel up to some 10^4 assignments."""
    problem = problem_of(**{"weight_bits": (0, 3, 8), "activation_bits": (2, 5), **SPACES[case]})
    env = ENVIRONMENTS[name](oracle_of(problem), budget="mask", discrete=True)
    expected = allowed_by_brute_force(env.schedule, problem)
    masks = {}
    for prefix in sorted(expected, key=len, reverse=True):
        if prefix in masks:
            continue
        env.reset()
        for t, index in enumerate((*prefix, 0)):
            masks[prefix[:t]] = set(np.flatnonzero(env.action_masks()).tolist())
            env.decide(index)
    assert masks == expected


@pytest.mark.parametrize("budget", [{"size": 0.3}, {"latency": 0.2}])
def test_asking_for_the_mask_or_not_makes_no_difference(budget):
    """A learner with masks asks for them, one without does not; several times is as good as once."""
    problem = problem_of(model=bismo(), bounds=budget, weight_bits=range(9))
    asked, silent = (KernelwiseEnv(oracle_of(problem), budget="mask") for _ in range(2))
    for seed in range(3):
        asked.reset()
        silent.reset()
        for action in random_actions(asked, seed):
            asked.action_masks()
            asked.action_masks()
            assert np.array_equal(asked.decide(action), silent.decide(action))
        assert np.array_equal(asked.x, silent.x)


@given(
    st.sampled_from(["alike", "placed", "summed", "peak"]),
    st.sampled_from(sorted(ENVIRONMENTS)),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=120)
def test_random_masked_episodes_meet_every_budget_without_projection(kind, name, shares, seed):
    rng = np.random.default_rng(seed)
    layers = tuple(Layer(f"l{i}", "linear", 3, int(rng.integers(1, 9))) for i in range(rng.integers(1, 5)))
    model = Peak(layers, "placed", seed) if kind == "peak" else Tables(layers, kind, seed)
    problem = problem_of(
        layers=layers,
        weight_bits=rng.choice(9, size=rng.integers(1, 7), replace=False).tolist(),
        activation_bits=rng.choice(np.arange(1, 9), size=rng.integers(1, 5), replace=False).tolist(),
        granularity=str(rng.choice(["layer", "kernel"])),
        model=model,
        bounds=dict(zip(METRICS, shares, strict=True)),
    )
    env = ENVIRONMENTS[name](oracle_of(problem), budget="mask")
    kernels = env.kernels if name == "hierarchical" else env
    for episode in range(2):
        _, _, info = play(env, random_actions(env, seed + episode))
        assert problem.cost_violations(info["executed"][None])[0] <= 0
        assert np.array_equal(kernels.x, info["executed"])


@given(st.sampled_from(["alike", "placed", "summed"]), st.floats(0, 1), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_masks_of_random_episodes_equal_asking_for_the_whole_network(kind, share, seed):
    """Too large for brute force: costs are monotone, so a choice is allowed if it fits with the fewest bits after it."""
    layers = tuple(Layer(f"l{i}", "linear", 3, size) for i, size in enumerate((7, 12)))
    model = Tables(layers, kind, seed)
    problem = problem_of(
        layers=layers,
        weight_bits=range(7),
        activation_bits=(2, 4, 8),
        model=model,
        bounds=dict.fromkeys(METRICS, share),
    )
    env = KernelwiseEnv(oracle_of(problem), budget="mask", discrete=True)
    rng = np.random.default_rng(seed)
    env.reset()
    for t, decision in enumerate(env.schedule.decisions):
        rows = np.repeat(env.x[None], len(decision.choices), axis=0)
        rows[:, t] = np.arange(len(rows))
        fits = problem.cost_violations(rows) <= 0
        assert np.array_equal(env.action_masks()[: len(rows)], fits)
        env.decide(int(rng.choice(np.flatnonzero(fits))) if rng.random() < 0.7 else 99)


@pytest.mark.parametrize("name", ["layerwise", "kernelwise"])
@pytest.mark.parametrize("model", ["size", "bops", "bismo", "bitfusion", "roofline"])
def test_a_budget_that_is_met_to_the_bit_is_met_without_projection(name, model):
    """Greedy episodes run into bounds that are the cost of an assignment: rounding must not tell it from one above."""
    made = registry.create("cost_models", model)
    metric = next(iter(made.units))
    free = problem_of(weight_bits=range(9), activation_bits=range(2, 9), model=made)
    rng = np.random.default_rng(0)
    for x in [*free.space.sample(rng, 10), *np.linspace(free.space.lowest, free.space.highest, 9).astype(np.int64)]:
        limit = free.cost.estimate_many(x[None])[metric][0]
        problem = Problem(free.space, free.cost, free.objectives, (Bound(metric, float(limit), False, metric),))
        env = ENVIRONMENTS[name](oracle_of(problem), budget="mask")
        for actions in ([[1.0]] * len(env.schedule), random_actions(env, 0)):
            _, _, info = play(env, actions)
            assert np.array_equal(env.x, info["executed"])
        if name == "kernelwise":  # and the assignment itself is within the masks
            env = ENVIRONMENTS[name](oracle_of(problem), budget="mask", discrete=True)
            play(env, x.tolist())
            assert np.array_equal(env.x, x)


def test_an_action_beyond_the_mask_becomes_the_highest_allowed_and_is_recorded_so():
    """Four kernels of 3 weights at 2 or 4 bits: 24 bits at least, 30 allowed, so that one kernel may have 4."""
    layer = Layer("a", "linear", 3, 4)
    free = problem_of(layers=(layer,), weight_bits=(2, 4), model=WeightSize(), fixed={"activations": 8})
    problem = Problem(free.space, free.cost, free.objectives, (Bound("size", 30.0, False, "size <= 30"),))
    env = KernelwiseEnv(oracle_of(problem), budget="mask")
    _, _, info = play(env, [[0.1], [0.9], [0.8], [1.0]])
    assert info["executed"].tolist() == [0, 1, 0, 0]
    assert info["executed_actions"][:, 0].tolist() == pytest.approx([0.1, 0.9, 0.25, 0.25])
    assert env.overruled.tolist() == [False, False, True, True]


def test_projection_is_haqs_and_info_holds_what_was_executed():
    """The same layer: the wall lowers the last kernels first; untouched actions stay as they were."""
    layer = Layer("a", "linear", 3, 4)
    free = problem_of(layers=(layer,), weight_bits=(2, 4), model=WeightSize(), fixed={"activations": 8})
    problem = Problem(free.space, free.cost, free.objectives, (Bound("size", 36.0, False, "size <= 36"),))
    env = KernelwiseEnv(oracle_of(problem))
    _, _, info = play(env, [[0.6], [0.9], [0.8], [1.0]])
    assert info["executed"].tolist() == [1, 1, 0, 0]
    assert info["trial"].assignment["a.weight"] == (4, 4, 2, 2)
    assert info["executed_actions"][:, 0].tolist() == pytest.approx([0.6, 0.9, 0.25, 0.25])


@pytest.mark.parametrize(("name", "granularity"), [("layerwise", "layer"), ("kernelwise", "kernel")])
@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("bounds", [{}, {"size": 0.2}, {"size": 0.5, "bops": 0.1}, {"size": 0.0}])
def test_replaying_executed_actions_gives_the_executed_episode(name, granularity, discrete, bounds):
    problem = problem_of(granularity=granularity, weight_bits=range(9), activation_bits=range(2, 9), bounds=bounds)
    changed = 0
    for seed in range(20):
        env = ENVIRONMENTS[name](oracle_of(problem), discrete=discrete)
        goals = {"goals": {"stem.weight": 3.3}} if name == "kernelwise" else {}
        _, _, info = play(env, random_actions(env, seed), options=goals)
        changed += not np.array_equal(env.x, info["executed"])
        assert np.array_equal(info["executed"], project(problem, env.x))
        assert problem.cost_violations(info["executed"][None])[0] <= 0
        again = ENVIRONMENTS[name](oracle_of(problem), discrete=discrete)
        seen, _, found = play(again, info["executed_actions"], options=goals)
        assert np.array_equal(again.x, info["executed"])
        assert np.array_equal(found["executed"], info["executed"])
        assert np.array_equal(found["executed_actions"], info["executed_actions"])
        assert np.array_equal(seen[:-1], info["executed_observations"])
        assert np.array_equal(found["executed_observations"], info["executed_observations"])
    assert changed == 0 if not bounds else changed > 10


@pytest.mark.parametrize("bounds", [{"size": 0.3}, {"size": 0.5, "bops": 0.1}])
def test_a_layerwise_decision_over_unequal_kernels_stands_for_their_rounded_mean(bounds):
    problem = problem_of(weight_bits=range(9), activation_bits=range(2, 9), bounds=bounds)
    env = LayerwiseEnv(oracle_of(problem))
    for seed in range(5):
        _, _, info = play(env, random_actions(env, seed))
        for decision, action in zip(env.schedule.decisions, info["executed_actions"][:, 0], strict=True):
            count = len(decision.choices)
            mean = info["executed"][decision.start : decision.stop].mean()
            assert min(int(action * count), count - 1) == np.rint(mean)


def test_without_a_bound_both_modes_agree():
    for name in ENVIRONMENTS:
        both = [ENVIRONMENTS[name](oracle_of(problem_of()), budget=budget) for budget in ("project", "mask")]
        episodes = [play(env, random_actions(env, 1)) for env in both]
        assert np.array_equal(episodes[0][0], episodes[1][0])
        assert np.array_equal(episodes[0][2]["executed_actions"], episodes[1][2]["executed_actions"])


def test_kernels_with_places_are_told_from_kernels_that_are_alike():
    for model, alike in (
        (Tables(PAIR, "alike"), True),
        (Tables(PAIR, "placed"), False),
        (Peak(PAIR, "alike"), True),
        (Peak(PAIR, "placed"), False),
        (bismo(), True),
        (registry.create("cost_models", "bitfusion"), True),
        (registry.create("cost_models", "roofline"), True),
    ):
        problem = problem_of(layers=PAIR, weight_bits=range(9), model=model, bounds={"latency": 0.5})
        shares = CostShares(problem)
        assert shares.alike(problem.space.variables[0]) is alike
