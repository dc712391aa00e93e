"""``none``: the campaign evaluates alone."""

from __future__ import annotations

from contextlib import AbstractContextManager

from qsearch.errors import ConfigError
from qsearch.protocols import Batching, Evaluator, Workers


class NoWorkers(Workers):
    """Nobody but the campaign's own process."""

    active = False

    def start(self, evaluator: Evaluator) -> AbstractContextManager[Batching]:
        """Raise :class:`ConfigError`: nobody is there to be asked."""
        raise ConfigError("workers 'none' evaluate nothing", fix="workers: ray")
