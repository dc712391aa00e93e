"""``EpisodeReplay``: remembers episodes as they were executed, and what their reward says of each decision.

Notation

=====  ===================================================================================
T      decisions of an episode
R      reward of the episode, known at its end
B      reward baseline: moving average of the mean reward of sampled batches
=====  ===================================================================================

Credit of R to the T transitions: ``every`` (each earns R: HAQ), ``share`` (each earns R/T: NNCF's form of it, which
keeps Q at the scale of R), ``last`` (the last earns R). With γ = 1 the three have the same best policy. Sampled rewards
are r − B (HAQ; rate 0.5).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples

Credit = Literal["every", "share", "last"]
Floats = NDArray[np.float32]


def credited(reward: float, count: int, credit: Credit) -> Floats:
    """Reward of each of ``count`` transitions, shape (T,)."""
    if credit == "last":
        rewards = np.zeros(count, dtype=np.float32)
        rewards[-1] = reward
        return rewards
    return np.full(count, reward if credit == "every" else reward / count, dtype=np.float32)


class EpisodeReplay(ReplayBuffer):
    """A replay buffer that takes whole episodes from the last step's ``info``: executed actions, not intended ones.

    Args:
        credit: how the reward of an episode is divided.
        baseline_rate: rate of B; 0 leaves rewards as they are.
        Others: as :class:`stable_baselines3.common.buffers.ReplayBuffer`.
    """

    def __init__(self, *args: Any, credit: Credit = "share", baseline_rate: float = 0.5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.credit, self.baseline_rate = credit, baseline_rate
        self.baseline: float | None = None

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """At the end of an episode: remember it. Steps before are not stored; their info says nothing."""
        if done[0]:
            info = infos[0]
            seen, taken = info["executed_observations"], info["executed_actions"]
            ends = np.zeros(len(seen), dtype=np.float32)
            ends[-1] = 1.0
            self.extend(seen, taken, credited(float(reward[0]), len(seen), self.credit), ends)

    def extend(self, seen: Floats, taken: Floats, rewards: Floats, ends: Floats) -> None:
        """Remember T transitions.

        Args:
            seen: observations, shape (T, F).
            taken: actions in [0, 1], shape (T, A).
            rewards: shape (T,).
            ends: 1 where an episode ends, shape (T,).
        """
        after = np.concatenate([seen[1:], seen[-1:]])
        for t in range(len(seen)):
            super().add(seen[t], after[t], 2 * taken[t] - 1, rewards[t : t + 1], ends[t : t + 1], [{}])

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        """A batch of transitions, rewards less the baseline."""
        samples = super().sample(batch_size, env)
        mean = float(samples.rewards.mean())
        self.baseline = mean if self.baseline is None else self.baseline + self.baseline_rate * (mean - self.baseline)
        return samples if self.baseline_rate == 0 else samples._replace(rewards=samples.rewards - self.baseline)

    def state(self) -> dict[str, NDArray[Any]]:
        """What is remembered, oldest first, and B; for :meth:`restore`."""
        order = np.arange(self.size())
        if self.full:
            order = np.roll(order, -self.pos)
        found = {
            name: getattr(self, name)[order]
            for name in ("observations", "next_observations", "actions", "rewards", "dones")
        }
        return {**found, "baseline": np.asarray(np.nan if self.baseline is None else self.baseline)}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Remember the newest of what was saved, as much as fits."""
        count = min(len(state["rewards"]), self.buffer_size)
        for name in ("observations", "next_observations", "actions", "rewards", "dones"):
            getattr(self, name)[:count] = state[name][-count:] if count else 0
        self.pos, self.full = count % self.buffer_size, count == self.buffer_size
        self.baseline = None if np.isnan(state["baseline"]) else float(state["baseline"])
