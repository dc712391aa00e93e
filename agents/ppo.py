"""``ppo``: proximal policy optimisation on choices, with masks (Schulman et al. 2017; Huang & Ontañón 2020).

Actions are choices of bits, as in ReLeQ (Elthakeb et al.), and what leaves no room for the rest of the episode is masked, so
that the policy is over assignments within the budget and nothing is executed that it did not decide. Several episodes
run side by side and are evaluated together.

The reward comes with the last decision; γ = 1. ReLeQ's learning rate of 1e-4 is for thousands of episodes; the defaults
here were chosen for hundreds, by ``benchmarks/agents_known_optimum.py``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt
from sb3_contrib import MaskablePPO

from qsearch.agents import store
from qsearch.agents.checks import check
from qsearch.agents.learning import learn
from qsearch.agents.lockstep import LockstepVecEnv
from qsearch.agents.options import FlatOptions
from qsearch.agents.randomness import Streams
from qsearch.agents.session import Guarded, agent_folder, environment, horizon, nothing_to_decide
from qsearch.agents.tensorboard import logger
from qsearch.problem import Problem
from qsearch.protocols import Oracle, Searcher


class Ppo(Searcher):
    """Maskable proximal policy optimisation, layer by layer, or kernel by kernel in a space with bits per kernel."""

    stochastic = True

    class Options(FlatOptions):
        budget: Literal["project", "mask"] = "mask"
        """How cost bounds are kept, see :mod:`qsearch.envs.base`."""
        environments: int = Field(default=8, ge=1)
        """Episodes side by side, evaluated together."""
        episodes_per_update: int = Field(default=16, ge=1)
        """Rounded up to a multiple of ``environments``."""
        epochs: int = Field(default=10, ge=1)
        """Passes over the episodes of an update."""
        learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
        clip: float = Field(default=0.2, gt=0, lt=1)
        entropy: float = Field(default=0.01, ge=0, allow_inf_nan=False)
        gae_lambda: float = Field(default=0.99, ge=0, le=1)
        hidden: tuple[PositiveInt, ...] = Field(default=(128, 128), min_length=1)

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()

    def check(self, problem: Problem) -> None:
        """Raise :class:`qsearch.errors.UserError` unless what the options name is there."""
        check(self.options, problem)

    def search(self, oracle: Oracle) -> None:
        """Learn, batch of episodes by batch, until the budget is spent or nothing new is found."""
        if nothing_to_decide(oracle):
            return
        with Streams(oracle.seed) as streams:
            guarded = Guarded(oracle, streams)
            learn(self._model(guarded), guarded, self.options.patience)

    def _model(self, oracle: Guarded) -> MaskablePPO:
        options = self.options
        count = min(options.environments, horizon(oracle, options.episodes))
        environments = LockstepVecEnv(lambda: environment(oracle, options, discrete=True), count)
        decisions = len(environments.envs[0].schedule)  # type: ignore[attr-defined]  # declared as any environment
        rounds = max(-(-options.episodes_per_update // count), -(-2 // (count * decisions)))
        transitions = rounds * count * decisions
        model = MaskablePPO(
            "MlpPolicy",
            environments,
            learning_rate=options.learning_rate,
            n_steps=rounds * decisions,
            batch_size=batch_size(transitions),
            n_epochs=options.epochs,
            gamma=1.0,
            gae_lambda=options.gae_lambda,
            clip_range=options.clip,
            ent_coef=options.entropy,
            policy_kwargs={"net_arch": list(options.hidden)},
            device="cpu",
        )
        model.set_logger(logger(options.tensorboard, "ppo"))
        if options.init is not None:
            store.load(model, store.source(options.init, agent_folder(oracle), "agent"))
        return model


def batch_size(transitions: int, most: int = 64) -> int:
    """Transitions of a batch, at most ``most``, such that none is left alone: advantages are scaled by their deviation."""
    return next(size for size in range(min(most, transitions), 1, -1) if transitions % size != 1)
