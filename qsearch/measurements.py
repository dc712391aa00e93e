"""Measurements of layers on a target, and the file that keeps them.

``measurements.jsonl`` is a line that says what was measured, and a line for each measurement, in the order they were
taken; a point that was measured again has several, of which the last holds. Lines are appended as measurements end, so
that an interruption costs no more than the line it falls into.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from qsearch.errors import SpaceError, StorageError
from qsearch.files import write_atomically
from qsearch.layers import Layer

log = logging.getLogger(__name__)

FILE = "measurements.jsonl"
TABLE = "table.csv"
FORMAT = 1

QUARTILES = 1.3489795
"""Interquartile range of a normal distribution, in standard deviations."""

Point = tuple[Layer, int, int]
"""A layer, its weight bits and its activation bits."""


def geometry(layer: Layer) -> Layer:
    """A layer without what its cost on a target cannot depend on: its name, and what others keep alive meanwhile."""
    return replace(layer, name="", alive=0)


@dataclass(frozen=True)
class Measurement:
    """Readings of one layer at one pair of bits.

    Attributes:
        layer: the layer.
        weight_bits, activation_bits: 32 is float.
        readings: metric → readings after warm-up, in the order taken; empty where the measurement failed.
        date: UTC, ISO 8601.
        machine: on which it was taken.
        versions: of what it depends on, as the target says.
        seconds: that it took, warm-up included.
        failure: why there are no readings; empty otherwise.
    """

    layer: Layer
    weight_bits: int
    activation_bits: int
    readings: Mapping[str, tuple[float, ...]]
    date: str
    machine: str
    versions: Mapping[str, str]
    seconds: float
    failure: str = ""

    @property
    def point(self) -> Point:
        """What was measured; layers of one geometry are one point."""
        return geometry(self.layer), self.weight_bits, self.activation_bits

    def value(self, metric: str) -> float:
        """The median reading."""
        return float(np.median(self.readings[metric]))

    def spread(self, metric: str) -> float:
        """Interquartile range of the readings; 0 of a single one."""
        low, high = np.percentile(self.readings[metric], (25, 75))
        return float(high - low)


@dataclass(frozen=True)
class Subject:
    """What a store is about; one store never holds measurements of two.

    Attributes:
        target: the target's name.
        options: its options, with their defaults.
        units, definitions: see :class:`qsearch.protocols.Target`.
    """

    target: str
    options: Mapping[str, Any] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    definitions: Mapping[str, str] = field(default_factory=dict)


class MeasurementStore:
    """The measurements in a folder. The folder is made with the first of them.

    Args:
        folder: holds ``measurements.jsonl``.
        subject: what is measured here.
        version: of qsearch, for the record.

    Raises:
        StorageError: the file is damaged, of another format, or about another subject. A last line that was cut off is
            dropped with a warning.
    """

    def __init__(self, folder: Path, subject: Subject, version: str = "") -> None:
        self.folder, self.subject, self._version = folder, subject, version
        self._found: dict[Point, Measurement] = {}
        self._begun = False
        if self.path.is_file():
            self._read()

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / FILE

    @property
    def all(self) -> list[Measurement]:
        """Those with readings."""
        return [found for found in self._found.values() if not found.failure]

    @property
    def failures(self) -> list[Measurement]:
        """Those that failed and were not measured since."""
        return [found for found in self._found.values() if found.failure]

    def find(self, layer: Layer, weight_bits: int, activation_bits: int) -> Measurement | None:
        """The measurement of a layer of this geometry, under the layer's own name; None if none, or it failed."""
        found = self._found.get((geometry(layer), weight_bits, activation_bits))
        return None if found is None or found.failure else replace(found, layer=layer)

    def add(self, measurement: Measurement) -> None:
        """Keep a measurement, on disk when this returns.

        Raises:
            StorageError: the file cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                if not self._begun:
                    file.write(_line({"format": FORMAT, **asdict(self.subject), "qsearch": self._version}))
                file.write(_line(asdict(measurement)))
        except OSError as error:
            raise StorageError("measurements must be kept as they end", got=f"{self.path}: {error}") from error
        self._begun = True
        self._found[measurement.point] = measurement

    def _read(self) -> None:
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise StorageError("measurements must be readable", got=f"{self.path}: {error}") from error
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            log.warning("%s: dropped its last line, which was cut off", self.path)
            write_atomically(self.path, whole)
        lines = whole.split(b"\n")[:-1]
        self._begun = bool(lines)
        for number, line in enumerate(lines, start=1):
            try:
                if number == 1:
                    self._check_header(json.loads(line))
                else:
                    found = _measurement(json.loads(line), self.subject.units)
                    self._found[found.point] = found
            except (ValueError, TypeError, KeyError, AttributeError, SpaceError) as error:
                raise StorageError(
                    f"{self.path}, line {number}, is damaged",
                    got=f"{type(error).__name__}: {error}"[:200],
                    fix="take the line out, or measure into another folder",
                ) from error

    def _check_header(self, header: Mapping[str, Any]) -> None:
        ours = {"format": FORMAT, **json.loads(json.dumps(asdict(self.subject)))}
        for key, value in ours.items():
            if header[key] != value:
                raise StorageError(
                    f"{self.path} holds other measurements",
                    got=f"{key} {header[key]!r} there, {value!r} here",
                    fix="measure into another folder",
                )


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":")) + "\n"


def _measurement(value: dict[str, Any], units: Mapping[str, str]) -> Measurement:
    """Inverse of ``asdict``.

    Raises:
        ValueError, TypeError, KeyError, AttributeError, SpaceError: it is none.
    """
    layer: dict[str, Any] = {
        key: tuple(part) if isinstance(part, list) else part for key, part in value.pop("layer").items()
    }
    readings = {metric: tuple(float(one) for one in taken) for metric, taken in value.pop("readings").items()}
    found = Measurement(Layer(**layer), readings=readings, **value)
    if not found.failure and set(readings) != set(units):
        raise ValueError(f"readings of {', '.join(readings) or 'nothing'}, not of {', '.join(units)}")
    for metric, taken in readings.items():
        if not taken or not all(math.isfinite(one) and one >= 0 for one in taken):
            raise ValueError(f"{metric} must be finite and at least 0")
    if not all(isinstance(bits, int) and 0 <= bits <= 32 for bits in (found.weight_bits, found.activation_bits)):
        raise ValueError("bits must be within 0..32")
    return found


def table_csv(layers: Sequence[Layer], store: MeasurementStore) -> str:
    """What is known of these layers, as the cost model ``lut`` reads it: a row per layer and pair of bits.

    Columns: layer, weight_bits, activation_bits, and for each metric with its unit the median of the readings and their
    standard deviation, as a quarter of outliers leaves it: ``latency [s]``, ``latency spread [s]``. Numbers are exact.
    """
    units = store.subject.units
    columns = [f"{metric}{what} [{unit}]" for metric, unit in units.items() for what in ("", " spread")]
    rows = [",".join(["layer", "weight_bits", "activation_bits", *columns])]
    for layer in layers:
        for found in sorted(_of(layer, store.all), key=lambda one: (one.weight_bits, one.activation_bits)):
            numbers = [repr(one) for metric in units for one in (found.value(metric), found.spread(metric) / QUARTILES)]
            rows.append(",".join([_quoted(layer.name), str(found.weight_bits), str(found.activation_bits), *numbers]))
    return "\n".join(rows) + "\n"


def write_table(path: Path, layers: Sequence[Layer], store: MeasurementStore) -> None:
    """Write :func:`table_csv`, whole or not at all.

    Raises:
        StorageError: the file cannot be written.
    """
    try:
        write_atomically(path, table_csv(layers, store).encode())
    except OSError as error:
        raise StorageError("the table of measurements must be writable", got=f"{path}: {error}") from error


def _of(layer: Layer, measurements: Iterable[Measurement]) -> list[Measurement]:
    return [found for found in measurements if geometry(found.layer) == geometry(layer)]


def _quoted(name: str) -> str:
    return f'"{name.replace(chr(34), chr(34) * 2)}"' if any(letter in name for letter in ',"\n') else name
