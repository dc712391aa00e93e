"""Low-level controllers of the hierarchical agent: one that learns, and the closed form."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from qsearch.agents.haq import HaqDDPG
from qsearch.envs.actions import to_actions
from qsearch.envs.base import Observation
from qsearch.protocols import SensitivityTable
from qsearch.search.filling import fill
from qsearch.space import Variable


class Learned:
    """A deterministic actor with exploration; ``episode`` sets how much.

    After the warm-up every other episode goes without: what comes of a goal is then not blurred for the upper level, and
    the best that the policy can do is tried as it is.
    """

    def __init__(self, model: HaqDDPG) -> None:
        self._model = model
        self.episode = 0

    def start(self, variable: Variable, goal: float) -> None:
        """Nothing to prepare: the goal is in the observation."""

    def act(self, observation: Observation) -> float:
        """The actor's action, with exploration."""
        mean, exploration = self.policy(observation[None]), self._model.exploration
        if self.episode >= exploration.warmup and self.episode % 2 == 0:
            return float(mean[0])
        return float(exploration.draw(mean, self.episode)[0])

    def policy(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Actions in [0, 1] without exploration, shape (n, F) → (n,)."""
        with torch.no_grad():
            scaled = self._model.actor(torch.as_tensor(observations))
        return np.asarray((scaled.numpy()[:, 0] + 1) / 2, dtype=np.float32)


class WaterFilling:
    """Fills each goal by reverse water-filling over the kernels' sensitivities: nothing to learn."""

    def __init__(self, table: SensitivityTable) -> None:
        self._damage: Mapping[str, NDArray[np.float64]] = table.damage
        self._actions: list[float] = []

    def start(self, variable: Variable, goal: float) -> None:
        """Fill the goal of a layer."""
        damage = np.maximum(np.asarray(self._damage[variable.name])[:, 0], 0.0)
        indices = fill(damage, goal, variable.choices)
        self._actions = to_actions(indices, np.full(len(indices), len(variable.choices))).tolist()[::-1]

    def act(self, observation: Observation) -> float:
        """The next kernel's action."""
        return self._actions.pop()
