"""``ddpg``: HAQ's agent (Wang et al., CVPR 2019) on Stable-Baselines3.

Where it is HAQ: ten observations, one action in [0, 1] per decision, weights before activations; actor and critic of two
hidden layers of 300; Adam with rates 1e-4 and 1e-3; batch 64, τ = 0.01, γ = 1; a replay of 128 episodes; uniform warm-up,
then truncated-normal exploration with decay; a reward baseline; after each episode one update per stored transition.

Where it differs: the replay holds what was executed; the reward of an episode is shared among its decisions
(``credit: every`` is HAQ's form; with it, Q grows with the decisions that remain); the critic sees state and action
together in its first layer, as Stable-Baselines3 has it; schedules scale with the budget.
"""

from __future__ import annotations

from qsearch.agents import store
from qsearch.agents.checks import check
from qsearch.agents.haq import HaqDDPG
from qsearch.agents.learner import EPISODES_KEPT, LearnerOptions, exploration_of, make_learner
from qsearch.agents.learning import learn
from qsearch.agents.lockstep import LockstepVecEnv
from qsearch.agents.options import FlatOptions
from qsearch.agents.randomness import Streams
from qsearch.agents.session import Guarded, agent_folder, environment, horizon, nothing_to_decide
from qsearch.agents.tensorboard import logger
from qsearch.envs.actions import to_actions
from qsearch.envs.base import BitwidthEnv
from qsearch.problem import Problem
from qsearch.protocols import Oracle, Searcher
from qsearch.search.draws import uniform_vectors


class Ddpg(Searcher):
    """A deep deterministic policy gradient, layer by layer, or kernel by kernel in a space with bits per kernel."""

    stochastic = True

    class Options(FlatOptions, LearnerOptions):
        """Those of agents with one level, and of their learner."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()

    def check(self, problem: Problem) -> None:
        """Raise :class:`qsearch.errors.UserError` unless what the options name is there."""
        check(self.options, problem)

    def search(self, oracle: Oracle) -> None:
        """Learn, episode by episode, until the budget is spent or nothing new is found."""
        if nothing_to_decide(oracle):
            return
        with Streams(oracle.seed) as streams:
            guarded = Guarded(oracle, streams)
            made = environment(guarded, self.options)
            learn(self._model(guarded, made), guarded, self.options.patience)

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
            store.load(model, store.source(options.init, agent_folder(oracle), "agent"))
        return model
