"""What was found when assignments of a run were measured on a target, and its file in the run's folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from qsearch.errors import StorageError
from qsearch.files import write_atomically
from qsearch.measuring import Pair
from qsearch.run import Run

FILE = "remeasured.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LayerRecord(_Record):
    """One layer under one assignment.

    Attributes:
        name: of the layer.
        bits: w and a.
        ran_at: metric → the pair at which the target runs it at the least cost.
        predicted: metric → cost; empty where the model gives totals only.
        measured, deviation: metric → T, and the standard deviation of a reading.
    """

    name: str
    bits: Pair
    ran_at: dict[str, Pair] = {}
    predicted: dict[str, float] = {}
    measured: dict[str, float] = {}
    deviation: dict[str, float] = {}


class AssignmentRecord(_Record):
    """One assignment.

    Attributes:
        name: "trial 17".
        predicted, measured: metric → sum over the layers that were measured.
        deviation: metric → likewise, as of readings that rise and fall together: an upper bound.
        layers: in the order of the network, those that were measured.
    """

    name: str
    predicted: dict[str, float]
    measured: dict[str, float]
    deviation: dict[str, float]
    layers: tuple[LayerRecord, ...]


class Remeasured(_Record):
    """What was found on a target.

    Attributes:
        target, options: of the measurements.
        model: name of the run's cost model.
        units, definitions: of the target, for the metrics that the model has too.
        predicted_units, predicted_definitions: of the model.
        assignments: best first, 8 bits everywhere last.
        missing: layer → why it was not measured.
        machine, date: of the last measurement.
        floor: metric → what the calls alone cost, for all layers that were measured, where the target knows.
    """

    target: str
    options: dict[str, Any]
    model: str
    units: dict[str, str]
    definitions: dict[str, str]
    predicted_units: dict[str, str]
    predicted_definitions: dict[str, str]
    assignments: tuple[AssignmentRecord, ...]
    missing: dict[str, str]
    machine: str
    date: str
    floor: dict[str, float] = {}

    def comparable(self, metric: str) -> bool:
        """Whether predicted and measured are the same quantity: unit and definition agree."""
        same_unit = self.units[metric] == self.predicted_units[metric]
        return same_unit and self.definitions.get(metric) == self.predicted_definitions.get(metric)

    def agreement(self, metric: str) -> tuple[int, int]:
        """Pairs of assignments in the same order by prediction and measurement, and pairs that differ in either."""
        same = different = 0
        for one, other in combinations(self.assignments, 2):
            predicted = np.sign(one.predicted[metric] - other.predicted[metric])
            measured = np.sign(one.measured[metric] - other.measured[metric])
            same += int(predicted == measured != 0)
            different += int(predicted != 0 or measured != 0)
        return same, different


def folder_of(run: Run, target: str, options: Mapping[str, Any]) -> Path:
    """Where measurements of a run on a target lie: ``measured/onnxruntime-threads-2``."""
    words = [target.rpartition(":")[2], *(f"{key}-{value}" for key, value in options.items())]
    return run.folder / "measured" / re.sub(r"[^\w.-]+", "-", "-".join(words)).strip("-._")


def read(run: Run) -> list[Remeasured]:
    """Everything that was measured of a run, by target.

    Raises:
        StorageError: a file is damaged.
    """
    found = []
    for path in sorted((run.folder / "measured").glob(f"*/{FILE}")):
        try:
            found.append(Remeasured.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError) as error:
            raise StorageError(
                "what was measured of a run must be readable",
                got=f"{path}: {str(error).splitlines()[0]}",
                fix="remove the file, or measure again with --measure",
            ) from error
    return found


def write(path: Path, found: Remeasured) -> None:
    """Write what was found, whole or not at all.

    Raises:
        StorageError: the file cannot be written.
    """
    try:
        write_atomically(path, found.model_dump_json(indent=2).encode())
    except OSError as error:
        raise StorageError("what was measured of a run must be kept", got=f"{path}: {error}") from error
