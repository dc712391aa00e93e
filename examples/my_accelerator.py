"""A cost model in one class. Check it with ``qsearch hardware check examples/my_accelerator.py:MyAccelerator``.

In a campaign file: ``hardware: {name: examples/my_accelerator.py:MyAccelerator, options: {lanes: 1024}}``. In a package of
your own: ``[project.entry-points."qsearch.cost_models"]`` with ``my-accelerator = "my_package.my_accelerator:MyAccelerator"``.
"""

from collections.abc import Mapping

from qsearch.assignment import BitArray
from qsearch.layers import Layer
from qsearch.protocols import CostModel
from qsearch.registry import PluginOptions


class MyAccelerator(CostModel):
    """A bit-serial array at 200 MHz: each lane does one bit product a cycle (made-up numbers)."""

    class Options(PluginOptions):
        lanes: int = 4096

    units: Mapping[str, str] = {"latency": "s"}

    def __init__(self, options: Options) -> None:
        self.lanes = options.lanes

    def layer_cost(self, layer: Layer, weight_bits: BitArray, activation_bits: int) -> Mapping[str, float]:
        return {"latency": layer.macs * float(weight_bits.mean()) * float(activation_bits) / self.lanes / 200e6}
