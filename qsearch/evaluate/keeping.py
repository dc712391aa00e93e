"""How many weights of each layer are kept.

Notation, over the layers l with weights that may be pruned: n_l such weights, κ_l of them kept; s_1 ≥ s_2 ≥ … the squares of
one layer's weights before any training. Where kernels are pruned whole, n_l and κ_l count kernels, and only shares say κ_l:
a kernel of one layer is not as many weights as one of another.

    shares x_l           κ_l = x_l·n_l
    compression c        Σκ_l = Σn_l / c: of all layers together those of largest score s_i / (s_1 + … + s_i)

The score is what a weight adds to the power of its layer if it is kept beside all larger ones, as a share, so that layers of
any scale compare (Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", ICLR 2021, §3). Only numbers are
decided so; which weights are kept is for the training to find. At least one is kept of each layer.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def kept_by_share(counts: Mapping[str, int], shares: Mapping[str, float]) -> dict[str, int]:
    """κ_l of those that have a share: name → n_l, name → x_l."""
    return {name: max(1, round(share * counts[name])) for name, share in shares.items() if counts.get(name)}


def kept_by_compression(squares: Mapping[str, NDArray[np.float64]], compression: float) -> dict[str, int]:
    """κ_l of all that have weights; their sum is Σn_l / c to rounding, or one each.

    Args:
        squares: name → s in any order, shape (n_l,).
        compression: c, at least 1.
    """
    scores = {name: scored(found) for name, found in squares.items() if len(found)}
    if not scores:
        return {}
    owners = np.repeat(np.arange(len(scores)), [len(found) for found in scores.values()])
    keep = round(len(owners) / compression)
    first = np.argsort(-np.concatenate(list(scores.values())), kind="stable")[:keep]
    kept = np.bincount(owners[first], minlength=len(scores))
    return {name: max(1, int(count)) for name, count in zip(scores, kept, strict=True)}


def scored(squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores in falling order of s, shape (n_l,): 1 for the largest, 0 for zeros."""
    falling = np.sort(squares.astype(np.float64))[::-1]
    power = np.cumsum(falling)
    return np.divide(falling, power, out=np.zeros_like(falling), where=power > 0)


def worth_pruning(counts: Mapping[str, int], kept: Mapping[str, int], least: Mapping[str, float]) -> dict[str, int]:
    """κ_l of those whose sparsity reaches what pays; the others are left out, and stay dense.

    Args:
        counts: name → n_l.
        kept: name → κ_l.
        least: name → the least sparsity that pays; 0 where it has none.
    """
    return {name: keep for name, keep in kept.items() if 1 - keep / counts[name] >= least.get(name, 0.0)}
