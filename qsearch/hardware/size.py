"""``Size``: bytes that the weights of a network take in storage.

Notation: a kernel of p weights at b bits, a scale of s bits, a bit-width field of f bits per kernel.

    size = Σ_kernels ( min(b·p + s, 32·p) + f ) / 8,        without the scale for pruned kernels (b = 0)

The scale and the field count: per kernel they are a real share of a small budget. A kernel for which codes and scale
would take more than its floats is stored as floats; so a float kernel takes 32·p, and size is monotone up to it. The
field is charged for every kernel, also where all kernels of a layer agree: the same assignment then has the same size
whether it was found layer by layer or kernel by kernel, and no kernel can lower the size by raising its bits to those of
the others. Biases and batch-norm parameters are the same for all assignments and are left out. A product of two
activations stores nothing. Of neurons, leaks and thresholds are stored, all of a layer with one scale and one field; their
states are working memory, and take no storage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qsearch.assignment import FLOAT_BITS, BitArray
from qsearch.hardware.base import Costs, VectorCostModel
from qsearch.hardware.kernels import sum_over_kernels
from qsearch.layers import Layer
from qsearch.registry import PluginOptions


class Size(VectorCostModel):
    """Storage of the weights, with scales and bit-width fields; metric ``size`` in byte."""

    class Options(PluginOptions):
        """How scales and bit-width fields are stored."""

        scale_bits: Literal[0, 16, 32] = 16
        """Bits of the scale of each kernel; 0 where scales are powers of two folded elsewhere."""
        field_bits: int = Field(default=6, ge=0, le=8)
        """Bits that tell each kernel's bitwidth; 0..32 are 33 values, which need 6."""

    units: Mapping[str, str] = {"size": "byte"}
    kernel_additive = True

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()

    def layer_costs(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray) -> Costs:
        """See :meth:`VectorCostModel.layer_costs`; activations take no storage."""
        if layer.kind == "matmul":
            return {"size": np.zeros(len(weight_bits))}
        if layer.neurons:
            return {"size": self._constants(layer, weight_bits)}
        b, p = np.arange(FLOAT_BITS + 1, dtype=np.int64), layer.kernel_params
        stored = np.minimum(b * p + self.options.scale_bits, FLOAT_BITS * p) * (b > 0)
        total = sum_over_kernels(weight_bits, layer.kernels, stored + self.options.field_bits)
        return {"size": total / 8.0}

    def _constants(self, layer: Layer, weight_bits: BitArray) -> NDArray[np.float64]:
        """Bytes of the constants of neurons, which share one grid, shape (A,)."""
        if not layer.constants:
            return np.zeros(len(weight_bits))
        codes = sum_over_kernels(weight_bits, layer.kernels, np.arange(FLOAT_BITS + 1, dtype=np.int64))
        stored = np.minimum(codes + self.options.scale_bits, FLOAT_BITS * layer.params) * (codes > 0)
        return (stored + self.options.field_bits) / 8.0
