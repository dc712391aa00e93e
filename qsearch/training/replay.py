"""A memory of exemplars: what a network that learns task after task keeps of the tasks behind it.

Notation

=====  ====================================================================
M      exemplars that the memory may hold
c      classes seen so far; each keeps ⌊M / c⌋ of its samples
φ      features of a sample, shape (d,), of length 1
μ      mean of φ over a class
=====  ====================================================================

A class has its samples in an order once, when its task ends, and gives up the last of them as classes are added. In random
order the first ones are a fair draw. Herding (Welling, ICML 2009; Rebuffi et al., "iCaRL", CVPR 2017, algorithm 4) picks
the sample that brings the mean of those picked so far nearest to μ, and so on.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Memory:
    """Exemplars of the classes seen so far.

    Args:
        capacity: M; 0 keeps nothing.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._kept: dict[int, Tensor] = {}

    def add(self, label: int, inputs: Tensor) -> None:
        """Keep what there is room for of a class that was not seen before, the first ones first.

        Args:
            inputs: shape (n, …).
        """
        self._kept[label] = inputs
        room = self._capacity // len(self._kept)
        self._kept = {known: kept[:room].clone() for known, kept in self._kept.items()}

    def __len__(self) -> int:
        """Exemplars held."""
        return sum(map(len, self._kept.values()))

    def samples(self) -> tuple[Tensor, Tensor]:
        """Inputs, shape (len, …), and targets, int64 (len,), by class; there must be some."""
        targets = [torch.full((len(kept),), label, device=kept.device) for label, kept in self._kept.items()]
        return torch.cat(list(self._kept.values())), torch.cat(targets)


def herded(features: Tensor, count: int) -> Tensor:
    """The first ``count`` samples by herding, in order: features (n, d) → indices, int64 (min(count, n),)."""
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    mean, total = unit.mean(0), torch.zeros_like(unit[0])
    free = torch.zeros(len(unit), dtype=unit.dtype, device=unit.device)
    chosen = []
    for number in range(1, min(count, len(unit)) + 1):
        distance = (mean - (total + unit) / number).square().sum(1) + free
        picked = int(distance.argmin())
        chosen.append(picked)
        total, free[picked] = total + unit[picked], torch.inf
    return torch.tensor(chosen, dtype=torch.int64, device=features.device)
