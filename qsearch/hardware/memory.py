"""``Memory``: storage of the weights and peak working memory, as on a microcontroller with flash and RAM.

Notation, per layer and per use of it: E_in, E_out numbers of its input and output feature map; L numbers that the network
keeps for later while it runs, such as the input of a residual block (:attr:`qsearch.layers.Layer.alive`); a bits of its
input; o bits of outputs.

    flash       = Σ_layers size of its weights,                        see :mod:`qsearch.hardware.size`
    peak_memory = max_layers ⌈(E_in·a + (E_out + L)·o) / 8⌉

A layer needs its whole input and its whole output at once (Rusci et al., arXiv:1905.13082 and arXiv:2008.05124), and what
is kept for later was the output of some layer. There o is the bits of the layer that reads the output next. A layer's cost
may depend on its own bits alone here, so o is an option, the same for all layers: 8 where outputs are requantised to
bytes, 32 where accumulators are stored. That is exact where they are, and an upper bound where every reader takes no more
than o bits. The buffers of a library's kernels are left out and, for embeddings, the indices.

A product of two activations has a second operand, of E_other numbers at w bits, in RAM and not in flash:

    peak_memory = ⌈(E_in·a + E_other·w + (E_out + L)·o) / 8⌉           all uses of each together

for the heads of an attention are parts of tensors that are there as a whole.

Spikes are an input of 1 bit. Neurons need the currents of a step, N numbers at o bits, their states at s bits, and give a
bit each:

    peak_memory = ⌈(N·(o + s + 1) + L·o) / 8⌉

A greatest of layers is not a sum of them: the states of *other* neurons, which stay from step to step, are in no layer's
peak, so that of a spiking network is a lower bound. What weights and all states take together is the metric ``memory`` of
:mod:`qsearch.hardware.neuromorphic`. A threshold has nothing in working memory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qsearch.assignment import FLOAT_BITS, BitArray
from qsearch.hardware.base import Costs, VectorCostModel
from qsearch.hardware.kernels import sum_over_kernels
from qsearch.hardware.size import Size
from qsearch.hardware.traffic import IDENTITY
from qsearch.layers import Layer


class Memory(VectorCostModel):
    """Flash and RAM; metrics ``flash`` and ``peak_memory`` in byte, the latter the greatest of the layers'."""

    class Options(Size.Options):
        """How weights are stored, and outputs."""

        output_bits: int = Field(default=8, ge=1, le=FLOAT_BITS)
        """Bits at which a layer writes its output: 8 for requantised outputs, 32 for accumulators."""

    units: Mapping[str, str] = {"flash": "byte", "peak_memory": "byte"}
    kernel_additive = True
    maxima: Collection[str] = frozenset({"peak_memory"})

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()
        self._size = Size(self.options)

    def layer_costs(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray) -> Costs:
        """See :meth:`VectorCostModel.layer_costs`; the working memory depends on the bits of activations alone."""
        flash = self._size.layer_costs(layer, weight_bits, activation_bits)["size"]
        if layer.neurons:
            return {"flash": flash, "peak_memory": self._neurons(layer, activation_bits)}
        product = layer.kind == "matmul"
        turns = 1 if product else layer.uses
        inputs = 0 if layer.kind == "embedding" else layer.input_elements // turns
        outputs = layer.output_elements // turns + layer.alive
        bits = inputs * activation_bits + outputs * self.options.output_bits
        if product:
            bits = bits + layer.uses * layer.kernel_params * sum_over_kernels(weight_bits, layer.kernels, IDENTITY)
        return {"flash": flash, "peak_memory": np.ceil(bits / 8.0)}

    def _neurons(self, layer: Layer, activation_bits: BitArray) -> NDArray[np.float64]:
        """Working memory of neurons in one step, in byte, shape (A,); 0 of thresholds."""
        if layer.kind == "threshold":
            return np.zeros(len(activation_bits))
        output = self.options.output_bits
        bits = layer.neurons * (output + activation_bits + 1) + layer.alive * output
        found: NDArray[np.float64] = np.ceil(bits / 8.0)
        return found
