"""Moving the signs of scales to the codes, for formats whose readers ask for positive scales.

q·s = (−q)·(−s): a kernel whose scale is negative can have a positive one if its grid, −L … L−1, holds all of −q, which it
does unless one of its codes is −L.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qsearch.export.deployment import IntegerWeight

NEGATIVE = (
    "keep a negative scale, as their codes fill the {end}: compilers that ask for positive scales do not take them"
)
"""What a user is told of kernels whose sign cannot move."""


def positive_scales(stored: IntegerWeight, limit: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Codes of the weight's shape and scales of shape (K,), the latter positive wherever the grid allows.

    Args:
        limit: L, one number or of shape (K,).
    """
    codes, scales = stored.codes.numpy().astype(np.int64), stored.scales.numpy().astype(np.float32)
    others = tuple(range(1, codes.ndim))
    turned = (scales < 0) & (codes.min(axis=others) > -np.asarray(limit))
    sign = np.where(turned, -1, 1)
    return codes * np.expand_dims(sign, others), scales * sign.astype(np.float32)
