"""``SpikingGraph``: a spiking network whose layers branch and join; a layer takes the sum of what reaches it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import reduce

from torch import Tensor, nn

from qsearch.errors import DataError
from qsearch.spiking.network import Readout, SpikingNetwork, over_time, read_out

INPUT = ""
"""Stands for the network's input among what a layer reads; no layer can have this name."""

Sources = Mapping[str, tuple[str, ...]]
"""What layers read: names of layers before them, or :data:`INPUT`."""


class SpikingGraph(SpikingNetwork):
    """Layers of a feed-forward graph: (B, T, \\*S) → (B, C).

    Args:
        layers: by name, each after all that it reads.
        sources: what each of them reads; several are added.
        outputs: the layers whose outputs, added, are read out.
        readout: see :class:`~qsearch.spiking.network.SpikingNetwork`.

    Raises:
        DataError: a layer that reads what is not before it.
    """

    def __init__(
        self, layers: OrderedDict[str, nn.Module], sources: Sources, outputs: tuple[str, ...], readout: Readout = "sum"
    ) -> None:
        super().__init__(layers, readout)
        self.sources, self.outputs = dict(sources), outputs
        before = {INPUT}
        for name in layers:
            if not self.sources.get(name) or not before.issuperset(self.sources[name]):
                raise DataError(f"layer {name!r} must read layers before it", got=self.sources.get(name))
            before.add(name)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs (B, C) of inputs (B, T, \\*S).

        Raises:
            DataError: no step.
        """
        if inputs.dim() < 3 or inputs.shape[1] < 1:
            raise DataError("a spiking network takes inputs of shape (B, T, …), T ≥ 1", got=tuple(inputs.shape))
        found = {INPUT: inputs}
        for name, module in self.named_children():
            found[name] = over_time(module, total(found, self.sources[name]))
        return read_out(total(found, self.outputs), self.readout)


def total(found: Mapping[str, Tensor], names: tuple[str, ...]) -> Tensor:
    """The sum of the named."""
    return reduce(Tensor.add, [found[name] for name in names])


def wired(
    layers: OrderedDict[str, nn.Module], sources: Sources, outputs: tuple[str, ...], readout: Readout
) -> SpikingNetwork:
    """Layers as a :class:`SpikingNetwork` where they stand in a row, as a :class:`SpikingGraph` where they do not."""
    names = list(layers)
    row = all(sources[name] == (before,) for before, name in zip([INPUT, *names], names, strict=False))
    if row and outputs == (names[-1],):
        return SpikingNetwork(layers, readout)
    return SpikingGraph(layers, sources, outputs, readout)


def wiring(network: SpikingNetwork) -> tuple[Sources, tuple[str, ...]]:
    """What each layer of a network reads, and the layers that are read out."""
    if isinstance(network, SpikingGraph):
        return network.sources, network.outputs
    names = [name for name, _ in network.named_children()]
    return {name: (before,) for before, name in zip([INPUT, *names], names, strict=False)}, (names[-1],)
