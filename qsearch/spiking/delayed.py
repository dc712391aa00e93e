"""Neurons whose reset by subtraction waits for the next step, as that of snntorch's does.

In the notation of :mod:`qsearch.spiking.neurons`::

    u_t = λ·u_{t−1} − θ·S_{t−1} + x_t           beside   λ·(u_{t−1} − θ·S_{t−1}) + x_t   of a reset at once

The difference, −(1 − λ)·θ·S_{t−1}, is what these neurons feed back to themselves; without a leak there is none. In fixed
point it is rounded, like every current.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qsearch.errors import ConfigError
from qsearch.spiking.fixed_point import rounded
from qsearch.spiking.neurons import Neuron, RecurrentNeuron


class DelayedNeuron(Neuron):
    """A :class:`~qsearch.spiking.neurons.Neuron` whose threshold is subtracted after the next step's leak.

    Raises:
        ConfigError, DataError: as that one; a reset to zero.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.reset != "subtract":
            raise ConfigError("only a reset by subtraction can wait for the next step", got=f"reset {self.reset!r}")

    def _received(self, current: Tensor, sent: Tensor, dtype: torch.dtype) -> Tensor:
        received = super()._received(current, sent, dtype)
        if self.leak is None:
            return received
        leak = self.leak.weight.to(dtype)
        kept = leak if self.grids.leak is None else self.grids.leak.values(leak)
        owed = (1 - kept) * self._threshold(dtype)
        return received - (owed if self.grids.state is None else rounded(owed)) * sent.to(dtype)


class DelayedRecurrentNeuron(DelayedNeuron, RecurrentNeuron):
    """A :class:`~qsearch.spiking.neurons.RecurrentNeuron` whose threshold is subtracted after the next step's leak."""
