"""Measurements of layers on a target, and the file that keeps them.

``measurements.jsonl`` is a line that says what was measured, and a line for each measurement, in the order they were
taken; a point that was measured again has several, of which the last holds. Lines are appended as measurements end, so
that an interruption costs no more than the line it falls into.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from qsearch.errors import SpaceError, StorageError
from qsearch.layers import Layer

log = logging.getLogger(__name__)

FILE = "measurements.jsonl"
FORMAT = 1

_BEGINNING = f'{{"format":{FORMAT},"target":'.encode()
"""What the file begins with."""

Point = tuple[Layer, int, int]
"""A layer, its weight bits and its activation bits."""


def geometry(layer: Layer) -> Layer:
    """A layer without what its cost on hardware cannot depend on: its name, and what others keep alive meanwhile.

    Nor does it keep the period of an overlay: plain weights are measured.
    """
    return replace(layer, name="", alive=0, overlay=0)


def unnamed(layer: Layer) -> Layer:
    """A layer without its name, and with plain weights. Cost models know what others keep alive: working memory depends on it."""
    return replace(layer, name="", overlay=0)


def alike(layers: Iterable[Layer], key: Callable[[Layer], Layer]) -> dict[Layer, int]:
    """The first layer of each key, :func:`geometry` or :func:`unnamed`, in order, and how many layers have it."""
    first: dict[Layer, Layer] = {}
    return dict(Counter(first.setdefault(key(layer), layer) for layer in layers))


def short_name(target: str) -> str:
    """A target's name, the same from whatever folder it is asked for: of ``path/to/file.py:Class`` ``file.py:Class``."""
    location, colon, attribute = target.rpartition(":")
    return f"{Path(location).name}{colon}{attribute}" if location.endswith(".py") else target


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
    def repeats(self) -> int:
        """How many readings there are; 0 where it failed."""
        return min(map(len, self.readings.values()), default=0)

    def value(self, metric: str) -> float:
        """The median reading."""
        return float(np.median(self.readings[metric]))

    def spread(self, metric: str) -> float:
        """Interquartile range of the readings, not a standard deviation; 0 of a single one."""
        low, high = np.percentile(self.readings[metric], (25, 75))
        return float(high - low)


@dataclass(frozen=True)
class Subject:
    """What a store is about; one store never holds measurements of two.

    Attributes:
        target: the target's :func:`short_name`.
        options: its options, with their defaults.
        units, definitions, maxima: see :class:`qsearch.protocols.Target`.
        source: digest of the file that holds the target's class; empty where it was installed.
    """

    target: str
    options: Mapping[str, Any] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    definitions: Mapping[str, str] = field(default_factory=dict)
    maxima: tuple[str, ...] = ()
    source: str = ""


_LATER = ("maxima", "source")
"""What headers of older files do not say: they fit whatever it is."""


class MeasurementStore:
    """The measurements in a folder. The folder is made, and the file written, with the first that is added.

    Whoever adds must be the only one who does; reading needs no lock, as lines are only ever appended.

    Args:
        folder: holds ``measurements.jsonl``.
        subject: what is measured here.
        version: of qsearch, for the record.
        key: a layer without what its cost cannot depend on; layers of one key are measured once.

    Raises:
        StorageError: the file is damaged, of another format, or about another subject. A last line that was cut off is
            passed over; the next :meth:`add` drops it, with a warning.
    """

    def __init__(
        self, folder: Path, subject: Subject, version: str = "", key: Callable[[Layer], Layer] = geometry
    ) -> None:
        self.folder, self.subject, self.key, self._version = folder, subject, key, version
        self._found: dict[Point, Measurement] = {}
        self._begun, self._cut, self._end = False, False, 0
        self.read()

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
        """Those that failed and have no readings from another time."""
        return [found for found in self._found.values() if found.failure]

    def find(self, layer: Layer, weight_bits: int, activation_bits: int) -> Measurement | None:
        """The last measurement of a layer of this geometry, under the layer's own name; None if none, or it failed."""
        found = self._found.get((self.key(layer), weight_bits, activation_bits))
        return None if found is None or found.failure else replace(found, layer=layer)

    def add(self, measurement: Measurement) -> None:
        """Keep a measurement, on disk when this returns.

        Raises:
            StorageError: the file cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._drop_cut_line()
            with self.path.open("a", encoding="utf-8") as file:
                if not self._begun:
                    file.write(_line({"format": FORMAT, **asdict(self.subject), "qsearch": self._version}))
                file.write(_line(asdict(measurement)))
        except OSError as error:
            raise StorageError("measurements must be kept as they end", got=f"{self.path}: {error}") from error
        self._begun = True
        self._keep(measurement)

    def read(self) -> None:
        """Read the file, again if others have written to it. Nothing is written.

        Raises:
            StorageError: as the class.
        """
        self._found.clear()
        content = self._content()
        whole = content[: content.rfind(b"\n") + 1]
        self._end, self._cut = len(whole), len(whole) < len(content)
        self._begun = bool(whole)
        if not whole and not (_BEGINNING.startswith(content) or content.startswith(_BEGINNING)):
            raise StorageError(
                f"{self.path} must hold measurements", got=repr(content[:40]), fix="measure into another folder"
            )
        for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
            try:
                value = json.loads(line)
                if number == 1:
                    self._check_header(value)
                else:
                    self._keep(_measurement(value, self.subject.units))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError, SpaceError) as error:
                raise StorageError(
                    f"{self.path}, line {number}, is damaged",
                    got=f"{type(error).__name__}: {error}"[:200],
                    fix=("" if number == 1 else "take the line out, or ") + "measure into another folder",
                ) from error

    def _content(self) -> bytes:
        try:
            return self.path.read_bytes() if self.path.is_file() else b""
        except OSError as error:
            raise StorageError("measurements must be readable", got=f"{self.path}: {error}") from error

    def _keep(self, found: Measurement) -> None:
        """The last one holds, but a failure does not take readings away."""
        point = (self.key(found.layer), found.weight_bits, found.activation_bits)
        if not found.failure or point not in self._found or self._found[point].failure:
            self._found[point] = found

    def _drop_cut_line(self) -> None:
        if self._cut:
            log.warning("%s: dropped its last line, which was cut off", self.path)
            with self.path.open("r+b") as file:
                file.truncate(self._end)
            self._cut = False

    def _check_header(self, header: Mapping[str, Any]) -> None:
        ours = {"format": FORMAT, **json.loads(json.dumps(asdict(self.subject)))}
        for key, value in ours.items():
            there = header.get(key, value) if key in _LATER else header[key]
            there = short_name(there) if key == "target" else there
            if key == "source" and there != value:
                raise StorageError(
                    f"{self.path} holds measurements of {self.subject.target}, whose file has changed since",
                    fix="measure into another folder, or remove this one",
                )
            if there != value:
                raise StorageError(
                    f"{self.path} holds other measurements",
                    got=f"{key} {there!r} there, {value!r} here",
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
