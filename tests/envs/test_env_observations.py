"""Observations against numbers worked out by hand; within the space, whatever is done."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import ENVIRONMENTS, LAYERS, oracle_of, play, problem_of, random_actions

from qsearch.envs.features import AUTOQ, HAQ, static_features
from qsearch.envs.hierarchical import HierarchicalEnv
from qsearch.envs.kernelwise import KernelwiseEnv
from qsearch.envs.layerwise import LayerwiseEnv
from qsearch.envs.schedule import Schedule
from qsearch.layers import Layer
from qsearch.protocols import SensitivityTable

STEM = {"in_channels": 0, "out_channels": 1, "stride": 1, "kernel": 0.5, "params": 1, "feature_map": 1}
DEPTHWISE = {
    "in_channels": 1,
    "out_channels": 1,
    "stride": 0.5,
    "kernel": 1,
    "params": (150 - 24) / (162 - 24),
    "feature_map": (16 - 1) / (64 - 1),
}
HEAD = {"in_channels": 1, "out_channels": 0, "stride": 0, "kernel": 0, "params": 0, "feature_map": 0}
BY_HAND = [
    {**STEM, "depthwise": 0, "layer": 0},
    {**DEPTHWISE, "depthwise": 1, "layer": 0.5},
    {**HEAD, "depthwise": 0, "layer": 1},
]
"""Channels 3 → 6, 6 → 6, 6 → 4; stride 2, 1, none; kernel 3, 5, 1; weights 162, 150, 24; inputs 8², 4², 1."""


def row(values, names):
    return [values[name] for name in names]


def test_haqs_ten_by_hand():
    env = LayerwiseEnv(oracle_of(problem_of()))
    taken = [(0.99, 8), (0.0, 4), (0.3, 2), (0.99, 8), (0.0, 0), (0.99, 8)]
    seen, _, info = play(env, [[action] for action, _ in taken])
    previous = [0.0, *(bits / 8 for _, bits in taken)]
    expected = [
        row({**BY_HAND[step // 2], "previous": previous[step], "activation": step % 2}, HAQ) for step in range(6)
    ]
    assert seen[:-1] == pytest.approx(np.asarray(expected))
    expected[-1][HAQ.index("previous")] = previous[-1]
    assert seen[-1] == pytest.approx(np.asarray(expected[-1]))
    assert np.array_equal(info["executed_observations"], seen[:-1])
    assert len(HAQ) == 10


def test_autoqs_by_hand():
    """The six kernels of the stem with a goal of 5 bits among (0, 2, 4, 8), the first at 8 bits, the rest at 2."""
    env = KernelwiseEnv(oracle_of(problem_of()))
    actions = [[0.99], *([[0.3]] * 5), [0.0], *([[0.3]] * 12)]
    seen, _, _ = play(env, actions, options={"goals": {"stem.weight": 5.0}})
    goal = (2.25 + 0.5) / 4
    needed = [5.0, 22 / 5, 20 / 4, 18 / 3, 16 / 2, 14 / 1]
    indices = [2.25, 2.1, 2.25, 2.5, 3, 3]
    assert np.interp(needed, (0, 2, 4, 8), range(4)).tolist() == pytest.approx(indices)
    shared = {**BY_HAND[0], "goal": goal, "activation": 0, "kernel_sensitivity": 0.5, "layer_sensitivity": 0.5}
    expected = [
        row(
            {
                **shared,
                "kernel_index": kernel / 5,
                "previous": [0.0, 1.0, 0.25, 0.25, 0.25, 0.25][kernel],
                "needed": (indices[kernel] + 0.5) / 4,
            },
            AUTOQ,
        )
        for kernel in range(6)
    ]
    assert seen[:6] == pytest.approx(np.asarray(expected))
    # its input: choices (4, 8), no goal given: the middle, 6 bits, index 0.5
    middle = {**shared, "activation": 1, "kernel_index": 0, "previous": 0.25, "goal": 0.5, "needed": 0.5}
    assert seen[6] == pytest.approx(np.asarray(row(middle, AUTOQ)))


def test_hierarchical_by_hand():
    """A layer's first kernel, with the goal and the activation of the step before."""
    env = HierarchicalEnv(oracle_of(problem_of()))
    seen, _, _ = play(env, [[0.25, 0.75], [0.5, 0.125], [1.0, 0.0]])
    before = [(0, 0), (0.25, 0.75), (0.5, 0.125), (1.0, 0.0)]
    constant = {"activation": 0, "kernel_index": 0, "kernel_sensitivity": 0.5, "layer_sensitivity": 0.5, "needed": 0}
    expected = [
        row({**BY_HAND[min(step, 2)], **constant, "goal": goal, "previous": previous}, AUTOQ)
        for step, (goal, previous) in enumerate(before)
    ]
    assert seen == pytest.approx(np.asarray(expected))


def test_geometry_belongs_to_the_space_not_to_the_episode():
    """Only what was decided may differ between episodes."""
    for name, moving in (
        ("layerwise", {"previous"}),
        ("kernelwise", {"previous", "needed"}),
        ("hierarchical", {"previous", "goal"}),
    ):
        env = ENVIRONMENTS[name](oracle_of(problem_of()))
        names = HAQ if name == "layerwise" else AUTOQ
        episodes = np.stack([play(env, random_actions(env, seed))[0] for seed in range(4)])
        same = np.ptp(episodes, axis=0).max(axis=0) == 0
        assert {key for key, kept in zip(names, same, strict=True) if not kept} == moving


def test_a_constant_feature_is_zero():
    twins = tuple(Layer(f"l{i}", "linear", 4, 4) for i in range(2))
    problem = problem_of(layers=twins)
    found = static_features(HAQ, Schedule.by_layer(problem.space), problem.layers)
    assert not found[:, [HAQ.index(name) for name in ("in_channels", "out_channels", "params", "kernel")]].any()
    assert np.isfinite(found).all()


def test_both_operands_of_a_product_are_activations():
    layers = (Layer("a", "linear", 4, 4), Layer("scores", "matmul", 2, 4, uses=2))
    problem = problem_of(layers=layers)
    found = static_features(HAQ, Schedule.by_layer(problem.space), problem.layers)
    assert [site.name for site in problem.space.sites] == ["a.weight", "a.input", "scores.other", "scores.input"]
    assert found[:, HAQ.index("activation")].tolist() == [0, 1, 1, 1]


def test_sensitivities_are_differences_in_bits():
    """Damages 16 and 1 of two kernels: ½·log2 differs by 2 bits, a quarter of the range 0..8, around 0.5."""
    pair = (Layer("a", "linear", 4, 2), Layer("b", "linear", 4, 2))
    problem = problem_of(layers=pair, weight_bits=(0, 8), fixed={"activations": 8})
    damage = {"a.weight": np.asarray([[16.0, 0.0], [1.0, 0.0]]), "b.weight": np.asarray([[4.0, 0.0], [4.0, 0.0]])}
    env = KernelwiseEnv(oracle_of(problem), sensitivity=SensitivityTable(damage, 1))
    seen, _, _ = play(env, [[0.0]] * 4)
    assert seen[:4, AUTOQ.index("kernel_sensitivity")].tolist() == pytest.approx([0.5 + 1 / 8, 0.5 - 1 / 8, 0.5, 0.5])
    assert seen[:4, AUTOQ.index("layer_sensitivity")].tolist() == pytest.approx([0.5] * 4)
    damage["b.weight"] *= 16
    env = KernelwiseEnv(oracle_of(problem), sensitivity=SensitivityTable(damage, 1))
    level = env.static[:, AUTOQ.index("layer_sensitivity")]
    assert level.tolist() == pytest.approx([0.5 - 1 / 8] * 2 + [0.5 + 1 / 8] * 2)


def test_no_damage_at_all_is_a_finite_observation():
    problem = problem_of()
    none = {v.name: np.zeros((v.length, len(v.choices))) for v in problem.space.variables}
    env = KernelwiseEnv(oracle_of(problem), sensitivity=SensitivityTable(none, 1))
    assert env.observation_space.contains(env.reset()[0])


@given(
    st.sampled_from(sorted(ENVIRONMENTS)),
    st.sampled_from(["project", "mask"]),
    st.sampled_from(["layer", "kernel"]),
    st.sampled_from([(0, 32), (2, 3, 4), (8,), (0, 1, 2, 4, 8, 16)]),
    st.lists(st.floats(width=32), min_size=1, max_size=6),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=150)
def test_observations_are_always_within_the_space(name, budget, granularity, bits, odd, seed):
    """Any actions, NaN and infinity included; what the replay learns from as well."""
    rng = np.random.default_rng(seed)
    damage = {}
    problem = problem_of(granularity=granularity, weight_bits=bits, bounds={"size": 0.4})
    for variable in problem.space.variables:
        damage[variable.name] = 10.0 ** rng.uniform(-9, 9, size=(variable.length, len(variable.choices)))
    extra = {} if name == "layerwise" else {"sensitivity": SensitivityTable(damage, 1)}
    env = ENVIRONMENTS[name](oracle_of(problem), budget=budget, **extra)
    actions = [np.where(rng.random(np.shape(a)) < 0.3, rng.choice(odd), a) for a in random_actions(env, seed)]
    seen, rewards, info = play(env, actions)
    assert all(env.observation_space.contains(each) for each in seen)
    assert all(env.observation_space.contains(each) for each in info["executed_observations"])
    assert all(env.action_space.contains(each) for each in info["executed_actions"])
    assert np.isfinite(rewards).all()


def test_the_layers_of_these_tests_are_of_three_kinds():
    assert [layer.depthwise for layer in LAYERS] == [False, True, False]
    assert [layer.kind for layer in LAYERS] == ["conv", "conv", "linear"]
    assert [layer.params for layer in LAYERS] == [162, 150, 24]
