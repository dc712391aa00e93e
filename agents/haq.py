"""``HaqDDPG``: Stable-Baselines3's DDPG with the exploration of HAQ (Wang et al., CVPR 2019).

Notation

=====  ==================================================================
e      episode, from 0;  w, episodes of the warm-up
k      episodes in a row, before this one, that proposed nothing new
μ      action of the actor, in [0, 1]
σ_e    scale of the exploration, σ_0 · decay^(e − w)
=====  ==================================================================

Actions are uniform in the warm-up, then drawn from the normal distribution N(μ, σ_e²) truncated to [0, 1].

An episode whose assignment is known costs no evaluation and teaches nothing. HAQ pays for it again; here σ is raised by
0.05 for each of k such episodes in a row, up to 0.5, or an agent that has settled would leave its budget unspent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from stable_baselines3 import DDPG
from stable_baselines3.common.utils import polyak_update

FINAL_SHARE = 0.99**580
"""σ at the end of HAQ's 600 episodes (20 of them warm-up), as a share of its first value."""


RESTLESS, MOST = 0.05, 0.5
"""How much σ rises with each episode without anything new, and how far."""


@dataclass(frozen=True)
class Exploration:
    """How far actions stray from the policy."""

    warmup: int
    noise: float
    decay: float

    @classmethod
    def over(cls, horizon: int, warmup: int | None, noise: float, decay: float | None) -> Exploration:
        """HAQ's schedule, scaled to a number of episodes: what is not given keeps its share of them."""
        warmup = min(20, horizon // 4) if warmup is None else warmup
        if decay is None:
            decay = float(FINAL_SHARE ** (1 / max(horizon - warmup, 1)))
        return cls(warmup, noise, decay)

    def scale(self, episode: int, idle: int = 0) -> float:
        """σ_e, raised for ``idle`` episodes in a row without anything new; infinite in the warm-up."""
        if episode < self.warmup:
            return np.inf
        settled = self.noise * self.decay ** (episode - self.warmup)
        return max(settled, min(settled + RESTLESS * idle, MOST))

    def draw(self, means: NDArray[Any], episode: int, idle: int = 0) -> NDArray[np.float32]:
        """Actions around the means μ, any shape, in [0, 1]."""
        uniform = np.random.random_sample(means.shape)  # the agent's stream: see randomness.py
        scale = self.scale(episode, idle)
        if np.isinf(scale):
            return uniform.astype(np.float32)
        return truncated_normal(means, max(scale, 1e-6), uniform).astype(np.float32)


def truncated_normal(mean: NDArray[Any], scale: float, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quantiles ``uniform`` of the normal distribution N(mean, scale²) truncated to [0, 1]."""
    low, high = ndtr((0.0 - mean) / scale), ndtr((1.0 - mean) / scale)
    return np.asarray(np.clip(mean + scale * ndtri(low + uniform * (high - low)), 0.0, 1.0))


class HaqDDPG(DDPG):
    """DDPG that explores as HAQ does; ``exploration`` and ``actor_rate`` must be set before it learns.

    ``idle`` is k, kept up to date by who counts episodes. ``script`` holds actions in [0, 1] of the first episodes, shape
    (T, A) each: what to begin with in place of chance.
    """

    exploration: Exploration
    actor_rate: float
    anchor: float = 0.0
    idle: int = 0
    script: Sequence[NDArray[np.float32]] = ()

    def _update_learning_rate(self, optimizers: Any) -> None:
        """The critic's rate is the model's; the actor has its own."""
        super()._update_learning_rate(optimizers)
        for group in self.actor.optimizer.param_groups:
            group["lr"] = self.actor_rate

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Action in the environment's range, and in the buffer's, −1 to 1."""
        assert self._last_obs is not None
        if self._episode_num < len(self.script):
            episode = self.script[self._episode_num]
            action = episode[self.num_timesteps % len(episode)][None]
            return action, self.policy.scale_action(action)
        means, _ = self.predict(self._last_obs, deterministic=True)
        action = self.exploration.draw(means, self._episode_num, self.idle)
        return action, self.policy.scale_action(action)

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """As Stable-Baselines3; with an ``anchor`` a, the actor's loss is −Q / mean |Q| + a·(μ(s) − action)².

        Fujimoto & Gu (NeurIPS 2021), eq. 3: where the replay shows little but what one policy did, a critic knows nothing
        of other actions, and an actor that follows it leaves what is known.
        """
        if self.anchor == 0:
            super().train(gradient_steps, batch_size)
            return
        assert self.replay_buffer is not None
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])
        for _ in range(gradient_steps):
            self._n_updates += 1
            batch = self.replay_buffer.sample(batch_size)
            with torch.no_grad():
                after = self.critic_target.q1_forward(
                    batch.next_observations, self.actor_target(batch.next_observations)
                )
                target = batch.rewards + (1 - batch.dones) * self.gamma * after
            known = self.critic.q1_forward(batch.observations, batch.actions)
            _step(self.critic.optimizer, torch.nn.functional.mse_loss(known, target))
            action = self.actor(batch.observations)
            value = self.critic.q1_forward(batch.observations, action)
            near = torch.nn.functional.mse_loss(action, batch.actions)
            _step(self.actor.optimizer, -value.mean() / value.abs().mean().detach() + self.anchor * near)
            polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
            polyak_update(self.actor.parameters(), self.actor_target.parameters(), self.tau)


def _step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    optimizer.step()
