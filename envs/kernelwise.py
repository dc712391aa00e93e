"""``qsearch/Kernelwise-v0``: one decision per kernel, activations per layer, towards a goal for each layer.

Notation

=====  ==========================================================================
g      goal of a variable: the mean bits that its kernels should have
K      kernels of a variable;  j, the next of them
b      bits taken so far
ζ      share of the extrinsic reward in the intrinsic one (AutoQ, Lou et al., ICLR 2020)
=====  ==========================================================================

The observation carries the goal, and what the kernels to come need on average to reach it, (g·K − Σ_{i<j} b_i) / (K − j);
both as positions among the choices (:func:`qsearch.envs.actions.position_of`), so that answering with the second is
to track the goal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsearch.envs.actions import needed_positions, position_of
from qsearch.envs.base import BitwidthEnv, Info, Observation
from qsearch.envs.features import AUTOQ, static_features
from qsearch.envs.rewards import intrinsic
from qsearch.envs.schedule import Decision, Schedule
from qsearch.errors import ConfigError, SpaceError, nearest
from qsearch.protocols import Oracle, SensitivityTable
from qsearch.space import Variable
from qsearch.trial import Trial


class KernelwiseEnv(BitwidthEnv):
    """One decision per kernel of each weight and one per activation.

    Observations ``Box(0, 1, (14,))`` (:data:`qsearch.envs.features.AUTOQ`); actions as :class:`LayerwiseEnv`. Goals are
    given to ``reset(options={"goals": {site: bits}})``, or in the course of an episode to :meth:`set_goal`; without
    one, a site's goal is the middle of its range.

    The last step's ``info`` holds "intrinsic" too: the intrinsic reward of each executed decision, shape (T,).

    Args:
        oracle: where assignments are evaluated.
        sensitivity: how much damage each kernel does; features of the observation.
        zeta: ζ. Below 1 the environment earns the intrinsic reward: −(1 − ζ)·|g − mean b| at the end of each variable, and
            ζ times the extrinsic reward at the end of the episode.
        settings: as :class:`BitwidthEnv`.
    """

    def __init__(
        self, oracle: Oracle, *, sensitivity: SensitivityTable | None = None, zeta: float = 1.0, **settings: Any
    ) -> None:
        schedule = Schedule.by_kernel(oracle.problem.space)
        static = static_features(AUTOQ, schedule, oracle.problem.layers, sensitivity)
        if not 0 <= zeta <= 1:
            raise ConfigError("zeta must be within 0 and 1", got=zeta)
        self.zeta, self.sensitivity = zeta, sensitivity
        super().__init__(oracle, schedule, static, AUTOQ, **settings)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Begin an episode, with ``options={"goals": {site: mean bits}}`` if goals are given.

        Raises:
            SpaceError: a goal for a site that is not free.
        """
        goals: Mapping[str, float] = (options or {}).get("goals", {})
        known = {variable.name: variable for variable in self.schedule.space.variables}
        for name in goals:
            if name not in known:
                raise SpaceError(f"a goal needs a free site, {name!r} is none", fix=nearest(name, known))
        super().reset(seed=seed)
        for name, bits in goals.items():
            self.set_goal(known[name], bits)
        return self._observe(0), {}

    def set_goal(self, variable: Variable, bits: float) -> None:
        """Ask the kernels of a variable for these mean bits, clipped to its choices.

        Raises:
            SpaceError: the goal is not a number.
        """
        if not np.isfinite(bits):
            raise SpaceError(f"a goal must be a finite number of bits, that of {variable.name!r} is not", got=bits)
        self._goals[variable.name] = float(np.clip(bits, variable.choices[0], variable.choices[-1]))

    def goal(self, variable: Variable) -> float:
        """The goal of a variable, in bits."""
        return self._goals.get(variable.name, (variable.choices[0] + variable.choices[-1]) / 2)

    def observe(self) -> Observation:
        """What the next decision sees."""
        return self._observe(self._t)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        """See :meth:`BitwidthEnv.step`; the reward is the intrinsic one where ζ < 1."""
        t = self._t
        observation, reward, done, truncated, info = super().step(action)
        if self.zeta < 1:
            reward *= self.zeta
            variable = self.schedule.decisions[t].variable
            if self.schedule.decisions[t].last_of_variable and variable.length > 1:
                mean = self.mean_bits(variable, self._x)
                reward += intrinsic(self.goal(variable), mean, 0.0, self.zeta)
        return observation, reward, done, truncated, info

    def mean_bits(self, variable: Variable, x: NDArray[np.int64]) -> float:
        """Mean bits of a variable's kernels in ``x``, shape (D,)."""
        return float(np.mean(np.asarray(variable.choices)[x[variable.slice]]))

    def conclude(self, trial: Trial) -> tuple[float, Info]:
        """See :meth:`BitwidthEnv.conclude`."""
        reward, info = super().conclude(trial)
        assert self._executed is not None
        info["intrinsic"] = np.concatenate(
            [
                np.full(
                    variable.length,
                    intrinsic(self.goal(variable), self.mean_bits(variable, self._executed), reward, self.zeta)
                    if variable.length > 1
                    else self.zeta * reward,
                )
                for variable in self.schedule.space.variables
            ]
        )
        return reward, info

    def observations(self, x: NDArray[np.int64]) -> Observation:
        """See :meth:`BitwidthEnv.observations`; goals are those of this episode."""
        found = super().observations(x)
        for variable in self.schedule.space.variables:
            goal, bits = self.goal(variable), np.asarray(variable.choices, dtype=np.float64)[x[variable.slice]]
            found[variable.slice, self._place["goal"]] = position_of(goal, variable.choices)
            found[variable.slice, self._place["needed"]] = needed_positions(bits, goal, variable.choices)
        return found

    def _clear(self) -> None:
        super()._clear()
        self._goals: dict[str, float] = {}
        self._sum = 0.0

    def _took(self, decision: Decision, index: int) -> None:
        self._sum = 0.0 if decision.last_of_variable else self._sum + decision.choices[index]

    def _observe(self, t: int) -> Observation:
        observation = super()._observe(t)
        if t < len(self._counts):
            self._see_goal(observation, self.schedule.decisions[t])
        return observation

    def _see_goal(self, observation: Observation, decision: Decision) -> None:
        """Fill in the goal of the next decision, and what is needed to reach it."""
        variable = decision.variable
        goal = self.goal(variable)
        left = variable.length - decision.kernel
        needed = (goal * variable.length - self._sum) / left
        observation[self._place["goal"]] = position_of(goal, variable.choices)
        observation[self._place["needed"]] = position_of(needed, variable.choices)
