"""Pareto arithmetic. All objectives are minimised here; callers negate what they maximise.

Notation: A points in M objectives, array of shape (A, M); r, a reference point, shape (M,).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


def non_dominated(points: Points) -> NDArray[np.bool_]:
    """Which points no other point dominates (≤ everywhere, < somewhere), shape (A,). Equal points stay together."""
    order = np.lexsort(points.T[::-1])  # no point is dominated by one behind it in this order
    keep = np.zeros(len(points), dtype=bool)
    front = np.empty((0, points.shape[1]))
    for index in order:
        point = points[index]
        beaten = np.all(front <= point, axis=1) & np.any(front < point, axis=1)
        if not beaten.any():
            keep[index] = True
            front = np.vstack([front, point])
    return keep


def hypervolume(points: Points, reference: Points) -> float:
    """Volume that the points dominate within the box below ``reference``; 0 for none.

    Exact in any number of objectives: slabs along the last objective, each with the volume of the points that
    reach it in the objectives before (hypervolume by slicing objectives, While et al. 2006).
    """
    inside = points[np.all(points < reference, axis=1)]
    if not len(inside):
        return 0.0
    if inside.shape[1] == 1:
        return float(reference[0] - inside.min())
    inside = np.unique(inside[non_dominated(inside)], axis=0)
    order = inside[np.argsort(inside[:, -1], kind="stable")]
    edges = np.append(order[:, -1], reference[-1])
    slabs = np.diff(edges)
    return float(
        sum(slab * hypervolume(order[: count + 1, :-1], reference[:-1]) for count, slab in enumerate(slabs) if slab > 0)
    )
