"""``nir``: a spiking network as a NIR graph, for the tools of neuromorphic chips.

The nodes hold floats: weights ŵ, leaks and thresholds as their registers hold them. NIR has no place for the rest, which
stands in metadata as JSON, under the key ``qsearch``:

=================  ===================================================================================================
of a node          content
=================  ===================================================================================================
``bits, scales``   of each kernel of a weight: its codes are ŵ / s, whole numbers; bits 32 are floats, without a scale
``input``          how its input is quantised before it runs: bits, scale, low, high (see :mod:`qsearch.export.packed`)
``mean``           pooling gives means that stay means, as inputs behind it are quantised so
``grids, …``       a neuron's registers and kind of reset: see :mod:`qsearch.spiking.nir_said`
=================  ===================================================================================================

A tool that passes over the metadata computes states in float, and takes inputs as they come. What
:func:`qsearch.spiking.nir_files.read_network` makes of the file computes in the registers; what quantises inputs is put
before its layers here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from qsearch.assignment import FLOAT_BITS
from qsearch.errors import ConfigError, DataError
from qsearch.export.deployment import Deployment, IntegerWeight, layer_of
from qsearch.export.formats import WITHOUT_GRAPH, Runtime, in_torch
from qsearch.export.modules import QuantizedInput, quantise_operands
from qsearch.export.told_quantizers import described, quantizer_of
from qsearch.spiking.direct import DirectSpikingNetwork
from qsearch.spiking.network import SpikingNetwork
from qsearch.spiking.neurons import Integrator
from qsearch.spiking.nir_files import read_network, read_said
from qsearch.spiking.nir_writing import write_network


class Nir:
    """Writes and loads ``.nir`` files."""

    suffix = ".nir"
    told = "a NIR graph"
    runtime = "the graph read back, in torch"

    def write(self, deployment: Deployment, path: Path) -> list[str]:
        """See :class:`qsearch.export.formats.Format`.

        Raises:
            ConfigError: no spiking network, or a layer that NIR has no node for.
        """
        network, example = deployment.skeleton, deployment.example
        if not isinstance(network, SpikingNetwork) or not isinstance(example, Tensor):
            raise ConfigError(
                "the format 'nir' holds spiking networks", got=type(network).__name__, fix=f"try onnx, {WITHOUT_GRAPH}"
            )
        told: dict[str, dict[str, Any]] = {}
        for site, stored in deployment.weights.items():
            told[layer_of(site)] = _codes(stored)
        for site, quantizer in deployment.inputs.items():
            told.setdefault(layer_of(site), {})["input"] = described(quantizer)
        for name, module in network.named_children():
            if isinstance(module, nn.AvgPool2d) and module.divisor_override is None:
                told.setdefault(name, {})["mean"] = True  # quantised inputs behind it have the scale of means
        shape = example.shape[1:] if isinstance(network, DirectSpikingNetwork) else example.shape[2:]
        try:
            write_network(network, path, shape, told=told)
        except DataError as error:
            raise ConfigError(
                "the format 'nir' must have a node for every layer", got=str(error), fix=f"try {WITHOUT_GRAPH}"
            ) from error
        return _notes(network, deployment)

    def load(self, path: Path, deployment: Deployment) -> Runtime:
        """The network that the file gives, its inputs quantised as it says."""
        return in_torch(with_quantised_inputs(read_network(path), read_said(path)))


def with_quantised_inputs(network: SpikingNetwork, said: Mapping[str, Mapping[str, Any]]) -> SpikingNetwork:
    """A network that was read, its layers quantising their inputs as a file says of them."""
    for name, module in network.named_children():
        if "input" in said.get(name, {}):
            module.register_forward_pre_hook(quantise_operands, with_kwargs=True)
            module.add_module("quantize_input", QuantizedInput(f"{name}.input", quantizer_of(said[name]["input"])))
    return network.eval()


def _codes(stored: IntegerWeight) -> dict[str, Any]:
    """Bits and scales of the kernels of a weight, one number where all have the same."""
    bits, each = stored.bits.tolist(), stored.scales.tolist()
    scales = [None if b == FLOAT_BITS else scale for b, scale in zip(bits, each, strict=True)]
    return {"bits": _shortest(bits), "scales": _shortest(scales)}


def _shortest(values: list[Any]) -> Any:
    return values[0] if len(set(values)) == 1 else values


def _notes(network: nn.Module, deployment: Deployment) -> list[str]:
    """What NIR has no place for."""
    neurons = [module for module in network.modules() if isinstance(module, Integrator)]
    fixed = sum(module.grids.state is not None for module in neurons)
    found = [
        "weights, leaks and thresholds are floats on their grids; bits and scales are in the metadata of the nodes"
    ]
    if fixed:
        found.append(
            f"NIR has no registers: those of the states of {fixed} neurons are in metadata too, else states are float"
        )
    if deployment.inputs:
        found.append(
            f"nor has it quantised inputs: those of {len(deployment.inputs)} layers are to be quantised before it"
        )
    return found


FORMATS = (Nir(),)
