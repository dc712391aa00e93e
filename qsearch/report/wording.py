"""Numbers as people read them: per cent, prefixes, durations, bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qsearch.assignment import FLOAT_BITS, Bits
from qsearch.problem import Bound
from qsearch.report.statistics import Interval

_PREFIXES = (
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1.0, ""),
    (1e-3, "m"),
    (1e-6, "µ"),
    (1e-9, "n"),
    (1e-12, "p"),
)
_WITH_PREFIX = {"s", "J", "W", "byte", "bit", "bit-op", "B", "cycle", "cycles", "SOp"}
_SYMBOLS = {"byte": "B"}
_WHOLE = {"byte", "bit", "bit-op", "B", "cycle", "cycles", "SOp"}


def prefix(value: float, unit: str) -> tuple[float, str]:
    """Factor and unit that bring ``value`` within 1..1000: (1e-3, "ms") for 0.002 s."""
    if unit not in _WITH_PREFIX or not np.isfinite(value) or value == 0:
        return 1.0, _SYMBOLS.get(unit, unit)
    for factor, letter in _PREFIXES:
        if abs(value) >= factor * (1 - 1e-12) and not (unit in _WHOLE and factor < 1):
            return factor, f"{letter}{_SYMBOLS.get(unit, unit)}"
    return (1.0, _SYMBOLS.get(unit, unit)) if unit in _WHOLE else (_PREFIXES[-1][0], f"p{unit}")


def amount(value: float, unit: str) -> str:
    """A cost with its unit: ``2.13 ms``."""
    factor, shown = prefix(value, unit)
    return f"{significant(value / factor)} {shown}".rstrip()


def uncertain(value: float, unit: str, deviation: float | None) -> str:
    """A cost with its standard deviation where that is known: ``2.13 ± 0.04 ms``."""
    if deviation is None:
        return amount(value, unit)
    factor, shown = prefix(value, unit)
    return f"{significant(value / factor)} ± {deviation / factor:.2g} {shown}".rstrip()


def significant(value: float) -> str:
    """Three significant digits, never with an exponent between 0.001 and 100,000."""
    if not np.isfinite(value):
        return "unknown"
    if value == 0:
        return "0"
    digits = 2 - int(np.floor(np.log10(abs(value))))
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        return f"{value:.3g}"
    return f"{value:.{max(0, digits)}f}"


def abridged(number: int) -> str:
    """A count in at most three significant digits: ``768``, ``40.6 M``."""
    if number < 1000:
        return str(number)
    rounded = float(f"{number:.3g}")  # 999,999 is 1.00 M
    factor, letter = next((factor, letter) for factor, letter in _PREFIXES if rounded >= factor)
    return f"{significant(rounded / factor)} {letter}"


def minus(text: str) -> str:
    """A number with a true minus sign."""
    return text.replace("-", "−")


def quality(value: float, percent: bool, digits: int = 1) -> str:
    """A quality: ``98.7 %``, or four significant digits for one that is no share."""
    if not np.isfinite(value):
        return "unknown"
    return f"{100 * value:.{digits}f} %" if percent else minus(f"{value:.4g}")


def quality_range(interval: Interval, percent: bool, digits: int = 1) -> str:
    """A quality with its interval: ``98.7 % [97.0, 99.5]``; that of a share stays within 0..100."""
    text = quality(interval.mean, percent, digits)
    if interval.low is None or interval.high is None:
        return text
    if percent:
        low, high = 100 * max(0.0, interval.low), 100 * min(1.0, interval.high)
        return f"{text} [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{text} [{minus(f'{interval.low:.4g}')}, {minus(f'{interval.high:.4g}')}]"


def difference(interval: Interval, percent: bool, digits: int = 1) -> str:
    """A difference of qualities, signed: ``−0.3 points [−1.1, +0.4]``."""
    factor, behind = (100, " points") if percent else (1, "")

    def signed(value: float) -> str:
        text = f"{factor * value:+.{digits}f}" if percent else f"{value:+.3g}"
        return "0" if float(text) == 0 else minus(text)

    text = signed(interval.mean) + behind
    if interval.low is None or interval.high is None:
        return text
    return f"{text} [{signed(interval.low)}, {signed(interval.high)}]"


def ratio(value: float) -> str:
    """A cost relative to another: ``0.392``."""
    return f"{value:.3f}" if value < 10 else f"{value:.3g}"


def times(seconds: float) -> str:
    """A duration: ``8.1 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def number(value: float) -> str:
    """A number of things, of which one may be a part: ``1,200``, ``23.5``."""
    return f"{value:,.1f}" if abs(value - round(value)) > 1e-6 else f"{round(value):,}"


def count(things: float, noun: str) -> str:
    """``1 run``, ``3 runs``, ``23.5 runs``; nouns are regular."""
    shown = number(things)
    return f"{shown} {noun}{'' if shown == '1' else 's'}"


def listed(parts: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def overlay(bits: str, kept: int, period: int, pattern: str) -> str:
    """``ternary, 2 of 32 at 8 (channels)``; ``ternary`` where nothing is kept."""
    return f"ternary, {kept} of {period} at {bits} ({pattern})" if kept else "ternary"


def bits(value: Bits | None) -> str:
    """Bits of a site: ``4``, ``3.4 (2–8)`` over kernels, ``float``, ``–`` where there is none."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return "float" if value == FLOAT_BITS else "0 (pruned)" if value == 0 else str(value)
    return f"{np.mean(value):.1f} ({min(value)}–{max(value)})"


def share(value: float) -> str:
    """A share of a whole: ``12.3 %``."""
    return f"{100 * value:.1f} %"


def limit(bound: Bound, unit: str, percent: bool) -> str:
    """The limit of a bound: ``≤ 2.13 ms``, ``≥ 97.0 %``."""
    sign = "≥" if bound.at_least else "≤"
    return f"{sign} {amount(bound.limit, unit) if unit else quality(bound.limit, percent)}"


def plugin(value: Mapping[str, Any]) -> str:
    """A plug-in as configured: ``bismo (platform: zynq-7020)``; of a path only the class is shown."""
    name = str(value["name"]).rpartition(":")[2] or str(value["name"])
    options = ", ".join(f"{key}: {option}" for key, option in value.get("options", {}).items())
    return f"{name} ({options})" if options else name
