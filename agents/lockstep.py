"""``LockstepVecEnv``: environments of one problem side by side, whose episodes end together.

All episodes of a problem have the same number of decisions, so that the assignments of N environments are complete at
the same step; one call of ``evaluate_many`` answers them, in parallel where the oracle has workers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from qsearch.envs.base import BitwidthEnv


class LockstepVecEnv(DummyVecEnv):
    """A Stable-Baselines3 vector environment of :class:`BitwidthEnv`.

    Args:
        make: makes one environment; all on the same oracle.
        count: N.
    """

    def __init__(self, make: Callable[[], BitwidthEnv], count: int = 1) -> None:
        super().__init__([make] * count)

    def step_wait(self) -> VecEnvStepReturn:
        """Step all environments; at the end of their episodes, evaluate together and begin again."""
        environments: list[BitwidthEnv] = self.envs  # type: ignore[assignment]  # made by `make`, declared as any environment
        infos: list[dict[str, Any]] = [{} for _ in environments]
        rewards = np.zeros(self.num_envs, dtype=np.float32)
        observations = [env.decide(action) for env, action in zip(environments, self.actions, strict=True)]
        done = environments[0].done
        if done:
            trials = environments[0].oracle.evaluate_many([env.proposal() for env in environments])
            for row, (env, trial) in enumerate(zip(environments, trials, strict=True)):
                rewards[row], info = env.conclude(trial)
                infos[row] = {**info, "terminal_observation": observations[row], "TimeLimit.truncated": False}
                observations[row], _ = env.reset()
        return np.stack(observations), rewards, np.full(self.num_envs, done), infos
