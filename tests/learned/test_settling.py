"""From real-valued bits to an assignment, against a plain walk step by step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsearch.costs import NetworkCost
from qsearch.learned.limits import Limit, excess
from qsearch.learned.settling import nearest_choices, next_choices, settle
from qsearch.sites import build_space
from qsearch.space import SearchSpace
from qsearch.testing.networks import resnet20
from qsearch.testing.problems import WeightSize, linear_layers

CHOICES = (2, 3, 4, 6, 8)


def network(sizes: Sequence[int], most: float, **space: object) -> tuple[SearchSpace, list[Limit]]:
    layers = linear_layers(sizes)
    given = {"weight_bits": CHOICES, "activation_bits": [8], "fixed": {"activations": 8}, **space}
    found = build_space(layers, **given)
    return found, [Limit(NetworkCost(WeightSize(), layers, found), "size", most)]


def plain(space: SearchSpace, limits: list[Limit], bits: np.ndarray, x: np.ndarray) -> np.ndarray:
    """One step at a time."""
    choices = [v.choices for v in space.variables for _ in range(v.length)]
    x = x.copy()
    while excess(limits, x[None])[0] > 0 and x.any():
        lost = [(bits[i] - choices[i][x[i] - 1], i) for i in range(len(x)) if x[i]]
        x[min(lost)[1]] -= 1
    if excess(limits, x[None])[0] > 0:
        return x
    blocked: set[int] = set()
    while True:
        missed = [(choices[i][x[i] + 1] - bits[i], i) for i in range(len(x)) if x[i] + 1 < len(choices[i])]
        open_steps = [step for step in missed if step[1] not in blocked]
        if not open_steps:
            return x
        place = min(open_steps)[1]
        x[place] += 1
        if excess(limits, x[None])[0] > 0:
            x[place] -= 1
            blocked.add(place)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.floats(2, 8)), min_size=1, max_size=6),
    st.floats(1.5, 9),
    st.booleans(),
)
def test_as_a_plain_walk(layers: list[tuple[int, float]], mean: float, kernelwise: bool) -> None:
    sizes = [size for size, _ in layers]
    most = mean * 8 * sum(sizes)
    space, limits = network(sizes, most, granularity="kernel" if kernelwise else "layer")
    rng = np.random.default_rng(len(layers))
    bits = np.concatenate(
        [
            rng.normal(b, kernelwise * 1.0, v.length).clip(2, 8)
            for (_, b), v in zip(layers, space.variables, strict=True)
        ]
    )
    x = nearest_choices(space, bits)
    found = settle(space, limits, bits, x)
    np.testing.assert_array_equal(found, plain(space, limits, bits, x))
    assert excess(limits, found[None])[0] <= 0 or not found.any()


def test_who_was_rounded_up_goes_first_and_nobody_falls_far() -> None:
    space, limits = network([4, 4, 4], most=32 * (3 + 4 + 4))
    bits = np.asarray([3.6, 4.4, 3.9])
    x = nearest_choices(space, bits)
    assert x.tolist() == [2, 2, 2]  # 4 bits each
    assert settle(space, limits, bits, x).tolist() == [1, 2, 2]


def test_room_goes_to_who_misses_most() -> None:
    space, limits = network([4, 4, 4], most=32 * (4 + 3 + 3) + 8)
    bits = np.asarray([3.4, 3.3, 3.2])
    x = nearest_choices(space, bits)
    assert x.tolist() == [1, 1, 1]
    assert settle(space, limits, bits, x).tolist() == [2, 1, 1]
    assert settle(space, limits, bits, x, fill=False).tolist() == [1, 1, 1]


def test_what_costs_nothing_stays_at_its_most_bits() -> None:
    space, limits = network([4, 4], most=32 * 4, fixed={}, activation_bits=[4, 8])
    names = [v.name for v in space.variables]
    bits = np.full(len(names), 4.0)
    found = dict(zip(names, settle(space, limits, bits, nearest_choices(space, bits)).tolist(), strict=True))
    assert found == {"layer0.weight": 0, "layer0.input": 1, "layer1.weight": 0, "layer1.input": 1}


def test_limits_that_nothing_meets_give_the_fewest_bits() -> None:
    space, limits = network([4, 4], most=1.0)
    assert settle(space, limits, np.asarray([8.0, 2.0]), np.asarray([4, 0])).tolist() == [0, 0]


def test_rounding() -> None:
    space, _ = network([1, 1, 1, 1, 1], most=1e9)
    bits = np.asarray([2.0, 2.5, 4.9, 5.0, 9.0])
    assert nearest_choices(space, bits).tolist() == [0, 1, 2, 3, 4]
    assert next_choices(space, bits).tolist() == [0, 1, 3, 3, 4]


@pytest.mark.parametrize("granularity", ["layer", "kernel"])
def test_thousands_of_decisions_settle_at_once(granularity: str) -> None:
    layers = resnet20()
    space = build_space(layers, weight_bits=CHOICES, activation_bits=[8], granularity=granularity)
    most = 3.1 * sum(layer.params for layer in layers)
    limits = [Limit(NetworkCost(WeightSize(), layers, space), "size", most)]
    bits = np.random.default_rng(0).uniform(2, 8, space.dimension)
    found = settle(space, limits, bits, nearest_choices(space, bits))
    used = limits[0].cost.estimate_many(found[None])["size"][0]
    assert 0.98 * most < used <= most
