"""A target by name: one of the targets, or a cost model in the place of one."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import product
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

from qsearch import registry
from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import Failure, PluginError, QSearchError, nearest
from qsearch.files import content_digest
from qsearch.layers import Layer
from qsearch.protocols import CostModel, Target
from qsearch.space import SPIKE_BITS

T = TypeVar("T")

_MODEL_BITS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, FLOAT_BITS)


class ModelTarget(Target):
    """A cost model in the place of a target: the same answers, by layer, all kernels of a layer at one bitwidth."""

    deterministic = True

    def __init__(self, model: CostModel, options: Mapping[str, Any]) -> None:
        self._model, self._options = model, options
        self.units = model.units
        self.definitions = getattr(model, "definitions", {})
        self.maxima = getattr(model, "maxima", frozenset())

    def precisions(self, layer: Layer) -> Sequence[tuple[int, int]]:
        """Every pair of 1..8, 10, 12, 16 and 32 bits; whether the model answers at each shows when it is asked.

        What is nobody's choice has one: no input, spikes, and the leak of neurons that forget nothing.
        """
        inputs = (SPIKE_BITS,) if layer.reads_spikes else _MODEL_BITS if _reads(layer) else (FLOAT_BITS,)
        return tuple(product((SPIKE_BITS,) if layer.forgets_nothing else _MODEL_BITS, inputs))

    def versions(self) -> Mapping[str, str]:
        """Of qsearch, and the model's options."""
        return {"qsearch": metadata.version("qsearch"), **{key: str(value) for key, value in self._options.items()}}

    def measure(self, layer: Layer, weight_bits: int, activation_bits: int) -> Mapping[str, float]:
        """Cost of a network of this layer alone."""
        bits: dict[str, int] = {layer.weight_site: weight_bits}
        if _reads(layer):
            bits[layer.activation_site] = activation_bits
        return self._model.estimate((layer,), BitAssignment(bits)).totals


def _reads(layer: Layer) -> bool:
    """Whether a layer has a site for what it reads: indices and thresholds have none."""
    return layer.kind not in ("embedding", "threshold")


@dataclass(frozen=True)
class Plugin:
    """A target, or a cost model to be used as one, by name.

    Attributes:
        name: of a target, else of a cost model; or ``file.py:Class``.
        options: its options.
    """

    name: str
    options: Mapping[str, Any]

    @property
    def seam(self) -> registry.Seam:
        """Where it belongs.

        Raises:
            PluginError: it is neither.
        """
        if ":" in self.name:
            measures = hasattr(registry.load("targets", self.name), "measure")
            return "targets" if measures else "cost_models"
        targets, models = registry.names("targets"), registry.names("cost_models")
        if self.name in targets:
            return "targets"
        if self.name in models:
            return "cost_models"
        raise PluginError(f"unknown target {self.name!r}", fix=nearest(self.name, [*targets, *models]))

    def source(self) -> str:
        """Digest of the file that holds its class; empty where it was installed. What that imports does not enter.

        Raises:
            PluginError: the file cannot be read.
        """
        if ":" not in self.name:
            return ""
        try:
            return content_digest([Path(inspect.getfile(registry.load(self.seam, self.name)))])
        except (OSError, TypeError) as error:  # TypeError: a class that was not read from a file
            raise PluginError(f"the file of target {self.name!r} must be readable", got=str(error)) from error

    def settings(self) -> dict[str, Any]:
        """Its options as JSON values, with their defaults.

        Raises:
            ConfigError: one of them is unknown or not valid.
        """
        schema = getattr(registry.load(self.seam, self.name), "Options", None)
        if schema is None:
            return dict(self.options)
        found = registry.validate(schema, dict(self.options), f"options of {self.name!r}")
        return dict(found.model_dump(mode="json"))

    def make(self) -> Target:
        """The target.

        Raises:
            UserError, Failure: it cannot be made.
        """
        made = ask(self.name, "cannot be made", lambda: registry.create(self.seam, self.name, self.options))
        target: Target = made if self.seam == "targets" else ModelTarget(made, self.settings())
        ask(self.name, "must say what it measures", lambda: _check_said(self.name, target))
        return target


def ask(name: str, rule: str, question: Callable[[], T]) -> T:
    """A target's answer; whatever it raises of its own becomes one clear line.

    Raises:
        Failure: it raised something.
    """
    try:
        return question()
    except QSearchError:
        raise
    except Exception as error:  # a plug-in may fail in any way; the user needs its name and the reason
        raise Failure(f"target {name!r} {rule}", got=f"{type(error).__name__}: {error}") from error


def _check_said(name: str, target: Target) -> None:
    """Units, definitions and maxima are what they should be.

    Raises:
        PluginError: one of them is not.
    """
    units, definitions = target.units, getattr(target, "definitions", {})
    if not _words(units) or not units:
        raise PluginError(f"units of target {name!r} must be a mapping {{metric: unit}}", got=repr(units)[:100])
    if not _words(definitions) or not set(definitions) <= set(units):
        raise PluginError(
            f"definitions of target {name!r} must be a mapping {{metric: words}}, of metrics that have units",
            got=repr(definitions)[:100],
            fix=f"its metrics: {', '.join(units)}",
        )
    maxima = getattr(target, "maxima", ())
    if isinstance(maxima, str) or not isinstance(maxima, Collection) or not set(maxima) <= set(units):
        raise PluginError(
            f"maxima of target {name!r} must be metrics that have units",
            got=repr(maxima)[:100],
            fix=f"its metrics: {', '.join(units)}",
        )


def _words(found: object) -> bool:
    """Whether it is a mapping of words to words."""
    return isinstance(found, Mapping) and all(isinstance(word, str) and word for pair in found.items() for word in pair)


def checked(reading: object, units: Mapping[str, str]) -> dict[str, float]:
    """A reading that is what it should be.

    Raises:
        PluginError: it is no mapping, of other metrics, or of what is no finite number of at least 0.
    """
    if not isinstance(reading, Mapping):
        raise PluginError("measure must return a mapping {metric: number}", got=type(reading).__name__)
    if set(reading) != set(units):
        raise PluginError(
            f"a reading must give the metrics that have units: {', '.join(units)}",
            got=", ".join(str(metric) for metric in reading) or "none",
        )
    for metric, value in reading.items():
        if not isinstance(value, Real) or isinstance(value, bool):
            raise PluginError(f"{metric} must be a number", got=repr(value)[:100])
        if not math.isfinite(value) or value < 0:
            raise PluginError(f"{metric} must be finite and at least 0", got=float(value))
    return {metric: float(reading[metric]) for metric in units}
