"""Which cost models may be compared: the same metric in the same unit, defined in the same way.

A joule of one source may count the memory, of another only the arithmetic. Two energies that are defined differently
never share a table's column or a plot's axis, as nothing can be read off the difference. Nor do two energies of which
nothing is said, unless one model gives both. A second is a second and a byte a byte: times and sizes share an axis where
neither model says anything of them.
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
        ConfigError: two of them have different units, or different definitions, for the metric; or it is an energy that
            two different models say nothing of.
    """
    having = {name: model for name, model in models.items() if metric in model.units}
    _check_equal("unit", metric, {name: model.units[metric] for name, model in having.items()})
    _check_equal("definition", metric, {name: _meaning(model, metric) for name, model in having.items()})
    if any(model.units[metric] == "J" and not _stated(model, metric) for model in having.values()):
        _check_one_model(metric, having)


def _stated(model: CostModel, metric: str) -> str:
    """What a model counts; empty where it does not say, as models that inherit nothing from the protocol may."""
    definitions: Mapping[str, str] = getattr(model, "definitions", {})
    return definitions.get(metric, "")


def _meaning(model: CostModel, metric: str) -> str:
    return _stated(model, metric) or "not stated"


def _check_one_model(metric: str, models: Mapping[str, CostModel]) -> None:
    """Every model is the first one: of its class, with its options. None of them says what it counts."""
    first, *others = models
    for name in others:
        one, other = models[first], models[name]
        if type(one) is not type(other) or getattr(one, "options", None) != getattr(other, "options", None):
            raise ConfigError(
                f"{metric} shares an axis only between cost models of one definition",
                got=f"{first}: not stated; {name}: not stated",
                fix=f"say in definitions what {first} and {name} count, or show them apart",
            )


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
