"""Learning in Stable-Baselines3's own loop, from the first episode to what is kept of it."""

from __future__ import annotations

import contextlib

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from qsearch.agents import store
from qsearch.agents.haq import HaqDDPG
from qsearch.agents.session import Episodes, Guarded, agent_folder
from qsearch.errors import BudgetExhausted


class EndOfEpisode(BaseCallback):
    """Counts episodes, and ends the learning at the first step after the last: the last episode is learnt from as well."""

    def __init__(self, episodes: Episodes) -> None:
        super().__init__()
        self._episodes, self._over = episodes, False

    def _on_step(self) -> bool:
        if self._over:
            return False
        rewards = [float(reward) for reward in self.locals["rewards"][self.locals["dones"]]]
        if rewards:
            self._episodes.ended(*rewards)
            if isinstance(self.model, HaqDDPG):
                self.model.idle = self._episodes.idle
            self.logger.record("rollout/reward", rewards[-1])
        self._over = self._episodes.over
        return True


def learn(model: BaseAlgorithm, oracle: Guarded, patience: int) -> None:
    """Learn until the budget is spent or nothing new is found; what is learnt is kept, however it ends."""
    try:
        with contextlib.suppress(BudgetExhausted):
            model.learn(2**62, callback=EndOfEpisode(Episodes(oracle, patience)), log_interval=1)
    finally:
        store.save(model, agent_folder(oracle))
