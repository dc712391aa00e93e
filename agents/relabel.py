"""Off-policy correction of goals (HIRO; Nachum et al., NeurIPS 2018), as AutoQ uses it.

Notation

=====  ==========================================================================================
K      kernels of a layer
s_j    what the controller saw before kernel j, as a function of the goal
a_j    action that was executed
g      goal: mean bits of the layer
=====  ==========================================================================================

The lower level has changed since an old transition was stored: it would not do today, under the old goal, what it did then.
The upper level should learn from the goal under which it would:

    argmax over g of  −½ Σ_j (a_j − μ_lo(s_j, g))²,

over the old goal, the mean that was realised, and draws around that mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsearch.envs.actions import needed_positions, position_of
from qsearch.envs.features import AUTOQ, columns

DRAWS = 8
SPREAD = 0.5
"""Draws around the realised mean, and their standard deviation in bits [M: neither is in a source we could check]."""

_PLACE = columns(AUTOQ)
Floats = NDArray[np.float32]
Policy = Callable[[Floats], Floats]
"""Observations, shape (n, 14) → actions in [0, 1], shape (n,)."""


@dataclass(frozen=True)
class LayerRecord:
    """What the lower level did with one layer.

    Attributes:
        observations: shape (K, 14).
        actions: in [0, 1], shape (K,).
        bits: executed, shape (K,).
        choices: bits to choose from.
    """

    observations: Floats
    actions: Floats
    bits: NDArray[np.float64]
    choices: tuple[int, ...]

    @property
    def mean(self) -> float:
        """The goal that was realised."""
        return float(self.bits.mean())

    def seen_under(self, goal: float) -> Floats:
        """The observations, had the goal been another, shape (K, 14)."""
        seen = self.observations.copy()
        seen[:, _PLACE["goal"]] = position_of(goal, self.choices)
        seen[:, _PLACE["needed"]] = needed_positions(self.bits, goal, self.choices)
        return seen


def candidates(goal: float, record: LayerRecord, normal: NDArray[np.float64]) -> list[float]:
    """The old goal, the realised mean, and draws around it (``normal``: standard normal numbers), within the choices."""
    drawn = record.mean + SPREAD * normal
    return [goal, record.mean, *np.clip(drawn, record.choices[0], record.choices[-1]).tolist()]


def relabelled(policy: Policy, goals: list[float], record: LayerRecord) -> float:
    """The goal under which the policy would most likely have acted as it did; the first of equals."""
    seen = np.concatenate([record.seen_under(goal) for goal in goals])
    wanted = policy(seen).reshape(len(goals), -1)
    log_likelihood = -0.5 * ((record.actions[None] - wanted) ** 2).sum(axis=1)
    return goals[int(np.argmax(log_likelihood))]
