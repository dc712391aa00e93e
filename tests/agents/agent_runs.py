"""How the tests of agents run them: small networks, few updates, an oracle that lasts as long as the test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from qsearch import registry
from qsearch.agents.randomness import Streams
from qsearch.agents.session import Guarded
from qsearch.errors import BudgetExhausted
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord

TINY = {"hidden": (16, 16), "patience": 20}
NOISY = {**TINY, "noise_decay": 1.0, "updates": 2}
AGENTS = {
    "ddpg": NOISY,
    "ppo": {**TINY, "environments": 2, "episodes_per_update": 4, "epochs": 1},
    "hierarchical-ddpg": {**NOISY, "kernel_updates": 2, "relabel": 2, "start": "scratch"},
}
"""Every agent with quick settings."""


def agent(name, **options):
    """An agent with quick settings; ``options`` go before them."""
    return registry.create("searchers", name, {**AGENTS[name], **options})


def oracle_of(problem, evaluator, evaluations=10, **settings):
    """An oracle as a campaign has it."""
    budget = settings.pop("budget", None) or Budget(evaluations)
    return CampaignOracle(problem, evaluator, settings.pop("record", None) or MemoryRecord(), budget, **settings)


@contextlib.contextmanager
def guarded(oracle) -> Iterator[Guarded]:
    """The oracle as an agent has it, with random generators of its own for the length of the block."""
    with Streams(oracle.seed) as streams:
        yield Guarded(oracle, streams)


def run(searcher, problem, evaluator, evaluations=10, **settings):
    """Run a searcher as a campaign does; the oracle afterwards."""
    oracle = oracle_of(problem, evaluator, evaluations, **settings)
    with contextlib.suppress(BudgetExhausted):
        searcher.search(oracle)
    return oracle
