"""``NeuronRegisters``: the states, leaks and thresholds of a network's neurons under an assignment.

Notation, for one neuron layer:

=======  ====================================================================================
b, e     bits and exponent of the state's register (:mod:`qsearch.spiking.fixed_point`)
θ        its greatest threshold
c_t      what has come out of a neuron up to step t: its spikes, or its states where it has no threshold
=======  ====================================================================================

A register of b bits has a range of its own for each b: of all exponents e, from that at which it just holds θ up to that at
which nothing that float states reach before their resets would saturate, the one whose outputs differ least from those of the
float neuron on the calibration data: least Σ (ĉ_t − c_t)², the finest of equals. The size of a state says little: one far
below the threshold may saturate and no spike differs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from qsearch.assignment import FLOAT_BITS, Bits
from qsearch.errors import DataError, SpaceError, nearest
from qsearch.layers import Layer
from qsearch.quantize.copies import evaluation_copy
from qsearch.space import FEWEST
from qsearch.spiking.fixed_point import ConstantGrid, StateGrid, leak_grid, threshold_grid
from qsearch.spiking.neurons import Grids, Integrator, Neuron

Register: TypeAlias = StateGrid | ConstantGrid

NUMBERS = 2**22
"""Currents, at most, on which a range is chosen: as many of the first samples as have so many, in whatever batches."""

RANGES = 6
"""Exponents that are tried where there is no threshold to begin with: so many, up to that at which nothing saturates."""


class NeuronRegisters:
    """Gives neurons their registers, and finds the ranges of those when they are first asked for.

    Args:
        modules: name of a layer of kind "neuron" → its module.
        layers: all layers of the network.
    """

    def __init__(self, modules: Mapping[str, nn.Module], layers: Sequence[Layer]) -> None:
        self._neurons: dict[str, Integrator] = {}
        for layer in layers:
            if layer.kind == "neuron":
                module = modules[layer.name]
                assert isinstance(module, Integrator)
                self._neurons[layer.name] = module
        self._owners = {layer.activation_site: (layer.name, "state") for layer in layers if layer.kind == "neuron"}
        self._owners |= {layer.weight_site: (layer.name, "leak") for layer in layers if layer.kind == "neuron"}
        thresholds = [layer for layer in layers if layer.kind == "threshold"]
        self._owners |= {layer.name: (layer.name.removesuffix(".threshold"), "threshold") for layer in thresholds}
        # ranges are those of the float network, whatever assignment its neurons have when they are asked for
        self._floating = {name: evaluation_copy(module) for name, module in self._neurons.items()}
        self._currents: dict[str, list[Tensor]] = {}
        self._found: dict[tuple[str, int], Register] = {}

    @property
    def sites(self) -> tuple[str, ...]:
        """All sites of neurons."""
        return tuple(self._owners)

    def watch(self, network: nn.Module) -> Iterable[Any]:
        """Note the currents of the first samples that the network runs on, by hooks; the handles of these.

        Of neurons that run several times, those of the first run; of batches, those that are of as many steps as the first.
        """
        run: list[str] = []
        handles = [network.register_forward_pre_hook(lambda *_: run.clear())]
        handles += [
            module.register_forward_pre_hook(self._observe(name, run)) for name, module in self._neurons.items()
        ]
        return handles

    def set(self, site: str, bits: Bits) -> None:
        """Give one site its bits.

        Raises:
            SpaceError: bits per kernel, or fewer than such a register takes.
        """
        name, part = self._owners[site]
        module = self._neurons[name]
        changed: dict[str, Any] = {part: self.register(site, bits)}
        module.grids = replace(module.grids, **changed)

    def register(self, site: str, bits: Bits) -> Register | None:
        """The register of a site at some bits; None for float, and for the leak of neurons that forget nothing.

        Raises:
            SpaceError: as :meth:`set`; a site that no neuron has.
        """
        if site not in self._owners:
            raise SpaceError(f"the network has no site {site!r} of neurons", fix=nearest(site, self._owners))
        name, part = self._owners[site]
        fewest = FEWEST[part]
        if not isinstance(bits, int) or bits < fewest:
            raise SpaceError(f"site {site!r} takes one bitwidth of at least {fewest}", got=bits)
        module = self._neurons[name]
        if bits == FLOAT_BITS or (part == "leak" and module.leak is None):
            return None
        if (site, bits) not in self._found:
            self._found[site, bits] = self._find(name, part, bits)
        return self._found[site, bits]

    def adopt(self, site: str, register: Register) -> None:
        """Take this as the register of a site at its bits, as training has settled it."""
        self._found[site, register.bits] = register

    @torch.inference_mode(False)
    @torch.no_grad()
    def _find(self, name: str, part: str, bits: int) -> Register:
        module = self._floating[name]
        assert isinstance(module, Integrator)
        if part == "leak":
            return leak_grid(bits)
        if part == "threshold":
            assert isinstance(module, Neuron)
            return threshold_grid(bits, float(module.threshold.weight.max()))
        if name not in self._currents:
            raise DataError(f"neurons {name!r} must run on the calibration data", got="no run of them")
        return best_range(module, torch.cat(self._currents[name]), bits)

    def _observe(self, name: str, run: list[str]) -> Any:
        def observe(module: nn.Module, args: tuple[Any, ...]) -> None:
            currents, found = args[0].detach(), self._currents.setdefault(name, [])
            if name in run or (found and currents.shape[1:] != found[0].shape[1:]):
                return
            run.append(name)
            missing = max(1, NUMBERS // max(currents[0].numel(), 1)) - sum(map(len, found))
            if missing > 0:
                found.append(currents[:missing].clone())

        return observe


@torch.no_grad()
def best_range(module: Integrator, currents: Tensor, bits: int) -> StateGrid:
    """The range of a register with which neurons give what they give in float, as nearly as it can.

    Args:
        currents: on which they are compared, (B, T, \\*S).

    Raises:
        DataError: currents, or what they charge neurons with, that are not finite.
    """
    before = module.grids
    try:
        module.grids = Grids()
        grids = [StateGrid(bits, exponent) for exponent in _exponents(module, currents, bits)]
        expected = module(currents).double().cumsum(1)
        errors = []
        for grid in grids:
            module.grids = Grids(grid)
            errors.append(float((module(currents).double().cumsum(1) - expected).square().sum()))
    finally:
        module.grids = before
    return grids[errors.index(min(errors))]


def _exponents(module: Integrator, currents: Tensor, bits: int) -> range:
    """Exponents that are tried: from that which just holds the threshold, up to that at which nothing saturates."""
    highest = (1 << (bits - 1)) - 1
    reach = _reach(module, currents)
    most = _exponent(reach, highest) if reach > 0 else 0
    if isinstance(module, Neuron):
        least = _exponent(float(module.threshold.weight.max()), highest)
    else:
        least = most - RANGES + 1
    return range(least, max(least, most) + 1)


def _reach(module: Integrator, currents: Tensor) -> float:
    """The greatest size of a float state before its reset, or of a current: what a register may have to hold."""
    sizes = [part.abs().max() for part in chain((currents,), module.charges(currents))]
    found = float(torch.stack(sizes).max())
    if math.isfinite(found):
        return found
    raise DataError(
        "what reaches neurons must be finite, and so must their states",
        got="NaN" if math.isnan(found) else "infinity",
        fix="check the weights and the data of the network",
    )


def _exponent(value: float, highest: int) -> int:
    """The least e with highest · 2^e ≥ value."""
    return math.ceil(math.log2(value / highest))
