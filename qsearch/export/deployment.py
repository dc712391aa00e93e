"""``Deployment``: the network of an assignment as codes, scales and grids, from which every format is written.

Notation: K kernels of a weight, b bits of a kernel, q its codes, s its scale, ŵ = q·s; see :mod:`qsearch.quantize.weights`.

A kernel at 32 bits keeps its floats; one at 0 bits is all zeros. Kernels of one weight may differ in b: their codes share
the narrowest integer type that holds all of them. Biases and batch-norm statistics are those that the evaluation
corrected for this very assignment.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import ConfigError
from qsearch.evaluate.data import Split
from qsearch.export.modules import QuantizedInput, StoredWeight, plain_forward, quantise_operands
from qsearch.layers import Layer
from qsearch.overlay import ALL
from qsearch.quantize.activations import ActivationQuantizer
from qsearch.quantize.grid import Grid, signed_grid
from qsearch.quantize.modules import Inputs, head
from qsearch.quantize.network import QuantizedNetwork, input_sites


@runtime_checkable
class Deployable(Protocol):
    """An evaluator whose network can be exported."""

    network: QuantizedNetwork

    @property
    def validation(self) -> Split:
        """The samples that it evaluates on."""
        ...


@runtime_checkable
class Trained(Protocol):
    """An evaluator that trains a network for each assignment: that one is exported."""

    @property
    def validation(self) -> Split:
        """The samples that it evaluates on."""
        ...

    def trained(self, assignment: BitAssignment, *, seed: int | None = None) -> QuantizedNetwork:
        """The network that it judges, under the assignment."""
        ...


@dataclass(frozen=True)
class IntegerWeight:
    """One weight as codes and scales.

    Attributes:
        site: its name.
        bits: b of each kernel, shape (K,).
        codes: q, integers of the weight's shape; 0 in kernels at 0 and at 32 bits.
        scales: s, shape (K,); 1 where all codes of a kernel are 0. Negative for mirrored grids.
        values: ŵ, of the weight's shape and type; the floats of kernels at 32 bits.
    """

    site: str
    bits: NDArray[np.int_]
    codes: Tensor
    scales: Tensor
    values: Tensor

    def check(self) -> None:
        """Raise unless every code is an integer of its kernel's bits: formats of integers have no room for others.

        Raises:
            ConfigError: one is not, as the levels of some quantisers are odd multiples of half a step.
        """
        for b in map(int, np.unique(self.bits[self.bits < FLOAT_BITS])):
            codes = self.codes[torch.from_numpy(np.flatnonzero(self.bits == b))]
            grid = Grid(-1, 1) if b == 1 else Grid(0, 0) if b == 0 else signed_grid(b)
            if bool((codes < grid.low).any() | (codes > grid.high).any()):
                raise ConfigError(
                    f"a file of integers needs codes of {b} bits within {grid.low}..{grid.high}",
                    got=f"{int(codes.min())}..{int(codes.max())} in {self.site!r}, as some quantizers have other levels",
                    fix="train with the quantizer 'lsq', or export as torch",
                )

    @property
    def float_kernels(self) -> Tensor:
        """Indices of the kernels that keep their floats."""
        return torch.from_numpy(np.flatnonzero(self.bits == FLOAT_BITS))

    @property
    def is_float(self) -> bool:
        """No kernel is quantised."""
        return bool((self.bits == FLOAT_BITS).all())

    @property
    def widest(self) -> int:
        """The most bits of a kernel that is quantised; 0 where none is."""
        return int(self.bits[self.bits < FLOAT_BITS].max(initial=0))


@dataclass(frozen=True)
class Deployment:
    """A network under one assignment, ready to be written.

    Attributes:
        skeleton: the network with float weights ŵ and without quantisers, biases and statistics corrected.
        weights: weight site → codes; every weight site, also those that stay in float.
        inputs: activation site → its quantiser; sites in float are not in it.
        layers: of the network.
        assignment: what it was made for.
        example: inputs of two samples.
        promised: bytes of the weights by the cost of the search; None where that has no size in bytes.
    """

    skeleton: nn.Module
    weights: Mapping[str, IntegerWeight]
    inputs: Mapping[str, ActivationQuantizer]
    layers: Sequence[Layer]
    assignment: BitAssignment
    example: Inputs
    promised: float | None = None

    def check(self) -> None:
        """Raise unless all weights are integers of their bits.

        Raises:
            ConfigError: see :meth:`IntegerWeight.check`.
        """
        for stored in self.weights.values():
            stored.check()

    def module(
        self,
        weight: Callable[[IntegerWeight], nn.Module] = StoredWeight,
        activation: Callable[[str, ActivationQuantizer], nn.Module] = QuantizedInput,
    ) -> nn.Module:
        """A plain module that computes what was evaluated: layers hold codes, and quantise their inputs.

        Args:
            weight: makes the module that turns codes into a weight.
            activation: makes the module that quantises one site.
        """
        network = copy.deepcopy(self.skeleton)
        modules = dict(network.named_modules())
        for site, stored in self.weights.items():
            if not stored.is_float:
                _store(modules[layer_of(site)], stored.codes, weight(stored))
        for name in dict.fromkeys(map(layer_of, self.inputs)):
            modules[name].register_forward_pre_hook(quantise_operands, with_kwargs=True)
        for site, quantizer in self.inputs.items():
            modules[layer_of(site)].add_module(f"quantize_{site.rpartition('.')[2]}", activation(site, quantizer))
        plain_forward(network)
        return network.eval().requires_grad_(False)


@torch.inference_mode(False)
@torch.no_grad()
def deploy(
    network: QuantizedNetwork,
    layers: Sequence[Layer],
    assignment: BitAssignment,
    example: Inputs,
    promised: float | None = None,
) -> Deployment:
    """The deployment of an assignment; the network takes it on.

    Args:
        example: inputs of samples, of which the first two are kept; a single one is kept twice.
        promised: see :class:`Deployment`.

    Raises:
        SpaceError: an assignment that does not fit the network.
        ConfigError: one of weights that are overlaid.
        EvaluationError: the shift that it causes cannot be corrected.
    """
    network.apply(assignment)
    _refuse_overlays(layers, assignment)
    assignment = BitAssignment({site: assignment.get(site, FLOAT_BITS) for site in network.sites})
    weights = {
        layer.weight_site: integer_weight(network, layer, assignment)
        for layer in layers
        if network.is_weight(layer.weight_site)
    }
    inputs = {
        site: network.activation_quantizer(site, assignment.highest(site))
        for layer in layers
        for site in input_sites(layer)
        if assignment.highest(site) < FLOAT_BITS
    }
    return Deployment(_bare(network.model), weights, inputs, tuple(layers), assignment, _two_samples(example), promised)


def integer_weight(network: QuantizedNetwork, layer: Layer, assignment: BitAssignment) -> IntegerWeight:
    """Codes and scales of a layer's weight: rows gathered from those of the bitwidths in it."""
    site = layer.weight_site
    bits = assignment.vector(site, layer.kernels)
    values = network.quantized_weight(site, 0).values.clone()
    found = [(int(b), torch.from_numpy(np.flatnonzero(bits == b))) for b in np.unique(bits)]
    widest = network.quantized_weight(site, max((b for b, _ in found if b < FLOAT_BITS), default=0))
    codes, scales = torch.zeros_like(widest.codes), torch.ones_like(widest.scales)
    original = dict(network.model.named_parameters())
    for b, rows in found:
        if b == FLOAT_BITS:
            values[rows] = original[site][rows]
        else:
            table = network.quantized_weight(site, b)
            codes[rows], scales[rows] = table.codes[rows].to(codes.dtype), table.scales[rows]
            values[rows] = table.values[rows]
    return IntegerWeight(site, bits, codes, scales, values)


def _refuse_overlays(layers: Sequence[Layer], assignment: BitAssignment) -> None:
    found = [layer.name for layer in layers if layer.overlay and assignment.get(layer.overlay_site, ALL) != ALL]
    if found:
        raise ConfigError(
            "weights that are exported must be plain, not a ternary part and a sparse one",
            got=f"overlays at {', '.join(map(repr, found[:3]))}{', …' if len(found) > 3 else ''}",
            fix="export as json or csv, or another trial",
        )


def _two_samples(example: Inputs) -> Inputs:
    """The first two; one alone is repeated, as a graph that is captured with one sample is bound to one."""
    first = head(example, 2)
    parts = [
        part.repeat(2, *[1] * (part.dim() - 1)) if part.dim() and len(part) == 1 else part
        for part in (first if isinstance(first, tuple) else (first,))
    ]
    return tuple(parts) if isinstance(first, tuple) else parts[0]


def layer_of(site: str) -> str:
    """The layer that a site belongs to."""
    return site.rpartition(".")[0]


def _store(module: nn.Module, codes: Tensor, decode: nn.Module) -> None:
    """Have a layer keep codes in place of its weight."""
    del module.weight
    module.register_buffer("weight", codes.clone())
    register_parametrization(module, "weight", decode, unsafe=True)  # codes and weight differ in type


def _bare(model: nn.Module) -> nn.Module:
    """A copy without the hooks that quantise: a deployment brings its own."""
    found = copy.deepcopy(model)
    for module in found.modules():
        hooks: dict[int, Any] = module._forward_pre_hooks
        for key in [
            key for key, hook in hooks.items() if getattr(hook, "__module__", "") == QuantizedNetwork.__module__
        ]:
            del hooks[key]
            module._forward_pre_hooks_with_kwargs.pop(key, None)
    return found
