"""The two modules that a deployed network has beside its own: codes to weight, and values to their grid.

They consist of torch's operators only, so that a program exported with them needs nothing else.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from qsearch.quantize.activations import ActivationQuantizer

if TYPE_CHECKING:
    from qsearch.export.deployment import IntegerWeight

EXACT_BITS = 24
"""Codes of so many bits are exact in float32; wider ones are multiplied in double precision, as the evaluation does."""


class StoredWeight(nn.Module):
    """Codes → weight, q·s for each kernel; kernels at 32 bits are put in as floats."""

    scales: Tensor
    rows: Tensor | None
    floats: Tensor | None

    def __init__(self, weight: IntegerWeight) -> None:
        super().__init__()
        working = torch.float64 if weight.widest > EXACT_BITS else torch.float32
        rows = weight.float_kernels
        self.dtype = weight.values.dtype
        self.register_buffer("scales", weight.scales.to(working).reshape(-1, *[1] * (weight.codes.dim() - 1)))
        self.register_buffer("rows", rows if len(rows) else None)  # a program cannot save empty tensors
        self.register_buffer("floats", weight.values[rows].clone() if len(rows) else None)

    def forward(self, codes: Tensor) -> Tensor:
        """Integers of the weight's shape → the weight."""
        values = (codes.to(self.scales.dtype) * self.scales).to(self.dtype)
        if self.rows is None or self.floats is None:
            return values
        return values.index_copy(0, self.rows, self.floats)


class QuantizedInput(nn.Module):
    """x → x̂ at one activation site; see :mod:`qsearch.quantize.activations`."""

    scale: Tensor

    def __init__(self, site: str, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        self.site, self.grid = site, quantizer.grid
        self.wide = quantizer.bits > EXACT_BITS
        self.register_buffer("scale", quantizer.scale.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """x̂, of the shape and type of ``x``; as :func:`qsearch.quantize.grid.fake_quantize`, but nothing in place."""
        if self.grid is None:
            return torch.where(x < 0, -self.scale, self.scale).to(x.dtype)
        working = torch.float64 if self.wide or x.dtype == torch.float64 else torch.float32
        codes = (x.to(working) / self.scale).round().clamp(self.grid.low, self.grid.high)
        return (codes * self.scale).to(x.dtype)


def in_double_precision(network: nn.Module) -> nn.Module:
    """A deployed network with its floats, and all its arithmetic, in double precision; the network itself."""
    for module in network.modules():
        if isinstance(module, StoredWeight):
            module.dtype = torch.float64
    return network.double()


def plain_forward(network: nn.Module) -> None:
    """Have an instance's own forward, which may be any callable, be a function with the signature of its class's.

    ``torch.export`` asks for one.
    """
    own = vars(network).get("forward")
    if own is None:
        return
    stock = type(network).forward.__get__(network)

    @functools.wraps(stock)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return own(*args, **kwargs)

    network.forward = forward


def quantise_operands(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Pre-hook: the arguments with those quantised that the layer has a ``quantize_input`` or ``quantize_other`` for."""
    found, named = list(args), dict(kwargs)
    for place, operand in enumerate(("input", "other")):
        quantize = module._modules.get(f"quantize_{operand}")
        if quantize is None:
            continue
        if place < len(found):
            found[place] = quantize(found[place])
        else:
            named[operand] = quantize(named[operand])
    return tuple(found), named
