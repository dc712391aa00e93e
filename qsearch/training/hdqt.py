"""``hdqt``: any network, its linear layers and convolutions trained with products of few bits, forward and backward.

Notation: a convolution of C channels with kernels of k numbers a channel and O outputs, on N samples with P places each, is
the product of its unfolded inputs, R × K with R = N·P and K = C·k, and its kernels, O × K
(:mod:`qsearch.training.hadamard_products`). A linear layer has P rows a sample: as many as its input has beside channels.

Weights are kept in float, and so are biases, normalisation and all else; what is added up outside a product, such as the
gradients of overlapping windows, is added in full precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # the name torch's own documentation uses
from torch import Generator, Tensor, nn

from qsearch.errors import ConfigError, DataError, nearest
from qsearch.quantize.copies import duplicate
from qsearch.quantize.modules import CONVOLUTIONS
from qsearch.training.hadamard_products import Arithmetic, Clamps, HdqtOptions, Pass, quantized_product

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Convolutions that cannot be converted."""


class HadamardLinear(nn.Linear):
    """A linear layer on quantised products: (…, K) → (…, O)."""

    arithmetic: Arithmetic

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name of the method that it takes the place of
        """Y + bias."""
        rows = input.reshape(-1, input.shape[-1])
        found = quantized_product(rows, self.weight, self.arithmetic).view(*input.shape[:-1], self.out_features)
        return found if self.bias is None else found + self.bias


class _HadamardConvolution(nn.Module):
    """What convolutions of all dimensions share: (N, C, *S) → (N, O, *S′), and (C, *S) → (O, *S′) for one sample."""

    arithmetic: Arithmetic

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002  # as above
        """Y + bias, the places back in their shape.

        Raises:
            DataError: the input has other extents or channels.
        """
        batched = weight.dim()  # N beside C and *S, where the weight has O
        if input.dim() == batched - 1:
            return self._conv_forward(input[None], weight, bias)[0]
        if input.dim() != batched:
            raise DataError(
                f"a convolution of {batched - 2} extents takes (N, C, *S) or (C, *S)", got=tuple(input.shape)
            )
        windows = unfold(input, self)
        places = windows.shape[: batched - 1]  # N, *S′
        rows = windows.reshape(-1, math.prod(windows.shape[batched - 1 :]))
        found = quantized_product(rows, weight.flatten(1), self.arithmetic)
        return (found if bias is None else found + bias).view(*places, len(weight)).movedim(-1, 1)


class HadamardConv1d(_HadamardConvolution, nn.Conv1d):
    """A convolution along one extent."""


class HadamardConv2d(_HadamardConvolution, nn.Conv2d):
    """A convolution of images."""


class HadamardConv3d(_HadamardConvolution, nn.Conv3d):
    """A convolution of volumes."""


CONVERTED: Mapping[type[nn.Module], type[nn.Module]] = {
    nn.Linear: HadamardLinear,
    nn.Conv1d: HadamardConv1d,
    nn.Conv2d: HadamardConv2d,
    nn.Conv3d: HadamardConv3d,
}
"""What each kind of layer becomes."""


def hdqt(network: nn.Module, options: HdqtOptions | None = None, seed: int = 0) -> nn.Module:
    """A copy of a network whose linear layers and convolutions train with quantised products.

    The layers keep their names, weights and hooks; one that the network uses at several places stays one layer. The copy draws
    from a generator on the device that it is on, so a network must be on its device before.

    Args:
        options: how products are quantised; the defaults where None.
        seed: of stochastic rounding.

    Raises:
        ConfigError: a layer that cannot be converted, or is already, is not skipped; a layer to skip does not exist.
        DataError: the network cannot be copied.
    """
    options = options or HdqtOptions()
    copy = duplicate(network)
    layers = dict(_layers(copy))
    for name in sorted(options.skip - layers.keys()):
        raise ConfigError(f"no layer {name!r} to skip", fix=nearest(name, layers))
    device = next((parameter.device for parameter in copy.parameters()), torch.device("cpu"))
    generator = Generator(device).manual_seed(seed)
    for name, layer in layers.items():
        if name not in options.skip:
            _check(name, layer)
            # as torch does to parametrise a module: its weights, hooks and places in the network are left alone
            layer.__class__ = CONVERTED[type(layer)]
            layer.arithmetic = Arithmetic(options, generator)  # type: ignore[assignment]  # typed as tensor or module
    return copy


def clamp_counts(network: nn.Module) -> Clamps:
    """Sums of tiles of all converted layers together, counted as :func:`clamp_rates` has it; a count of its own."""
    total = Clamps()
    for clamps in _clamps(network).values():
        for what, sums in clamps.sums.items():
            total.add(what, clamps.clamped[what], sums)
    return total


def clamp_rates(network: nn.Module, *, reset: bool = False) -> dict[str, dict[Pass, float]]:
    """Share of sums that were clamped in training: layer → product → rate, since the last reset.

    Passes without gradients, as under ``torch.no_grad``, are not counted: they have no backward products.

    Args:
        reset: count anew from here.
    """
    found = {name: clamps.rates() for name, clamps in _clamps(network).items()}
    if reset:
        for clamps in _clamps(network).values():
            clamps.reset()
    return found


def _clamps(network: nn.Module) -> dict[str, Clamps]:
    """Counts of each converted layer."""
    found: dict[str, Any] = {
        name: module for name, module in network.named_modules() if isinstance(module, tuple(CONVERTED.values()))
    }
    return {name: layer.arithmetic.clamps for name, layer in found.items()}


def unfold(x: Tensor, layer: nn.Module) -> Tensor:
    """Windows of a padded input: (N, C, *S) → (N, *S′, C, *k), a view of it.

    Args:
        layer: a convolution, whose kernel, stride, dilation and padding they have.
    """
    assert isinstance(layer, CONVOLUTIONS)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode)
    extents = zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
    for axis, (kernel, stride, dilation) in enumerate(extents, start=2):
        x = x.unfold(axis, (kernel - 1) * dilation + 1, stride)[..., ::dilation]
    return x.movedim(1, len(layer.kernel_size) + 1)


def _layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers that are products, by name."""
    for name, module in network.named_modules():
        if isinstance(module, (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)):
            yield name, module


def _check(name: str, layer: nn.Module) -> None:
    """Raise ConfigError unless a layer can be converted."""
    if isinstance(layer, tuple(CONVERTED.values())):
        raise ConfigError(
            "hdqt converts a layer once", got=f"{name!r}, already converted", fix="convert the network it was made from"
        )
    skip = f"add {name!r} to the option 'skip', and it stays in float"
    if type(layer) not in CONVERTED:
        kinds = ", ".join(kind.__name__ for kind in CONVERTED)
        raise ConfigError(f"hdqt converts {kinds}", got=f"{name!r}, {type(layer).__name__}", fix=skip)
    if getattr(layer, "groups", 1) != 1:
        raise ConfigError(
            "hdqt converts convolutions of one group", got=f"{name!r} with groups={layer.groups}", fix=skip
        )
