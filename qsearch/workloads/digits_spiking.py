"""``digits-spiking``: a spiking network on scikit-learn's digits, coded in spikes; works offline, trains itself on first use.

Notation: a, grey value of a pixel within [0, 1]; T steps, k = 1 … T; S_k what the pixel gives in step k.

========  =====================================  ==============================================================
coding    S_k                                    in words
========  =====================================  ==============================================================
rate      ⌊k·a + ½⌋ − ⌊(k−1)·a + ½⌋              ⌊T·a + ½⌋ spikes, evenly spread: a neuron without a leak that
                                                 takes in a at each step, from half its threshold on
latency   1 at k = 1 + min(T − 1, ⌊(1−a)·T⌋)     one spike, the earlier the brighter; none where a = 0
direct    a                                      no spikes: the image at each step, coded by the first layer
========  =====================================  ==============================================================

Nothing is drawn at random, so an image is always the same train of spikes. Sources: rate and latency codes, E. O. Neftci,
H. Mostafa and F. Zenke, *Surrogate gradient learning in spiking neural networks*, 2019; direct input, G. Datta et al.,
arXiv 2107.11979.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from qsearch.models.spiking import convolutional
from qsearch.workloads.base import Samples, Splits
from qsearch.workloads.digit_images import CLASSES, SHAPE, TRAIN, DigitSplits, digit_splits
from qsearch.workloads.spiking_training import SpikingTrainedWorkload
from qsearch.workloads.trained import TrainedOptions
from qsearch.workloads.training import Recipe

Coding = Literal["rate", "latency", "direct"]


class DigitsSpiking(SpikingTrainedWorkload):
    """Convolutional network of leaky neurons on 8×8 digits."""

    name = "digits-spiking"
    classes = CLASSES
    batch_size = 200
    channels: ClassVar[tuple[int, ...]] = (1, 12, 24)
    recipe: ClassVar[Recipe] = Recipe(
        epochs=40, batch_size=50, peak_rate=0.01, weight_decay=1e-4, rotation=0, scaling=0, shift=0
    )
    duration = "about 10 seconds"

    class Options(TrainedOptions):
        """Options of the workload, beside those of :class:`TrainedOptions`.

        Attributes:
            coding: how images become spikes; see :mod:`qsearch.workloads.digits_spiking`.
            steps: T.
            calibration: calibration images, out of the training images.
        """

        coding: Coding = "rate"
        steps: int = Field(default=8, ge=1, le=10_000)
        calibration: int = Field(default=256, ge=10, le=TRAIN - 10)

    def __init__(self, options: Options) -> None:
        self.options: DigitsSpiking.Options = options
        self.input_shape = (options.steps, *SHAPE)

    def load(self) -> Splits:
        """The digits, split as those of ``digits-resnet``; images, which :meth:`prepare` codes."""
        return self._digits

    @cached_property
    def _digits(self) -> DigitSplits:
        return digit_splits(self.options.calibration)

    def prepare(self, inputs: Tensor) -> Tensor:
        """Images (N, 1, 8, 8) → (N, T, 1, 8, 8), coded as the options say."""
        return CODES[self.options.coding](inputs, self.options.steps)

    def build(self) -> nn.Module:
        """See :func:`convolutional`."""
        return convolutional(self.channels, SHAPE[1:], self.classes)

    def architecture(self) -> Mapping[str, object]:
        """Its channels, and what it sees."""
        return {"channels": self.channels, "coding": self.options.coding, "steps": self.options.steps}

    def lessons(self) -> Samples:
        """The training images."""
        return self._digits.train

    def judged(self) -> Samples:
        """The test images."""
        return self._digits.test

    def augment(self, inputs: Tensor, generator: Generator) -> Tensor:
        """As they are: what is shifted by parts of a pixel is no longer spikes."""
        return inputs


def rate(images: Tensor, steps: int) -> Tensor:
    """⌊T·a + ½⌋ spikes per pixel: (N, \\*S) → (N, T, \\*S)."""
    elapsed = torch.arange(steps + 1, dtype=images.dtype).view(1, -1, *[1] * (images.dim() - 1))
    return (elapsed * images.unsqueeze(1) + 0.5).floor().diff(dim=1)


def latency(images: Tensor, steps: int) -> Tensor:
    """One spike per pixel that is not black, the earlier the brighter: (N, \\*S) → (N, T, \\*S)."""
    when = ((1 - images) * steps).floor().clamp(max=steps - 1).unsqueeze(1)
    step = torch.arange(steps, dtype=images.dtype).view(1, -1, *[1] * (images.dim() - 1))
    return ((step == when) & (images.unsqueeze(1) > 0)).to(images.dtype)


def direct(images: Tensor, steps: int) -> Tensor:
    """The image at each step: (N, \\*S) → (N, T, \\*S)."""
    return images.unsqueeze(1).repeat_interleave(steps, dim=1)


CODES: Mapping[Coding, Callable[[Tensor, int], Tensor]] = {"rate": rate, "latency": latency, "direct": direct}
