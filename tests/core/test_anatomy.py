"""Groups of sites that must agree, against components of a graph."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from qsearch.anatomy import TIES, Anatomy
from qsearch.config import SpaceConfig
from qsearch.errors import SpaceError
from qsearch.layers import Layer
from qsearch.sites import build_space

LAYERS = (
    Layer("query", "linear", 8, 8, input_size=(4,), output_size=(4,)),
    Layer("key", "linear", 8, 8, input_size=(4,), output_size=(4,)),
    Layer("scores", "matmul", 4, 4, input_size=(4,), output_size=(4,), uses=2),
    Layer("head", "linear", 8, 3),
)
SITES = [name for layer in LAYERS for name in (layer.weight_site, layer.activation_site)]
ANATOMY = Anatomy(
    LAYERS, {"inputs": (("query.input", "key.input"),), "qkv": (("query.weight", "key.weight"),), "residual": ()}
)


def components(groups):
    """Sites that a chain of groups joins, by the closure of "stand in one group"."""
    names = {name for group in groups for name in group}
    joined = {(a, b) for group in groups for a, b in itertools.product(group, repeat=2)}
    for middle, a, b in itertools.product(names, repeat=3):  # Warshall's order: the middle first
        if (a, middle) in joined and (middle, b) in joined:
            joined.add((a, b))
    return {frozenset(other for other in names if (name, other) in joined) for name in names}


@given(st.lists(st.lists(st.sampled_from(SITES), min_size=2, max_size=3, unique=True), max_size=4))
def test_groups_with_a_site_in_common_become_one(groups):
    found = Anatomy(LAYERS).groups(groups)
    assert {frozenset(group) for group in found} == components(groups)
    assert sum(map(len, found)) == len({name for group in groups for name in group})
    places = [[SITES.index(name) for name in group] for group in found]
    assert all(group == sorted(group) for group in places)
    assert places == sorted(places)


def test_kinds_and_named_groups_are_joined():
    found = ANATOMY.groups(["inputs", ("key.input", "scores.other"), "qkv", "residual"])
    assert found == (("query.weight", "key.weight"), ("query.input", "key.input", "scores.other"))


def test_a_kind_that_was_not_found_joins_nothing():
    assert Anatomy(LAYERS).groups(TIES) == ()


def test_an_unknown_kind_is_answered_by_the_nearest():
    with pytest.raises(SpaceError, match="unknown kind of tie 'input'; did you mean 'inputs'"):
        ANATOMY.groups(["input"])


def test_both_operands_of_a_product_are_activations():
    """Kernels have bits of their own where there are weights; a product's second operand has one bitwidth."""
    space = build_space(
        LAYERS, weight_bits=(0, 4), activation_bits=(4, 8), granularity="kernel", ties=ANATOMY.groups(["inputs"])
    )
    other, first = space.site("scores.other"), space.site("scores.input")
    assert (other.role, other.operand, other.kernels, other.choices) == ("activation", 1, 1, (4, 8))
    assert (first.role, first.operand, first.choices) == ("activation", 0, (4, 8))
    assert space.site("query.weight").kernels == 8
    assert [variable.sites for variable in space.variables if len(variable.sites) > 1] == [("query.input", "key.input")]


def test_the_name_of_all_activations_pins_both_operands():
    space = build_space(LAYERS, weight_bits=(2, 4), activation_bits=(4, 8), fixed={"activations": 8, "weights": 2})
    bits = space.uniform(4)
    assert bits["scores.other"] == bits["scores.input"] == 8
    assert bits["query.weight"] == 2


def test_a_group_without_sites_joins_nothing():
    assert ANATOMY.groups([(), ["head.input"]]) == (("head.input",),)


def test_a_campaign_refuses_a_group_without_sites():
    with pytest.raises(ValidationError, match="at least 1 item"):
        SpaceConfig(ties=[[]])
    assert SpaceConfig(ties=["residual", ["a.input"]]).ties == ("residual", ("a.input",))
