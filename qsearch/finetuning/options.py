"""How a fine-tuning trains, unless it is told otherwise: as the run's evaluator does, but for longer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qsearch import registry
from qsearch.config import changed
from qsearch.run import Run
from qsearch.training.devices import check_device
from qsearch.training.families import family
from qsearch.training.options import TrainingOptions

EPOCHS = 60
"""Passes over the training data: ten times those of an evaluation."""


def training_options(run: Run, epochs: int | None, changes: Sequence[str] = ()) -> TrainingOptions:
    """Options of a fine-tuning.

    Args:
        run: whose evaluator's options are taken on, where they are those of a training.
        epochs: in place of all others; :data:`EPOCHS` if None and not changed.
        changes: each ``option=value`` with a YAML value.

    Raises:
        ConfigError: an option that is unknown or not valid, a device that is not there.
    """
    settings = changed({**_inherited(run), "epochs": EPOCHS}, changes)
    if epochs is not None:
        settings["epochs"] = epochs
    options: TrainingOptions = registry.validate(TrainingOptions, settings, "options of the training")
    family(options.quantizer)
    check_device(options)
    return options


def _inherited(run: Run) -> dict[str, Any]:
    """Those options of the run's evaluator that say how it trains."""
    evaluator = run.config.evaluator
    schema = getattr(registry.load("evaluators", evaluator.name), "Options", None)
    if schema is None or not issubclass(schema, TrainingOptions):
        return {}
    return {name: value for name, value in evaluator.options.items() if name in TrainingOptions.model_fields}
