"""Conversion of a trained network of ReLUs to a spiking one of T steps, by balancing thresholds on data.

Notation, for a layer l of the chain (:mod:`qsearch.spiking.chain`) and one of its neurons:

=======  ====================================================================================
W, b     weights and bias of the network, batch norms folded in
a        activation, ReLU(W·a_{l−1} + b); of the input, the input itself
v        threshold: the greatest of W·a_{l−1} + b on calibration data, or a percentile of it
s_t      spike at step t, 0 or 1; s̄, their mean over T steps
λ        leak
=======  ====================================================================================

A spike of layer l stands for v_l, so that weights behind it take over what it is worth; biases are constant currents::

    u_t = λ·(u_{t−1} − v·s_{t−1}) + Ŵ·s_{l−1,t} + b̂       s_t = [u_t ≥ v]       Ŵ_l = W_l·v_{l−1}       b̂ = b + v/(2T)

The input is given as it is, in each step ("direct input"). With λ = 1 a constant current a gives ⌊T·clip(a/v, 0, 1) + ½⌋
spikes: v·s̄ is clip(a, 0, v) to v/(2T), which for an average over all T steps is the same as a start at u = v/2; without the
shift of v/(2T), to v/T. The last layer integrates: its weights and its bias are divided by T, and the state at the end is the
mean of W·a_{l−1} + b over the steps. Where it spikes instead, its spikes are counted, and all its neurons have one threshold.

A maximum that stands behind the first neurons is taken before them, of currents: direct input makes these constant, so that it
is exact, and there are fewer neurons. Deeper maxima stay where they are, and let a spike pass wherever one comes: too many, as
the spikes of two neurons seldom come at the same step, though fewer than a maximum of currents that come and go would give
(``mnist-cnn`` in 30 steps, of 2,500 images: 99.4 % right with the former, 98.6 % with the latter, 96.4 % with both maxima of
spikes; 99.2 % of 5,000 are before conversion). Average pooling of spikes becomes their sum, with the weights behind it divided by
the window, so that spikes stay whole numbers.

Sources: Diehl et al., IJCNN 2015, and Rueckauer et al., *Front. Neurosci.* 11 (2017), for balancing on data and its percentile;
Rathi and Roy, 2008.03658, and Datta et al., 2107.11979, for direct input at few steps with leaks and thresholds that learn (in the
latter what a spike takes away does not leak: u_t = λ·u_{t−1} + … − v·s_{t−1}; at λ = 1 there is no difference); Deng and Gu,
ICLR 2021, for the shift.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from qsearch.errors import ConfigError, DataError
from qsearch.spiking.chain import CONVOLUTIONS, SHAPES, WEIGHTED, Parts, simplified
from qsearch.spiking.direct import DirectSpikingNetwork
from qsearch.spiking.neurons import Integrator, Neuron, Reset, check_name
from qsearch.spiking.pooling import summed
from qsearch.spiking.surrogate import SurrogateName

Balancing = Literal["max", "percentile"]
Per = Literal["layer", "channel"]
Last = Literal["integrate", "spike"]

OUTPUT = "output"
"""Name of the neurons of the last layer."""


@dataclass(frozen=True)
class Conversion:
    """How a network is converted.

    Attributes:
        steps: T.
        balancing: thresholds are the greatest current on calibration data ("max"), or a percentile of it.
        percentile: that percentile, of all currents of a layer or channel, negative ones too.
        per: one threshold for a layer, or for each of its channels.
        leak: λ of all neurons that spike, which may learn; None for 1, which stays.
        reset: what a spike leaves behind.
        last: the last layer integrates, or spikes.
        shift: add v/(2T) to the currents, so that rates are rounded and not cut off.
        surrogate: the derivative of a spike.

    Raises:
        ConfigError: no step, a percentile outside (0, 100], a leak outside [0, 1], or an unknown name.
    """

    steps: int = 5
    balancing: Balancing = "percentile"
    percentile: float = 99.9
    per: Per = "channel"
    leak: float | None = None
    reset: Reset = "subtract"
    last: Last = "integrate"
    shift: bool = True
    surrogate: SurrogateName = "triangle"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError("a spiking network needs at least one step", got=self.steps)
        if not 0 < self.percentile <= 100:
            raise ConfigError("the percentile must be within (0, 100]", got=self.percentile)
        if self.leak is not None and not 0 <= self.leak <= 1:
            raise ConfigError("the leak must be within [0, 1]", got=self.leak)
        kinds = {"balancing": Balancing, "per": Per, "reset": Reset, "last": Last, "surrogate": SurrogateName}
        for what, kind in kinds.items():
            check_name(what, getattr(self, what), get_args(kind))


@torch.inference_mode(False)
@torch.no_grad()
def convert(network: nn.Module, inputs: Tensor, how: Conversion) -> DirectSpikingNetwork:
    """A spiking network that computes what a network computes, the better the more steps it has; in evaluation mode.

    Args:
        network: see :func:`qsearch.spiking.chain.simplified`; it is left as it is. Dropout is left out.
        inputs: calibration data, shape (N, \\*S); thresholds are balanced on it.

    Returns:
        (B, \\*S) → (B, C): the network's output where the last layer integrates, counts of spikes where it spikes.

    Raises:
        DataError: a network that cannot be converted, or calibration data that it does not run on.
    """
    if inputs.dim() < 2 or not len(inputs):
        raise DataError("calibration data must be of shape (N, …), N ≥ 1", got=tuple(inputs.shape))
    parts = simplified(network)
    if isinstance(parts[next(reversed(parts))], nn.ReLU):
        parts.popitem()
    building = _Building(how, inputs)
    for name, module in parts.items():
        building.add(name, module)
    return building.finished().eval()


class _Building:
    """A spiking network in the making.

    Attributes:
        found: its modules so far.
        values: what the network gives so far on the calibration data, (N, …).
        unit: what a one of the spiking network stands for there, of the shape of a sample of ``values``.
        layer: name of the last layer so far.
        spikes: whether what the network gives so far becomes spikes.
    """

    def __init__(self, how: Conversion, inputs: Tensor) -> None:
        self.how = how
        self.found: Parts = OrderedDict()
        self.values, self.unit = inputs, torch.ones(inputs.shape[1:])
        self.layer, self.spikes = "", False

    def add(self, name: str, module: nn.Module) -> None:
        """Convert the next module."""
        before = self.values
        self.values = _run(name, module, before)
        if isinstance(module, nn.ReLU):
            self.found[name] = self._neuron(balanced(before, self.how.per, self._percentile, self.layer))
            self.spikes = True
        elif isinstance(module, WEIGHTED):
            _take_units(name, module, self.unit)
            self.found[name], self.layer, self.spikes = module, name, False
            self.unit = torch.ones(self.values.shape[1:])
        elif isinstance(module, SHAPES):
            self.found[name], self.unit = module, module(self.unit.unsqueeze(0)).squeeze(0)
        else:
            self._pool(name, module)

    def finished(self) -> DirectSpikingNetwork:
        """The network, with the neurons of its last layer."""
        layer, steps = self.found[self.layer], self.how.steps
        if self.how.last == "spike":
            self.found[OUTPUT] = self._neuron(balanced(self.values, "layer", self._percentile, self.layer))
            return DirectSpikingNetwork(self.found, steps, "sum")
        assert isinstance(layer, WEIGHTED)
        layer.weight.div_(steps)
        if layer.bias is not None:
            layer.bias.div_(steps)
        self.found[OUTPUT] = Integrator()
        return DirectSpikingNetwork(self.found, steps, "last")

    @property
    def _percentile(self) -> float:
        return 100.0 if self.how.balancing == "max" else self.how.percentile

    def _neuron(self, threshold: Tensor) -> Neuron:
        """Neurons behind the last layer so far, whose currents are shifted for them."""
        how, layer = self.how, self.found[self.layer]
        assert isinstance(layer, WEIGHTED)
        if how.shift:
            bias = torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias
            layer.bias = nn.Parameter(bias + threshold.flatten() / (2 * how.steps))
        self.unit = threshold.expand(self.values.shape[1:])
        return Neuron(threshold, how.leak, reset=how.reset, surrogate=how.surrogate)

    def _pool(self, name: str, module: nn.Module) -> None:
        """Pooling: spikes are summed where they were averaged, as far as their mean is a sum over a number."""
        extents = tuple(self.values.shape[2:])
        divisor = None
        if self.spikes:
            module, divisor = _summed(module, tuple(self.unit.shape[1:]), extents)
        channels = self.unit.flatten(1)[:, 0] / (divisor or 1)
        self.found[name] = module
        self.unit = channels.view(-1, *[1] * len(extents)).expand(self.values.shape[1:])


def balanced(currents: Tensor, per: Per, percentile: float, layer: str) -> Tensor:
    """v of a layer, from its currents (N, C, …): shape (1,), or (C, 1, …).

    A channel whose percentile is not above 0 has the threshold of the layer.

    Raises:
        DataError: the percentile of the layer is not above 0.
    """
    found = _percentile(currents.flatten().unsqueeze(0), percentile)
    if not float(found) > 0:
        raise DataError(
            f"currents of layer {layer!r} must be above 0 at the {percentile:g}th percentile of the calibration data",
            got=float(found),
            fix="raise the percentile, or balance by the maximum",
        )
    if per == "layer":
        return found
    channels = _percentile(currents.transpose(0, 1).flatten(1), percentile)
    return torch.where(channels > 0, channels, found).view(-1, *[1] * (currents.dim() - 2))


def _percentile(values: Tensor, percentile: float) -> Tensor:
    """The least number that so many per cent of a row do not exceed: (R, n) → (R,)."""
    count = values.shape[1]
    return values.kthvalue(max(1, math.ceil(percentile / 100 * count)), dim=1).values


def _summed(module: nn.Module, given: tuple[int, ...], gives: tuple[int, ...]) -> tuple[nn.Module, int | None]:
    """Average pooling as a sum, and what it is to be divided by; as it is, and None, where windows differ.

    Args:
        given, gives: spatial extents of its input and its output.
    """
    if isinstance(module, (nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)):
        if any(before % after for before, after in zip(given, gives, strict=True)):
            return module, None
        window: Any = tuple(before // after for before, after in zip(given, gives, strict=True))
        kind = nn.AvgPool2d if len(window) == 2 else nn.AvgPool3d
        return kind(window, divisor_override=1), math.prod(window)
    return module, summed(module) if isinstance(module, (nn.AvgPool2d, nn.AvgPool3d)) else None


def _take_units(name: str, layer: nn.Module, unit: Tensor) -> None:
    """Multiply the weights of a layer by what the ones that reach them stand for."""
    if isinstance(layer, nn.Linear):
        if unit.dim() != 1:
            raise DataError(
                f"linear layer {name!r} must have one row of numbers per sample",
                got=f"shape {tuple(unit.shape)}",
                fix="put an nn.Flatten before it",
            )
        layer.weight.mul_(unit)
        return
    assert isinstance(layer, CONVOLUTIONS)
    rows = unit.flatten(1)
    if not torch.equal(rows, rows[:, :1].expand_as(rows)):
        raise DataError(
            f"channels of the input of {name!r} must each have one threshold",
            got="channels that a change of shape has mixed",
            fix="take one threshold per layer",
        )
    groups, kernels = layer.groups, len(layer.weight)
    scales = rows[:, 0].view(groups, 1, -1).expand(groups, kernels // groups, -1).reshape(kernels, -1)
    layer.weight.mul_(scales.view(*scales.shape, *[1] * (layer.weight.dim() - 2)))


def _run(name: str, module: nn.Module, values: Tensor) -> Tensor:
    """A module of the network on the calibration data."""
    try:
        found: Tensor = module(values)
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"{name!r} must run on the calibration data",
            got=f"{type(error).__name__}: {error}"[:300],
            fix="give inputs as the network takes them",
        ) from error
    return found
