"""Units that tables of costs may have, and what they become in a cost model."""

from __future__ import annotations

import re
from collections.abc import Mapping

from qsearch.errors import DataError, nearest

UNITS: Mapping[str, tuple[float, str]] = {
    **{name: (factor, "s") for name, factor in {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}.items()},
    **{
        name: (factor, "J")
        for name, factor in {"J": 1.0, "mJ": 1e-3, "uJ": 1e-6, "µJ": 1e-6, "nJ": 1e-9, "pJ": 1e-12}.items()
    },
    **{name: (factor, "byte") for name, factor in {"byte": 1.0, "B": 1.0, "bit": 0.125}.items()},
    **{name: (factor, "byte") for name, factor in {"kB": 1e3, "KiB": 2.0**10, "MB": 1e6, "MiB": 2.0**20}.items()},
    **{name: (1.0, name) for name in ("cycle", "bit-op", "SOp", "cell", "1", "unstated")},
}
"""Unit of a table → factor, unit of the cost model that reads it."""

_ALLOWED: Mapping[str, tuple[str, ...]] = {
    "latency": ("s", "cycle", "unstated"),
    "energy": ("J", "unstated"),
    **dict.fromkeys(("size", "memory", "peak_memory", "flash"), ("byte", "unstated")),
}
"""Metric → units of the cost model that it can have; any for others."""


def convert(metric: str, unit: str, where: str) -> tuple[float, str]:
    """Factor and unit of the cost model that reads a table: (1e-3, "s") for ms.

    Raises:
        DataError: an unknown unit, or one that the metric cannot have.
    """
    if unit not in UNITS:
        raise DataError(f"{where}: unknown unit of {metric}", got=unit, fix=nearest(unit, UNITS))
    factor, known = UNITS[unit]
    allowed = _ALLOWED.get(metric, (known,))
    if known not in allowed:
        fits = [name for name, (_, base) in UNITS.items() if base in allowed]
        raise DataError(f"{where}: {metric} cannot be in {unit}", fix=f"its units: {', '.join(fits)}")
    return factor, known


def check_columns(units: Mapping[str, str], where: str) -> None:
    """Check that metrics and units can stand in the header of a table, so that what is measured can be used.

    Raises:
        DataError: a metric or a unit that the cost model ``lut`` could not read back.
    """
    for metric, unit in units.items():
        if re.fullmatch(r"[^\[\],:\"\n]+", metric) is None or metric != metric.strip() or metric.endswith(" spread"):
            raise DataError(
                f"{where}: a metric must be able to head a column", got=repr(metric), fix="name it by a word"
            )
        convert(metric, unit, where)
