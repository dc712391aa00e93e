"""A target in one class. Measure on it with: qsearch hardware measure examples/my_target.py:MyBoard"""

import time
from collections.abc import Mapping, Sequence

import numpy as np

from qsearch.layers import Layer
from qsearch.protocols import Target


class MyBoard(Target):
    """NumPy on this machine in the place of a board: a matrix product of a linear layer's size, in float32."""

    units: Mapping[str, str] = {"latency": "s"}

    def precisions(self, layer: Layer) -> Sequence[tuple[int, int]]:
        return ((32, 32),) if layer.kind == "linear" else ()

    def versions(self) -> Mapping[str, str]:
        return {"numpy": np.__version__}

    def measure(self, layer: Layer, weight_bits: int, activation_bits: int) -> Mapping[str, float]:
        x = np.ones((layer.positions, layer.in_channels), np.float32)
        weight = np.ones((layer.in_channels, layer.out_channels), np.float32)
        start = time.perf_counter()
        _ = x @ weight
        return {"latency": layer.uses * (time.perf_counter() - start)}
