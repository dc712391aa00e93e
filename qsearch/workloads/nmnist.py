"""``nmnist``: a trained spiking network on recordings of a real event camera, MNIST's digits shown to it in three saccades.

Data: see :mod:`qsearch.workloads.event_files`. The 1,000 recordings of the archive come undivided: 400 train, of which 100
calibrate, 300 validate and 300 test, by class with a fixed seed; with the folders Train and Test, as many of the official
training recordings, and of the official test recordings. The last event of the archive is at 315.1 ms: 32 bins of 10 ms,
which are the default, hold all.

Network: ``cnn_sinabs.nir`` of github neuromorphs/NIR, 39,584 weights, integrate-and-fire. The tool that it was trained with
resets by subtraction and lets neurons spike several times in a step, and so does the default here; NIR does not say. Its
outputs are spikes per step: as logits, counts of up to a thousand would be sure of every mistake.
"""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field
from torch import nn

from qsearch.errors import DataError
from qsearch.spiking.neurons import Reset
from qsearch.workloads.event_files import CLASSES, SENSOR, nmnist_places, read_nmnist
from qsearch.workloads.event_workload import EventOptions, EventWorkload
from qsearch.workloads.events import US_PER_S, Binning, RecordingSource
from qsearch.workloads.files import data_roots, find, warn_unless_published

NETWORK = "cnn_sinabs.nir"
DIGESTS = {NETWORK: "e2fa55bda7aab5a772485e1b690358bcb825b303eca7dc426e3973937fcb5bcb"}
"""SHA-256."""


class Nmnist(EventWorkload):
    """N-MNIST, with a public network from a data folder or a NIR file of the user's own."""

    name = "nmnist"
    classes = CLASSES
    sensor = SENSOR
    bin_ms = 10
    duration_ms = 320

    class Options(EventOptions):
        """Options of the workload, beside those of :class:`EventOptions`.

        Attributes:
            network: a NIR file instead of the public one; it takes frames (2, 34, 34), or (1, 34, 34) of merged polarities.
            reset: what a spike leaves of a state, which NIR does not say: the state less its threshold, or zero.
            several: whether a neuron may spike several times in a step.
            step: Δt of a network whose neurons leak, in the unit of the file's time constants, which NIR has in seconds;
                what the file says if None, else the width of a bin. A file of snntorch's is one of 10⁻⁴, and says not.
        """

        network: Path | None = None
        reset: Reset = "subtract"
        several: bool = True
        step: float | None = Field(default=None, gt=0, le=1e9)

    def __init__(self, options: Options) -> None:
        self.options: Nmnist.Options = options

    def recordings(self) -> tuple[RecordingSource, RecordingSource | None]:
        """See :func:`read_nmnist`."""
        return read_nmnist(nmnist_places(data_roots(self.options.data)))

    def network(self) -> nn.Module:
        """The option's network, else the public one.

        Raises:
            DataError: it is missing, cannot be read, or does not take the frames or give 10 classes.
            PluginError: the package that reads NIR files is missing.
        """
        from qsearch.spiking.nir_files import read_network  # an optional package

        path = self._public() if self.options.network is None else self.options.network.expanduser()
        network = read_network(
            path,
            reset=self.options.reset,
            several=self.options.several,
            readout="mean",
            step=self.options.step,
            unsaid=self.binning.width / US_PER_S,
        )
        self._check_fits(network, path)
        return network

    def _check_fits(self, network: nn.Module, path: Path) -> None:
        one_step = Binning(width=1, steps=1, polarity=self.options.polarity)
        frames = torch.zeros(1, *one_step.shape(self.sensor))
        try:
            with torch.no_grad():
                shape = tuple(network(frames).shape)
        except RuntimeError as error:
            raise DataError(
                f"{path} must take frames of shape {tuple(frames.shape[2:])}",
                got=str(error),
                fix="the option 'polarity' says how many channels they have",
            ) from error
        if shape != (1, self.classes):
            raise DataError(f"{path} must give {self.classes} numbers for a recording", got=shape[1:])

    def _public(self) -> Path:
        folders = nmnist_places(data_roots(self.options.data))
        found = find(NETWORK, folders)
        if found is None:
            raise DataError(
                f"the trained network {NETWORK} must be in a data folder",
                got=f"none in {', '.join(map(str, folders))}",
                fix="fetch it from github neuromorphs/NIR, put it where the recordings are (option 'data' or QSEARCH_DATA), "
                "or name a NIR file by the option 'network'",
            )
        warn_unless_published(found, DIGESTS)
        return found
