"""Low-level controllers: who gives a layer's kernels their bits, once the layer has a goal."""

from __future__ import annotations

from typing import Protocol

from qsearch.envs.base import Observation
from qsearch.envs.features import AUTOQ, columns
from qsearch.space import Variable

_NEEDED = columns(AUTOQ)["needed"]


class Controller(Protocol):
    """Decides the kernels of one variable after the other."""

    def start(self, variable: Variable, goal: float) -> None:
        """A variable's kernels are next; their mean bits should be ``goal``."""
        ...

    def act(self, observation: Observation) -> float:
        """An action in [0, 1] for the next kernel, from its observation, shape (14,)."""
        ...


class GoalTracking:
    """Gives each kernel the bits that it and those after it need on average: the mean comes within a rounding of the goal."""

    def start(self, variable: Variable, goal: float) -> None:
        """Nothing to prepare."""

    def act(self, observation: Observation) -> float:
        """The needed bits, as a position."""
        return float(observation[_NEEDED])
