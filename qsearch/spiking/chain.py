"""Chains of layers as they are converted: without what does nothing, batch norms folded, maxima before the first ReLU.

Notation, per channel of a layer: w weight, b bias or 0; γ, β, μ, σ², ε of the batch norm behind it.

::

    r = γ / √(σ² + ε)      w ← r·w      b ← β + r·(b − μ)                                  (Jacob et al., CVPR 2018, §3.2)
    max(ReLU(x₁), ReLU(x₂), …) = ReLU(max(x₁, x₂, …))                                          as ReLU never falls

What comes out computes what the network computes.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from qsearch.errors import DataError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
WEIGHTED = (*CONVOLUTIONS, nn.Linear)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
MAXIMA = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
MEANS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
SHAPES = (nn.Flatten, nn.Unflatten)
NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
"""Modules that do nothing in evaluation."""

FIXES = {
    "ReLU6": "take nn.ReLU: a neuron's rate is bounded anyway",
    "LeakyReLU": "take nn.ReLU: a rate is not negative",
    "GELU": "take nn.ReLU: a rate is never negative and grows with the current",
    "SiLU": "take nn.ReLU: a rate is never negative and grows with the current",
    "Sigmoid": "take nn.ReLU: a rate is in proportion to the current",
    "Tanh": "take nn.ReLU: a rate is not negative",
    "Softmax": "leave it to the loss",
    "LogSoftmax": "leave it to the loss",
    "LayerNorm": "take a batch norm, which folds into the layer before it",
    "GroupNorm": "take a batch norm, which folds into the layer before it",
    "Embedding": "convert what follows it, and feed that with rows of the table",
}
"""Modules that are often asked for → what to put in their place."""

Parts = OrderedDict[str, nn.Module]
"""Modules in a row, by name."""


@torch.no_grad()
def simplified(network: nn.Module) -> Parts:
    """The modules of a network as they are converted: copies, which compute the same one after another.

    Names are those of the network, with "_" for the dot of a sequence within another.

    Args:
        network: an ``nn.Sequential`` of layers, batch norms right behind them, ReLUs, pooling and changes of shape.

    Raises:
        DataError: the network is no sequence, or has a module, or an order of modules, that cannot be converted.
    """
    if not isinstance(network, nn.Sequential):
        raise DataError(
            "a network to be converted must be one nn.Sequential, whose modules run one after another",
            got=type(network).__name__,
            fix="write it as one; residual connections cannot be converted",
        )
    parts = OrderedDict((name, copy.deepcopy(module).eval()) for name, module in _flat(network, ""))
    for name, module in parts.items():
        _check_kind(name, module)
    parts = _maxima_first(_folded(parts))
    _check_order(parts)
    return parts


def _flat(network: nn.Sequential, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Modules of a sequence, and of the sequences in it, that do something."""
    for name, module in network._modules.items():  # named_children leaves out what stands there twice, as a ReLU may
        assert module is not None
        if isinstance(module, nn.Sequential):
            yield from _flat(module, f"{prefix}{name}_")
        elif not isinstance(module, NOTHING):
            yield f"{prefix}{name}", module


def _check_kind(name: str, module: nn.Module) -> None:
    kind = type(module).__name__
    if not isinstance(module, (*WEIGHTED, *BATCH_NORMS, *MAXIMA, *MEANS, *SHAPES, nn.ReLU)):
        raise DataError(
            "convolutions, linear layers, batch norms, ReLU, pooling and nn.Flatten can be converted",
            got=f"{kind} at {name!r}",
            fix=FIXES.get(kind, "build the network of these"),
        )
    if isinstance(module, BATCH_NORMS) and module.running_mean is None:
        raise DataError(f"batch norm {name!r} must have statistics", got="track_running_stats=False")
    if is_parametrized(module) or module._forward_pre_hooks:
        raise DataError(
            f"the weight of {name!r} must be a plain parameter",
            got="one that is computed before each call, as by weight norm or pruning",
            fix="remove the parametrisation, which leaves its value behind",
        )


def _folded(parts: Parts) -> Parts:
    """Without batch norms: the layers before them have taken them over."""
    found: Parts = OrderedDict()
    for name, module in parts.items():
        if not isinstance(module, BATCH_NORMS):
            found[name] = module
            continue
        before = next(reversed(found), None)
        if before is None or not isinstance(found[before], WEIGHTED):
            raise DataError(
                f"batch norm {name!r} must stand right behind a convolution or a linear layer",
                got="the start of the network" if before is None else f"{before!r} before it",
                fix="move it there and train again",
            )
        fold(found[before], module)
    return found


@torch.no_grad()
def fold(layer: nn.Module, norm: nn.Module) -> None:
    """Give a layer what the batch norm behind it, which has statistics of its own, does in evaluation."""
    assert isinstance(layer, WEIGHTED)
    assert isinstance(norm, BATCH_NORMS)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    ratio = 1 / (norm.running_var + norm.eps).sqrt() * (norm.weight if norm.affine else 1.0)
    bias = (0.0 if layer.bias is None else layer.bias) - norm.running_mean
    layer.weight.mul_(ratio.view(-1, *[1] * (layer.weight.dim() - 1)))
    layer.bias = nn.Parameter(ratio * bias + (norm.bias if norm.affine else 0.0))


def _maxima_first(parts: Parts) -> Parts:
    """With the maxima that stand right behind the first ReLU before it."""
    found = list(parts.items())
    place = next((place for place, (_, module) in enumerate(found) if isinstance(module, nn.ReLU)), len(found))
    while place + 1 < len(found) and isinstance(found[place + 1][1], MAXIMA):
        found[place : place + 2] = found[place + 1], found[place]
        place += 1
    return OrderedDict(found)


def _check_order(parts: Parts) -> None:
    """Raise DataError unless each layer but the last has a ReLU of its own, behind nothing but pooling."""
    layer: str | None = None
    between: str | None = None
    for name, module in parts.items():
        if isinstance(module, nn.ReLU):
            if layer is None or between is not None:
                raise DataError(
                    f"ReLU {name!r} must follow a layer of its own, with nothing but pooling between them",
                    got=f"{between!r} before it" if between is not None else "no layer, or another ReLU, before it",
                )
            layer = None
        elif isinstance(module, WEIGHTED):
            if layer is not None:
                raise DataError(
                    f"layer {layer!r} must have a ReLU behind it, as spikes have no sign",
                    got=f"{name!r}",
                    fix="put an nn.ReLU there and train again",
                )
            layer, between = name, None
        elif isinstance(module, SHAPES):
            between = name
    _check_end(parts)


def _check_end(parts: Parts) -> None:
    """Raise DataError unless there is a layer, and nothing but a ReLU at the very end acts on what the last gives."""
    layers = [place for place, module in enumerate(parts.values()) if isinstance(module, WEIGHTED)]
    if not layers:
        raise DataError("a network to be converted must have a convolution or a linear layer", got="none")
    tail = list(parts.items())[layers[-1] + 1 :]
    for name, module in tail[:-1]:
        if isinstance(module, nn.ReLU):
            raise DataError("a ReLU behind the last layer must be the end of the network", got=f"more behind {name!r}")
