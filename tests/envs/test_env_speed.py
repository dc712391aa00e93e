"""The claim of 50 µs per step at 10,000 kernels, without the evaluation, with room for a busy machine."""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import pytest
from small_networks import ENVIRONMENTS, oracle_of, problem_of

from qsearch import registry
from qsearch.layers import Layer

CLAIM = 50e-6
ROOM = 4
LAYERS = tuple(Layer(f"l{i}", "conv", 250, 250, (3, 3), (1, 1), 1, (8, 8), (8, 8)) for i in range(40))


@pytest.mark.parametrize("name", ["kernelwise", "layerwise"])
@pytest.mark.parametrize(
    ("budget", "model", "bounds"),
    [
        ("project", "bismo", {"latency": 0.3}),
        ("mask", "size", {"size": 0.3}),
        ("mask", "bops", {"bops": 0.3}),
        ("mask", "bismo", {"latency": 0.05}),
        ("mask", "bismo", {"latency": 0.3, "energy": 0.3}),
        ("mask", "roofline", {"latency": 0.3}),
    ],
)
def test_a_step_is_quick_at_ten_thousand_kernels(name, budget, model, bounds):
    """The least of three episodes, masks asked for in each step; the first episode may have more to remember."""
    problem = problem_of(
        layers=LAYERS,
        weight_bits=range(9),
        activation_bits=range(2, 9),
        model=registry.create("cost_models", model),
        bounds=bounds,
    )
    env = ENVIRONMENTS[name](oracle_of(problem), budget=budget)
    steps = len(env.schedule)
    assert problem.space.dimension == 40 * 251
    actions = np.random.default_rng(0).random((3, steps, 1), dtype=np.float32)
    seconds = []
    for episode in actions:
        env.reset()
        start = time.process_time()
        for action in episode:
            env.action_masks()
            env.decide(action)
        seconds.append((time.process_time() - start) / steps)
    assert min(seconds) <= ROOM * CLAIM, f"{1e6 * median(seconds):.0f} µs"
