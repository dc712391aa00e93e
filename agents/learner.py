"""HAQ's learner on Stable-Baselines3, which ``ddpg`` has once and ``hierarchical-ddpg`` twice."""

from __future__ import annotations

from pydantic import Field, PositiveInt
from stable_baselines3.common.vec_env import VecEnv

from qsearch.agents.haq import Exploration, HaqDDPG
from qsearch.agents.replay import Credit, EpisodeReplay
from qsearch.registry import PluginOptions

EPISODES_KEPT = 128
"""Length of HAQ's replay."""
NOISE, NOISE_AROUND_TRAINED = 0.5, 0.15
"""Scales of the exploration at its start: HAQ's, and ours around a policy from another run."""


class LearnerOptions(PluginOptions):
    """HAQ's learner, of which a hierarchical agent has two."""

    warm_start: bool = False
    """Begin with the uniform assignments, highest first: what is found is never worse than they are."""
    warmup_episodes: int | None = Field(default=None, ge=0)
    """Episodes of uniform actions; 20, or a quarter of the episodes if that is less; none with ``init``."""
    noise: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Scale of the exploration after the warm-up; 0.5 (HAQ), or 0.15 around a policy from ``init``."""
    noise_decay: float | None = Field(default=None, gt=0, le=1)
    """Per episode; by default it falls over the episodes as HAQ's 0.99 does over 600."""
    credit: Credit = "share"
    """Reward of a decision: ``share`` of the episode's, ``every`` (all of it, HAQ), or the ``last`` alone earns it."""
    baseline_rate: float = Field(default=0.5, ge=0, le=1)
    """Rate of the moving average that is taken off rewards; 0 takes nothing off."""
    hidden: tuple[PositiveInt, ...] = Field(default=(300, 300), min_length=1)
    actor_rate: float = Field(default=1e-4, gt=0, allow_inf_nan=False)
    critic_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    updates: int | None = Field(default=None, ge=1)
    """Updates after an episode; as many as it has decisions."""


def exploration_of(options: LearnerOptions, episodes: int, *, trained: bool) -> Exploration:
    """HAQ's schedule over a number of episodes; a trained policy needs no warm-up, and is kept close to."""
    warmup = 0 if trained and options.warmup_episodes is None else options.warmup_episodes
    noise = options.noise or (NOISE_AROUND_TRAINED if trained else NOISE)
    return Exploration.over(episodes, warmup, noise, options.noise_decay)


def make_learner(
    environments: VecEnv,
    options: LearnerOptions,
    exploration: Exploration,
    *,
    capacity: int,
    updates: int = 1,
    gamma: float = 1.0,
    replay: type[EpisodeReplay] = EpisodeReplay,
) -> HaqDDPG:
    """HAQ's learner for environments with actions in [0, 1].

    Args:
        capacity: transitions that the replay holds.
        updates: after an episode, where the learner runs its episodes itself.
        gamma: discount.
        replay: kind of the replay.
    """
    model = HaqDDPG(
        "MlpPolicy",
        environments,
        learning_rate=options.critic_rate,
        buffer_size=capacity,
        learning_starts=0,
        batch_size=64,
        tau=0.01,
        gamma=gamma,
        train_freq=(1, "episode"),
        gradient_steps=updates,
        replay_buffer_class=replay,
        replay_buffer_kwargs={
            "credit": options.credit,
            "baseline_rate": options.baseline_rate,
            "handle_timeout_termination": False,
        },
        policy_kwargs={"net_arch": list(options.hidden)},
        device="cpu",
    )
    model.exploration = exploration
    model.actor_rate = options.actor_rate
    return model
