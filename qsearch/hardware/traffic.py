"""How many bits a layer moves to and from DRAM.

Weights are read once a use, at the bits of each kernel. Each feature map is written once and read once, both at the bits
of the layer that consumes it: what is stored is what the consumer reads. A layer is therefore charged

    2 · input_elements · a · batch

and nothing for its own output, which keeps the cost of a network a sum over layers. An embedding reads the rows that it
looks up; every row is taken to be looked up equally often.

The second operand of a matrix product of activations is a feature map too: of each use and each sample it is another one,
and it was written before it is read.

A neuron's state takes the place of the feature map: read and written in each step. Its constants, and a threshold's, are
read in each step as weights are. Currents pass from layer to layer as sums do, and spikes are the input of who reads them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import FLOAT_BITS, BitArray
from qsearch.hardware.kernels import sum_over_kernels
from qsearch.layers import Layer

IDENTITY: NDArray[np.int64] = np.arange(FLOAT_BITS + 1, dtype=np.int64)
"""Storage at exactly the assigned bits, shape (33,)."""


def weight_traffic(
    layer: Layer, weight_bits: BitArray, batch: int, stored: NDArray[np.int64] = IDENTITY
) -> NDArray[np.float64]:
    """Bits of weights read per forward pass, shape (A,); of a matrix product's second operand, written and read.

    Args:
        weight_bits: shape (A, K) or (A, 1).
        batch: samples per forward pass; weights are shared by all of them, looked-up rows are not.
        stored: bits that a weight of 0..32 bits takes in memory, shape (33,).
    """
    bits = sum_over_kernels(weight_bits, layer.kernels, stored)
    if layer.kind == "embedding":
        looked_up = batch * layer.uses * layer.positions * layer.kernel_params
        return bits * looked_up / layer.kernels
    once = (bits * (layer.uses * layer.kernel_params)).astype(np.float64)
    return 2 * batch * once if layer.kind == "matmul" else once


def feature_traffic(layer: Layer, activation_bits: BitArray, batch: int) -> NDArray[np.float64]:
    """Bits of the input feature map read per forward pass, shape (A,); as many were written before."""
    return (activation_bits * (batch * layer.input_elements)).astype(np.float64)


def multiplied(layer: Layer) -> bool:
    """Whether a layer is a product of matrices, for an array of multipliers; embeddings and neurons are none."""
    return layer.kind in ("conv", "linear", "matmul")


def reduction(layer: Layer) -> int:
    """Length of a kernel's dot product: c_in/g · product of the kernel extents."""
    return layer.params // layer.out_channels


def products(layer: Layer, batch: int) -> tuple[int, int]:
    """Matrix products of a forward pass, and the rows M of each.

    The samples of a batch are rows of one product with the weights; two activations are multiplied sample by sample.
    """
    if layer.kind == "matmul":
        return batch * layer.uses, layer.positions
    return layer.uses, batch * layer.positions
