"""Recordings and their frames: every count against a loop over the events, and one clear line for each kind of bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from qsearch.errors import DataError
from qsearch.workloads import events
from qsearch.workloads.events import (
    Binning,
    Recording,
    Recordings,
    Sensor,
    checked_recording,
    chosen_binning,
    framed,
    frames_of,
)

SENSOR = Sensor(height=3, width=4)


def recording(*rows: tuple[int, int, int, int], dtype: Any = np.int64) -> Recording:
    """Of events (x, y, p, t)."""
    x, y, p, t = np.asarray(rows, dtype=dtype).reshape(-1, 4).T
    return Recording("recording 7", x, y, p, t)


def counted(rows: list[tuple[int, int, int, int]], binning: Binning, sensor: Sensor) -> NDArray[np.int64]:
    """Frames by looking at one event after another."""
    found = np.zeros(binning.shape(sensor), np.int64)
    for x, y, p, t in rows:
        for step in range(binning.steps):
            if step * binning.width <= t < (step + 1) * binning.width:
                found[step, p if binning.polarity == "both" else 0, y, x] += 1
    return found


ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 1), st.integers(0, 99)), min_size=1, max_size=40
).map(lambda rows: sorted(rows, key=lambda row: row[3]))


@given(
    ROWS,
    st.integers(1, 60),
    st.integers(1, 12),
    st.sampled_from(["both", "merged"]),
    st.sampled_from([np.uint8, np.uint32, np.int64]),
)
def test_frames_count_the_events(
    rows: list[tuple[int, int, int, int]], width: int, steps: int, polarity: Any, dtype: Any
) -> None:
    binning = Binning(width, steps, polarity)
    expected = counted(rows, binning, SENSOR)
    if not expected.any():
        with pytest.raises(DataError, match="must have an event within the first"):
            framed(recording(*rows, dtype=dtype), binning, SENSOR)
    else:
        found = framed(recording(*rows, dtype=dtype), binning, SENSOR)
        assert found.dtype == np.uint8
        assert np.array_equal(found, expected)


@given(ROWS, st.integers(1, 120))
def test_bins_that_cover_the_duration_lose_nothing(rows: list[tuple[int, int, int, int]], steps: int) -> None:
    duration = rows[-1][3] + 1
    for binning in (
        chosen_binning(duration, "both", steps=steps),
        chosen_binning(duration, "both", bin_ms=steps / 1000),
    ):
        assert framed(recording(*rows), binning, SENSOR).sum() == len(rows)


def test_the_edges_of_bins() -> None:
    """An event at k·Δt is in bin k; the last bin does not hold its own end."""
    frames = framed(recording((0, 0, 0, 0), (1, 0, 0, 9), (2, 0, 0, 10), (3, 0, 1, 20)), Binning(10, 2), SENSOR)
    assert frames[0, 0, 0].tolist() == [1, 1, 0, 0]
    assert frames[1, 0, 0].tolist() == [0, 0, 1, 0]
    assert frames.sum() == 3


def test_what_is_merged_is_the_sum_of_both() -> None:
    one = recording((0, 0, 0, 0), (0, 0, 1, 0), (2, 1, 1, 5))
    both, merged = (framed(one, Binning(10, 1, polarity), SENSOR) for polarity in ("both", "merged"))
    assert merged.shape == (1, 1, 3, 4)
    assert np.array_equal(both.sum(1, keepdims=True), merged)


@pytest.mark.parametrize(
    ("duration", "given", "expected"),
    [
        (315_110, {"bin_ms": 10}, (10_000, 32)),
        (300_000, {"bin_ms": 10}, (10_000, 30)),
        (300_001, {"bin_ms": 10}, (10_000, 31)),
        (300_000, {"bin_ms": 0.5}, (500, 600)),
        (100, {"steps": 3}, (34, 3)),
        (2, {"steps": 5}, (1, 5)),
    ],
)
def test_the_bins_that_options_ask_for(duration: int, given: dict[str, Any], expected: tuple[int, int]) -> None:
    binning = chosen_binning(duration, "both", **given)
    assert (binning.width, binning.steps) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "at least 1 time step; got 0"),
        ({"bin_ms": 0.0001}, "at least 1 µs wide; got 0 µs"),
        ({"bin_ms": 10, "steps": 3}, "either 'steps' or 'bin_ms'"),
        ({}, "either 'steps' or 'bin_ms'"),
    ],
)
def test_bins_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        chosen_binning(1000, "both", **given)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "recording 7 must have events; got none"),
        (
            [(0, 0, 0, 1), (4, 0, 0, 2)],
            r"recording 7 must lie within the sensor: x within 0\.\.3; got x = 4 at event 1",
        ),
        ([(0, -1, 0, 1)], r"y within 0\.\.2; got y = -1 at event 0"),
        ([(0, 0, 2, 1)], r"p within 0\.\.1; got p = 2 at event 0"),
        (
            [(0, 0, 0, 5), (0, 0, 0, 5), (0, 0, 0, 4)],
            "times of recording 7 must not fall; got 4 µs after 5 µs at event 2",
        ),
        ([(0, 0, 0, -3)], "times of recording 7 must be at least 0; got -3 µs"),
    ],
)
def test_recordings_that_are_none(rows: list[tuple[int, int, int, int]], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        checked_recording(recording(*rows), SENSOR)
    assert "\n" not in str(caught.value)


def test_unsigned_times_that_fall_are_seen() -> None:
    """Differences of unsigned numbers would wrap."""
    with pytest.raises(DataError, match="must not fall"):
        checked_recording(recording((0, 0, 0, 5), (0, 0, 0, 4), dtype=np.uint32), SENSOR)


def flat(**changed: Any) -> Recordings:
    """Two recordings, of two events and of one."""
    arrays: dict[str, Any] = {
        "x": np.array([0, 1, 3], np.uint8),
        "y": np.array([0, 1, 2], np.uint8),
        "p": np.array([0, 1, 1], np.uint8),
        "t": np.array([5, 8, 2], np.uint32),
        "offsets": np.array([0, 2, 3]),
        "labels": np.array([4, 9]),
    }
    return Recordings("FILE", **{**arrays, **changed}, sensor=SENSOR)


def test_recordings_are_parts_of_flat_arrays() -> None:
    first, second = flat().recording(0), flat().recording(1)
    assert (first.x.tolist(), first.t.tolist()) == ([0, 1], [5, 8])
    assert (second.y.tolist(), second.p.tolist(), second.t.tolist()) == ([2], [1], [2])
    assert second.name == "recording 1 of FILE"
    frames, late = frames_of(flat(), [1, 0, 1], Binning(4, 3), SENSOR)
    assert late == 0
    assert frames.dtype == torch.uint8
    assert frames.nonzero().tolist() == [[0, 0, 1, 2, 3], [1, 1, 0, 0, 0], [1, 2, 1, 1, 1], [2, 0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": np.array([0.0, 1, 3])}, r"x of FILE must be whole numbers in one row; got float64 \(3,\)"),
        ({"p": np.array([True, False, True])}, "p of FILE must be whole numbers"),
        ({"t": np.zeros((3, 1), np.int64)}, "t of FILE must be whole numbers in one row"),
        ({"labels": [4, 9]}, "labels of FILE must be whole numbers in one row; got list"),
        ({"y": np.array([0, 1])}, "x, y, p and t of FILE must have one number per event; got {'x': 3, 'y': 2"),
        ({"offsets": np.array([0, 3])}, "offsets of FILE must be one more than its 2 labels; got 2"),
        ({"offsets": np.array([0, 2, 4])}, "offsets of FILE must rise from 0 to its 3 events; got 0 to 4$"),
        ({"offsets": np.array([1, 2, 3])}, "must rise from 0 to its 3 events; got 1 to 3$"),
        ({"offsets": np.array([0, 5, 3])}, "must rise from 0 to its 3 events; got 0 to 3, falling in between"),
    ],
)
def test_flat_arrays_that_do_not_fit(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        flat(**changed)


def test_an_empty_recording_is_told_by_its_place() -> None:
    with pytest.raises(DataError, match="recording 1 of FILE must have events; got none; leave it out"):
        flat(offsets=np.array([0, 3, 3]), t=np.array([1, 2, 3])).recording(1)


def test_counts_that_a_byte_cannot_hold() -> None:
    framed(recording(*[(0, 0, 0, 1)] * 255), Binning(10, 1), SENSOR)
    with pytest.raises(DataError, match="at most 255 events of a pixel; got 256 in recording 7; take narrower bins"):
        framed(recording(*[(0, 0, 0, 1)] * 256), Binning(10, 1), SENSOR)


def test_frames_that_take_too_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 2 * 3 * 2 * 3 * 4
    monkeypatch.setattr(events, "MOST_BYTES", size)
    assert frames_of(flat(), [0, 1], Binning(4, 3), SENSOR)[0].numel() == size
    with pytest.raises(
        DataError, match=r"frames of 2 recordings must take at most .* \(2, 4, 2, 3, 4\); take wider bins"
    ):
        frames_of(flat(), [0, 1], Binning(4, 4), SENSOR)


def test_events_that_happen_too_late_are_counted() -> None:
    frames, late = frames_of(flat(), [0, 1, 0], Binning(4, 2), SENSOR)
    assert (int(frames.sum()), late) == (3, 2)


def test_sizes_that_numbers_of_numpy_cannot_hold() -> None:
    """2^61 steps of 24 bytes are 0 in 64 bits."""
    with pytest.raises(DataError, match=r"must take at most 2 GiB; got \d+\.\d GiB"):
        frames_of(flat(), [0, 1], Binning(1, 2**61), SENSOR)
