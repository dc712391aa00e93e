"""Orders in which every beginning is spread out, for searches that may end at any evaluation."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

X = NDArray[np.int64]


def spread(values: NDArray[np.float64]) -> list[int]:
    """Positions of a monotone sequence: its ends, then whatever is nearest the middle of the widest gap.

    Args:
        values: rising or falling, shape (n,).
    """
    last = len(values) - 1
    if last < 1:
        return list(range(len(values)))
    order = [0, last]
    gaps = [(-abs(values[last] - values[0]), 0, last)]
    while gaps:
        _, low, high = heapq.heappop(gaps)
        if high - low < 2:
            continue
        middle = low + 1 + int(np.argmin(np.abs(values[low + 1 : high] - (values[low] + values[high]) / 2)))
        order.append(middle)
        heapq.heappush(gaps, (-abs(values[middle] - values[low]), low, middle))
        heapq.heappush(gaps, (-abs(values[high] - values[middle]), middle, high))
    return order


def alternate(streams: Sequence[Iterator[X]]) -> Iterator[X]:
    """One index vector of each stream in turn, each once, until all have ended."""
    seen: set[bytes] = set()
    open_ = list(streams)
    while open_:
        for stream in list(open_):
            x = next((x for x in stream if x.tobytes() not in seen), None)
            if x is None:
                open_.remove(stream)
            else:
                seen.add(x.tobytes())
                yield x
