"""From a network and an example input to its layers, their ties, and what stays in float.

What is kept alive beside a layer is found by :mod:`qsearch.quantize.liveness`, and ties by :mod:`qsearch.quantize.ties`, in
the same run.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from qsearch.anatomy import Anatomy, LeftInFloat
from qsearch.errors import DataError
from qsearch.layers import Layer
from qsearch.quantize.discovery import named
from qsearch.quantize.geometry import describe, describe_neurons, in_steps, together
from qsearch.quantize.liveness import Liveness
from qsearch.quantize.modules import LAYERS, QUANTISABLE, Inputs, forward, given, head
from qsearch.quantize.products import MatrixProduct
from qsearch.quantize.routing import stand_ins
from qsearch.quantize.ties import Streams
from qsearch.quantize.unfolding import Unfolding, unfold
from qsearch.quantize.views import Constants, View
from qsearch.spiking.neurons import Constant, Integrator

log = logging.getLogger(__name__)

NEURONS = ("snntorch._neurons.", "spikingjelly.activation_based.neuron")
"""Where other libraries keep their neurons; :mod:`qsearch.spiking` has ours, whose states can be quantised."""

__all__ = ["Inputs", "examine", "forward", "given", "trace_layers"]


def trace_layers(model: nn.Module, example: Inputs) -> tuple[Layer, ...]:
    """Layers of a network, in the order in which they first run; see :func:`examine`."""
    return examine(model, example).layers


def examine(model: nn.Module, example: Inputs) -> Anatomy:
    """Layers of a network, in the order in which they first run; their ties; and what stays in float.

    Convolutions (1-, 2- and 3-D), linear layers, embeddings and products of two activations are found, whether the
    network has modules for them or calls functions: see :mod:`qsearch.quantize.unfolding`. A module that runs several
    times is one layer with ``uses``. If their feature maps differ it is one use with as many positions as all runs
    together, so that MACs and elements are right, though its weight counts as read once; a warning says so. Copies of the
    network run in evaluation mode: the one given is left as it is, and so is the state of the random generators. What the
    network keeps for later is counted meanwhile, for ``alive``; where that cannot be, a warning says so, and ``alive`` is
    0.

    In a spiking network, layers whose input is whole numbers of at least 0 on the example read spikes
    (:func:`qsearch.quantize.geometry.no_count`); calibration refuses those that read others then. Maps are there for all T
    steps at once, and ``alive`` counts them so, beside recurrent layers too.

    What belongs to a sample is told by divisibility (:mod:`qsearch.quantize.geometry`), so a prime number of samples is
    run: other extents are seldom its multiples. A network that runs on no other batch is given all of it.

    Args:
        model: any network.
        example: an input of shape (B, …), or a tuple of them. At two samples or one, what is computed once for all of
            them may pass for a part of each.

    Raises:
        DataError: the network cannot be copied or run on the example, or no layer that could be quantised runs.
    """
    count = _samples(example)
    if (prime := _prime(count)) < count:
        try:
            return _examine(model, head(example, prime))
        except DataError as error:
            log.debug("examined on all %d samples, not on %d: %s", count, prime, error)
    return _examine(model, example)


def _examine(model: nn.Module, example: Inputs) -> Anatomy:
    """As :func:`examine`, on all samples of the example."""
    liveness, streams = Liveness(example, _samples(example)), Streams()
    unfolding = unfold(model, example)
    try:
        calls = _run(unfolding.network, example, streams, liveness)
    except DataError as error:  # a network that runs only where nobody watches keeps its layers
        unfolding, streams = unfold(model, example), Streams()
        calls = _run(unfolding.network, example, streams, None)
        liveness.failure = error.__cause__ or error
    if not calls:
        raise DataError(f"{type(model).__name__} must run at least one convolution, linear layer or embedding")
    if liveness.failure is not None:
        log.warning("what %s keeps for later is not counted: %s", type(model).__name__, liveness.failure)
    left = (*unfolding.left, *_left_out(unfolding, calls))
    if left:
        told = [f"{part.name} ({part.what})" for part in left[:5]]
        log.warning("left in float, not searched: %s%s", ", ".join(told), ", …" if len(left) > 5 else "")
    layers = tuple(replace(together(found), alive=liveness.alive(name)) for name, found in calls.items())
    return Anatomy(layers, streams.ties(layers, _weights(unfolding.network, layers)), left)


def _run(network: nn.Module, example: Inputs, streams: Streams, liveness: Liveness | None) -> dict[str, list[Layer]]:
    """All calls of the layers of an unfolded network in a run on the example; it keeps the hooks.

    Raises:
        DataError: as :func:`examine`.
    """
    calls: dict[str, list[Layer]] = {}
    spiking = any(isinstance(module, Integrator) for module in network.modules())
    for name, module in network.named_modules():
        if isinstance(module, LAYERS):
            _watch(name, module, calls, _samples(example), streams, liveness, spiking=spiking)
        elif isinstance(module, Integrator):
            _watch_neurons(name, module, calls)
    try:
        with torch.random.fork_rng(), torch.no_grad(), liveness or nullcontext(), streams:
            outputs = forward(network, example)
        if liveness is not None:
            liveness.close(outputs)
    except Exception as error:  # the user's network may fail in any way; they need the reason
        raise DataError(
            f"the network {type(network).__name__} must run on the example input",
            got=f"{type(error).__name__}: {error}"[:300],
            fix="give an example of the shape and type of its training data",
        ) from error
    return calls


def _watch(
    name: str,
    module: nn.Module,
    calls: dict[str, list[Layer]],
    batch: int,
    streams: Streams,
    liveness: Liveness | None,
    *,
    spiking: bool,
) -> None:
    """Note every call of a layer; in a spiking network, the spikes that reach it too."""

    def begin(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if not isinstance(module, nn.Embedding):
            streams.read(f"{name}.input", given(args, kwargs))
        if isinstance(module, MatrixProduct):
            streams.read(f"{name}.other", given(args, kwargs, 1))
        if liveness is not None:
            liveness.begin(name)

    def end(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
        x, *others = args[:2] if isinstance(module, MatrixProduct) else (given(args, kwargs),)
        found = describe(name, module, x, output, batch, *others)
        calls.setdefault(name, []).append(in_steps(found, x, batch) if spiking and not others else found)
        if liveness is not None:
            liveness.end(name, x, *others)

    module.register_forward_pre_hook(begin, with_kwargs=True)
    module.register_forward_hook(end, with_kwargs=True)


def _watch_neurons(name: str, module: Integrator, calls: dict[str, list[Layer]]) -> None:
    """Note every call of neurons, which are a layer or two."""

    def end(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        for found in describe_neurons(name, module, args[0], output):
            calls.setdefault(found.name, []).append(found)

    module.register_forward_hook(end)


def _weights(network: nn.Module, layers: tuple[Layer, ...]) -> dict[str, View]:
    """Layer → its weight as it stands in a parameter of the network as it was given."""
    constants, found = Constants(network), stand_ins(network)
    for layer in layers:
        weight = getattr(network.get_submodule(layer.name), "weight", None)
        if layer.name not in found and isinstance(weight, Tensor) and (view := constants.view(weight)) is not None:
            found[layer.name] = view
    return found


def _left_out(unfolding: Unfolding, layers: Mapping[str, object]) -> list[LeftInFloat]:
    """Matrices and kernels that stay in float: of layers of other kinds, of layers that did not run, and loose ones."""
    told = {part.name for part in unfolding.left}
    found: list[LeftInFloat] = []
    inside: set[nn.Module] = set()
    known = dict(unfolding.network.named_parameters(remove_duplicate=False))
    used = (*unfolding.consumed, *(named(name, "weight") for name in layers))
    consumed = {id(known[name]) for name in used if name in known}
    for name, module in unfolding.network.named_modules():
        if isinstance(module, nn.MultiheadAttention) and name in told:
            inside.update(module.modules())
        if name in layers or module in inside or isinstance(module, Constant):
            continue
        if isinstance(module, Integrator) or _foreign(module):
            other = "neurons of other libraries keep their states in float"
            why = "it did not run on the example" if isinstance(module, Integrator) else other
            found.append(LeftInFloat(name, type(module).__name__, 0, why))
            continue
        parameters = {
            key: parameter.numel()
            for key, parameter in module.named_parameters(recurse=False)
            if parameter.ndim > 1 and id(parameter) not in consumed
        }
        if isinstance(module, QUANTISABLE) and parameters:
            why = "it did not run on the example"
            found.append(LeftInFloat(name, type(module).__name__, sum(parameters.values()), why))
        elif _of_torch(module) and parameters:
            why = "layers of this kind are not quantised"
            found.append(LeftInFloat(name, type(module).__name__, sum(parameters.values()), why))
        else:
            why = "it is no weight of a layer, nor of a call that is known to multiply"
            found += [LeftInFloat(named(name, key), "parameter", count, why) for key, count in parameters.items()]
    return found


def _foreign(module: nn.Module) -> bool:
    """Whether a module is a neuron of another library, or made from one."""
    return any(kind.__module__.startswith(NEURONS) for kind in type(module).__mro__)


def _of_torch(module: nn.Module) -> bool:
    """Whether a module is one of torch's layers, and not one of its lists."""
    return type(module).__module__.startswith("torch.nn.") and not isinstance(
        module, nn.ParameterList | nn.ParameterDict
    )


def _samples(example: Inputs) -> int:
    """B."""
    first = example[0] if isinstance(example, tuple) else example
    return max(1, int(first.shape[0])) if first.dim() else 1


def _prime(count: int) -> int:
    """The largest prime up to ``count``; ``count`` itself where there is none."""
    return next((n for n in range(count, 1, -1) if all(n % k for k in range(2, math.isqrt(n) + 1))), count)
