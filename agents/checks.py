"""What is wrong with an agent's options, said before a search begins."""

from __future__ import annotations

from qsearch import registry
from qsearch.agents.options import KernelOptions
from qsearch.agents.tensorboard import require
from qsearch.problem import Problem


def check(options: KernelOptions, problem: Problem) -> None:
    """Raise unless the plug-ins that the options name are there. ``init`` is looked for when the search begins: a run that
    is resumed has a copy of its own.

    Raises:
        UserError: the first that is not.
    """
    registry.create("rewards", options.reward, options.reward_options, problem)
    if options.sensitivity is not None:
        registry.create("sensitivities", options.sensitivity, options.sensitivity_options)
    if options.tensorboard is not None:
        require()
