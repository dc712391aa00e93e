"""``BitwidthEnv``: what the environments have in common.

Notation

=====  ==========================================================================================
T      decisions of an episode
x      index vector of the space, shape (D,): the choices taken so far, the fewest bits for the rest
F      features of an observation
=====  ==========================================================================================

A step takes one decision and earns 0; the last one sends the assignment through the oracle and earns the reward of the
trial. Budgets on costs are kept in one of two ways:

- ``project``: after the last decision the assignment is projected onto the budget (HAQ's shrinking,
  :func:`qsearch.projection.project`). What was executed may then differ from what was decided, so the last step's ``info``
  holds the episode as it was executed: an agent should learn from that.
- ``mask``: a decision may take only choices that leave room for the rest (:class:`qsearch.envs.budget.Allowance`).
  ``action_masks`` names them; an action beyond them becomes the highest allowed.

``info`` of the last step:

=====================  ======================================================================
trial                  the oracle's :class:`qsearch.trial.Trial`
executed               index vector of its assignment, shape (D,)
executed_actions       actions of the executed episode, shape (T, 1), or (T,) for discrete ones
executed_observations  what was seen before each of them, shape (T, F)
=====================  ======================================================================

The oracle's ``BudgetExhausted`` passes through ``step``: there is nothing left to learn.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from qsearch import registry
from qsearch.assignment import BitAssignment
from qsearch.envs.actions import to_action, to_actions, to_index
from qsearch.envs.budget import Allowance
from qsearch.envs.features import columns
from qsearch.envs.render import ansi, picture
from qsearch.envs.rewards import reward_of
from qsearch.envs.schedule import Decision, Schedule
from qsearch.errors import ConfigError, UserError, nearest
from qsearch.projection import project
from qsearch.protocols import Oracle, Reward
from qsearch.trial import Trial

BudgetMode = Literal["project", "mask"]
Observation = NDArray[np.float32]
Info = dict[str, Any]


class EpisodeEnv(gymnasium.Env[Observation, Any]):
    """An episode in parts: decisions without an evaluation, and one evaluation at the end."""

    oracle: Oracle

    @property
    @abstractmethod
    def done(self) -> bool:
        """Everything is decided."""

    @abstractmethod
    def decide(self, action: Any) -> Observation:
        """The part of a step that needs no evaluation."""

    @abstractmethod
    def proposal(self) -> BitAssignment:
        """The assignment of a finished episode, within the budget."""

    @abstractmethod
    def conclude(self, trial: Trial) -> tuple[float, Info]:
        """Reward and ``info`` of a finished episode, once the oracle has answered."""

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        """Decide; the last step evaluates.

        Raises:
            UserError: the episode has ended.
            BudgetExhausted: from the oracle.
        """
        observation = self.decide(action)
        if not self.done:
            return observation, 0.0, False, False, {}
        reward, info = self.conclude(self.oracle.evaluate(self.proposal()))
        return observation, reward, True, False, info


class BitwidthEnv(EpisodeEnv):
    """An episode decides the bits of a network.

    Args:
        oracle: where assignments are evaluated.
        schedule: the decisions.
        static: features of each decision that no episode changes, shape (T, F).
        names: what the features are called, F of them, "previous" among them.
        budget: how cost bounds are kept, see the module.
        reward: name of a plug-in of ``qsearch.rewards``, or a function of a trial.
        reward_options: options of the plug-in.
        discrete: actions are choices, ``Discrete(C)`` with C the most choices of a decision, instead of ``Box(0, 1)``.
        render_mode: "ansi" or "rgb_array".

    Raises:
        UserError: an unknown budget mode, reward or render mode; a budget that nothing can meet.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012  # as Gymnasium declares it

    def __init__(
        self,
        oracle: Oracle,
        schedule: Schedule,
        static: Observation,
        names: tuple[str, ...],
        *,
        budget: BudgetMode = "project",
        reward: str | Reward = "objective",
        reward_options: dict[str, Any] | None = None,
        discrete: bool = False,
        render_mode: str | None = None,
    ) -> None:
        _check("budget", budget, ("project", "mask"))
        _check("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        problem = oracle.problem
        problem.check_floor()
        self.oracle, self.schedule, self.render_mode = oracle, schedule, render_mode
        self.reward: Reward = (
            registry.create("rewards", reward, reward_options, problem) if isinstance(reward, str) else reward
        )
        self.static, self._place = static, columns(names)
        self._counts: list[int] = schedule.counts.tolist()
        self._most = max(self._counts)
        self._t, self._x = 0, problem.space.lowest.copy()
        self._executed: NDArray[np.int64] | None = None
        self._limit: int | None = None
        self._relative = schedule.relative_bits
        self._allowance = Allowance(problem, schedule) if budget == "mask" else None
        self._discrete = discrete
        self.observation_space = spaces.Box(0.0, 1.0, (len(names),), np.float32)
        self.action_space = spaces.Discrete(self._most) if discrete else spaces.Box(0.0, 1.0, (1,), np.float32)
        self._actions = np.zeros(len(schedule), dtype=np.float32)
        self._overruled = np.zeros(len(schedule), dtype=np.bool_)
        self._clear()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Begin an episode; it owes nothing to the one before."""
        super().reset(seed=seed)
        self._clear()
        return self._observe(0), {}

    @property
    def done(self) -> bool:
        """All decisions are taken."""
        return self._t == len(self._counts)

    @property
    def position(self) -> int:
        """The number of the next decision."""
        return self._t

    @property
    def x(self) -> NDArray[np.int64]:
        """Choices taken so far, the fewest bits for the rest, shape (D,); a copy."""
        return self._x.copy()

    @property
    def overruled(self) -> NDArray[np.bool_]:
        """Decisions whose action was beyond the mask, shape (T,); a copy."""
        return self._overruled.copy()

    def decide(self, action: Any) -> Observation:
        """The part of a step that needs no evaluation: take a decision, and see the next one."""
        t = self._t
        if t == len(self._counts):
            raise UserError("an episode that has ended must be reset before the next step", fix="call reset()")
        count = self._counts[t]
        raw = float(np.float32(np.asarray(action).reshape(-1)[0]))  # as it is stored: it must fall on the same choice
        index = int(min(max(0.0, raw), count - 1)) if self._discrete else to_index(raw, count)
        if self._allowance is not None:
            limit = self._allowed() - 1
            self._overruled[t] = index > limit
            if index > limit:
                index, raw = limit, to_action(limit, count)
            self._allowance.take(t, index)
        decision = self.schedule.decisions[t]
        self._x[decision.start : decision.stop] = index
        self._actions[t] = index if self._discrete else min(max(raw, 0.0), 1.0) if raw == raw else 0.0
        self._t, self._limit = t + 1, None
        self._took(decision, index)
        return self._observe(self._t)

    def proposal(self) -> BitAssignment:
        """The assignment of a finished episode, within the budget."""
        self._executed = project(self.oracle.problem, self._x)
        return self.oracle.problem.space.decode(self._executed)

    def conclude(self, trial: Trial) -> tuple[float, Info]:
        """Reward and ``info`` of a finished episode, once the oracle has answered."""
        if self._executed is None:
            raise UserError("an episode is concluded once its proposal has been evaluated", fix="call proposal()")
        reward = reward_of(self.reward, trial, self.oracle.trials)
        taken = self.schedule.taken(self._executed)
        actions = self._actions.copy()
        changed: NDArray[np.bool_] = self.schedule.taken(self._x) != taken
        if changed.any():
            actions[changed] = (taken if self._discrete else to_actions(taken, self.schedule.counts))[changed]
        info = {
            "trial": trial,
            "executed": self._executed,
            "executed_actions": actions.astype(np.int64) if self._discrete else actions[:, None],
            "executed_observations": self.observations(self._executed),
        }
        return reward, info

    def observations(self, x: NDArray[np.int64]) -> Observation:
        """What is seen before each decision of an episode that ends in ``x``, shape (D,) → (T, F)."""
        found = self.static.copy()
        taken = self.schedule.taken(x)
        found[1:, self._place["previous"]] = self._relative[np.arange(len(taken)), taken][:-1]
        return found

    def action_masks(self) -> NDArray[np.bool_]:
        """Choices that the next decision may take, shape (C,)."""
        masks = np.zeros(self._most, dtype=np.bool_)
        masks[: 1 if self.done else self._allowed()] = True
        return masks

    def render(self) -> Any:
        """The bits so far: a line per layer, or a picture, shape (height, width, 3)."""
        decided = np.zeros(len(self._x), dtype=np.bool_)
        for decision in self.schedule.decisions[: self._t]:
            decided[decision.start : decision.stop] = True
        shown = self._executed if self.done and self._executed is not None else self._x
        if self.render_mode == "ansi":
            return ansi(self.oracle.problem, shown, decided)
        return picture(self.oracle.problem, shown, decided) if self.render_mode == "rgb_array" else None

    def highest_mean(self) -> float:
        """About the most mean bits that the next decision's variable may have; with ``mask``, within the budget."""
        choices = self.schedule.decisions[self._t].choices
        return float(choices[-1]) if self._allowance is None else self._allowance.highest_mean(self._t)

    def _clear(self) -> None:
        self._t = 0
        self._x = self.oracle.problem.space.lowest.copy()
        self._executed, self._limit = None, None
        self._actions[:], self._overruled[:] = 0, False
        if self._allowance is not None:
            self._allowance.reset()

    def _took(self, decision: Decision, index: int) -> None:
        """For subclasses: a decision was taken, its successor is not observed yet."""

    def _allowed(self) -> int:
        """Choices that the next decision may take, asked once a decision."""
        if self._limit is None:
            t = self._t
            self._limit = self._counts[t] if self._allowance is None else self._allowance.allowed(t)
        return self._limit

    def _observe(self, t: int) -> Observation:
        """Features of decision t; after the last one, of the last with what it took."""
        observation: Observation = self.static[min(t, len(self._counts) - 1)].copy()
        if t > 0:
            decision = self.schedule.decisions[t - 1]
            observation[self._place["previous"]] = self._relative[t - 1, self._x[decision.start]]
        return observation


def _check(name: str, value: Any, known: tuple[str | None, ...]) -> None:
    if value not in known:
        words = [word for word in known if word is not None]
        raise ConfigError(f"unknown {name} {value!r}", fix=nearest(str(value), words))
