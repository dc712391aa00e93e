"""``LocalOptions``: how layers learn locally in whole numbers; see :mod:`qsearch.training.integer_local`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qsearch.registry import PluginOptions
from qsearch.training.local_errors import LocalLoss
from qsearch.training.local_registers import MOST_BITS


class LocalOptions(PluginOptions):
    """How to train.

    Attributes:
        epochs: passes over the training data.
        batch_size: samples that learn at once.
        rate: what the largest gradient of a step moves its weight by, as a share of the range; the nearest power of two.
        halvings: how often the rate is halved, evenly over the epochs.
        burn_in: steps of each sample before anything is learnt or read, for traces to fill.
        stored_bits: weights are stored with, where theirs are fewer; they act with their own. None: with their own.
        error_bits: of errors and gradients.
        readout_bits: of the fixed readouts.
        constant_bits: of leaks, where the network has none.
        loss: of each layer's readout.
        start: from random weights, or from the network's own.
        gain: what random weights make of U at first: the root of its mean square, in thresholds, as near as powers of two come.
        membrane: α; if None the mean leak of the network's neurons, and 0.75 where there is none.
        synapse, refractory: β and γ.
        silence, activity: penalties of hidden neurons in a silent layer, and of those above rest, in shares of the largest
            error. The latter adds up over the positions that share a kernel.
        output: the last layer's local readout, summed over steps, or its spikes, counted.
    """

    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=32, ge=1)
    rate: float = Field(default=2**-5, ge=2**-8, le=0.5)
    halvings: int = Field(default=6, ge=0, le=6)
    burn_in: int = Field(default=2, ge=0)
    stored_bits: int | None = Field(default=None, ge=2, le=MOST_BITS)
    error_bits: int = Field(default=8, ge=2, le=MOST_BITS)
    readout_bits: int = Field(default=8, ge=2, le=MOST_BITS)
    constant_bits: int = Field(default=8, ge=1, le=MOST_BITS)
    loss: LocalLoss = "sse"
    start: Literal["random", "network"] = "random"
    gain: float = Field(default=2.0, gt=0)
    membrane: float | None = Field(default=None, ge=0, lt=1)
    synapse: float = Field(default=0.5, ge=0, lt=1)
    refractory: float = Field(default=0.5, ge=0, lt=1)
    silence: float = Field(default=1 / 32, ge=0, le=1)
    activity: float = Field(default=0.0, ge=0, le=1)
    output: Literal["readout", "spikes"] = "readout"
