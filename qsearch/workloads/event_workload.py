"""``EventWorkload``: a workload whose samples are recordings of events, binned in time. See :mod:`qsearch.workloads.events`."""

from __future__ import annotations

import logging
from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from qsearch.errors import DataError
from qsearch.registry import PluginOptions
from qsearch.workloads.base import ArrayWorkload, Samples, Splits
from qsearch.workloads.division import Indices, divide
from qsearch.workloads.events import (
    US_PER_MS,
    Binning,
    Polarity,
    RecordingSource,
    Sensor,
    chosen_binning,
    frames_of,
)

log = logging.getLogger(__name__)

MOST_MS = 1e9
"""Of a bin or a recording: eleven days, so that times in µs are numbers."""


class EventOptions(PluginOptions):
    """Options of every workload of events.

    Attributes:
        data: folder with the recordings; where None, ``QSEARCH_DATA`` or the platform's data folder.
        bin_ms: width of a bin in time; the workload's own where neither it nor ``steps`` is given.
        steps: bins, instead of their width.
        duration_ms: what is binned of a recording, rounded up to whole bins; what happens later is left out. The
            workload's own where None, and a warning where that leaves events out.
        polarity: "both" gives a channel to each, "merged" counts them together in one.
        calibration: recordings that calibrate, out of those that train.
        train, validation, test: recordings of each split, by class; all that are left where None.
    """

    data: Path | None = None
    bin_ms: float | None = Field(default=None, gt=0, le=MOST_MS)
    steps: int | None = Field(default=None, ge=1, le=1_000_000)
    duration_ms: float | None = Field(default=None, gt=0, le=MOST_MS)
    polarity: Polarity = "both"
    calibration: int = Field(default=100, ge=10)
    train: int | None = Field(default=400, ge=10)
    validation: int | None = Field(default=300, ge=10)
    test: int | None = Field(default=300, ge=10)


class EventWorkload(ArrayWorkload):
    """A workload of events; a subclass gives the recordings and the network.

    Splits are drawn by class with a fixed seed. Where the data come with a test set of their own, that is shared out to
    validation and test; where they do not, all splits come from what there is. Frames are kept as uint8, and become float
    as a loader is made.

    Attributes:
        sensor: extents of what is seen.
        bin_ms: width of a bin where no option says.
        duration_ms: what is binned where no option says; known beforehand, as recordings to judge by must not decide it.
        batch_size: small, as a sample has many steps.
    """

    sensor: Sensor
    bin_ms: ClassVar[float]
    duration_ms: ClassVar[float]
    batch_size = 50
    options: EventOptions

    @abstractmethod
    def recordings(self) -> tuple[RecordingSource, RecordingSource | None]:
        """Recordings to train on and recordings to judge by; all, and None, where nobody has divided them."""

    @cached_property
    def sources(self) -> tuple[RecordingSource, RecordingSource | None]:
        """See :meth:`recordings`; asked for once."""
        return self.recordings()

    def load(self) -> Splits:
        """Frames of each split, uint8 (N, T, P, H, W)."""
        train, validation, test = self._shares
        calibration, _ = divide(train, self.sources[0].labels, self.options.calibration)
        self.input_shape = self.sample_shape(self.binning.shape(self.sensor))
        parts = ((self.sources[0], train), (self._judging, validation), (self._judging, test))
        (taught, validated, tested), late = zip(*(self._samples(*part) for part in parts), strict=True)
        if any(late) and self.options.duration_ms is None:
            log.warning(
                "%d events of %s happen after %g ms and are left out; the option 'duration_ms' says how much is seen",
                sum(late),
                self.name,
                self.binning.steps * self.binning.width / US_PER_MS,
            )
        chosen = torch.from_numpy(np.searchsorted(train, calibration))
        return Splits(taught.take(chosen), validated, tested, taught)

    def sample_shape(self, frames: tuple[int, int, int, int]) -> tuple[int, ...]:
        """Shape of a prepared input, of that of its frames (T, P, H, W); here the same."""
        return frames

    def prepare(self, inputs: Tensor) -> Tensor:
        """uint8 → float."""
        return inputs.float()

    @cached_property
    def binning(self) -> Binning:
        """As the options say."""
        options = self.options
        width = self.bin_ms if options.bin_ms is None and options.steps is None else options.bin_ms
        duration = self.duration_ms if options.duration_ms is None else options.duration_ms
        return chosen_binning(round(duration * US_PER_MS), options.polarity, bin_ms=width, steps=options.steps)

    @property
    def _judging(self) -> RecordingSource:
        """What validation and test come from."""
        train, judging = self.sources
        return train if judging is None else judging

    @cached_property
    def _shares(self) -> tuple[Indices, Indices, Indices]:
        """Places of the splits train, validation and test, each in the source that it comes from."""
        train, judging = self.sources
        options = self.options
        places = np.arange(len(train.labels))
        if judging is None:
            if options.train is None or options.validation is None:
                raise DataError(
                    f"recordings of {self.name!r} come undivided, so 'train' and 'validation' must be numbers",
                    got=f"train={options.train}, validation={options.validation}",
                )
            taught, rest = divide(places, train.labels, options.train)
            return taught, *divide(rest, train.labels, options.validation, options.test)
        taught = places if options.train is None else divide(places, train.labels, options.train)[0]
        there = np.arange(len(judging.labels))
        asked = len(there) // 2 if options.validation is None else options.validation
        return taught, *divide(there, judging.labels, asked, options.test)

    def _samples(self, source: RecordingSource, chosen: Indices) -> tuple[Samples, int]:
        """The chosen recordings, and how many of their events are left out."""
        labels: NDArray[np.int64] = source.labels[chosen].astype(np.int64)
        frames, late = frames_of(source, chosen, self.binning, self.sensor)
        return Samples(frames, torch.from_numpy(labels)), late
