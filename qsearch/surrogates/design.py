"""The first points to measure: a Latin hypercube, moved onto the points that can be measured.

Each feature's range is cut into as many strata as there are points to choose, by ranks over the pool, so that a stratum holds its
share of it; the hypercube takes each stratum once (McKay et al. 1979). Each of its points is then the nearest one of the pool.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc, rankdata

Floats = NDArray[np.float64]


def latin_hypercube(x: Floats, count: int, seed: int, among: Sequence[int] | None = None) -> list[int]:
    """Rows of a pool, ``count`` different ones.

    Args:
        x: features of the pool, shape (A, d).
        among: rows that may be chosen; all without it.

    Raises:
        ValueError: more are asked for than there are.
    """
    rows = np.arange(len(x)) if among is None else np.asarray(among)
    if count > len(rows):
        raise ValueError(f"{count} of {len(rows)} points")
    unit = np.stack([(rankdata(column) - 0.5) / len(rows) for column in x[rows].T], axis=1)
    wanted = qmc.LatinHypercube(x.shape[1], seed=seed).random(count)
    chosen: list[int] = []
    for point in wanted:
        distance = ((unit - point) ** 2).sum(axis=1)
        distance[chosen] = np.inf
        chosen.append(int(distance.argmin()))
    return [int(row) for row in rows[chosen]]
