"""``SparseWeight``: a weight that is pulled towards a set, then pruned, then on levels; the quantiser of ``admm``.

Notation as in :mod:`qsearch.training.projections`; κ says where weights are kept.

======================  ===============================================================
stage                   ŵ, and what is added to the loss
======================  ===============================================================
pulled                  w·κ, and ρ/2·‖w·κ − target‖²
pruned                  w·κ
on levels               z of w·κ for given q; straight through to w·κ in the gradient
======================  ===============================================================

Kernels at 0 bits are never kept; those at 32 bits keep every weight, on no levels. Kernels of a layer that have the same
bits share one q, as a scale for each kernel would weigh more than the few weights that are left of it. As levels have no
zero, a weight of zero that is kept lies at q or −q, which is next to nothing where all that share q are zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qsearch.assignment import FLOAT_BITS, BitArray
from qsearch.quantize.activations import ActivationQuantizer
from qsearch.quantize.grid import squared_error
from qsearch.quantize.weights import QuantizedWeight, encode
from qsearch.training.projections import kernel_mask, largest_mask, level_codes, level_distance
from qsearch.training.quantizers import Family, InputLearner, WeightLearner


class SparseWeight(WeightLearner):
    """A weight of shape (K, …); in its first stage there is no target, and all kernels but those at 0 bits are kept.

    Args:
        bits: of each kernel, shape (K,).
        weight: where it starts; only its shape and device matter.
    """

    bits: Tensor
    kept: Tensor

    def __init__(self, bits: BitArray, weight: Tensor) -> None:
        super().__init__()
        given = torch.from_numpy(bits).to(weight.device).view(-1, *[1] * (weight.dim() - 1))
        self.register_buffer("bits", given, persistent=False)
        self.register_buffer("kept", (given > 0).expand_as(weight).clone(), persistent=False)
        self._distances: Tensor | None = None
        self._pull: tuple[Tensor, float] | None = None
        self._seen = (weight,)  # a module would take a bare parameter for one of its own

    def forward(self, weight: Tensor) -> Tensor:
        """See :class:`qsearch.training.quantizers.WeightLearner`."""
        self._seen = (weight,)
        pruned = weight * self.kept
        if self._distances is None:
            return pruned
        return self._on_levels(weight.detach(), self._distances) + (pruned - pruned.detach())

    def penalty(self) -> Tensor | None:
        """ρ/2·‖w·κ − target‖² of the weight that the last forward pass had."""
        if self._pull is None:
            return None
        target, rho = self._pull
        return 0.5 * rho * (self._seen[0] * self.kept - target).square().sum()

    def pull(self, target: Tensor, rho: float) -> None:
        """Pull towards a target, of the weight's shape, from now on."""
        self._pull = target, rho

    def prunable(self) -> Tensor:
        """Which kernels may be pruned, in part or whole: those of 1 to 31 bits; boolean, shape (K,)."""
        return ((self.bits > 0) & (self.bits < FLOAT_BITS)).flatten()

    def pruning(self, w: Tensor, keep: int, *, kernels: bool = False) -> Tensor:
        """Where w is kept if of all prunable weights the ``keep`` largest are, or of the kernels, if ``kernels``."""
        rows = self.prunable()
        found = (self.bits > 0).expand_as(w).clone()
        found[rows] = (kernel_mask(w[rows], keep) if kernels else largest_mask(w[rows], keep)).expand_as(w[rows])
        return found

    def prune(self, kept: Tensor) -> None:
        """Keep only these weights from now on, and pull no more."""
        self.kept.copy_(kept)
        self._pull = None

    def quantised(self, w: Tensor) -> Tensor:
        """z of w·κ, with the best q of each bitwidth."""
        return self._on_levels(w, self._search(w))

    def quantise(self, w: Tensor) -> None:
        """Stay on the levels that are best for w·κ from now on, and pull no more."""
        self._distances, self._pull = self._search(w), None

    def settle(self, weight: Tensor) -> list[QuantizedWeight]:
        """See :class:`qsearch.training.quantizers.WeightLearner`; codes are c with the weight's sign, 0 where pruned.

        Levels that were never set are those that are best for the weight.
        """
        weight = weight.detach()
        distances = self._search(weight) if self._distances is None else self._distances
        return [self._settled(weight, distances, b) for b in sorted(set(self.bits.flatten().tolist()) - {FLOAT_BITS})]

    def _settled(self, weight: Tensor, distances: Tensor, bits: int) -> QuantizedWeight:
        if not bits:
            return encode(weight, 0, None)
        codes = torch.where(self.kept & (self.bits == bits), level_codes(weight, distances, bits), 0.0)
        values = codes * distances
        errors = squared_error(weight.flatten(1), values.flatten(1))
        scales = distances.flatten()
        return QuantizedWeight(bits, codes.to(torch.int64 if bits > 24 else torch.int32), scales, values, errors)

    def _search(self, w: Tensor) -> Tensor:
        """q of each kernel, shape (K, 1, …); 1 of those at 0 and at 32 bits."""
        found = torch.ones_like(self.bits, dtype=w.dtype)
        for bits in set(self.bits.flatten().tolist()) - {0, FLOAT_BITS}:
            rows = self.bits == bits
            found = torch.where(rows, level_distance(w[self.kept & rows], bits), found)
        return found

    def _on_levels(self, w: Tensor, distances: Tensor) -> Tensor:
        found = w * self.kept
        for bits in set(self.bits.flatten().tolist()) - {0, FLOAT_BITS}:
            found = torch.where(self.kept & (self.bits == bits), level_codes(w, distances, bits) * distances, found)
        return found


class Sparse:
    """The family of :class:`SparseWeight`.

    Args:
        inputs: the family that quantises inputs.
    """

    def __init__(self, inputs: Family) -> None:
        self._inputs = inputs

    def weight(self, weight: Tensor, bits: BitArray, scales: Tensor) -> SparseWeight:
        """See :class:`qsearch.training.quantizers.Family`; the calibrated scales are of no use."""
        return SparseWeight(bits, weight)

    def input(self, quantizer: ActivationQuantizer) -> InputLearner:
        """See :class:`qsearch.training.quantizers.Family`."""
        return self._inputs.input(quantizer)
