"""``OnnxRuntime``: this machine's processor, through ONNX Runtime. See :mod:`qsearch.targets.onnx_graphs`.

A reading is the wall time of one forward pass of the layer: that of as many runs as take a millisecond, divided by
their number, times the layer's uses. Layouts that the runtime changes before and after the layer count. So does the
call itself, some microseconds: :meth:`OnnxRuntime.floor` says how many, and nothing is subtracted. Time depends on what
else the machine does: leave it alone while it measures.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from qsearch.errors import PluginError
from qsearch.layers import Layer
from qsearch.protocols import Target
from qsearch.registry import PluginOptions

try:
    import onnxruntime

    from qsearch.targets import onnx_graphs
except ImportError as error:
    raise PluginError(
        "the target 'onnxruntime' needs the packages onnx and onnxruntime", fix="pip install 'qsearch[measured]'"
    ) from error

_LEAST_TIME = 1e-3
"""Seconds that a reading takes at least: below, the clock and the call's jitter would be a large part of it."""
_FLOOR_READINGS = 20
_CONV_DIMENSIONS = (1, 2, 3)


class OnnxRuntime(Target):
    """This processor: float32, 8-bit integers, and 4-bit weights of linear layers; metric ``latency`` in s."""

    class Options(PluginOptions):
        """How layers are run."""

        threads: int = Field(default=1, ge=1)
        """Of one operation."""
        batch: int = Field(default=1, ge=1)
        """Samples per forward pass."""
        opset: int = Field(default=21, ge=13, le=21)
        """Of the graphs."""

    units: Mapping[str, str] = {"latency": "s"}

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()
        self._point: tuple[Layer, int, int] | None = None
        self._timed: _Timed | None = None
        self._floor: dict[str, float] = {}

    def precisions(self, layer: Layer) -> Sequence[tuple[int, int]]:
        """See :meth:`Target.precisions`: what has no weights to store, as products of two activations and neurons, not at all."""
        if not layer.weighted:
            return ()
        if layer.kind == "embedding":
            return ((8, 32), (32, 32))
        if layer.kind == "conv":
            return ((8, 8), (32, 32)) if len(layer.kernel) in _CONV_DIMENSIONS else ()
        return ((4, 32), (8, 8), (32, 32)) if self._has_blocks() else ((8, 8), (32, 32))

    def versions(self) -> Mapping[str, str]:
        """See :meth:`Target.versions`."""
        return {
            "onnxruntime": onnxruntime.__version__,
            "threads": str(self.options.threads),
            "batch": str(self.options.batch),
        }

    def measure(self, layer: Layer, weight_bits: int, activation_bits: int) -> Mapping[str, float]:
        """See :meth:`Target.measure`."""
        point = (layer, weight_bits, activation_bits)
        if self._timed is None or self._point != point:
            self._timed = None  # two large layers need not fit in memory at once
            graph = onnx_graphs.layer_graph(*point, self.options.batch, self.options.opset)
            self._timed, self._point = _Timed(self.session(graph), graph), point
        return {"latency": self._timed.read() * layer.uses}

    def floor(self) -> Mapping[str, float]:
        """Metric → what a call costs that computes nothing: of an identity graph, the median reading, taken once."""
        if not self._floor:
            graph = onnx_graphs.identity_graph(self.options.opset)
            timed = _Timed(self.session(graph), graph)
            self._floor = {"latency": statistics.median(timed.read() for _ in range(_FLOOR_READINGS))}
        return self._floor

    def session(self, graph: onnx_graphs.LayerGraph, optimised: str = "") -> Any:
        """A session of a graph; the graph as the runtime changed it goes to the file ``optimised``, if one is named.

        Float weights stay float: without the optimiser named here the runtime quantises them between 8-bit operations
        by itself.
        """
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = self.options.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        if optimised:
            settings.optimized_model_filepath = optimised
        return onnxruntime.InferenceSession(
            graph.model.SerializeToString(),
            settings,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["WeightBiasQuantization"],
        )

    def _has_blocks(self) -> bool:
        """Whether this runtime multiplies by 4-bit weights: asked of it, with the smallest layer that has them."""
        graph = onnx_graphs.layer_graph(Layer("probe", "linear", onnx_graphs.BLOCK, 1), 4, 32)
        try:
            self.session(graph).run(None, {"x": graph.x})
        except Exception:  # the runtime has its own exceptions for each way of not having an operation
            return False
        return True


class _Timed:
    """A session with its input and output in place, and the number of runs that a reading takes."""

    def __init__(self, session: Any, graph: onnx_graphs.LayerGraph) -> None:
        self._session, self._binding = session, session.io_binding()
        self._binding.bind_cpu_input("x", graph.x)
        self._binding.bind_output("y")
        self._seconds(1)  # the first run allocates
        self._runs = max(1, math.ceil(_LEAST_TIME / self._seconds(1)))

    def read(self) -> float:
        """Seconds of one run, the mean over as many as a reading takes."""
        return self._seconds(self._runs) / self._runs

    def _seconds(self, runs: int) -> float:
        session, binding = self._session, self._binding
        start = time.perf_counter()
        for _ in range(runs):
            session.run_with_iobinding(binding)
        return time.perf_counter() - start
