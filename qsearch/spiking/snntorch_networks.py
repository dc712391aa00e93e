"""``from_snntorch``: a network of snntorch as one of ours, spike for spike.

Of the libraries that train spiking networks, snntorch is the one that is supported: it is MIT, light and kept up; what others
train comes as NIR. The neurons are our own because none of them computes in fixed point.

Notation of :mod:`qsearch.spiking.neurons`. What snntorch's neurons compute (version 1.0), and what they become:

=========================  ======================================  ==================================================
reset                      snntorch                                here
=========================  ======================================  ==================================================
subtract (its default)     u_t = β·u_{t−1} + x_t − θ·S_{t−1}       :class:`~qsearch.spiking.delayed.DelayedNeuron`
subtract, not delayed      u_t ← u_t − θ·S_t                       ``Neuron(reset="subtract")``
zero, Leaky                u_{t−1} ← 0 where S_{t−1}               ``Neuron(reset="zero")``
zero, not delayed          u_t ← 0 where S_t                       ``Neuron(reset="zero")``
zero, delayed, of others   u_t ← 0, with x_t, where S_{t−1}        refused
none                                                               refused
=========================  ======================================  ==================================================

Two things differ by design. snntorch spikes where u > θ, we where u ≥ θ. And where a state is above its threshold even after
a subtraction that was not delayed, snntorch subtracts another before it compares again; we do not.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qsearch.errors import DataError, PluginError
from qsearch.spiking.assembly import Assembly, absorb, constant
from qsearch.spiking.chain import fold
from qsearch.spiking.delayed import DelayedNeuron, DelayedRecurrentNeuron
from qsearch.spiking.graph import INPUT, wired
from qsearch.spiking.network import Readout, SpikingNetwork
from qsearch.spiking.neurons import Integrator, Neuron, RecurrentNeuron
from qsearch.spiking.pooling import summed
from qsearch.spiking.rescale import Rescale, Weighted

try:
    import snntorch
except ImportError as error:
    raise PluginError("networks of snntorch need the package snntorch", fix="pip install 'qsearch[spiking]'") from error

Parts = list[tuple[str, nn.Module]]
KEPT = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.MaxPool2d, nn.Flatten)
LEFT_OUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Identity)
NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d)


def from_snntorch(network: nn.Sequential, readout: Readout = "sum") -> SpikingNetwork:
    """A network of snntorch, (B, T, \\*S) → (B, C), its parameters copied.

    Batch normalisations go into the weights before them, as they are in evaluation; means of pooled spikes into those
    behind; dropout goes. What neurons learn (betas, thresholds) is taken as it is learnt.

    Args:
        network: linear layers, convolutions, pooling, flattening, normalisation, dropout, and the neurons Leaky, Lapicque,
            Synaptic and RLeaky; its layers keep their names.
        readout: see :class:`~qsearch.spiking.network.SpikingNetwork`.

    Raises:
        DataError: a layer, or an option of a neuron, that has no counterpart; names the layer.
    """
    found = Assembly(OrderedDict(), {}, (INPUT,))
    for name, module in network.named_children():
        if isinstance(module, NORMALISATIONS):
            _take_in(found, name, module)
            continue
        for suffix, part in _parts(name, module):
            found.modules[name + suffix], found.sources[name + suffix] = part, found.outputs
            found.outputs = (name + suffix,)
    absorb(found)
    if not found.modules:
        raise DataError("a network of snntorch must have layers", got="none")
    return wired(found.modules, found.sources, found.outputs, readout)


def _parts(name: str, module: nn.Module) -> Parts:
    """What a layer becomes."""
    if isinstance(module, LEFT_OUT):
        return []
    if isinstance(module, KEPT):
        return [("", copy.deepcopy(module))]
    if isinstance(module, nn.AvgPool2d):
        return _pooled(module)
    make = _NEURONS.get(type(module))
    if make is None:
        known = sorted(kind.__name__ for kind in (*KEPT, *LEFT_OUT, *NORMALISATIONS, nn.AvgPool2d, *_NEURONS))
        raise DataError(
            f"layer {name!r} must be one that can be converted",
            got=type(module).__name__,
            fix=f"known: {', '.join(known)}",
        )
    _check_options(name, module)
    return make(module)


def _take_in(found: Assembly, name: str, module: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    """Have the weights before a normalisation take it in."""
    layer = found.modules.get(found.outputs[0])
    if not isinstance(layer, Weighted) or module.running_mean is None:
        raise DataError(
            f"normalisation {name!r} must stand behind a weight, with statistics of its own",
            got=type(layer).__name__ if module.running_mean is not None else "no running statistics",
        )
    fold(layer, module)


def _pooled(module: nn.AvgPool2d) -> Parts:
    """Sums, and what makes means of them."""
    pool = copy.deepcopy(module)
    divisor = summed(pool)
    return [("", pool)] if divisor is None else [("", pool), ("_mean", Rescale(1 / divisor))]


def _check_options(name: str, module: Any) -> None:
    """Raise where a neuron does what ours do not."""
    refused = {
        "inhibition": bool(module.inhibition),
        "state_quant": bool(module.state_quant),
        "graded_spikes_factor other than 1": bool((module.graded_spikes_factor != 1).any()),
        "reset_mechanism 'none'": module.reset_mechanism == "none",
        "a reset to zero that is delayed and takes the step's current along (reset_delay=False is not)": (
            module.reset_mechanism == "zero" and _delayed(module) and not isinstance(module, snntorch.Leaky)
        ),
    }
    for told, found in refused.items():
        if found:
            raise DataError(f"neuron {name!r} of type {type(module).__name__} must have a counterpart", got=told)


def _delayed(module: Any) -> bool:
    """Whether a reset waits for the next step; Lapicque's always does."""
    return bool(getattr(module, "reset_delay", True))


def _neuron(module: Any, leak: Tensor | float | None) -> Neuron:
    waits = module.reset_mechanism == "subtract" and _delayed(module) and leak is not None
    return (DelayedNeuron if waits else Neuron)(_constant(module.threshold), leak, reset=module.reset_mechanism)


def _leaky(module: Any) -> Parts:
    return [("", _neuron(module, _leak(module.beta)))]


def _synaptic(module: Any) -> Parts:
    return [("_synapse", Integrator(_leak(module.alpha))), ("", _neuron(module, _leak(module.beta)))]


def _lapicque(module: Any) -> Parts:
    """u_t = (1 − Δt/(R·C))·u_{t−1} + Δt/C·x_t."""
    leak = 1 - module.time_step / (module.R * module.C)
    return [("_input", Rescale(_constant(module.time_step / module.C))), ("", _neuron(module, _leak(leak)))]


def _rleaky(module: Any) -> Parts:
    leak = _leak(module.beta)
    layer = copy.deepcopy(module.recurrent) if module.all_to_all else _one_to_one(module.V)
    waits = module.reset_mechanism == "subtract" and _delayed(module) and leak is not None
    kind = DelayedRecurrentNeuron if waits else RecurrentNeuron
    return [("", kind(layer, _constant(module.threshold), leak, reset=module.reset_mechanism))]


def _one_to_one(factors: Tensor) -> nn.Linear:
    """Weights of neurons that feed themselves only."""
    if factors.dim() != 1:
        raise DataError("V of neurons that feed themselves only must have one number per neuron", got=factors.dim())
    layer = nn.Linear(len(factors), len(factors), bias=False)
    layer.weight = nn.Parameter(torch.diag(factors.detach().float()))
    return layer


def _leak(beta: Tensor) -> Tensor | float | None:
    """λ, within [0, 1] as snntorch uses it; None for 1."""
    found = _constant(beta.clamp(0, 1))
    return None if isinstance(found, float) and found == 1 else found


def _constant(values: Tensor) -> Tensor | float:
    return constant(values.detach().cpu().numpy())


_NEURONS: dict[type[nn.Module], Callable[[Any], Parts]] = {
    snntorch.Leaky: _leaky,
    snntorch.Lapicque: _lapicque,
    snntorch.Synaptic: _synaptic,
    snntorch.RLeaky: _rleaky,
}
