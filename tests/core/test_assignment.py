from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.assignment import BitAssignment
from qsearch.errors import SpaceError

BITS = st.integers(0, 32)
VALUES = st.one_of(BITS, st.lists(BITS, min_size=1, max_size=9))
ASSIGNMENTS = st.dictionaries(st.text(min_size=1, max_size=12), VALUES, max_size=6)


@given(ASSIGNMENTS)
def test_json_both_ways(bits):
    assignment = BitAssignment(bits)
    again = BitAssignment.from_json(assignment.to_json())
    assert again == assignment
    assert again.to_json() == assignment.to_json()
    assert list(again) == list(bits)


@given(ASSIGNMENTS)
def test_every_spelling_of_the_same_choice_is_equal(bits):
    original = BitAssignment(bits)
    spelt = BitAssignment(
        {site: np.asarray(value, dtype=np.int8) if site else value for site, value in reversed(bits.items())}
    )
    assert spelt == original
    assert hash(spelt) == hash(original)
    assert spelt.digest == original.digest
    assert len({spelt, original}) == 1


@given(ASSIGNMENTS)
def test_stored_bits_are_plain_integers(bits):
    for site, value in BitAssignment({k: np.asarray(v) for k, v in bits.items()}).items():
        numbers = value if isinstance(value, tuple) else (value,)
        assert all(type(number) is int for number in numbers)
        assert np.array_equal(np.broadcast_to(value, np.shape(bits[site])), bits[site])
        assert not isinstance(value, tuple) or len(set(value)) > 1


@given(ASSIGNMENTS.filter(bool), st.data())
def test_another_choice_is_another_assignment(bits, data):
    site = data.draw(st.sampled_from(sorted(bits)))
    value = data.draw(VALUES)
    changed = BitAssignment({**bits, site: value})
    same = np.array_equal(np.unique(value), np.unique(bits[site])) and (
        len(set(np.atleast_1d(value).tolist())) == 1 or np.array_equal(value, bits[site])
    )
    assert (changed == BitAssignment(bits)) == same
    if not same:
        assert changed.digest != BitAssignment(bits).digest


def test_canonical_form():
    assignment = BitAssignment({"a": [4, 4, 4], "b": np.asarray([2, 3]), "c": (8,), "d": np.int16(5), "e": range(2)})
    assert dict(assignment) == {"a": 4, "b": (2, 3), "c": 8, "d": 5, "e": (0, 1)}
    assert assignment.to_json() == '{"a":4,"b":[2,3],"c":8,"d":5,"e":[0,1]}'


def test_immutable():
    bits = {"a": [2, 3]}
    assignment = BitAssignment(bits)
    before = hash(assignment)
    bits["a"][0] = 7
    bits["b"] = 4
    with pytest.raises(TypeError):
        assignment["a"] = 5
    with pytest.raises(TypeError):
        assignment["a"][0] = 5
    vector = assignment.vector("a", 2)
    vector[0] = 9
    assert dict(assignment) == {"a": (2, 3)}
    assert hash(assignment) == before


def test_not_equal_to_a_dictionary():
    assert BitAssignment({"a": 4}) != {"a": 4}


def test_vector_and_mean():
    assignment = BitAssignment({"a": 4, "b": [2, 3, 4, 7]})
    assert assignment.vector("a", 3).tolist() == [4, 4, 4]
    assert assignment.vector("b", 4).tolist() == [2, 3, 4, 7]
    assert (assignment.mean_bits("a"), assignment.mean_bits("b")) == (4, 4)
    with pytest.raises(SpaceError, match="'b' has 5 kernels; got 4 bitwidths"):
        assignment.vector("b", 5)


def test_replace():
    assignment = BitAssignment({"a": 4, "b": 5})
    assert assignment.replace({"b": [1, 2]}) == BitAssignment({"a": 4, "b": [1, 2]})
    assert assignment == BitAssignment({"a": 4, "b": 5})
    with pytest.raises(SpaceError, match="only known sites"):
        assignment.replace({"c": 3})


def test_the_hash_does_not_travel_to_a_process_that_hashes_otherwise():
    assignment = BitAssignment({"a": 4, "b": [2, 3]})
    hash(assignment)
    script = (
        "import pickle, sys; from qsearch import BitAssignment\n"
        "found = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "assert found in {BitAssignment({'b': [2, 3], 'a': 4})}"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", script, pickle.dumps(assignment).hex()], env=environment, check=True)


def test_the_digest_is_the_same_on_every_machine():
    # sha256 of {"a":4,"b":[2,3]}
    assert BitAssignment({"b": [2, 3], "a": 4}).digest == "c91f974fb4ae"


@pytest.mark.parametrize(
    "bits",
    [
        -1,
        33,
        2**70,
        4.0,
        np.float32(4),
        "4",
        b"4",
        None,
        True,
        [],
        [4, -1],
        [4, 99],
        [4.5],
        [[4]],
        [[1], [1, 2]],
        [1, None],
        {},
        [2**70],
    ],
)
def test_bits_that_are_none(bits):
    with pytest.raises(SpaceError, match="bits of 'conv'"):
        BitAssignment({"conv": bits})


@pytest.mark.parametrize(
    "text", ["", "{", "[4]", "4", '{"a": "4"}', '{"a": null}', '{"a": [NaN]}', '{"a": 4.0}', '{"a": 64}']
)
def test_json_that_is_no_assignment(text):
    with pytest.raises(SpaceError):
        BitAssignment.from_json(text)


@pytest.mark.parametrize("bits", [True, None, 4.0, "!", [4], -1, 33])
def test_records_that_are_no_assignment(bits):
    with pytest.raises(SpaceError):
        BitAssignment.from_record({"a": bits})


def test_json_of_a_kernel_wise_assignment_is_plain():
    assert json.loads(BitAssignment({"a": np.asarray([1, 2], dtype=np.uint8)}).to_json()) == {"a": [1, 2]}


def test_repr_is_short():
    text = repr(BitAssignment({f"s{i}": 4 for i in range(100)}))
    assert len(text) < 100
    assert "…" in text
