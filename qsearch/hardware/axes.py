"""Which cost models may be compared: the same metric in the same unit, defined in the same way.

A joule of one source may count the memory, of another only the arithmetic. Two energies that are defined differently
never share a table's column or a plot's axis, as nothing can be read off the difference.
"""

from __future__ import annotations

from collections.abc import Mapping

from qsearch.errors import ConfigError
from qsearch.protocols import CostModel


def check_same_axis(metric: str, models: Mapping[str, CostModel]) -> None:
    """Refuse to compare a metric of cost models that mean different things by it.

    Args:
        metric: "energy"; models without it are passed over, as they put nothing on its axis.
        models: what a model is called on the axis → the model.

    Raises:
        ConfigError: two of them have different units, or different definitions, for the metric.
    """
    having = {name: model for name, model in models.items() if metric in model.units}
    _check_equal("unit", metric, {name: model.units[metric] for name, model in having.items()})
    meanings = {name: _meaning(model, metric) for name, model in having.items()}
    _check_equal("definition", metric, meanings)


def _meaning(model: CostModel, metric: str) -> str:
    """What a model counts; models that inherit nothing from the protocol may leave it out."""
    definitions: Mapping[str, str] = getattr(model, "definitions", {})
    return definitions.get(metric, "not stated")


def _check_equal(what: str, metric: str, values: Mapping[str, str]) -> None:
    """Every value is the first one; the first two that differ are told."""
    for name, value in values.items():
        first = next(iter(values))
        if value != values[first]:
            raise ConfigError(
                f"{metric} shares an axis only between cost models of one {what}",
                got=f"{first}: {values[first]}; {name}: {value}",
                fix=f"show {first} and {name} apart, or leave {metric} out",
            )
