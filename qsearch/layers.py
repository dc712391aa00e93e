"""``Layer``: the geometry of one layer, as cost models and agents need it.

Notation (per sample; a linear layer applied to a sequence has one output position per token):

===========  ==========================================================================
c_in, c_out  input and output channels
g            groups; g = c_in makes a convolution depthwise
k            kernel extents, product K; () and 1 for linear layers
P            output positions (product of the output extents)
params       c_out · (c_in / g) · K      weights, without bias; c_in · c_out for embeddings
macs         uses · P · c_out · (c_in / g) · K;   0 for embeddings, which only look up
===========  ==========================================================================

A product of two activations, (P, c_in) · (c_in, c_out), as attention has two of, is a layer too: its second operand takes
the place of the weight in arithmetic and traffic, and none in storage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from qsearch.errors import SpaceError

LayerKind = Literal["conv", "linear", "embedding", "matmul"]


@dataclass(frozen=True)
class Layer:
    """Geometry of one layer.

    Attributes:
        name: path of the module in the network ("layer1.0.conv1").
        kind: "conv" (1-, 2- or 3-D by the length of ``kernel``), "linear", "embedding", or "matmul", the product of two
            activations.
        in_channels, out_channels: c_in, c_out. For an embedding: rows of the table, and its width.
        kernel, stride: extents per spatial dimension; empty for linear and embedding layers.
        groups: g of a convolution.
        input_size, output_size: extents of the feature map; ``(tokens,)`` for a linear layer on a sequence.
        uses: how often one forward pass runs the layer (a reused module counts all its uses, attention all its heads).
        bias: whether a bias is added.
        alive: numbers per sample that the network keeps for later while this layer runs, beside the layer's own input
            and output: the input of a residual block.
        overlay: period of its overlay (:mod:`qsearch.overlay`), where its weight may be ternary with a part of higher
            precision; 0 where it may not.
    """

    name: str
    kind: LayerKind
    in_channels: int
    out_channels: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    groups: int = 1
    input_size: tuple[int, ...] = ()
    output_size: tuple[int, ...] = ()
    uses: int = 1
    bias: bool = False
    alive: int = 0
    overlay: int = 0

    def __post_init__(self) -> None:
        sizes = (self.in_channels, self.out_channels, self.groups, self.uses)
        if min(*sizes, *self.kernel, *self.input_size, *self.output_size) < 1:
            raise SpaceError(f"every extent of layer {self.name!r} must be at least 1", got=self)
        if self.alive < 0:
            raise SpaceError(f"numbers kept alive while layer {self.name!r} runs must be at least 0", got=self.alive)
        if self.overlay < 0 or (self.overlay and self.kind == "matmul"):
            raise SpaceError(
                f"layer {self.name!r} must have a weight, and a period of at least 1, to be overlaid", got=self
            )
        if self.in_channels % self.groups or (self.kind == "conv" and self.out_channels % self.groups):
            raise SpaceError(f"groups of layer {self.name!r} must divide its channels", got=self.groups)

    @property
    def weight_site(self) -> str:
        """Name of the site of its weight; of a matrix product's second operand, which stands in the weight's place."""
        return f"{self.name}.{'other' if self.kind == 'matmul' else 'weight'}"

    @property
    def activation_site(self) -> str:
        """Name of the site of its input activation."""
        return f"{self.name}.input"

    @property
    def overlay_site(self) -> str:
        """Name of the site that says how many of its weights are kept in high precision."""
        return f"{self.name}.overlay"

    @property
    def pattern_site(self) -> str:
        """Name of the site that says in which pattern they are."""
        return f"{self.name}.pattern"

    @property
    def kernels(self) -> int:
        """Kernels that can have bits of their own: output channels; rows of an embedding's table."""
        return self.in_channels if self.kind == "embedding" else self.out_channels

    @property
    def kernel_params(self) -> int:
        """Weights of one kernel."""
        return self.params // self.kernels

    @property
    def depthwise(self) -> bool:
        return self.kind == "conv" and self.groups > 1 and self.groups == self.in_channels

    @property
    def positions(self) -> int:
        """P: output positions per use."""
        return math.prod(self.output_size)

    @property
    def params(self) -> int:
        """Weights; of a matrix product, numbers of the second operand of one use."""
        return self.out_channels * (self.in_channels // self.groups) * math.prod(self.kernel)

    @property
    def stored_params(self) -> int:
        """Weights that are kept with the network: none of a matrix product."""
        return 0 if self.kind == "matmul" else self.params

    @property
    def macs(self) -> int:
        """Multiply-accumulates per sample, all uses."""
        return 0 if self.kind == "embedding" else self.uses * self.positions * self.params

    @property
    def input_elements(self) -> int:
        """Numbers read from the input feature map per sample, all uses; token indices for an embedding."""
        channels = 1 if self.kind == "embedding" else self.in_channels
        return self.uses * channels * math.prod(self.input_size)

    @property
    def output_elements(self) -> int:
        """Numbers written to the output feature map per sample, all uses."""
        return self.uses * self.out_channels * self.positions
