"""From a network and an example input to its layers.

Notation: B samples in the example. A call on k·B vectors or maps in all has k of them per sample (tokens, time steps,
crops), wherever their extent stands: (B, k), (k, B) or folded, (k·B). A call on a number that is no multiple of B, such
as of positions once for all samples, counts in full. What is kept alive beside a layer is found by
:mod:`qsearch.quantize.liveness` in the same run.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from qsearch.errors import DataError
from qsearch.layers import Layer
from qsearch.quantize.copies import evaluation_copy
from qsearch.quantize.liveness import Liveness

log = logging.getLogger(__name__)

Inputs: TypeAlias = Tensor | tuple[Tensor, ...]
"""What a network is called with: one tensor, or several positional ones; the first extent is the batch."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Kinds of modules whose channels stand along the second extent."""

QUANTISABLE = (*CONVOLUTIONS, nn.Linear, nn.Embedding)
"""Kinds of modules that become layers."""


def forward(model: nn.Module, inputs: Inputs) -> Any:
    """Call ``model`` with one tensor, or with a tuple of positional ones."""
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def given(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The input that a hook sees a layer called with."""
    found: Tensor = args[0] if args else kwargs["input"]
    return found


def trace_layers(model: nn.Module, example: Inputs) -> tuple[Layer, ...]:
    """Layers of a network, in the order in which they first run.

    Convolutions (1-, 2- and 3-D), linear layers and embeddings are found. A module that runs several times is one
    layer with ``uses``. If their feature maps differ it is one use with as many positions as all runs together, so
    that MACs and elements are right, though its weight counts as read once; a warning says so. A copy of the network
    runs, once, in evaluation mode: the one given is left as it is, and so is the state of the random generators. What
    the network keeps for later is counted meanwhile, for ``alive``; where that cannot be, a warning says so, ``alive`` is
    0, and another copy may run.

    Args:
        model: any network.
        example: an input of shape (B, …), or a tuple of them.

    Raises:
        DataError: the network cannot be copied or run on the example, or no layer that could be quantised runs.
    """
    liveness = Liveness(example, _samples(example))
    try:
        network, calls = _run(model, example, liveness)
    except DataError as error:  # a network that runs only where nobody watches keeps its layers
        network, calls = _run(model, example, None)
        liveness.failure = error.__cause__ or error
    if liveness.failure is not None:
        log.warning("what %s keeps for later is not counted: %s", type(model).__name__, liveness.failure)
    _report_left_out(network, calls)
    if not calls:
        raise DataError(f"{type(model).__name__} must run at least one convolution, linear layer or embedding")
    return tuple(replace(_together(found), alive=liveness.alive(name)) for name, found in calls.items())


def _run(model: nn.Module, example: Inputs, liveness: Liveness | None) -> tuple[nn.Module, dict[str, list[Layer]]]:
    """The copy of a network that ran on the example, and all calls of its layers.

    Raises:
        DataError: as :func:`trace_layers`.
    """
    network, batch = evaluation_copy(model), _samples(example)
    calls: dict[str, list[Layer]] = {}

    def watch(name: str, module: nn.Module) -> None:
        def record(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
            x = given(args, kwargs)
            calls.setdefault(name, []).append(describe(name, module, x, output, batch))
            if liveness is not None:
                liveness.end(name, x)

        if liveness is not None:
            module.register_forward_pre_hook(lambda *_: liveness.begin(name))
        module.register_forward_hook(record, with_kwargs=True)

    try:
        for name, module in network.named_modules():
            if isinstance(module, QUANTISABLE):
                watch(name, module)
        with torch.random.fork_rng(), torch.no_grad(), liveness or nullcontext():
            outputs = forward(network, example)
        if liveness is not None:
            liveness.close(outputs)
    except Exception as error:  # the user's network may fail in any way; they need the reason
        raise DataError(
            f"the network {type(model).__name__} must run on the example input",
            got=f"{type(error).__name__}: {error}"[:300],
            fix="give an example of the shape and type of its training data",
        ) from error
    return network, calls


def describe(name: str, module: nn.Module, x: Tensor, output: Tensor, batch: int) -> Layer:
    """Geometry of one call of a layer.

    Args:
        x: its input, (N, c_in, *extents) for a convolution, (…, c_in) for a linear layer, (…) indices.
        output: its output.
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
    size = _positions(output.shape[:-1], batch)
    if isinstance(module, nn.Embedding):
        channels = (module.num_embeddings, module.embedding_dim)
        return Layer(name, "embedding", *channels, input_size=size, output_size=size)
    assert isinstance(module, nn.Linear)
    bias = module.bias is not None
    return Layer(name, "linear", module.in_features, module.out_features, input_size=size, output_size=size, bias=bias)


def _together(calls: Sequence[Layer]) -> Layer:
    """One layer for all calls of a module."""
    first, uses = calls[0], sum(call.uses for call in calls)
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
    rest = (1,) * (len(first.kernel) - 1)
    inputs = sum(call.uses * math.prod(call.input_size) for call in calls)
    outputs = sum(call.uses * call.positions for call in calls)
    return replace(first, input_size=(inputs, *rest), output_size=(outputs, *rest), uses=1)


def _maps(call: Layer) -> str:
    """Extents of input and output: "9×9 → 4×4"."""
    return " → ".join("×".join(map(str, size)) or "1" for size in (call.input_size, call.output_size))


def _report_left_out(model: nn.Module, layers: Mapping[str, object]) -> None:
    """Warn of matrices and kernels that stay in float: of layers of other kinds, and of layers that did not run."""
    left = [
        f"{name}.{key}" if name else key
        for name, module in model.named_modules()
        if name not in layers
        for key, parameter in module.named_parameters(recurse=False)
        if parameter.ndim > 1
    ]
    if left:
        log.warning("left in float, not searched: %s%s", ", ".join(left[:5]), ", …" if len(left) > 5 else "")


def _samples(example: Inputs) -> int:
    """B."""
    first = example[0] if isinstance(example, tuple) else example
    return max(1, int(first.shape[0])) if first.dim() else 1


def _positions(extents: tuple[int, ...], batch: int) -> tuple[int, ...]:
    """Extents per sample: those behind the batch where it comes first, else how many positions there are; () for one."""
    if extents and extents[0] == batch:
        return tuple(extents[1:])
    count = _per_sample(math.prod(extents), batch)
    return (count,) if count > 1 else ()


def _per_sample(count: int, batch: int) -> int:
    """A sample's share of ``count`` positions; all of them where they are no multiple of the samples."""
    return count // batch if count % batch == 0 else count
