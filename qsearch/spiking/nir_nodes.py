"""What the nodes of a NIR graph become: layers without a state, neurons, and factors between them.

Notation (NIR's, with Δt the time of a step): v, state; I, what reaches a node; τ, time constant; R, resistance.

==========  ===================================  =====================================================================
node        NIR's equation                       step by step
==========  ===================================  =====================================================================
IF, I       dv/dt = R·I                          u ← u + R·x; what reaches it in a step is an impulse of area one
LIF, LI     τ·dv/dt = (v_leak − v) + R·I         u ← λ·u + g·x + d; λ = 1 − Δt/τ, g = R·Δt/τ, d = v_leak·Δt/τ
CubaLIF     τ_syn·dI/dt = −I + w_in·S, then LIF  i ← α·i + (w_in·Δt/τ_syn)·x, then u as for LIF, of the new i
Threshold   S = [I > θ]                          a neuron that forgets all: λ = 0
==========  ===================================  =====================================================================

Euler's method. A neuron spikes where v ≥ θ, as in hardware and in sinabs; NIR's equations have v > θ, which differs where
the two are equal to the last bit. NIR resets to v_reset; what its tools mean by a v_reset of 0 is not in the file, reset to
zero or by subtraction: the reader is told (:class:`Reading`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor, nn

from qsearch.errors import DataError, QSearchError, nearest
from qsearch.spiking.assembly import Array, constant
from qsearch.spiking.delayed import DelayedNeuron, DelayedRecurrentNeuron
from qsearch.spiking.neurons import Integrator, Neuron, RecurrentNeuron, Reset
from qsearch.spiking.nir_said import checked, restore, said_in
from qsearch.spiking.pooling import summed
from qsearch.spiking.rescale import Rescale, Weighted, taken_in_before

Parts = list[tuple[str, nn.Module]]
"""What a node becomes, in a row: suffixes of its name, and modules."""


@dataclass(frozen=True)
class Reading:
    """What a NIR file does not say.

    Attributes:
        step: Δt in the unit of its time constants.
        reset, several: see :class:`~qsearch.spiking.neurons.Neuron`.
        delayed: whether a reset by subtraction waits for the next step (:mod:`qsearch.spiking.delayed`).
        mean: whether a mean of pooled values stays one, as what quantises it has a scale for it.
        exact: whether leaks that files say beside time constants hold: they are those of the step.
    """

    step: float
    reset: Reset
    several: bool
    delayed: bool = False
    mean: bool = False
    exact: bool = False

    def of(self, said: Mapping[str, Any]) -> Reading:
        """This, but for what a file says of a node itself."""
        return replace(self, **{key: said[key] for key in ("reset", "several", "delayed", "mean") if key in said})


def parts_of(name: str, node: nir.NIRNode, reading: Reading, recurrent: nir.NIRNode | None = None) -> Parts:
    """What a node becomes.

    Args:
        recurrent: weights through which the spikes of an IF or LIF come back to it.

    Raises:
        DataError: a type of node that is not known, or parameters that do not make sense; names the node.
    """
    make = _MAKERS.get(type(node).__name__)
    if make is None:
        raise DataError(
            f"node {name!r} must be of a type that can be read",
            got=type(node).__name__,
            fix=nearest(type(node).__name__, _MAKERS),
        )
    try:
        check_numbers(node)
        said = checked(said_in(node.metadata))
        reading = reading.of(said)
        found = make(node, reading) if recurrent is None else _recurrent(node, recurrent, reading)
        for _, module in found:
            if isinstance(module, Integrator) and said:
                restore(module, said, exact=reading.exact)
        return found
    except (QSearchError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(
            f"node {name!r} of type {type(node).__name__} cannot be read", got=" ".join(str(error).split())
        ) from error


def check_numbers(node: nir.NIRNode) -> None:
    """Raise DataError where a parameter has a part that is no real number."""
    for key, values in vars(node).items():
        if isinstance(values, np.ndarray) and (values.dtype.kind == "c" or np.any(values != values)):
            raise DataError(f"{key} must be real numbers", got="complex ones" if values.dtype.kind == "c" else "NaN")


def declared_shape(node: nir.NIRNode) -> tuple[int, ...] | None:
    """The shape of a neuron's parameters; None where it is one number, or the node is no neuron."""
    values = next(
        (getattr(node, key) for key in ("v_threshold", "threshold", "v_leak", "r") if hasattr(node, key)), None
    )
    return None if values is None or np.size(values) == 1 else tuple(np.shape(values))


def _linear(node: Any, reading: Reading) -> Parts:
    if node.weight.ndim != 2:
        raise DataError("a weight must have two axes", got=f"shape {node.weight.shape}")
    bias = getattr(node, "bias", None)
    layer = nn.Linear(node.weight.shape[1], node.weight.shape[0], bias=_biased(bias))
    return [("", _filled(layer, node.weight, bias))]


def _conv(node: Any, reading: Reading) -> Parts:
    kind: Any = nn.Conv1d if node.weight.ndim == 3 else nn.Conv2d
    groups, (out, inner, *kernel) = int(node.groups), node.weight.shape
    layer = kind(
        inner * groups,
        out,
        tuple(kernel),
        _extents(node.stride, len(kernel)),
        node.padding if isinstance(node.padding, str) else _extents(node.padding, len(kernel)),
        _extents(node.dilation, len(kernel)),
        groups,
        bias=_biased(node.bias),
    )
    return [("", _filled(layer, node.weight, node.bias))]


def _pool(node: Any, reading: Reading) -> Parts:
    kind: Any = nn.AvgPool2d
    pool = kind(*(_extents(size, 2) for size in (node.kernel_size, node.stride, node.padding)))
    if reading.mean:
        return [("", pool)]
    divisor = summed(pool)
    if divisor is None or isinstance(node, nir.SumPool2d):
        return [("", pool)]
    return [("", pool), ("_mean", Rescale(1 / divisor))]


def _flatten(node: Any, reading: Reading) -> Parts:
    start, end = int(node.start_dim), int(node.end_dim)
    return [("", nn.Flatten(start + (start >= 0), end + (end >= 0)))]


def _scale(node: Any, reading: Reading) -> Parts:
    return [("", Rescale(constant(node.scale)))]


def _threshold(node: Any, reading: Reading) -> Parts:
    return [("", Neuron(constant(node.threshold), 0.0, reset="zero", several=reading.several))]


def _integrator(node: Any, reading: Reading) -> Parts:
    leak, currents = _leaky(node, reading)
    return [("_input", currents), ("", Integrator(leak))]


def _neuron(node: Any, reading: Reading) -> Parts:
    leak, currents = _leaky(node, reading)
    return [("_input", currents), ("", _spiking(node, leak, reading))]


def _synapse_and_state(node: Any, reading: Reading) -> Parts:
    """A synapse's current and the state that it charges; both their factors stand before the synapse, which is linear."""
    leak, currents = _leak(node.tau_mem, reading), _gain(node.r, node.tau_mem, reading)
    synapse, entering = _leak(node.tau_syn, reading), _gain(node.w_in, node.tau_syn, reading)
    drive = _gain(node.v_leak, node.tau_mem, reading) if np.any(node.v_leak) else np.zeros(1)
    ends = _spiking(node, leak, reading) if isinstance(node, nir.CubaLIF) else Integrator(leak)
    factors = Rescale(constant(currents * entering))
    return [
        ("_input", factors),
        ("_synapse", Integrator(synapse)),
        ("_drive", Rescale(1.0, constant(drive))),
        ("", ends),
    ]


def _recurrent(node: Any, weights: nir.NIRNode, reading: Reading) -> Parts:
    """u ← λ·u + g·(x + V·S + b) + d: g goes into V and b too."""
    leak, currents = _leaky(node, reading)
    ((_, layer),) = parts_of("recurrent", weights, reading)
    if not isinstance(layer, Weighted):
        raise DataError("spikes must come back through weights", got=type(weights).__name__)
    if not taken_in_before(layer, Rescale(currents.gain)):
        raise DataError("its resistance must have one number per channel of its recurrent weights", got="more")
    kind = DelayedRecurrentNeuron if reading.delayed else RecurrentNeuron
    neuron = kind(layer, _fired_at(node), leak, reset=reading.reset, several=reading.several)
    return [("_input", currents), ("", neuron)]


def _spiking(node: Any, leak: Tensor | float | None, reading: Reading) -> Neuron:
    kind = DelayedNeuron if reading.delayed else Neuron
    return kind(_fired_at(node), leak, reset=reading.reset, several=reading.several)


def _leaky(node: Any, reading: Reading) -> tuple[Tensor | float | None, Rescale]:
    """λ, None for 1; g and d."""
    if not hasattr(node, "tau"):
        return None, Rescale(constant(node.r))
    drive = _gain(node.v_leak, node.tau, reading) if np.any(node.v_leak) else np.zeros(1)
    return _leak(node.tau, reading), Rescale(constant(_gain(node.r, node.tau, reading)), constant(drive))


def _leak(tau: Array, reading: Reading) -> Tensor | float | None:
    """λ = 1 − Δt/τ; None where nothing leaks."""
    tau = np.asarray(tau, dtype=np.float64)
    if not np.all(tau >= reading.step * (1 - 1e-6)):
        raise DataError(
            f"its time constants must be at least a step, {reading.step:g}",
            got=f"{np.min(tau):g}",
            fix="say how long a step is in their unit by 'step'; snntorch writes files of 1e-4",
        )
    found = constant(np.maximum(1 - reading.step / tau, 0))
    return None if isinstance(found, float) and found == 1 else found


def _gain(factor: Array, tau: Array, reading: Reading) -> Array:
    """R·Δt/τ. Where both are infinite, as tools write R = τ/Δt of what does not leak, it is 1."""
    factor, tau = np.asarray(factor, dtype=np.float64), np.asarray(tau, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        found: Array = np.where(np.isinf(factor) & np.isinf(tau), 1.0, factor * (reading.step / tau))
    return found


def _fired_at(node: Any) -> Tensor | float:
    """θ.

    Raises:
        DataError: a reset to what is not 0.
    """
    if np.any(node.v_reset):
        raise DataError("v_reset must be 0", got=f"{np.max(np.abs(node.v_reset)):g}")
    return constant(node.v_threshold)


def _extents(value: Any, axes: int) -> tuple[int, ...]:
    """A number per spatial axis, of one for all or one for each."""
    return tuple(int(part) for part in np.broadcast_to(np.asarray(value).reshape(-1), (axes,)))


def _biased(bias: Array | None) -> bool:
    """Whether something is added: NIR's convolutions must have a bias, and say none by zeros."""
    return bias is not None and bool(np.any(bias))


def _filled(layer: nn.Module, weight: Array, bias: Array | None) -> nn.Module:
    found: dict[str, Tensor] = {"weight": _single(weight)}
    if bias is not None and _biased(bias):
        found["bias"] = _single(bias)
    try:
        layer.load_state_dict(found)
    except RuntimeError as error:
        raise DataError("weight and bias must fit", got=" ".join(str(error).split())) from error
    return layer


def _single(values: Array) -> Tensor:
    """Values in float32, all finite."""
    with np.errstate(over="ignore"):
        found = torch.tensor(np.asarray(values, dtype=np.float32))
    if not bool(found.isfinite().all()):
        raise DataError("weights and biases must be finite in float32", got="some that are not")
    return found


_MAKERS: dict[str, Callable[[Any, Reading], Parts]] = {
    "Affine": _linear,
    "Linear": _linear,
    "Conv1d": _conv,
    "Conv2d": _conv,
    "SumPool2d": _pool,
    "AvgPool2d": _pool,
    "Flatten": _flatten,
    "Scale": _scale,
    "Threshold": _threshold,
    "I": _integrator,
    "LI": _integrator,
    "CubaLI": _synapse_and_state,
    "IF": _neuron,
    "LIF": _neuron,
    "CubaLIF": _synapse_and_state,
}

KNOWN = (*_MAKERS, "Input", "Output", "NIRGraph")
"""Types of nodes that can be read."""
