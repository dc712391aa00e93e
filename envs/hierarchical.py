"""``qsearch/Hierarchical-v0``: one step per layer, a goal for its kernels and the bits of its input (AutoQ's upper level).

Notation

=====  =================================================
L      steps: layers with something to decide
g      goal: mean bits of a layer's kernels
=====  =================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from qsearch.assignment import BitAssignment
from qsearch.envs.actions import bits_at, position_of
from qsearch.envs.base import EpisodeEnv, Info, Observation
from qsearch.envs.controllers import Controller, GoalTracking
from qsearch.envs.features import AUTOQ, columns
from qsearch.envs.kernelwise import KernelwiseEnv
from qsearch.errors import UserError
from qsearch.protocols import Oracle
from qsearch.space import Variable
from qsearch.trial import Trial

_PLACE = columns(AUTOQ)


@dataclass(frozen=True)
class Step:
    """What one step decides: the kernels of ``weight`` by a goal, the bits of ``activation``; either may be absent."""

    weight: Variable | None
    activation: Variable | None


class HierarchicalEnv(EpisodeEnv):
    """Wraps a :class:`KernelwiseEnv`, whose kernels are decided by a low-level controller.

    Observations ``Box(0, 1, (14,))``: those of the layer's first kernel, with the goal and the activation bits of the
    step before. Actions ``Box(0, 1, (2,))``: (goal, activation bits), both as positions among the choices.

    The last step's ``info`` is that of the kernel-wise environment, and besides: ``executed_actions``, shape (L, 2), where
    the goal is the mean of the executed bits if the budget changed the layer, and ``executed_observations``,
    shape (L, 14), now of this level; those of the kernels are ``kernel_actions`` and ``kernel_observations``.

    Args:
        oracle: where assignments are evaluated.
        controller: decides the kernels; by default one that tracks the goal.
        settings: as :class:`KernelwiseEnv`; actions are not discrete.
    """

    metadata = KernelwiseEnv.metadata

    def __init__(self, oracle: Oracle, *, controller: Controller | None = None, **settings: Any) -> None:
        if settings.get("discrete"):
            raise UserError("goals are real numbers", got="discrete=True", fix="leave discrete out")
        self.oracle = oracle
        self.kernels = KernelwiseEnv(oracle, **settings)
        self.controller: Controller = controller or GoalTracking()
        self.steps = _steps(self.kernels)
        self.observation_space = self.kernels.observation_space
        self.action_space = spaces.Box(0.0, 1.0, (2,), np.float32)
        self.render_mode = self.kernels.render_mode
        self._clear()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Begin an episode."""
        super().reset(seed=seed)
        self.kernels.reset(seed=seed, options=options)
        self._clear()
        return self._observe(0), {}

    @property
    def position(self) -> int:
        """The number of the next step."""
        return self._t

    @property
    def done(self) -> bool:
        """All layers are decided."""
        return self._t == len(self.steps)

    def decide(self, action: Any) -> Observation:
        """The part of a step that needs no evaluation: decide a layer, and see the next one."""
        if self.done:
            raise UserError("an episode that has ended must be reset before the next step", fix="call reset()")
        self._actions[self._t] = np.clip(np.nan_to_num(np.asarray(action, dtype=np.float32)), 0, 1)
        goal, activation = self._actions[self._t].tolist()
        self._run(self.steps[self._t], goal, activation)
        self._t += 1
        return self._observe(self._t)

    def proposal(self) -> BitAssignment:
        """See :meth:`qsearch.envs.base.BitwidthEnv.proposal`."""
        return self.kernels.proposal()

    def conclude(self, trial: Trial) -> tuple[float, Info]:
        """Reward and ``info`` of a finished episode, once the oracle has answered."""
        reward, info = self.kernels.conclude(trial)
        return reward, self._info(info)

    def render(self) -> Any:
        """As the kernel-wise environment."""
        return self.kernels.render()

    def _run(self, step: Step, goal: float, activation: float) -> None:
        """Run the kernel-wise environment through one layer."""
        weight, kernels = step.weight, self.kernels
        if weight is not None:
            bits = bits_at(goal, weight.choices)
            highest = kernels.highest_mean()
            if bits > highest:  # the goal that the kernels are given is one that the budget leaves room for
                bits = highest
                self._lowered.add(weight.name)
            kernels.set_goal(weight, bits)
            self.controller.start(weight, bits)
            seen = kernels.observe()
            for _ in range(weight.length):
                seen = kernels.decide(self.controller.act(seen))
        if step.activation is not None:
            kernels.decide(activation)

    def _clear(self) -> None:
        self._t = 0
        self._lowered: set[str] = set()
        self._actions = np.zeros((len(self.steps), 2), dtype=np.float32)

    def _observe(self, t: int) -> Observation:
        before = self._actions[t - 1] if t > 0 else np.zeros(2, dtype=np.float32)
        return self._row(min(t, len(self.steps) - 1), before)

    def _row(self, t: int, before: Observation) -> Observation:
        """Observation of step t after the action ``before``, shape (2,)."""
        step = self.steps[t]
        variable = step.weight or step.activation
        assert variable is not None
        row: Observation = self.kernels.static[variable.start].copy()
        row[_PLACE["goal"]], row[_PLACE["previous"]] = before
        return row

    def _changed(self, weight: Variable, x: NDArray[np.int64]) -> bool:
        """Whether the budget lowered the goal, or gave the kernels other bits than the controller did."""
        if weight.name in self._lowered:
            return True
        moved = np.any(x[weight.slice] != self.kernels.x[weight.slice])
        return bool(moved or np.any(self.kernels.overruled[weight.slice]))

    def _info(self, info: Info) -> Info:
        """The episode as it was executed, at this level."""
        actions, x = self._actions.copy(), info["executed"]
        for t, step in enumerate(self.steps):
            if step.weight is not None and self._changed(step.weight, x):
                actions[t, 0] = position_of(self.kernels.mean_bits(step.weight, x), step.weight.choices)
            if step.activation is not None:
                actions[t, 1] = info["executed_actions"][step.activation.start, 0]
        before = np.concatenate([np.zeros((1, 2), dtype=np.float32), actions[:-1]])
        seen = np.stack([self._row(t, before[t]) for t in range(len(self.steps))])
        return {
            **info,
            "kernel_actions": info["executed_actions"],
            "kernel_observations": info["executed_observations"],
            "executed_actions": actions,
            "executed_observations": seen,
        }


def _steps(kernels: KernelwiseEnv) -> tuple[Step, ...]:
    """A step per layer that has a free weight or input; they follow each other in the order of the decisions."""
    problem = kernels.oracle.problem
    roles = {site.name: site.role for site in problem.space.sites}
    layers = {site.name: site.layer for site in problem.space.sites}
    steps: list[Step] = []
    for variable in problem.space.variables:
        if roles[variable.name] == "weight":
            steps.append(Step(variable, None))
        elif steps and steps[-1].activation is None and _layer(steps[-1], layers) == layers[variable.name]:
            steps[-1] = Step(steps[-1].weight, variable)
        else:
            steps.append(Step(None, variable))
    return tuple(steps)


def _layer(step: Step, layers: dict[str, str]) -> str | None:
    return layers[step.weight.name] if step.weight is not None else None
