"""Between the choices: real-valued bits as shares of the two choices next to them.

Notation

=====  =====================================================================================
b      real-valued bits, shape (n,)
c      choices, ascending, shape (C,); c_j ≤ b ≤ c_{j+1} are the two next to b
t      (b − c_j) / (c_{j+1} − c_j)
P      shares, shape (n, C): 1 − t at j, t at j + 1, 0 elsewhere
=====  =====================================================================================

With every integer among the choices these are the shares of FracBits (Yang and Jin, AAAI 2021, eq. 3). At a choice its
share is 1 exactly, so whatever is interpolated is exact there. Bits beyond the first or the last choice count as these.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def neighbours(bits: Tensor, choices: Tensor) -> tuple[Tensor, Tensor]:
    """j and t of each, shape (n,); t is differentiable. There must be two choices at least."""
    within = bits.clamp(float(choices[0]), float(choices[-1]))
    above = torch.searchsorted(choices, within.detach(), right=True).clamp(1, len(choices) - 1)
    low, high = choices[above - 1], choices[above]
    return above - 1, (within - low) / (high - low)


def shares(bits: Tensor, choices: Tensor) -> Tensor:
    """P, differentiable; of one choice the share is 1."""
    if len(choices) == 1:
        return bits.new_ones(len(bits), 1)
    below, t = neighbours(bits, choices)
    lower = functional.one_hot(below, len(choices)) * (1 - t)[:, None]
    return lower + functional.one_hot(below + 1, len(choices)) * t[:, None]
