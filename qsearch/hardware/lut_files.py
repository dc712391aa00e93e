"""Cost tables as files: CSV with a row per layer and pair of bits, or a NumPy array of three axes.

Notation

=====  =================================================================================
w, a   bits of a layer's weights and of its input
T      one metric of one layer at (w, a), shape (33, 33); NaN where the file has no entry
=====  =================================================================================

A CSV file has the columns ``layer``, ``weight_bits``, ``activation_bits``, and one for each metric with its unit in
brackets: ``latency [ms]``, ``energy [uJ]``. A column such as ``latency spread [ms]`` holds interquartile ranges of
repeated readings, as ``qsearch hardware measure`` writes them; they become standard deviations, as of readings that are
normally distributed: σ = range / 1.349. Times become s, energies J, sizes byte; counts and ``unstated`` stay as they are.
Costs are those of one forward pass of the network, all uses of the layer. In front of the header may stand lines that
begin with ``#``: one such as ``# energy: the whole board, wall plug`` says what a metric counts, others are remarks.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import FLOAT_BITS
from qsearch.errors import DataError
from qsearch.measured_table import QUARTILES
from qsearch.units import convert

_KEYS = ("layer", "weight_bits", "activation_bits")
_SPREAD = " spread"


@dataclass
class Entries:
    """What a file holds.

    Attributes:
        path: the file.
        units: metric → unit of the cost model.
        costs: layer → metric → T.
        spreads: layer → metric → standard deviations, as T; of metrics whose spread the file has, and not as 0 throughout.
        definitions: metric → what is counted, where the file says it.
    """

    path: Path
    units: Mapping[str, str]
    costs: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    spreads: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    definitions: Mapping[str, str] = field(default_factory=dict)

    def known(self, layer: str) -> list[tuple[int, int]]:
        """Pairs of bits (w, a) at which a layer has entries, ascending."""
        first = next(iter(self.costs[layer].values()))
        return [(int(w), int(a)) for w, a in np.argwhere(~np.isnan(first))]

    def likeness(self, layer: str) -> bytes:
        """The same for layers with the same costs and spreads at all bits: one measurement under several names."""
        tables = [kind.get(layer, {}) for kind in (self.costs, self.spreads)]
        return b"".join(table.tobytes() for kind in tables for _, table in sorted(kind.items()))

    def axes(self, layer: str) -> tuple[list[int], list[int]]:
        """Weight bits and activation bits that occur among a layer's entries, ascending."""
        weights, activations = zip(*self.known(layer), strict=True)
        return sorted(set(weights)), sorted(set(activations))


@dataclass(frozen=True)
class _Column:
    """A column of costs: its place and name, its metric, the factor to that metric's unit, and whether it holds spreads."""

    place: int
    name: str
    metric: str
    factor: float
    unit: str
    spread: bool


def read_csv(path: Path) -> Entries:
    """The entries of a CSV file.

    Raises:
        DataError: the file cannot be read, is empty, or has a header, an entry or a unit that is not valid.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    remarks, rows = _remarks(text), _rows(path, text)
    _, header = next(rows, (1, []))
    columns = _columns(path, header)
    units = {column.metric: column.unit for column in columns if not column.spread}
    found = Entries(path, units, definitions={metric: said for metric, said in remarks.items() if metric in units})
    lines: dict[tuple[str, int, int], int] = {}
    for line, row in rows:
        where = f"{path.name}, line {line}"
        if len(row) != len(header):
            raise DataError(f"{where}: a row must have {len(header)} cells, as the header has", got=f"{len(row)} cells")
        layer, weight, activation = _place(dict(zip(header, row, strict=True)), where)
        where = f"{where}, layer {layer!r} at {weight}/{activation} bits"
        first = lines.setdefault((layer, weight, activation), line)
        if first != line:
            raise DataError(f"{where}: each layer and pair of bits must stand once", got=f"line {first} has it too")
        for column in columns:
            kind = found.spreads if column.spread else found.costs
            table = kind.setdefault(layer, {}).setdefault(column.metric, _unknown())
            table[weight, activation] = column.factor * _number(row[column.place], f"{where}: {column.name}")
    if not found.costs:
        raise DataError("a cost table must have at least one row", got=str(path))
    _forget_certain(found)
    return found


def _forget_certain(found: Entries) -> None:
    """Drop spreads that are 0 throughout, as of a simulator: single readings say nothing of how sure they are."""
    for metric in found.units:
        if not any(np.nansum(tables[metric]) for tables in found.spreads.values() if metric in tables):
            for tables in found.spreads.values():
                tables.pop(metric, None)


def _front(text: str) -> list[str]:
    """Lines in front of the header."""
    return list(takewhile(lambda line: not line.strip() or line.startswith("#"), text.splitlines()))


def _remarks(text: str) -> dict[str, str]:
    """What stands in front of the ``:`` of a remark → what stands behind it."""
    parts = [line.removeprefix("#").partition(":") for line in _front(text)]
    return {metric.strip(): said.strip() for metric, _, said in parts if said.strip()}


def _rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Line and cells of each row that is not empty."""
    first = len(_front(text))
    reader = csv.reader(text.splitlines()[first:])
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield first + reader.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        raise _unreadable(path, error) from error


def _columns(path: Path, header: Sequence[str]) -> list[_Column]:
    """The columns of costs, after a check of all."""
    if missing := [key for key in _KEYS if key not in header]:
        raise DataError(
            f"a cost table must have the columns {', '.join(_KEYS)}, and one for each metric such as latency [s]",
            got=f"{path.name} without {', '.join(missing)}",
            fix=f"its header has: {', '.join(header) or 'nothing'}",
        )
    if repeated := sorted({name for name in header if header.count(name) > 1}):
        raise DataError(f"columns of {path.name} must differ", got=f"{repeated[0]!r} twice")
    columns = [_column(path, place, name) for place, name in enumerate(header) if name not in _KEYS]
    metrics = [column.metric for column in columns if not column.spread]
    if not metrics:
        raise DataError(f"{path.name} must have a column with a metric", fix="add one such as latency [s]")
    if repeated := sorted({metric for metric in metrics if metrics.count(metric) > 1}):
        raise DataError(f"{path.name} must have each metric once", got=f"{repeated[0]!r} in two units")
    for column in columns:
        if column.metric not in metrics:
            raise DataError(
                f"{path.name} has spreads of {column.metric!r} but no costs", fix=f"add {column.metric} […]"
            )
    return columns


def _column(path: Path, place: int, name: str) -> _Column:
    match = re.fullmatch(r"(?P<metric>[^\[\]]+?)\s*\[(?P<unit>[^\[\]]*)\]", name)
    if match is None:
        raise DataError(
            f"{path.name}: column {name!r} must carry its unit in brackets", fix=f"name it {name or 'latency'} [s]"
        )
    spread = match["metric"].endswith(_SPREAD)
    metric = match["metric"].removesuffix(_SPREAD)
    factor, unit = convert(metric, match["unit"].strip(), path.name)
    factor = factor / QUARTILES if spread else factor
    return _Column(place, name.partition("[")[0].strip(), metric, factor, unit, spread)


def _place(cells: Mapping[str, str], where: str) -> tuple[str, int, int]:
    """Layer and bits of a row."""
    layer = cells["layer"]
    if not layer:
        raise DataError(f"{where}: a row must name its layer")
    where = f"{where}, layer {layer!r}"
    weight = _bits(cells["weight_bits"], f"{where}: weight_bits", lowest=0)
    return layer, weight, _bits(cells["activation_bits"], f"{where}: activation_bits", lowest=1)


def _unknown() -> NDArray[np.float64]:
    return np.full((FLOAT_BITS + 1, FLOAT_BITS + 1), np.nan)


def _bits(text: str, what: str, lowest: int) -> int:
    bits = int(text) if re.fullmatch(r"[0-9]{1,2}", text) else -1
    if not lowest <= bits <= FLOAT_BITS:
        raise DataError(f"{what} must be a whole number within {lowest}..{FLOAT_BITS}", got=repr(text))
    return bits


def _number(text: str, what: str) -> float:
    try:
        value = float(text)
        if "_" in text or not text.isascii():  # Python's own ways to write numbers: 1_000, ٤
            raise ValueError
    except ValueError:
        raise DataError(f"{what} must be a number", got=repr(text)) from None
    if not (np.isfinite(value) and value >= 0):
        raise DataError(f"{what} must be finite and at least 0", got=text)
    return value


def read_npy(
    path: Path,
    layers: Sequence[str],
    weight_bits: Sequence[int],
    activation_bits: Sequence[int],
    metric: str,
    unit: str,
) -> Entries:
    """The entries of an array of shape (layers, weight bits, activation bits).

    Args:
        path: the file.
        layers: names of the network's layers, in the order of the first axis.
        weight_bits, activation_bits: what the entries of the other axes are; 1, 2, 3, … where empty.
        metric, unit: what the numbers are.

    Raises:
        DataError: the file cannot be read, its shape does not fit the names, or a number is not finite or negative.
    """
    factor, known = convert(metric, unit, path.name)
    values = _array(path)
    axes = [tuple(given) or tuple(range(1, size + 1)) for given, size in zip((weight_bits, activation_bits), values.shape[1:], strict=True)]  # fmt: skip
    expected = (len(layers), *(len(axis) for axis in axes))
    if values.shape != expected:
        raise DataError(f"{path.name} must have an entry for each name of a layer and each pair of bits: "
                        f"shape {expected}", got=f"shape {values.shape}")  # fmt: skip
    _check_axes(path, layers, axes)
    found = Entries(path, {metric: known})
    for layer, plane in zip(layers, values, strict=True):
        bad = np.argwhere(~(np.isfinite(plane) & (plane >= 0)))
        if bad.size:
            row, column = (int(index) for index in bad[0])
            where = f"{path.name}, layer {layer!r} at {axes[0][row]}/{axes[1][column]} bits"
            raise DataError(f"{where}: {metric} must be finite and at least 0", got=float(plane[row, column]))
        table = _unknown()
        table[np.ix_(*axes)] = factor * plane
        found.costs[layer] = {metric: table}
    return found


def _array(path: Path) -> NDArray[np.float64]:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(values, np.ndarray) or values.ndim != 3 or values.dtype.kind not in "iuf" or not values.size:
        got = f"shape {values.shape} of {values.dtype}" if isinstance(values, np.ndarray) else "an archive"
        raise DataError(
            f"{path.name} must be an array of numbers with the axes layer, weight bits, activation bits", got=got
        )
    return values.astype(np.float64)


def _check_axes(path: Path, layers: Sequence[str], axes: Sequence[Sequence[int]]) -> None:
    for what, names in (("layers", layers), ("weight_bits", axes[0]), ("activation_bits", axes[1])):
        if repeated := [name for name in names if list(names).count(name) > 1]:
            raise DataError(f"{what} of {path.name} must differ", got=f"{repeated[0]!r} twice")
    for what, bits in (("weight_bits", axes[0]), ("activation_bits", axes[1])):
        if wrong := [value for value in bits if not 0 <= value <= FLOAT_BITS]:
            raise DataError(f"{what} of {path.name} must be within 0..{FLOAT_BITS}", got=wrong[0])


def read_names(path: Path) -> tuple[str, ...]:
    """Names of layers from a file: a JSON list, or one name a line.

    Raises:
        DataError: the file cannot be read or has no names.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = json.loads(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not any(names):
        raise DataError("names of layers must be a JSON list of words, or one name a line", got=str(path))
    return tuple(name for name in names if name)


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return DataError("a cost table must be a readable file", got=f"{path}: {reason or type(error).__name__}")
