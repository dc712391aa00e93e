"""Bits per kernel are kept as bytes: nothing that is asked of an assignment or a space may tell."""

from __future__ import annotations

import copy
import json
import pickle
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.assignment import BitAssignment
from qsearch.costs import LayerCosts, NetworkCost
from qsearch.errors import SpaceError
from qsearch.registry import create
from qsearch.sites import build_space
from qsearch.space import SearchSpace, Site
from qsearch.testing.problems import linear_layers

bits = st.integers(0, 32) | st.lists(st.integers(0, 32), min_size=1, max_size=20)
assignments = st.dictionaries(st.text(min_size=1, max_size=8), bits, min_size=1, max_size=6)


def plain(value: int | list[int]) -> int | tuple[int, ...]:
    """The one form of a choice, written down without the class."""
    if isinstance(value, int):
        return value
    return value[0] if len(set(value)) == 1 else tuple(value)


@given(assignments)
def test_what_goes_in_comes_out(given_: dict[str, int | list[int]]) -> None:
    found, expected = BitAssignment(given_), {site: plain(value) for site, value in given_.items()}
    assert dict(found) == expected
    assert json.loads(found.to_json()) == {k: list(v) if isinstance(v, tuple) else v for k, v in expected.items()}
    for again in (
        BitAssignment.from_json(found.to_json()),
        BitAssignment.from_record(json.loads(json.dumps(found.to_record()))),
        BitAssignment.unpacked({site: found.packed(site) for site in found}),
        pickle.loads(pickle.dumps(found)),
        copy.deepcopy(found),
    ):
        assert again == found
        assert hash(again) == hash(found)
        assert again.digest == found.digest
    for site, value in expected.items():
        count = 1 if isinstance(value, int) else len(value)
        np.testing.assert_array_equal(found.vector(site, count), np.atleast_1d(value))
        assert found.mean_bits(site) == np.mean(value)
        assert found.highest(site) == np.max(value)


@pytest.mark.parametrize(
    "record", [{"a": "!!"}, {"a": "IQ=="}, {"a": ""}, {"a": 33}, {"a": -1}, {"a": None}, {"a": 1.5}]
)
def test_a_damaged_record_is_refused(record: dict[str, object]) -> None:
    with pytest.raises(SpaceError):
        BitAssignment.from_record(record)  # type: ignore[arg-type]  # on purpose


def test_the_digest_is_that_of_the_bits_as_json() -> None:
    """It names what fine-tuning has left in folders: it must not change with the form that is kept."""
    assert BitAssignment({"a": [2, 3], "b": 4}).digest == "9ef15e8791a4"


class TestSpaces:
    space = SearchSpace(
        (
            Site("a.weight", "a", "weight", (0, 2, 8), 5),
            Site("a.input", "a", "activation", (4, 8)),
            Site("b.weight", "b", "weight", (0, 2, 8), 5),
            Site("c.weight", "c", "weight", (1, 32), 3),
            Site("c.input", "c", "activation", (2, 4)),
        ),
        ties=(("a.weight", "b.weight"),),
        fixed={"c.input": 8},
    )

    @given(st.data())
    def test_encode_is_the_inverse_of_decode(self, data: st.DataObject) -> None:
        x = np.asarray([data.draw(st.integers(0, int(n) - 1)) for n in self.space.choice_counts])
        found = self.space.decode(x)
        expected = BitAssignment({name: value[0] for name, value in self.space.bits(x[None]).items()})
        assert found == expected
        assert list(found) == list(expected)
        np.testing.assert_array_equal(self.space.encode(found), x)
        np.testing.assert_array_equal(
            self.space.bits_of(x), np.concatenate([found.vector(v.name, v.length) for v in self.space.variables])
        )

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"a.weight": [2, 8, 2, 8, 8]}, "tied"),
            ({"a.weight": [2, 8, 2, 8, 3], "b.weight": [2, 8, 2, 8, 3]}, r"allows \[0, 2, 8\] bits; got 3"),
            ({"a.weight": [2, 8], "b.weight": [2, 8]}, "5 kernels"),
            ({"a.input": [4, 8]}, "1 kernels"),
            ({"a.input": 6}, r"allows \[4, 8\] bits; got 6"),
            ({"c.input": 4}, "fixed at 8"),
        ],
    )
    def test_what_is_not_in_the_space(self, changes: dict[str, object], message: str) -> None:
        inside = self.space.decode(self.space.highest)
        outside = BitAssignment({**dict(inside), **changes})  # type: ignore[dict-item]  # of any kind
        for ask in (self.space.check, self.space.encode):
            with pytest.raises(SpaceError, match=message):
                ask(outside)
        assert outside not in self.space

    def test_a_space_in_which_all_is_fixed(self) -> None:
        space = SearchSpace((Site("a", "a", "weight", (2, 4)),), fixed={"a": 4})
        assert space.decode([]) == BitAssignment({"a": 4})
        assert space.encode(space.decode([])).shape == (0,)


def test_an_assignment_of_ten_thousand_kernels_takes_little_more_than_a_byte_each() -> None:
    space = build_space(linear_layers([200] * 50), weight_bits=range(2, 9), activation_bits=[8], granularity="kernel")
    found = space.decode(space.sample(np.random.default_rng(0), 1)[0])
    parts = [found.packed(site) for site in found]
    size = sys.getsizeof(found._bits) + sum(sys.getsizeof(part) for part in parts if isinstance(part, bytes))
    assert size < 2 * 10_000


def test_a_breakdown_by_layer_is_the_mapping_that_the_model_gave() -> None:
    layers = linear_layers([4, 6])
    space = build_space(layers, weight_bits=[2, 4], activation_bits=[8])
    cost = NetworkCost(create("cost_models", "size"), layers, space).estimate(space.uniform(4))
    expected = create("cost_models", "size").estimate(layers, space.uniform(4)).layers
    assert isinstance(cost.layers, LayerCosts)
    assert cost.layers == expected
    assert dict(cost.layers) == expected
    assert list(cost.layers) == ["layer0", "layer1"]
    assert cost.layers.get("layer2", {}) == {}
    assert pickle.loads(pickle.dumps(cost)) == cost
    mixed = {"a": {"size": 1.0}, "b": {"bops": 2.0}}
    assert LayerCosts.of(mixed) is mixed
