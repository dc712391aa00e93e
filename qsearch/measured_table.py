"""Measurements as a table that the cost model ``lut`` reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qsearch.errors import StorageError
from qsearch.files import write_atomically
from qsearch.layers import Layer
from qsearch.measurements import Measurement, MeasurementStore

TABLE = "table.csv"

QUARTILES = 1.3489795
"""Interquartile range of a normal distribution, in standard deviations."""


def table_csv(layers: Sequence[Layer], store: MeasurementStore) -> str:
    """What is known of these layers, as the cost model ``lut`` reads it: a row per layer and pair of bits.

    Columns: layer, weight_bits, activation_bits, and for each metric with its unit the median of the readings and their
    interquartile range: ``latency [s]``, ``latency spread [s]``. Numbers are exact. In front stands a line for each
    metric of which the target says what is counted: ``# energy: the whole board``.
    """
    units = store.subject.units
    defined = [f"# {metric}: {' '.join(text.split())}" for metric, text in store.subject.definitions.items()]
    columns = [f"{metric}{what} [{unit}]" for metric, unit in units.items() for what in ("", " spread")]
    rows = [*defined, ",".join(["layer", "weight_bits", "activation_bits", *columns])]
    for layer in layers:
        for found in sorted(_of(layer, store), key=lambda one: (one.weight_bits, one.activation_bits)):
            numbers = [repr(one) for metric in units for one in (found.value(metric), found.spread(metric))]
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


def _of(layer: Layer, store: MeasurementStore) -> list[Measurement]:
    return [found for found in store.all if store.key(found.layer) == store.key(layer)]


def _quoted(name: str) -> str:
    return f'"{name.replace(chr(34), chr(34) * 2)}"' if any(letter in name for letter in ',"\n') else name
