"""Stages of a spiking network: a layer of synapses, the neurons behind it, and what lies between it and the stage before."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from qsearch.errors import DataError
from qsearch.spiking.network import SpikingNetwork
from qsearch.spiking.neurons import Integrator, Neuron, RecurrentNeuron
from qsearch.training.local_synapses import Synaptic

_PASSES = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
"""Spikes that go through them are still whole numbers."""


@dataclass(frozen=True)
class Stage:
    """A layer that learns locally.

    Attributes:
        between: pooling and the like that spikes go through first.
        synapses, module: name of the convolution or linear layer, and itself.
        neuron, neurons: name of the neurons behind it, and themselves; None of an output that is read as it is.
    """

    between: tuple[nn.Module, ...]
    synapses: str
    module: Synaptic
    neuron: str | None
    neurons: Integrator | None

    @property
    def threshold(self) -> Tensor | None:
        """θ; None where nothing spikes."""
        return self.neurons.threshold.weight.detach() if isinstance(self.neurons, Neuron) else None

    @property
    def leak(self) -> float | None:
        """The mean leak of the neurons; None where nothing leaks, or all is lost."""
        if self.neurons is None or self.neurons.leak is None:
            return None
        mean = float(self.neurons.leak.weight.detach().double().mean())
        return mean if 0 < mean < 1 else None


def stages_of(network: nn.Module) -> tuple[Stage, ...]:
    """The stages of a network, in order.

    Raises:
        DataError: it is no spiking network, a layer in it is of another kind, or has no neurons behind it and others after it.
    """
    if not isinstance(network, SpikingNetwork):
        raise DataError(
            "integer-only training needs a spiking network", got=type(network).__name__, fix="take a spiking workload"
        )
    found, between, waiting = list[Stage](), list[nn.Module](), None
    for name, module in network.named_children():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            if waiting is not None:
                raise _unknown(waiting[0], waiting[1], "no neurons behind it")
            waiting = (name, module)
        elif isinstance(module, Integrator) and not isinstance(module, RecurrentNeuron) and waiting is not None:
            found.append(Stage(tuple(between), *waiting, name, module))
            between, waiting = [], None
        elif waiting is None and _passes(module):
            between.append(module)
        else:
            raise _unknown(name, module, "no part of it")
    if waiting is not None and found:
        found.append(Stage(tuple(between), *waiting, None, None))
        between = []
    if not found or any(not isinstance(module, nn.Flatten | nn.Identity) for module in between):
        raise DataError("a network that learns locally must end in neurons or in a layer of synapses")
    return tuple(found)


def _passes(module: nn.Module) -> bool:
    if isinstance(module, nn.AvgPool2d | nn.AvgPool3d):
        return module.divisor_override == 1
    return isinstance(module, _PASSES)


def _unknown(name: str, module: nn.Module, why: str) -> DataError:
    return DataError(
        "a network that learns locally is made of convolutions or linear layers, each with neurons behind it, "
        "and of pooling that keeps spikes whole",
        got=f"{name!r}, a {type(module).__name__}: {why}",
        fix="pool by sums or maxima; fold batch-norms; leave recurrent connections out",
    )
