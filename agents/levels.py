"""Two levels of agents on one episode: goals for layers above, bits for kernels below.

Notation: L, layers with something to decide;  D, decisions;  (g, a), goal of a layer and its activation bits;  ζ, share of
the extrinsic reward in the lower level's.  See :mod:`qsearch.agents.hierarchical`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from stable_baselines3.common.vec_env import DummyVecEnv

from qsearch.agents import store
from qsearch.agents.cloning import clone, examples
from qsearch.agents.controllers import Learned, WaterFilling
from qsearch.agents.goals import GoalReplay
from qsearch.agents.haq import Exploration
from qsearch.agents.learner import EPISODES_KEPT, LearnerOptions, exploration_of, make_learner
from qsearch.agents.options import KernelOptions
from qsearch.agents.relabel import LayerRecord
from qsearch.agents.replay import credited
from qsearch.agents.session import Guarded, agent_folder, horizon, settings
from qsearch.agents.tensorboard import logger
from qsearch.envs.actions import position_of, to_action
from qsearch.envs.base import Observation
from qsearch.envs.controllers import Controller, GoalTracking
from qsearch.envs.hierarchical import HierarchicalEnv
from qsearch.protocols import SensitivityTable
from qsearch.search.draws import uniform_vectors

log = logging.getLogger(__name__)

Share = Annotated[float, Field(ge=0, le=1)]

CLOSE = 0.02
"""Exploration around a copy of water-filling: a fifth of a choice of nine."""
ANCHOR = 100.0
"""How firmly such a copy is held to what was executed (:meth:`HaqDDPG.train`): a critic that has seen little undoes it."""

KERNELS_KEPT = 65_536
"""Most transitions in the lower level's replay."""


class HierarchicalOptions(KernelOptions, LearnerOptions):
    """Options of the two levels."""

    budget: Literal["project", "mask"] = "mask"
    """How cost bounds are kept; with ``mask``, goals stay within them too, see :mod:`qsearch.envs.base`."""
    mode: Literal["accuracy-guaranteed", "resource-constrained"] | None = None
    """AutoQ's reward in one of its two modes, in place of ``reward``."""
    controller: Literal["learned", "water-filling", "goal-tracking"] = "learned"
    """Who gives kernels their bits."""
    start: Literal["water-filling", "scratch"] = "water-filling"
    """What a learned controller begins as: a copy of water-filling, where it has sensitivities, or nothing."""
    kernel_noise: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Scale of the lower level's exploration after the warm-up; ``noise``, or 0.02 around a copy of water-filling."""
    zeta: tuple[Share, Share] = (0.1, 0.8)
    """ζ in the first and in the last episode."""
    relabel: int = Field(default=32, ge=0)
    """Transitions whose goals are relabelled after an episode."""
    kernel_updates: int | None = Field(default=None, ge=1)
    """Updates of the lower level after an episode; as many as there are kernels, up to 256."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.controller == "water-filling" and self.sensitivity is None:
            raise ValueError("the controller water-filling needs a sensitivity")
        return self


def kernel_decisions(env: HierarchicalEnv) -> NDArray[np.int64]:
    """Decisions that the lower level takes, of all that the kernel-wise environment has."""
    weights = [step.weight for step in env.steps if step.weight is not None]
    return np.concatenate([np.arange(v.start, v.start + v.length) for v in weights] or [np.zeros(0, dtype=np.int64)])


def goals_of(env: HierarchicalEnv, x: NDArray[np.int64]) -> NDArray[np.float32]:
    """Actions of the upper level that ask for an index vector's mean bits, shape (D,) → (L, 2)."""
    actions = np.zeros((len(env.steps), 2), dtype=np.float32)
    for row, step in zip(actions, env.steps, strict=True):
        if step.weight is not None:
            row[0] = position_of(env.kernels.mean_bits(step.weight, x), step.weight.choices)
        if step.activation is not None:
            row[1] = to_action(int(x[step.activation.start]), len(step.activation.choices))
    return actions


def layer_records(env: HierarchicalEnv, info: Mapping[str, Any]) -> list[LayerRecord | None]:
    """What became of each step's goal in an episode, by the ``info`` of its last step."""
    found: list[LayerRecord | None] = []
    for step in env.steps:
        if step.weight is None:
            found.append(None)
            continue
        span, choices = step.weight.slice, step.weight.choices
        bits = np.asarray(choices, dtype=np.float64)[info["executed"][span]]
        seen, taken = info["kernel_observations"][span], info["kernel_actions"][span, 0]
        found.append(LayerRecord(seen, taken, bits, choices))
    return found


class Agent:
    """Both levels and their environment."""

    def __init__(self, oracle: Guarded, options: HierarchicalOptions) -> None:
        self._oracle, self._options = oracle, options
        table = self._table()
        self.env = HierarchicalEnv(oracle, sensitivity=table, **self._settings())
        self._horizon = horizon(oracle, options.episodes)
        exploration = exploration_of(options, self._horizon, trained=options.init is not None)
        self._kernels = kernel_decisions(self.env)
        learned = options.controller == "learned" and len(self._kernels) > 0
        self._near = learned and options.start == "water-filling" and table is not None
        steps, kernels = len(self.env.steps), max(len(self._kernels), 1)
        self.high = make_learner(
            DummyVecEnv([lambda: self.env]),
            options,
            exploration,
            replay=GoalReplay,
            capacity=EPISODES_KEPT * steps,
        )
        self.low = make_learner(
            DummyVecEnv([lambda: self.env.kernels]),
            options,
            self._kernel_exploration(exploration),
            capacity=min(EPISODES_KEPT * kernels, KERNELS_KEPT),
            gamma=0.0,
        )
        if self._near:
            self.low.anchor = ANCHOR
        if self._near and table is not None and options.init is None:
            error = clone(self.low, *examples(self.env, table, self._kernels))
            log.debug("water-filling copied to within %.3f of an action", error)
        if options.warm_start:
            self.high.script = [goals_of(self.env, x) for x in uniform_vectors(oracle.problem.space)]
        self.low.replay_buffer.baseline_rate = 0.0  # type: ignore[union-attr]  # with γ = 0 it only blurs the reward
        self._updates = options.updates or steps, options.kernel_updates or min(kernels, 256)
        self.controller = self._controller(table)
        self.env.controller = self.controller
        self.high.set_logger(logger(options.tensorboard, "hierarchical-ddpg-goals"))
        self.low.set_logger(logger(options.tensorboard, "hierarchical-ddpg-kernels"))
        if options.init is not None:
            trained = store.source(options.init, agent_folder(oracle), "goals", "kernels")
            store.load(self.high, trained, "goals")
            store.load(self.low, trained, "kernels")

    def episode(self, number: int, idle: int = 0) -> float:
        """One episode, and what is learnt from it; the extrinsic reward. ``idle``: episodes before it that found nothing new."""
        self.high.idle = self.low.idle = idle
        self.env.kernels.zeta = self._zeta(number)
        if isinstance(self.controller, Learned):
            self.controller.episode = number
        observation, _ = self.env.reset()
        done = False
        while not done:
            observation, reward, done, _, info = self.env.step(self._action(observation, number))
        self._remember(reward, info)
        if number >= self.high.exploration.warmup:
            self._learn()
        self.high.logger.record("rollout/reward", reward)
        for model in (self.high, self.low):
            model.logger.dump(number)
        return reward

    def _action(self, observation: Observation, number: int) -> NDArray[np.float32]:
        """Goal and activation bits for the next layer, in [0, 1]."""
        if number < len(self.high.script):
            action: NDArray[np.float32] = self.high.script[number][self.env.position]
            return action
        mean, _ = self.high.predict(observation, deterministic=True)
        return self.high.exploration.draw(mean, number, idle=self.high.idle)

    def save(self) -> None:
        """Keep both levels in the run's folder."""
        store.save(self.high, agent_folder(self._oracle), "goals")
        store.save(self.low, agent_folder(self._oracle), "kernels")

    def _remember(self, reward: float, info: dict[str, Any]) -> None:
        count = len(self.env.steps)
        ends = np.zeros(count, dtype=np.float32)
        ends[-1] = 1.0
        replay = self.high.replay_buffer
        assert isinstance(replay, GoalReplay)
        replay.extend_with_records(
            info["executed_observations"],
            info["executed_actions"],
            credited(reward, count, self._options.credit),
            ends,
            layer_records(self.env, info),
        )
        if isinstance(self.controller, Learned):
            chosen = self._kernels
            self.low.replay_buffer.extend(  # type: ignore[union-attr]  # make_learner gave it one
                info["kernel_observations"][chosen],
                info["kernel_actions"][chosen],
                info["intrinsic"][chosen].astype(np.float32),
                np.ones(len(chosen), dtype=np.float32),
            )

    def _learn(self) -> None:
        if isinstance(self.controller, Learned) and len(self._kernels):
            self.low.train(self._updates[1], self.low.batch_size)
            replay = self.high.replay_buffer
            assert isinstance(replay, GoalReplay)
            replay.relabel(self.controller.policy, self._options.relabel)
        self.high.train(self._updates[0], self.high.batch_size)

    def _kernel_exploration(self, upper: Exploration) -> Exploration:
        """A copy of water-filling, or what has become of one, is explored around from the first episode on."""
        if self._near:
            return replace(upper, warmup=0, noise=self._options.kernel_noise or CLOSE)
        return replace(upper, noise=self._options.kernel_noise or upper.noise)

    def _zeta(self, number: int) -> float:
        first, last = self._options.zeta
        return first + (last - first) * min(number / max(self._horizon - 1, 1), 1.0)

    def _table(self) -> SensitivityTable | None:
        name = self._options.sensitivity
        if name is None:
            return None
        return self._oracle.sensitivity(name, self._options.sensitivity_options)

    def _settings(self) -> dict[str, Any]:
        found = settings(self._options)
        if self._options.mode is not None:
            found |= {"reward": "autoq", "reward_options": {"mode": self._options.mode}}
        return found

    def _controller(self, table: SensitivityTable | None) -> Controller:
        if self._options.controller == "water-filling":
            assert table is not None
            return WaterFilling(table)
        return Learned(self.low) if self._options.controller == "learned" else GoalTracking()
