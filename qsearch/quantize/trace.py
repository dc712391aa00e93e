"""From a network and an example input to its layers.

Notation: B samples in the example. A call whose first extent is k·B has k further positions (tokens, time steps,
crops) folded into its batch; they are counted.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from qsearch.errors import DataError
from qsearch.layers import Layer

log = logging.getLogger(__name__)

Inputs: TypeAlias = Tensor | tuple[Tensor, ...]
"""What a network is called with: one tensor, or several positional ones; the first extent is the batch."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
QUANTISABLE = (*CONVOLUTIONS, nn.Linear, nn.Embedding)


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
    layer with ``uses``, and the geometry of its first run. A copy of the network runs, once, in evaluation mode:
    the one given is left as it is, and so is the state of the random generators.

    Args:
        model: any network.
        example: an input of shape (B, …), or a tuple of them.

    Raises:
        DataError: the network cannot be copied or run on the example, or no layer that could be quantised runs.
    """
    batch = _samples(example)
    layers: dict[str, Layer] = {}

    def watch(name: str, module: nn.Module) -> None:
        def record(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
            found = describe(name, module, given(args, kwargs), output, batch)
            known = layers.get(name)
            layers[name] = found if known is None else replace(known, uses=known.uses + found.uses)

        module.register_forward_hook(record, with_kwargs=True)

    try:
        network = copy.deepcopy(model).eval()
        for name, module in network.named_modules():
            if isinstance(module, QUANTISABLE):
                watch(name, module)
        with torch.random.fork_rng(), torch.no_grad():
            forward(network, example)
    except Exception as error:  # the user's network may fail in any way; they need the reason
        raise DataError(
            f"the network {type(model).__name__} must run on the example input",
            got=f"{type(error).__name__}: {error}"[:300],
            fix="give an example of the shape and type of its training data",
        ) from error
    _report_left_out(model, layers)
    if not layers:
        raise DataError(f"{type(model).__name__} must run at least one convolution, linear layer or embedding")
    return tuple(layers.values())


def describe(name: str, module: nn.Module, x: Tensor, output: Tensor, batch: int) -> Layer:
    """Geometry of one call of a layer.

    Args:
        x: its input, (N, c_in, *extents) for a convolution, (…, c_in) for a linear layer, (…) indices.
        output: its output.
        batch: B; N = k·B counts as k uses of a convolution, and as k positions of the others.
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
            leading // batch if leading % batch == 0 else 1,
            module.bias is not None,
        )
    size = _positions(output.shape[:-1], batch)
    if isinstance(module, nn.Embedding):
        channels = (module.num_embeddings, module.embedding_dim)
        return Layer(name, "embedding", *channels, input_size=size, output_size=size)
    assert isinstance(module, nn.Linear)
    bias = module.bias is not None
    return Layer(name, "linear", module.in_features, module.out_features, input_size=size, output_size=size, bias=bias)


def _report_left_out(model: nn.Module, layers: Mapping[str, Layer]) -> None:
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
    """Extents per sample: without the batch, and with what was folded into it."""
    if not extents:
        return ()
    folded = extents[0] // batch if extents[0] % batch == 0 else 1
    return (folded, *extents[1:]) if folded > 1 else tuple(extents[1:])
