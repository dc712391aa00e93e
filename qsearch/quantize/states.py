"""``States``: what a quantised network would take on under an assignment, without its taking it on.

So states of several assignments stand side by side, on a device of their own. Weights come from the network's tables; those of
one bitwidth for all kernels are kept on the device, each once.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qsearch.assignment import FLOAT_BITS, BitAssignment, Bits
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.program import State, encoded, fits_float32, state_of


class States:
    """States of a network's assignments on a device, before they are corrected.

    Args:
        network: it takes on the float assignment.
        device: where the tensors are.

    Attributes:
        base: name → tensor, all that the network stores, in float.
    """

    def __init__(self, network: QuantizedNetwork, device: torch.device | str = "cpu") -> None:
        network.apply(BitAssignment({}))
        self._network, self._device = network, torch.device(device)
        tensors = state_of(network).tensors
        self._names = {  # a module may go by several names
            site: tuple(name for name, tensor in tensors.items() if tensor is tensors[site])
            for site in network.sites
            if network.is_weight(site)
        }
        weights = {name for names in self._names.values() for name in names}
        self.base: Mapping[str, Tensor] = {  # the correction writes into what is no weight
            name: (tensor.detach() if name in weights else tensor.detach().clone()).to(self._device)
            for name, tensor in tensors.items()
        }
        self._weights: dict[tuple[str, Bits, tuple[Bits, ...]], Tensor] = {}
        self._grids: dict[tuple[str, int], Tensor] = {}

    def takes(self, assignment: BitAssignment) -> bool:
        """Whether a program computes what the network does: float32 holds the codes of all inputs, and all sites are its own."""
        bits = {site: assignment.get(site, FLOAT_BITS) for site in self._network.input_sites}
        known = set(assignment) <= set(self._network.sites)
        return known and all(self._takes_input(site, found) for site, found in bits.items())

    def in_float(self, assignment: BitAssignment) -> bool:
        """Whether an assignment changes nothing, so that nothing is to be corrected."""
        idle = self._network.idle
        return all(bits == FLOAT_BITS for site, bits in assignment.items() if site not in idle)

    def of(self, assignment: BitAssignment) -> State:
        """Weights and grids under an assignment that this :meth:`takes`; what else there is, is in :attr:`base`.

        Raises:
            SpaceError: bits that a weight cannot take.
        """
        wanted = {site: assignment.get(site, FLOAT_BITS) for site in self._network.sites}
        with torch.inference_mode(False), torch.no_grad():
            found = {site: self._weight(site, wanted) for site in self._names}
            grids = [self._grid(site, wanted[site]) for site in self._network.input_sites]
            tensors = {name: found[site] for site, names in self._names.items() for name in names}
            return State(tensors, torch.stack(grids) if grids else torch.zeros(0, 4, device=self._device))

    def _takes_input(self, site: str, bits: Bits) -> bool:
        if not isinstance(bits, int) or not 1 <= bits <= FLOAT_BITS:
            return False  # the network itself says what is wrong
        return bits == FLOAT_BITS or fits_float32(self._network.activation_quantizer(site, bits))

    def _grid(self, site: str, bits: Bits) -> Tensor:
        """Settings of an input at one bitwidth, shape (4,)."""
        assert isinstance(bits, int)  # see takes
        if (site, bits) not in self._grids:
            quantizer = None if bits == FLOAT_BITS else self._network.activation_quantizer(site, bits)
            self._grids[site, bits] = encoded(quantizer).to(self._device)
        return self._grids[site, bits]

    def _weight(self, site: str, wanted: Mapping[str, Bits]) -> Tensor:
        """A weight as an assignment asks for it, on the device."""
        bits, beside = wanted[site], tuple(wanted[name] for name in self._network.beside.get(site, ()))
        if not isinstance(bits, int):
            return self._network.values(site, wanted).to(self._device)
        if (site, bits, beside) not in self._weights:
            self._weights[site, bits, beside] = self._network.values(site, wanted).to(self._device)
        return self._weights[site, bits, beside]
