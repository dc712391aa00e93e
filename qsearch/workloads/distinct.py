"""Keeping splits apart: an input that occurs twice is kept once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor


def distinct(keys: Mapping[str, Sequence[Hashable]]) -> dict[str, Tensor]:
    """Rows to keep of each split, int64 and rising: those whose key is the first in test, validation and train, in turn.

    Args:
        keys: split → what tells its inputs apart.
    """
    seen: set[Hashable] = set()
    kept: dict[str, Tensor] = {}
    for split in sorted(keys, key=("test", "validation", "train").index):
        rows = []
        for row, key in enumerate(keys[split]):
            if key not in seen:
                rows.append(row)
                seen.add(key)
        kept[split] = torch.tensor(rows, dtype=torch.int64)
    return kept
