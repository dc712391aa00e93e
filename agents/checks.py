"""What is wrong with an agent's options, said before a search begins."""

from __future__ import annotations

from qsearch import registry
from qsearch.agents import store
from qsearch.agents.options import KernelOptions
from qsearch.agents.tensorboard import require
from qsearch.problem import Problem


def check(options: KernelOptions, problem: Problem, *saved: str) -> None:
    """Raise unless the plug-ins and files that the options name are there.

    Args:
        saved: names of the agents that ``init`` must hold.

    Raises:
        UserError: the first that is not.
    """
    registry.create("rewards", options.reward, options.reward_options, problem)
    if options.sensitivity is not None:
        registry.create("sensitivities", options.sensitivity, options.sensitivity_options)
    if options.tensorboard is not None:
        require()
    if options.init is not None:
        for name in saved:
            store.find(options.init, name)
