"""Synapses of a layer that learns locally: a convolution or a matrix, forwards, and the sum of products that teaches it.

Biases are left out: a threshold does what they do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from qsearch.errors import DataError

Synaptic: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d

_FORWARD: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


class Synapses:
    """The connections of a layer.

    Args:
        module: whose geometry and weight; it is only read.

    Attributes:
        shape: of the weight, (K, …).
        fan_in: weights of one kernel.

    Raises:
        DataError: padding that is not by zeros, or is more on one side.
    """

    def __init__(self, module: Synaptic) -> None:
        self.shape = tuple(module.weight.shape)
        self.fan_in = math.prod(self.shape[1:])
        self.weight = module.weight.detach().double()
        self._convolution = None if isinstance(module, nn.Linear) else _geometry(module)

    def currents(self, weights: Tensor, traces: Tensor) -> Tensor:
        """conv(P, W): (B, …) → (B, …)."""
        if self._convolution is None:
            return functional.linear(traces, weights)
        stride, padding, dilation, groups = self._convolution
        forward = _FORWARD[len(stride)]
        return forward(traces, weights, None, stride, padding, dilation, groups)

    def gradient(self, errors: Tensor, traces: Tensor) -> Tensor:
        """Σ δ·P over samples and positions, of the shape of the weight."""
        if self._convolution is None:
            return errors.flatten(0, -2).T @ traces.flatten(0, -2)
        stride, padding, dilation, groups = self._convolution
        none = [0] * len(stride)
        # a correlation of errors and traces, which is all that is asked of it
        found: Tensor = torch.ops.aten.convolution_backward(
            errors,
            traces,
            self.weight,
            None,
            stride,
            padding,
            dilation,
            False,
            none,
            groups,
            [False, True, False],
        )[1]
        return found


def _geometry(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> tuple[list[int], list[int], list[int], int]:
    """Stride, padding and dilation of each extent; groups."""
    both = module._reversed_padding_repeated_twice
    sides = list(zip(both[0::2], both[1::2], strict=True))[::-1]
    if module.padding_mode != "zeros" or any(one != other for one, other in sides):
        raise DataError(
            "integer-only training pads with zeros, as much on either side",
            got=f"padding {module.padding!r}, mode {module.padding_mode!r}",
        )
    return list(module.stride), [one for one, _ in sides], list(module.dilation), module.groups
