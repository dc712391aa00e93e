"""The geometry of a layer from what it is called with.

Notation: B samples in the example. A call on k·B vectors or maps in all has k of them per sample (tokens, time steps,
crops), wherever their extent stands: (B, k), (k, B) or folded, (k·B). A call on a number that is no multiple of B, such
as of positions once for all samples, counts in full.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from qsearch.errors import DataError
from qsearch.layers import Layer
from qsearch.quantize.modules import CONVOLUTIONS
from qsearch.spiking.neurons import Integrator, Neuron

log = logging.getLogger(__name__)


def describe(name: str, module: nn.Module, x: Tensor, output: Tensor, batch: int, other: Tensor | None = None) -> Layer:
    """Geometry of one call of a layer.

    Args:
        x: its input, (N, c_in, *extents) for a convolution, (…, c_in) for a linear layer, (…) indices.
        output: its output.
        other: the second operand of a matrix product, (…, c_in, c_out).
        batch: B; k calls per sample count as k uses of a convolution, and as k positions of the others.
    """
    if isinstance(module, CONVOLUTIONS):
        rank = len(module.kernel_size)
        leading = int(x.shape[0]) if x.dim() == rank + 2 else batch
        return Layer(
            name,
            "conv",
            module.in_channels,
            module.out_channels,
            tuple(module.kernel_size),
            tuple(module.stride),
            module.groups,
            tuple(x.shape[-rank:]),
            tuple(output.shape[-rank:]),
            _per_sample(leading, batch),
            module.bias is not None,
        )
    if other is not None:
        return _product(name, x, output, other, batch)
    size = _positions(output.shape[:-1], batch)
    if isinstance(module, nn.Embedding):
        channels = (module.num_embeddings, module.embedding_dim)
        return Layer(name, "embedding", *channels, input_size=size, output_size=size)
    assert isinstance(module, nn.Linear)
    bias = module.bias is not None
    return Layer(name, "linear", module.in_features, module.out_features, input_size=size, output_size=size, bias=bias)


def _product(name: str, a: Tensor, output: Tensor, b: Tensor, batch: int) -> Layer:
    """A matrix product; what stands in front of its matrices are uses, of which a sample has its share."""
    inner, columns = int(a.shape[-1]), int(b.shape[-1]) if b.dim() > 1 else 1
    rows = int(a.shape[-2]) if a.dim() > 1 else 1
    leading = output.numel() // (rows * columns)
    if leading == 1:  # samples may be the rows
        rows = _per_sample(rows, batch)
    uses = _per_sample(leading, batch)
    return Layer(name, "matmul", inner, columns, input_size=(rows,), output_size=(rows,), uses=uses)


def describe_neurons(name: str, module: Integrator, currents: Tensor, output: Tensor) -> list[Layer]:
    """Layers of one call of neurons: their state, and their thresholds where they have some.

    Args:
        currents: (B, T, C, *extents).
        output: what comes out of them, of that shape.

    Raises:
        DataError: no channels.
    """
    if currents.dim() < 3:
        raise DataError(
            f"neurons {name!r} of a network must take currents (B, T, C, …)",
            got=f"shape {tuple(currents.shape)}",
            fix="give a single neuron a channel: currents.unsqueeze(-1)",
        )
    batch, steps, channels = currents.shape[:3]
    extents = tuple(currents.shape[3:])
    leaks = 0 if module.leak is None else module.leak.weight.numel()
    events = float(output.sum()) / batch if isinstance(module, Neuron) else None
    geometry: dict[str, Any] = {"input_size": extents, "output_size": extents, "uses": steps, "events": events}
    found = [Layer(name, "neuron", channels, channels, constants=leaks, **geometry)]
    if isinstance(module, Neuron):
        kept = module.threshold.weight.numel()
        found.append(Layer(f"{name}.threshold", "threshold", channels, channels, constants=kept, **geometry))
    return found


def in_steps(layer: Layer, x: Tensor, batch: int) -> Layer:
    """A call of a layer of a spiking network: vectors (k·B, c_in) are a use each, and spikes are counted."""
    if layer.kind == "linear" and x.dim() == 2:
        layer = replace(layer, uses=layer.positions, input_size=(), output_size=())
    if not x.is_floating_point() or no_count(x) is not None:
        return layer
    return replace(layer, events=float(x.sum()) / batch)


def no_count(x: Tensor) -> float | None:
    """A number of ``x`` that is no count of spikes; None where all are.

    Whole numbers that are not negative are counts of spikes: what frames of events are, and what neurons and sums over them
    give. Nothing tells integer pixels from them; images that are scaled, to 0 … 1 say, are not taken for spikes. An input of
    nothing but zeros is no spikes yet: calibration confirms that it may be, or refuses it.
    """
    wrong = ~((x >= 0) & (x == x.round()) & x.isfinite())
    return float(x[wrong][0]) if bool(wrong.any()) else None


def together(calls: Sequence[Layer]) -> Layer:
    """One layer for all calls of a module."""
    first, uses = calls[0], sum(call.uses for call in calls)
    known = [call.events for call in calls if call.events is not None]
    first = replace(first, events=sum(known) if len(known) == len(calls) else None)
    other = next((call for call in calls if _maps(call) != _maps(first)), None)
    if other is None:
        return replace(first, uses=uses)
    log.warning(
        "layer %s runs on feature maps of %s and of %s: counted as one use with the positions of all %d runs",
        first.name,
        _maps(first),
        _maps(other),
        uses,
    )
    if first.kind == "matmul":  # as many rows of the first run's extents as take the arithmetic of all
        rows = (max(1, round(sum(call.macs for call in calls) / first.params)),)
        return replace(first, input_size=rows, output_size=rows, uses=1)
    rest = (1,) * (len(first.kernel) - 1)
    inputs = sum(call.uses * math.prod(call.input_size) for call in calls)
    outputs = sum(call.uses * call.positions for call in calls)
    return replace(first, input_size=(inputs, *rest), output_size=(outputs, *rest), uses=1)


def _maps(call: Layer) -> str:
    """Extents of input and output: "9×9 → 4×4"; of a product, those of its operands: "9×4 · 4×9"."""
    if call.kind == "matmul":
        return f"{call.positions}×{call.in_channels} · {call.in_channels}×{call.out_channels}"
    return " → ".join("×".join(map(str, size)) or "1" for size in (call.input_size, call.output_size))


def _positions(extents: tuple[int, ...], batch: int) -> tuple[int, ...]:
    """Extents per sample: those behind the batch where it comes first, else how many positions there are; () for one."""
    if extents and extents[0] == batch:
        return tuple(extents[1:])
    count = _per_sample(math.prod(extents), batch)
    return (count,) if count > 1 else ()


def _per_sample(count: int, batch: int) -> int:
    """A sample's share of ``count`` positions; all of them where they are no multiple of the samples."""
    return count // batch if count % batch == 0 else count
