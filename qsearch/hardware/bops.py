"""``Bops``: bit operations, the hardware-independent proxy.

BOPs = batch · Σ_kernels (MACs of the kernel) · w · a,        w the bits of a matrix product's second operand where it has no weights

Neurons have products where they leak: of w-bit leaks and a-bit states, once a step. What they add and compare is no product.
Spikes are inputs of 1 bit, and none is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import Field

from qsearch.assignment import BitArray
from qsearch.hardware.base import Costs, VectorCostModel
from qsearch.hardware.kernels import sum_over_kernels
from qsearch.hardware.traffic import IDENTITY
from qsearch.layers import Layer
from qsearch.registry import PluginOptions


class Bops(VectorCostModel):
    """Bit operations of a forward pass; metric ``bops`` in bit-op. Embeddings only look up, and have none."""

    class Options(PluginOptions):
        """How many samples pass."""

        batch: int = Field(default=1, ge=1)
        """Samples per forward pass."""

    units: Mapping[str, str] = {"bops": "bit-op"}
    kernel_additive = True

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()

    def layer_costs(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray) -> Costs:
        """See :meth:`VectorCostModel.layer_costs`."""
        bits = sum_over_kernels(weight_bits, layer.kernels, IDENTITY) * activation_bits
        return {"bops": bits.astype(np.float64) * (self.options.batch * layer.macs // layer.kernels)}
