"""``dvs-gesture`` and ``shd``: gestures before an event camera, and spoken digits as a model of the ear hears them.

The data are read by tonic (GPL-3, an optional package) where the user has them; nothing is fetched. Both networks train
themselves on first use. The data do not come with the product, so no accuracy and no time of training is claimed for them.

Sources: A. Amir et al., *A low power, fully event-based gesture recognition system*, CVPR 2017 (11 classes, 1,077 and 264
recordings of 128×128 pixels); B. Cramer et al., *The Heidelberg spiking data sets for the systematic evaluation of spiking
neural networks*, 2020 (20 classes, 8,156 and 2,264 recordings of 700 channels).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Generator, Tensor, nn

from qsearch.models.spiking import convolutional, recurrent
from qsearch.workloads.base import Samples
from qsearch.workloads.event_workload import EventOptions, EventWorkload
from qsearch.workloads.events import Recording, RecordingSource, Sensor, checked_recording
from qsearch.workloads.files import data_roots
from qsearch.workloads.spiking_training import SpikingTrainedWorkload
from qsearch.workloads.trained import TrainedOptions
from qsearch.workloads.training import Recipe


@dataclass(frozen=True, eq=False)
class TonicRecordings:
    """Recordings of a data set of tonic's.

    Attributes:
        dataset: its items are (events with fields x, t, p and maybe y, class).
        labels: int64 (N,).
        order: places in the data set, (N,).
        sensor: what the events must lie within, once their places are divided by ``shrinking``.
    """

    dataset: Any
    labels: NDArray[np.int64]
    order: Sequence[int]
    sensor: Sensor
    shrinking: int = 1

    def recording(self, index: int) -> Recording:
        """One of them, in the order of time; see :class:`qsearch.workloads.events.RecordingSource`."""
        events, _ = self.dataset[self.order[index]]
        # tonic gives the events as they are stored and promises no order of time
        events = events[np.argsort(events["t"], kind="stable")]
        x, t = (events[field].astype(np.int64) for field in ("x", "t"))
        y = events["y"].astype(np.int64) if "y" in events.dtype.names else np.zeros_like(x)
        p = events["p"].astype(np.int64) if self.sensor.polarities > 1 else np.zeros_like(x)
        name = f"recording {index} of {self.dataset}"
        return checked_recording(Recording(name, x // self.shrinking, y // self.shrinking, p, t), self.sensor)


class TonicOptions(EventOptions, TrainedOptions):
    """Options of events and of training; all official training recordings train where ``train`` is None."""

    train: int | None = Field(default=None, ge=10)
    validation: int | None = Field(default=None, ge=10)
    test: int | None = Field(default=None, ge=10)


class TonicWorkload(EventWorkload, SpikingTrainedWorkload):
    """A workload on a data set of tonic's, which a folder ``data`` holds as tonic leaves it.

    Train: the official training recordings, some of which calibrate. Validation and test: halves of the official test
    recordings, by class with a fixed seed.

    Attributes:
        dataset: its name in tonic.
    """

    dataset: ClassVar[str]
    options: TonicOptions

    @abstractmethod
    def source(self, dataset: Any) -> RecordingSource:
        """Recordings of a data set that has been opened."""

    def recordings(self) -> tuple[RecordingSource, RecordingSource | None]:
        """Official training and test recordings.

        Raises:
            DataError: the folder does not hold them.
            PluginError: tonic is missing.
        """
        from qsearch.workloads.tonic_datasets import opened  # an optional package

        train, test = (self.source(opened(self.dataset, self._folder, train=train)) for train in (True, False))
        return train, test

    def lessons(self) -> Samples:
        """The training recordings."""
        assert self.splits.train is not None  # `load` of all workloads of events gives it
        return self.splits.train

    def judged(self) -> Samples:
        """The test recordings."""
        assert self.splits.test is not None
        return self.splits.test

    def augment(self, inputs: Tensor, generator: Generator) -> Tensor:
        """As they are: counts of events are not distorted."""
        return inputs

    @cached_property
    def _folder(self) -> Path:
        """The first folder that holds the data set's, else the first."""
        roots = data_roots(self.options.data)
        return next((root for root in roots if (root / self.dataset).is_dir()), roots[0])


class DvsGesture(TonicWorkload):
    """A convolutional network of leaky neurons on DVS128 Gesture, seen in coarser pixels."""

    name = "dvs-gesture"
    dataset = "DVSGesture"
    classes = 11
    bin_ms = 25
    duration_ms = 1500
    recipe: ClassVar[Recipe] = Recipe(
        epochs=30, batch_size=16, peak_rate=0.01, weight_decay=1e-4, rotation=0, scaling=0, shift=0
    )
    duration = "some minutes"
    widths: ClassVar[tuple[int, ...]] = (16, 32, 64)
    pixels: ClassVar[int] = 128

    class Options(TonicOptions):
        """Options of the workload, beside those of :class:`TonicOptions`.

        Attributes:
            shrinking: pixels of the sensor, along each side, that are seen as one.
        """

        shrinking: Literal[1, 2, 4, 8] = 4

    def __init__(self, options: Options) -> None:
        self.options: DvsGesture.Options = options
        side = self.pixels // options.shrinking
        self.sensor = Sensor(side, side)

    def source(self, dataset: Any) -> RecordingSource:
        """Recordings in coarser pixels, by the names of their files: tonic has them as the file system lists them."""
        order = sorted(range(len(dataset)), key=lambda index: Path(dataset.data[index]).parts)
        labels = np.asarray(dataset.targets, np.int64)[order]
        return TonicRecordings(dataset, labels, order, self.sensor, self.options.shrinking)

    def build(self) -> nn.Module:
        """See :func:`convolutional`."""
        polarities = 2 if self.options.polarity == "both" else 1
        extents = (self.sensor.height, self.sensor.width)
        return convolutional((polarities, *self.widths), extents, self.classes, stride=2)

    def architecture(self) -> Mapping[str, object]:
        """Its widths."""
        return {"widths": self.widths}


class SpokenDigits(TonicWorkload):
    """A recurrent network of leaky neurons on the Spiking Heidelberg Digits."""

    name = "shd"
    dataset = "SHD"
    classes = 20
    sensor = Sensor(height=1, width=700, polarities=1)
    bin_ms = 10
    duration_ms = 1400
    recipe: ClassVar[Recipe] = Recipe(
        epochs=30, batch_size=64, peak_rate=0.01, weight_decay=1e-4, rotation=0, scaling=0, shift=0
    )
    duration = "some minutes"
    neurons: ClassVar[int] = 128

    class Options(TonicOptions):
        """Options of the workload: those of :class:`TonicOptions`."""

    def __init__(self, options: Options) -> None:
        self.options: SpokenDigits.Options = options

    def source(self, dataset: Any) -> RecordingSource:
        """Recordings of 700 channels."""
        labels = [int(dataset[index][1]) for index in range(len(dataset))]
        return TonicRecordings(dataset, np.asarray(labels, np.int64), range(len(dataset)), self.sensor)

    def sample_shape(self, frames: tuple[int, int, int, int]) -> tuple[int, ...]:
        """(T, 700)."""
        return frames[0], frames[-1]

    def prepare(self, inputs: Tensor) -> Tensor:
        """uint8 (N, T, 1, 1, 700) → float (N, T, 700)."""
        return inputs.flatten(2).float()

    def build(self) -> nn.Module:
        """See :func:`recurrent`."""
        return recurrent(self.sensor.width, self.neurons, self.classes)

    def architecture(self) -> Mapping[str, object]:
        """Its neurons."""
        return {"neurons": self.neurons}
