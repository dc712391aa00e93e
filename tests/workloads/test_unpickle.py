"""The restricted unpickler: reads what Python 2 and 3 wrote, refuses to call anything."""

from __future__ import annotations

import collections
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.errors import DataError
from qsearch.workloads.unpickle import load_arrays


def python2_batch(data: np.ndarray[Any, np.dtype[np.uint8]], labels: list[int]) -> bytes:
    """A batch as Python 2.7 and the NumPy of its day wrote it: byte strings, ``numpy.core``, integer flags."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        b"(K\x01" + number(data.shape[0]) + number(data.shape[1]) + b"\x86"
        b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
        b"(K\x03" + text(b"|") + b"NNN" + number(-1) + number(-1) + b"K\x00tb"
        b"\x89T" + struct.pack("<i", data.size) + data.tobytes() + b"tb"
    )
    items = b"(" + b"".join(number(label) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + b"]" + items + b"u."


def sample() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)


def test_it_reads_what_python_2_wrote() -> None:
    batch = load_arrays(python2_batch(sample(), [3, 1, 4, 1]))
    assert batch["labels"] == [3, 1, 4, 1]
    np.testing.assert_array_equal(batch["data"], sample())
    assert batch["data"].dtype == np.uint8


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_it_reads_what_python_3_writes(protocol: int, dtype: str) -> None:
    batch = {b"data": sample().astype(dtype), "labels": [1, 2], "more": (None, True, 1.5, {b"x": "é"})}
    found = load_arrays(pickle.dumps(batch, protocol=protocol))
    np.testing.assert_array_equal(found[b"data"], batch[b"data"])
    assert {key: found[key] for key in ("labels", "more")} == {key: batch[key] for key in ("labels", "more")}


class Malice:
    """Runs a command when unpickled by the ordinary unpickler."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.trace),))


def test_a_malicious_pickle_does_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    content = pickle.dumps({"data": Malice(trace), "labels": []})
    with pytest.raises(DataError, match=r"only arrays and built-in containers; got .*mkdir; do not trust this file"):
        load_arrays(content)
    assert not trace.exists()
    pickle.loads(content)  # shows that the pickle would have worked
    assert trace.exists()


class CallsEval:
    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, ("1 + 1",))


@pytest.mark.parametrize(
    "value",
    [
        CallsEval(),
        collections.OrderedDict(a=1),
        np.array([{"a": 1}], dtype=object),
        np.array([(1, 2)], dtype=[("a", "u1"), ("b", "u1")]),
        np.float64(1.5),
    ],
    ids=["eval", "OrderedDict", "objects", "records", "scalar"],
)
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(DataError):
        load_arrays(pickle.dumps({"data": value}, protocol=2))


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I1000000000\ntVb\ntR.",
        b"c_codecs\nencode\n(Va\nVpunycode\ntR.",
        b"cqsearch.workloads.unpickle\npickle.loads\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93.",
        b"]r\xff\xff\xff\x7f.",
    ],
    ids=["large array", "codec", "module of ours", "dotted name", "large memo"],
)
def test_the_allowed_names_do_no_more_than_needed(content: bytes) -> None:
    with pytest.raises(DataError):
        load_arrays(content)


def complaint(content: bytes) -> str:
    """What the unpickler says of a pickle: "" where it reads it; any other error than a DataError is let out."""
    try:
        load_arrays(content)
    except DataError as error:
        return str(error)
    return ""


@given(st.binary(max_size=200))
def test_damage_is_always_a_data_error(content: bytes) -> None:
    assert "\n" not in complaint(content)


@given(st.integers(0, 12_600), st.integers(1, 255))
def test_a_flipped_byte_is_read_or_refused(place: int, flip: int) -> None:
    content = bytearray(python2_batch(sample(), [3, 1, 4, 1]))
    content[place % len(content)] ^= flip
    assert "\n" not in complaint(bytes(content))
