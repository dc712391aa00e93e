"""What Stable-Baselines3 is told at each step of its own loop."""

from __future__ import annotations

from stable_baselines3.common.callbacks import BaseCallback

from qsearch.agents.haq import HaqDDPG
from qsearch.agents.session import Episodes


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
