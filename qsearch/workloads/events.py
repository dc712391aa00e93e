"""Recordings of event sensors, and their frames: events counted in bins of time.

Notation, for one recording of E events; the sensor has W columns, H rows and P polarities:

=======  ==================================================================================
x, y     column 0 … W − 1 and row 0 … H − 1 of an event
p        its polarity: 0 for darker, 1 for brighter
t        when it happened, in µs since the recording began; never falling
Δt       width of a bin, in µs
T        bins of a recording, the steps of a spiking network
=======  ==================================================================================

Bin k holds the events of k·Δt ≤ t < (k+1)·Δt. Events at or after T·Δt are left out, whatever comes of that. A frame counts
events, it does not tell whether there was one: uint8 (T, P, H, W), or (T, 1, H, W) where the polarities are merged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qsearch.errors import DataError

Polarity = Literal["both", "merged"]

GREATEST_COUNT = 255
"""Events in a bin that a frame can hold."""
MOST_BYTES = 2 * 2**30
"""Of the frames of a split: a loader makes four times as many of them, in float."""
US_PER_MS, US_PER_S = 1000, 1_000_000


@dataclass(frozen=True)
class Sensor:
    """Extents of a sensor: H, W and P of the module."""

    height: int
    width: int
    polarities: int = 2


@dataclass(frozen=True, eq=False)
class Recording:
    """One recording: whole numbers x, y, p and t of the module, each of shape (E,).

    Attributes:
        name: what messages call it.
    """

    name: str
    x: NDArray[Any]
    y: NDArray[Any]
    p: NDArray[Any]
    t: NDArray[Any]


class RecordingSource(Protocol):
    """Recordings that can be read one by one, once their labels are known."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each, shape (N,)."""
        ...

    def recording(self, index: int) -> Recording:
        """One of them.

        Raises:
            DataError: it cannot be read, or is malformed.
        """
        ...


@dataclass(frozen=True, eq=False)
class Recordings:
    """N recordings in flat arrays, one after another.

    Attributes:
        name: where they come from, for messages.
        x, y, p, t: of all events, whole numbers; t in µs since the recording began.
        offsets: recording i has the events offsets[i] … offsets[i+1] − 1; shape (N + 1,).
        labels: class of each, whole numbers of shape (N,).
        sensor: what the events must lie within.

    Raises:
        DataError: arrays that are not whole numbers of one shape, offsets that do not fit them. Events are checked as
            they are read.
    """

    name: str
    x: NDArray[Any]
    y: NDArray[Any]
    p: NDArray[Any]
    t: NDArray[Any]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    sensor: Sensor

    def __post_init__(self) -> None:
        for name, values in (*self._events(), ("offsets", self.offsets), ("labels", self.labels)):
            check_whole(f"{name} of {self.name}", values)
        counts = {name: len(values) for name, values in self._events()}
        if len(set(counts.values())) > 1:
            raise DataError(f"x, y, p and t of {self.name} must have one number per event", got=str(counts))
        if len(self.offsets) != len(self.labels) + 1:
            raise DataError(
                f"offsets of {self.name} must be one more than its {len(self.labels)} labels", got=len(self.offsets)
            )
        rising = bool((np.diff(self.offsets.astype(np.int64)) >= 0).all())
        if not rising or self.offsets[0] != 0 or self.offsets[-1] != len(self.x):
            raise DataError(
                f"offsets of {self.name} must rise from 0 to its {len(self.x)} events",
                got=f"{self.offsets[0]} to {self.offsets[-1]}" + ("" if rising else ", falling in between"),
            )

    def recording(self, index: int) -> Recording:
        """One of them; see :class:`RecordingSource`."""
        part = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        events = (values[part] for _, values in self._events())
        return checked_recording(Recording(f"recording {index} of {self.name}", *events), self.sensor)

    def _events(self) -> tuple[tuple[str, NDArray[Any]], ...]:
        return ("x", self.x), ("y", self.y), ("p", self.p), ("t", self.t)


def check_whole(what: str, values: Any) -> None:
    """Raise DataError unless ``values`` is an array of whole numbers in one row."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iu" or values.ndim != 1:
        got = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise DataError(f"{what} must be whole numbers in one row", got=got)


def checked_recording(recording: Recording, sensor: Sensor) -> Recording:
    """The recording, if it is one.

    Raises:
        DataError: no events, events outside the sensor, times below 0 or falling.
    """
    if not len(recording.t):
        raise DataError(f"{recording.name} must have events", got="none", fix="leave it out")
    bounds = (
        ("x", recording.x, sensor.width),
        ("y", recording.y, sensor.height),
        ("p", recording.p, sensor.polarities),
    )
    for name, values, extent in bounds:
        outside = np.flatnonzero((values < 0) | (values >= extent))
        if len(outside):
            first = int(outside[0])
            raise DataError(
                f"events of {recording.name} must lie within the sensor: {name} within 0..{extent - 1}",
                got=f"{name} = {values[first]} at event {first}",
            )
    falling = np.flatnonzero(recording.t[1:] < recording.t[:-1])
    if len(falling):
        at = int(falling[0]) + 1
        raise DataError(
            f"times of {recording.name} must not fall",
            got=f"{recording.t[at]} µs after {recording.t[at - 1]} µs at event {at}",
            fix="sort its events by time",
        )
    if recording.t[0] < 0:
        raise DataError(f"times of {recording.name} must be at least 0", got=f"{recording.t[0]} µs")
    return recording


@dataclass(frozen=True)
class Binning:
    """How events become frames.

    Attributes:
        width: Δt.
        steps: T.
        polarity: "both" keeps them apart, "merged" counts them together.
    """

    width: int
    steps: int
    polarity: Polarity = "both"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise DataError("a recording must have at least 1 time step", got=self.steps)
        if self.width < 1:
            raise DataError("a bin must be at least 1 µs wide", got=f"{self.width} µs")

    def shape(self, sensor: Sensor) -> tuple[int, int, int, int]:
        """(T, P, H, W) of the frames."""
        return self.steps, sensor.polarities if self.polarity == "both" else 1, sensor.height, sensor.width


def chosen_binning(
    duration: int, polarity: Polarity, *, bin_ms: float | None = None, steps: int | None = None
) -> Binning:
    """Bins of a given width, as many as cover the duration; or so many steps, of a width that does.

    Args:
        duration: in µs.

    Raises:
        DataError: both are given, or neither.
    """
    if steps is not None and bin_ms is None:
        return Binning(-(-duration // max(steps, 1)), steps, polarity)
    if bin_ms is None or steps is not None:
        raise DataError("either 'steps' or 'bin_ms' must say how time is binned", got=f"{steps=}, {bin_ms=}")
    width = round(bin_ms * US_PER_MS)
    return Binning(width, -(-duration // max(width, 1)), polarity)


def framed(recording: Recording, binning: Binning, sensor: Sensor) -> NDArray[np.uint8]:
    """Frames of one recording: events counted, shape (T, P, H, W).

    Raises:
        DataError: no event lies within the T bins, or a count is above 255.
    """
    shape = binning.shape(sensor)
    events = int(np.searchsorted(recording.t, binning.steps * binning.width))  # times do not fall
    if not events:
        raise DataError(
            f"{recording.name} must have an event within the first {binning.steps * binning.width / US_PER_MS:g} ms",
            got=f"the first at {recording.t[0]} µs",
            fix="raise the option 'duration_ms'",
        )
    step = recording.t[:events].astype(np.int64) // binning.width
    polarity = recording.p[:events].astype(np.int64) if binning.polarity == "both" else np.zeros(events, np.int64)
    place = np.ravel_multi_index((step, polarity, recording.y[:events], recording.x[:events]), shape)
    counts = np.bincount(place, minlength=math.prod(shape))
    if counts.max() > GREATEST_COUNT:
        raise DataError(
            f"a bin must hold at most {GREATEST_COUNT} events of a pixel",
            got=f"{counts.max()} in {recording.name}",
            fix="take narrower bins (option 'bin_ms' or 'steps')",
        )
    return counts.astype(np.uint8).reshape(shape)


def frames_of(
    source: RecordingSource, chosen: Sequence[int] | NDArray[np.int64], binning: Binning, sensor: Sensor
) -> tuple[Tensor, int]:
    """Frames of the chosen recordings, uint8 (N, T, P, H, W), and how many of their events happen too late for them.

    Raises:
        DataError: they would take more memory than is reasonable; see :func:`framed` for the others.
    """
    shape = (len(chosen), *binning.shape(sensor))
    size = math.prod(shape)
    if size > MOST_BYTES:
        raise DataError(
            f"frames of {len(chosen)} recordings must take at most {MOST_BYTES / 2**30:g} GiB",
            got=f"{size / 2**30:.1f} GiB for shape {shape}",
            fix="take wider bins or a shorter duration, or fewer recordings",
        )
    found, events = np.zeros(shape, np.uint8), 0
    for row, index in enumerate(chosen):
        recording = source.recording(int(index))
        found[row] = framed(recording, binning, sensor)
        events += len(recording.t)
    return torch.from_numpy(found), events - int(found.sum(dtype=np.int64))
