r"""``DirectSpikingNetwork``: a spiking network that is given the same input in each of its steps.

Notation: B samples of shape S; T steps.

What stands before the first neurons keeps no state and sees the same at each step, so it runs once, on (B, \*S), and its
currents go into all T steps.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from qsearch.errors import ConfigError
from qsearch.spiking.network import Readout, SpikingNetwork, over_time, read_out
from qsearch.spiking.neurons import Integrator


class DirectSpikingNetwork(SpikingNetwork):
    r"""Layers in a row, the input repeated: (B, \*S) → (B, C).

    Args:
        layers: as of :class:`SpikingNetwork`, neurons among them.
        steps: T.
        readout: as of :class:`SpikingNetwork`.

    Raises:
        ConfigError: no step.
    """

    def __init__(self, layers: OrderedDict[str, nn.Module], steps: int, readout: Readout = "sum") -> None:
        super().__init__(layers, readout)
        if steps < 1:
            raise ConfigError("a spiking network needs at least one step", got=steps)
        self.steps = steps

    def forward(self, inputs: Tensor) -> Tensor:
        r"""Outputs (B, C) of inputs (B, \*S)."""
        found, repeated = inputs, False
        for module in self:
            if isinstance(module, Integrator) and not repeated:
                found = found.unsqueeze(1).expand(-1, self.steps, *found.shape[1:])
                repeated = True
            found = over_time(module, found) if repeated else module(found)
        return read_out(found, self.readout)
