"""Bits as text and as a picture."""

from __future__ import annotations

import numpy as np
import pytest
from small_networks import ENVIRONMENTS, LAYERS, oracle_of, play, problem_of, random_actions

from qsearch.envs.hierarchical import HierarchicalEnv
from qsearch.envs.kernelwise import KernelwiseEnv
from qsearch.envs.layerwise import LayerwiseEnv
from qsearch.envs.render import GAP, ROW, SCALE, SIDE, UNDECIDED, WIDTH
from qsearch.hardware.bismo import Bismo
from qsearch.layers import Layer

FEWEST, MIDDLE, MOST = SCALE[0], SCALE[2], SCALE[4]


def test_text_by_hand():
    env = KernelwiseEnv(oracle_of(problem_of(fixed={"head": 8})), render_mode="ansi")
    env.reset()
    start = env.render()
    assert start.splitlines() == [
        "stem       weight  ·  input  ·",
        "depthwise  weight  ·  input  ·",
        "head       weight =8  input =8",
    ]
    for action in [[0.9]] * 2 + [[0.3]] * 4 + [[0.9]] + [[0.3]] * 6:
        env.decide(action)
    assert env.render().splitlines() == [
        "stem       weight  4.00 (2:4 8:2)  input  8",
        "depthwise  weight  2               input  ·",
        "head       weight =8               input =8",
    ]


def test_a_layer_is_shown_once_it_is_decided_as_a_whole():
    env = KernelwiseEnv(oracle_of(problem_of()), render_mode="ansi")
    env.reset()
    for _ in range(5):
        env.decide([0.9])
        assert env.render().splitlines()[0].split()[2] == "·"
    env.decide([0.9])
    assert env.render().splitlines()[0].split()[2] == "8"


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_what_is_shown_at_the_end_was_executed(name):
    """The projection to the floor leaves 0 bits everywhere, whatever was decided."""
    problem = problem_of(bounds={"size": 0.0}, activation_bits=(8,))
    env = ENVIRONMENTS[name](oracle_of(problem), render_mode="ansi")
    play(env, [np.ones(env.action_space.shape)] * len(random_actions(env, 0)))
    assert [line.split()[2:] for line in env.render().splitlines()] == [["0", "input", "8"]] * 3


def row_of(image, layer):
    """Colours along a layer's row: its input's cell, then the cells of its kernels."""
    line = image[GAP + layer * (ROW + GAP) + ROW // 2]
    return line[GAP : GAP + SIDE], line[SIDE + 2 * GAP : SIDE + 2 * GAP + WIDTH]


def test_picture_by_hand():
    """Choices 0..8: 8 bits are the bright end, 0 the dark one, 4 the middle."""
    env = HierarchicalEnv(oracle_of(problem_of()), render_mode="rgb_array")
    env.reset()
    image = env.render()
    assert image.shape == (3 * (ROW + GAP) + GAP, SIDE + WIDTH + 3 * GAP, 3)
    assert image.dtype == np.uint8
    for layer in range(3):
        side, kernels = row_of(image, layer)
        assert np.all(side == UNDECIDED)
        assert np.all(kernels == UNDECIDED)
    assert np.all(image[:GAP] == 255)
    assert np.all(image[:, :GAP] == 255)

    env.step([1.0, 0.0])
    side, kernels = row_of(env.render(), 0)
    assert np.all(side == MIDDLE)
    assert np.all(kernels == MOST)
    assert np.all(row_of(env.render(), 1)[1] == UNDECIDED)

    env.step([0.0, 1.0])
    side, kernels = row_of(env.render(), 1)
    assert np.all(side == MOST)
    assert np.all(kernels == FEWEST)


def test_kernels_stand_from_left_to_right():
    env = KernelwiseEnv(oracle_of(problem_of()), render_mode="rgb_array")
    play(env, [[0.9]] * 7 + [[0.9]] * 7 + [[0.0], [0.0], [0.99], [0.99], [0.9]])
    _, kernels = row_of(env.render(), 2)
    assert np.all(kernels[: WIDTH // 2] == FEWEST)
    assert np.all(kernels[WIDTH // 2 :] == MOST)


def test_more_bits_are_brighter():
    luminance = np.asarray([0.2126, 0.7152, 0.0722])
    values = []
    for action in (0.1, 0.3, 0.6, 0.9):
        env = LayerwiseEnv(oracle_of(problem_of()), render_mode="rgb_array")
        env.reset()
        env.decide([action])
        values.append(float(row_of(env.render(), 0)[1][0] @ luminance))
    assert values == sorted(values)
    assert len(set(values)) == 4


def test_an_embedding_has_no_input():
    words = Layer("words", "embedding", 5, 3, input_size=(2,), output_size=(2,))
    problem = problem_of(layers=(words, *LAYERS))
    env = LayerwiseEnv(oracle_of(problem), render_mode="ansi")
    play(env, [[0.9]] * len(env.schedule))
    assert env.render().splitlines()[:2] == ["words      weight  8", "stem       weight  8  input  8"]
    picture = LayerwiseEnv(oracle_of(problem), render_mode="rgb_array")
    play(picture, [[0.9]] * len(env.schedule))
    side, kernels = row_of(picture.render(), 0)
    assert np.all(side == 255)
    assert np.all(kernels == MOST)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_no_render_mode_renders_nothing(name):
    env = ENVIRONMENTS[name](oracle_of(problem_of()))
    env.reset()
    assert env.render() is None


def test_a_product_of_activations_has_an_other_operand():
    layers = (LAYERS[0], Layer("scores", "matmul", 4, 3, input_size=(3,), output_size=(3,), uses=2))
    env = KernelwiseEnv(oracle_of(problem_of(layers=layers, fixed={"scores.input": 8})), render_mode="ansi")
    env.reset()
    assert env.render().splitlines() == ["stem    weight  ·  input  ·", "scores  other  ·   input =8"]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_episodes_of_a_network_with_products_end(name):
    """Every free site is decided, both operands among them, and the cost model prices them."""
    layers = (LAYERS[0], Layer("scores", "matmul", 4, 3, input_size=(3,), output_size=(3,), uses=2), LAYERS[2])
    problem = problem_of(layers=layers, model=Bismo(), bounds={"latency": 0.5})
    env = ENVIRONMENTS[name](oracle_of(problem))
    play(env, random_actions(env, 1))
    (trial,) = env.unwrapped.oracle.trials
    assert set(trial.assignment) == {site.name for site in problem.space.sites}
    assert {"scores.other", "scores.input"} < set(trial.assignment)
