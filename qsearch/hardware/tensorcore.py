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
here. An embedding multiplies nothing: its rows take q(w_k) bits. The second operand of a product of two activations takes
the weights' place. States and constants of neurons take q(b) bits, and run beside the matrix units. Launching a kernel, and what runs between the layers
(normalisation, requantisation), is left out: at a batch of one real networks are slower than this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import FLOAT_BITS, BitArray
from qsearch.hardware import roofline
from qsearch.hardware.base import Costs
from qsearch.hardware.constants import Constant
from qsearch.hardware.roofline import Platform, Roofline
from qsearch.hardware.traffic import multiplied
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
        self._widths = np.minimum(self._precision, FLOAT_BITS)  # some multiples of the widest are beyond float
        self._held = _held(self._widths)

    def layer_costs(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray) -> Costs:
        """See :meth:`VectorCostModel.layer_costs`."""
        if not multiplied(layer):
            inputs = self._held[activation_bits] if layer.neurons else activation_bits
            return super().layer_costs(layer, self._held[weight_bits], inputs)
        at_least = self._at_least(layer, weight_bits)
        kernels = self._by_class(at_least, activation_bits)  # by what they run at, which is what they are stored at
        summed = self._widths @ kernels
        inputs = np.maximum((self._widths[:, None] * (kernels > 0)).max(axis=0), self._held[activation_bits])
        traffic = self._traffic(layer, self._weights(layer, summed), inputs)
        sram = self._sram_energy(layer, summed, at_least[0], inputs)
        return {
            **self._time_and_energy(self._compute(layer, at_least, activation_bits), sram, traffic),
            "size": self._kernel_sizes(layer) @ np.vstack([layer.kernels - at_least[0], kernels]),
        }

    def _kernel_sizes(self, layer: Layer) -> NDArray[np.float64]:
        """Bytes of one kernel, pruned and stored at each precision; eighths, of which sums are exact."""
        widths = np.array([0, *self._widths])
        sizes: NDArray[np.float64] = self._size.layer_costs(layer, widths[:, None], widths)["size"] / layer.kernels
        return sizes


def _held(widths: NDArray[np.int64]) -> NDArray[np.int64]:
    """q(b) of 0..32 bits, shape (33,); beyond 32 bits is 32."""
    bits = np.arange(FLOAT_BITS + 1)
    held: NDArray[np.int64] = widths[np.searchsorted(widths, bits)] * (bits > 0)
    return held
