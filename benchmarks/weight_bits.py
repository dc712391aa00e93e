"""``WeightBits``: the cost that "mean bits per weight" means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from qsearch.assignment import BitArray, BitAssignment
from qsearch.layers import Layer
from qsearch.protocols import CostModel


class WeightBits(CostModel):
    """Bits of all weights."""

    units: Mapping[str, str] = MappingProxyType({"weight_bits": "bit"})
    kernel_additive = True

    def layer_cost(self, layer: Layer, weight_bits: BitArray, activation_bits: int) -> Mapping[str, float]:
        return {"weight_bits": float(weight_bits.sum() * layer.kernel_params)}


def mean_weight_bits(layers: Sequence[Layer], assignment: BitAssignment) -> float:
    """Bits per weight of an assignment."""
    used = sum(assignment.mean_bits(layer.weight_site) * layer.params for layer in layers)
    return used / sum(layer.params for layer in layers)
