"""``ddpg``: HAQ's agent (Wang et al., CVPR 2019) on Stable-Baselines3.

Where it is HAQ: ten observations, one action in [0, 1] per decision, weights before activations; actor and critic of two
hidden layers of 300; Adam with rates 1e-4 and 1e-3; batch 64, τ = 0.01, γ = 1; a replay of 128 episodes; uniform warm-up,
then truncated-normal exploration with decay; a reward baseline; after each episode one update per stored transition.

Where it differs: the replay holds what was executed; the reward of an episode is shared among its decisions
(``credit: every`` is HAQ's form; with it, Q grows with the decisions that remain); the critic sees state and action
together in its first layer, as Stable-Baselines3 has it; schedules scale with the budget.
"""

from __future__ import annotations

from pydantic import Field, PositiveInt
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from qsearch.agents import store
from qsearch.agents.checks import check
from qsearch.agents.haq import Exploration, HaqDDPG
from qsearch.agents.lockstep import LockstepVecEnv
from qsearch.agents.options import FlatOptions
from qsearch.agents.randomness import Streams
from qsearch.agents.replay import Credit, EpisodeReplay
from qsearch.agents.session import Episodes, Guarded, agent_folder, environment, horizon, nothing_to_decide
from qsearch.agents.tensorboard import logger
from qsearch.envs.actions import to_actions
from qsearch.envs.base import BitwidthEnv
from qsearch.errors import BudgetExhausted
from qsearch.problem import Problem
from qsearch.protocols import Oracle, Searcher
from qsearch.registry import PluginOptions
from qsearch.search.draws import uniform_vectors

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


class Ddpg(Searcher):
    """A deep deterministic policy gradient, layer by layer, or kernel by kernel in a space with bits per kernel."""

    stochastic = True

    class Options(FlatOptions, LearnerOptions):
        pass

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()

    def check(self, problem: Problem) -> None:
        """Raise :class:`qsearch.errors.UserError` unless what the options name is there."""
        check(self.options, problem, "agent")

    def search(self, oracle: Oracle) -> None:
        """Learn, episode by episode, until the budget is spent or nothing new is found."""
        if nothing_to_decide(oracle):
            return
        with Streams(oracle.seed) as streams:
            guarded = Guarded(oracle, streams)
            made = environment(guarded, self.options)
            episodes = Episodes(guarded, self.options.patience)
            model = self._model(guarded, made)
            try:
                model.learn(2**62, callback=EndOfEpisode(episodes), log_interval=1)
            except BudgetExhausted:
                pass
            finally:
                store.save(model, agent_folder(oracle))

    def _model(self, oracle: Guarded, made: BitwidthEnv) -> HaqDDPG:
        options, count = self.options, len(made.schedule)
        exploration = exploration_of(options, horizon(oracle, options.episodes), trained=options.init is not None)
        model = make_learner(
            LockstepVecEnv(lambda: made),
            options,
            exploration,
            capacity=EPISODES_KEPT * count,
            updates=options.updates or count,
        )
        model.learning_starts = exploration.warmup * count
        if options.warm_start:
            starts, counts = made.schedule.starts, made.schedule.counts
            uniform = uniform_vectors(oracle.problem.space)
            model.script = [to_actions(x[starts], counts)[:, None] for x in uniform]
        model.set_logger(logger(options.tensorboard, "ddpg"))
        if options.init is not None:
            store.load(model, options.init)
        return model


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
            self.logger.record("rollout/reward", rewards[-1])
        self._over = self._episodes.over
        return True
