"""``SpikingNetwork``: layers without a state, which see all steps at once, and neurons, which go through them.

Notation: B samples of T steps; a feed-forward network may run layer by layer, each on all steps, and gives what it gives
step by step.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, get_args

from torch import Tensor, nn

from qsearch.errors import DataError
from qsearch.spiking.neurons import Integrator, check_name

Readout = Literal["sum", "mean", "last", "greatest"]


class SpikingNetwork(nn.Sequential):
    """Layers in a row: (B, T, \\*S) → (B, C).

    Args:
        layers: by name. Neurons see (B, T, …); all others (B·T, …), as if each step were a sample.
        readout: how the last layer's (B, T, C) become (B, C): spikes counted ("sum"), or states as they are averaged
            ("mean"), at the end ("last"), or at their greatest.

    Raises:
        ConfigError: an unknown readout.
        DataError: neurons within a layer, which would take samples for steps.
    """

    def __init__(self, layers: OrderedDict[str, nn.Module], readout: Readout = "sum") -> None:
        super().__init__(layers)
        self.readout: Readout = readout
        check_name("readout", readout, get_args(Readout))
        for name, layer in layers.items():
            within = any(isinstance(module, Integrator) for module in layer.modules())
            if within and not isinstance(layer, Integrator):
                raise DataError("neurons must be layers of a spiking network themselves", got=f"some within {name!r}")

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs (B, C) of inputs (B, T, \\*S).

        Raises:
            DataError: no step.
        """
        if inputs.dim() < 3 or inputs.shape[1] < 1:
            raise DataError("a spiking network takes inputs of shape (B, T, …), T ≥ 1", got=tuple(inputs.shape))
        found = inputs
        for module in self:
            found = over_time(module, found)
        return read_out(found, self.readout)


def over_time(module: nn.Module, x: Tensor) -> Tensor:
    """A layer's output on all steps: (B, T, …) → (B, T, …)."""
    found: Tensor
    if isinstance(module, Integrator):
        found = module(x)
        return found
    found = module(x.flatten(0, 1))
    return found.reshape(*x.shape[:2], *found.shape[1:])


def read_out(found: Tensor, readout: Readout) -> Tensor:
    """(B, T, …) → (B, …)."""
    if readout == "sum":
        return found.sum(1)
    if readout == "mean":
        return found.mean(1)
    return found[:, -1] if readout == "last" else found.amax(1)


def sum_pool(kernel: int | tuple[int, int], stride: int | tuple[int, int] | None = None) -> nn.AvgPool2d:
    """Sums over windows: spikes stay whole numbers, so that pooling only passes them on."""
    return nn.AvgPool2d(kernel, stride, divisor_override=1)
