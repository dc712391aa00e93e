"""``TensorCore``: a graphics processor whose matrix units take 4, 8 or 16 bits, both operands equal.

Notation: that of :mod:`qsearch.hardware.roofline`, and

=======  =============================================================================================
q(b)     lowest native precision that holds b bits: 4, 8 or 16 on a T4 or A100, 8 or 16 on an H100; multiples of 16 beyond
w_k, a   bits of kernel k, bits of the input
=======  =============================================================================================

The units multiply numbers of one precision only, and memory holds what they multiply. A tile runs at the highest of
q(a) and the q(w_k) of its kernels, as in a roofline; beyond that, here also what is stored and moved is rounded up:

    kernel k takes   max(q(w_k), q(a))      bits a weight        (none if it is pruned)
    the input takes  max_k of these         bits a number        (narrower tiles drop the leading bits as they load)

and latency, energy and size are those of the roofline at these bits. So 4-bit weights with 8-bit inputs cost what 8-bit
weights do, 5 bits cost what 8 cost, and nothing is gained below 4. A searcher that ties a layer's two sites loses nothing
here. An embedding multiplies nothing: its rows take q(w_k) bits. Launching a kernel, and what runs between the layers
(normalisation, requantisation), is left out: at a batch of one real networks are slower than this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import FLOAT_BITS, BitArray
from qsearch.hardware import energy45nm, roofline
from qsearch.hardware.base import Costs
from qsearch.hardware.constants import Constant
from qsearch.hardware.roofline import Platform, Roofline
from qsearch.layers import Layer

_H100 = "H100 SXM specification, dense [V]"

PLATFORMS: Mapping[str, Platform] = {
    "t4": roofline.PLATFORMS["t4"],
    "a100": roofline.PLATFORMS["a100"],
    "h100": Platform(
        rows=roofline.PLATFORMS["a100"].rows,
        columns=roofline.PLATFORMS["a100"].columns,
        peaks={b: Constant(tops * 1e12 / 2, "MAC/s", _H100) for b, tops in ((8, 1978.9), (16, 989.4))},
        bandwidth=Constant(3350e9 * 8, "bit/s", _H100),
        sram=Constant(50 * 2**23, "bit", "50 MB second-level cache, H100 specification [V]"),
    ),
}


class TensorCore(Roofline):
    """Matrix units of equal operands; metrics ``latency`` in s, ``energy`` in J, ``size`` in byte."""

    class Options(Roofline.Options):
        """The platform, and numbers that take the place of its own."""

        platform: Literal["t4", "a100", "h100"] = "t4"  # type: ignore[assignment]  # other platforms than a roofline's

    definitions: Mapping[str, str] = {
        "energy": "45 nm (QKeras, after Horowitz): MACs, on-chip memory, DRAM, all at the precision of a tensor core"
    }
    platforms: ClassVar[Mapping[str, Platform]] = PLATFORMS

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options or self.Options())
        self._stored = _stored(self._precision)

    def layer_costs(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray) -> Costs:
        """See :meth:`VectorCostModel.layer_costs`."""
        weights, inputs = self.stored(layer, weight_bits, activation_bits)
        traffic = self._traffic(layer, weights, inputs)
        compute, arithmetic = self._compute(layer, weight_bits, activation_bits)
        sram = self._sram_energy(layer, weights, inputs)
        return {
            "latency": np.maximum(compute, traffic / self.platform.bandwidth.value),
            "energy": arithmetic + sram + traffic * energy45nm.dram_energy(),
            **self._size.layer_costs(layer, weights, inputs),
        }

    def stored(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray) -> tuple[NDArray[Any], BitArray]:
        """Bits at which weights and inputs are stored, in the shapes of those they are assigned."""
        if layer.kind == "embedding":
            return self._stored[0, weight_bits], activation_bits
        weights = np.take(self._stored, weight_bits + (FLOAT_BITS + 1) * activation_bits[:, None])
        return weights, np.maximum(weights.max(axis=1), self._stored[0, activation_bits]).astype(np.int64)


def _stored(precision: tuple[int, ...]) -> NDArray[np.int8]:
    """Bits of a weight, by the bits of the input and its own, shape (33, 33); as bytes, which are quick to pass over.

    The first row, with an input of no bits, is q(b). Beyond 32 bits, which some multiples reach, is 32.
    """
    bits, ladder = np.arange(FLOAT_BITS + 1), np.minimum(precision, FLOAT_BITS)
    stored = ladder[np.searchsorted(ladder, np.maximum(bits[:, None], bits))] * (bits > 0)
    return stored.astype(np.int8)
