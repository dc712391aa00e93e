"""Sharing out samples by class, with a fixed seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from qsearch.errors import DataError

Indices = NDArray[np.int64]


def divide(
    indices: Indices, labels: NDArray[np.int64], count: int, others: int | None = None
) -> tuple[Indices, Indices]:
    """``count`` of the indices, and ``others`` of the rest or all of it; each with the classes in proportion, rising.

    Args:
        indices: shape (M,), of labels.
        labels: of all samples.

    Raises:
        DataError: there are fewer than are asked for, or fewer than it takes to have each class in both parts.
    """
    try:
        first, second = train_test_split(
            indices, train_size=count, test_size=others, stratify=labels[indices], random_state=0
        )
    except ValueError as error:
        wanted = "at least 1" if others is None else str(others)
        raise DataError(
            f"{len(indices)} samples must be enough for {count} and {wanted} more, every class among both",
            got=str(error),
            fix="ask for fewer by the options 'calibration', 'train', 'validation' and 'test'",
        ) from error
    return np.sort(first), np.sort(second)
