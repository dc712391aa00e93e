"""Average pooling of spikes: their sums, whole numbers, and what the weights behind them are divided by."""

from __future__ import annotations

import math

from torch import nn


def summed(pool: nn.AvgPool2d | nn.AvgPool3d) -> int | None:
    """Make pooling give sums, and say what makes them its means; None, and it stays as it is, where windows differ."""
    axes = 2 if isinstance(pool, nn.AvgPool2d) else 3
    kernel, padding = (
        (size,) * axes if isinstance(size, int) else tuple(size) for size in (pool.kernel_size, pool.padding)
    )
    if pool.ceil_mode or (any(padding) and not pool.count_include_pad):
        return None
    divisor = pool.divisor_override or math.prod(kernel)
    pool.divisor_override = 1
    return divisor
