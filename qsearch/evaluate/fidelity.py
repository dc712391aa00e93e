"""The share of an evaluation's full effort."""

from __future__ import annotations

from qsearch.errors import ConfigError


def check_fidelity(fidelity: float) -> None:
    """Raise ConfigError unless it is within (0, 1]."""
    if not 0 < fidelity <= 1:
        raise ConfigError("fidelity must be within (0, 1]", got=fidelity)
