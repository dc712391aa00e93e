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

Neurons that keep a state from step to step (:mod:`qsearch.spiking`) are layers of c_out · P numbers of state, which take
the place of the input: read and written once in each of the T steps, ``uses``. Their leak takes the place of the weight, and
multiplies the state: uses · P · c_out MACs, or none where nothing leaks. A neuron that spikes has its thresholds beside it, as
a layer that stores them and has nothing to compute.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from qsearch.errors import SpaceError

LayerKind = Literal["conv", "linear", "embedding", "matmul", "neuron", "threshold"]

_KEPT = {"matmul": "other", "neuron": "leak"}
"""Kind → what stands in the place of the weight."""


@dataclass(frozen=True)
class Layer:
    """Geometry of one layer.

    Attributes:
        name: path of the module in the network ("layer1.0.conv1").
        kind: "conv" (1-, 2- or 3-D by the length of ``kernel``), "linear", "embedding", "matmul", the product of two
            activations, "neuron", a state that neurons keep, or "threshold", what they compare it with.
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
        constants: numbers stored with neurons: their leaks, of a neuron, 0 where nothing leaks; of a threshold, those. One
            for all, one per channel or one per neuron.
        events: spikes per sample that reach the layer in all steps and uses, as measured in float on the example; None
            where what it reads is no spikes. Of a neuron or threshold, the spikes that leave it.
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
    constants: int = 0
    events: float | None = None

    def __post_init__(self) -> None:
        sizes = (self.in_channels, self.out_channels, self.groups, self.uses)
        if min(*sizes, *self.kernel, *self.input_size, *self.output_size) < 1:
            raise SpaceError(f"every extent of layer {self.name!r} must be at least 1", got=self)
        if self.alive < 0:
            raise SpaceError(f"numbers kept alive while layer {self.name!r} runs must be at least 0", got=self.alive)
        if self.overlay < 0 or (self.overlay and not self.weighted):
            raise SpaceError(
                f"layer {self.name!r} must have a weight, and a period of at least 1, to be overlaid", got=self
            )
        if self.constants < 0 or (self.constants and self.neurons % self.constants):
            raise SpaceError(
                f"constants of layer {self.name!r} must be one for all, one per channel or one per neuron",
                got=f"{self.constants} for {self.neurons} neurons",
            )
        if self.events is not None and self.events < 0:
            raise SpaceError(f"spikes that reach layer {self.name!r} must be at least 0", got=self.events)
        if self.in_channels % self.groups or (self.kind == "conv" and self.out_channels % self.groups):
            raise SpaceError(f"groups of layer {self.name!r} must divide its channels", got=self.groups)

    @property
    def weighted(self) -> bool:
        """Whether it has a weight: it is no product of activations, no neuron and no threshold."""
        return self.kind in ("conv", "linear", "embedding")

    @property
    def reads_spikes(self) -> bool:
        """Whether all that reaches a layer with weights is spikes."""
        return self.weighted and self.events is not None

    @property
    def forgets_nothing(self) -> bool:
        """Whether it is neurons without a leak: theirs is one, and no choice."""
        return self.kind == "neuron" and not self.constants

    @property
    def weight_site(self) -> str:
        """Name of the site of its weight; of what stands in the weight's place where it has none."""
        if self.kind == "threshold":
            return self.name
        return f"{self.name}.{_KEPT.get(self.kind, 'weight')}"

    @property
    def activation_site(self) -> str:
        """Name of the site of its input activation; of a neuron, of its state."""
        return f"{self.name}.{'state' if self.kind == 'neuron' else 'input'}"

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
        if self.kind in ("neuron", "threshold"):
            return max(self.constants, 1)
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
    def neurons(self) -> int:
        """Numbers of state that it keeps; 0 of all but neurons and thresholds."""
        return self.out_channels * self.positions if self.kind in ("neuron", "threshold") else 0

    @property
    def params(self) -> int:
        """Weights, or constants of neurons; of a matrix product, numbers of the second operand of one use."""
        if self.kind in ("neuron", "threshold"):
            return self.constants
        return self.out_channels * (self.in_channels // self.groups) * math.prod(self.kernel)

    @property
    def stored_params(self) -> int:
        """Weights that are kept with the network: none of a matrix product."""
        return 0 if self.kind == "matmul" else self.params

    @property
    def macs(self) -> int:
        """Multiply-accumulates per sample, all uses."""
        if self.kind == "neuron":
            return self.uses * self.neurons if self.constants else 0
        return 0 if self.kind in ("embedding", "threshold") else self.uses * self.positions * self.params

    @property
    def input_elements(self) -> int:
        """Numbers read from the input feature map per sample, all uses; token indices for an embedding, the state of neurons."""
        if self.kind == "threshold":
            return 0
        channels = 1 if self.kind == "embedding" else self.in_channels
        return self.uses * channels * math.prod(self.input_size)

    @property
    def output_elements(self) -> int:
        """Numbers written to the output feature map per sample, all uses."""
        return 0 if self.kind == "threshold" else self.uses * self.out_channels * self.positions
