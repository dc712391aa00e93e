"""A cost model in one class. In a campaign file: ``hardware: {name: examples/my_cost_model.py:MyAccelerator}``."""

from collections.abc import Mapping

from qsearch.assignment import BitArray
from qsearch.layers import Layer
from qsearch.protocols import CostModel


class MyAccelerator(CostModel):
    """A bit-serial array: one bit product of 4,096 lanes per cycle at 200 MHz (made-up numbers)."""

    units: Mapping[str, str] = {"latency": "s"}

    def layer_cost(self, layer: Layer, weight_bits: BitArray, activation_bits: int) -> Mapping[str, float]:
        bit_products = layer.macs * float(weight_bits.mean()) * activation_bits
        return {"latency": bit_products / 4096 / 200e6}
