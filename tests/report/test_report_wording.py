"""Numbers as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.assignment import FLOAT_BITS
from qsearch.problem import Bound
from qsearch.report import wording
from qsearch.report.statistics import Interval


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.00213, "s", "2.13 ms"),
        (1.0, "s", "1.00 s"),
        (4.96e-5, "s", "49.6 µs"),
        (3.2e-13, "J", "0.320 pJ"),
        (8710, "byte", "8.71 kB"),
        (0.5, "byte", "0.500 B"),
        (2e9, "bit-op", "2.00 Gbit-op"),
        (102_656, "SOp", "103 kSOp"),
        (0, "s", "0 s"),
        (12.34, "widgets", "12.3 widgets"),
        (1e7, "", "1e+07"),
        (float("nan"), "s", "unknown s"),
    ],
)
def test_amount(value: float, unit: str, text: str) -> None:
    assert wording.amount(value, unit) == text


def test_a_cost_shares_its_prefix_with_its_deviation() -> None:
    assert wording.uncertain(0.00213, "s", 4e-5) == "2.13 ± 0.04 ms"
    assert wording.uncertain(0.00213, "s", None) == wording.amount(0.00213, "s")


@given(st.floats(1e-11, 1e14))
def test_prefix_keeps_the_value(value: float) -> None:
    factor, unit = wording.prefix(value, "s")
    assert unit.endswith("s")
    assert 1 - 1e-9 <= value / factor < 1000 or value >= 1e15 or factor in (1e12, 1e-12)


def test_quality_ranges_stay_within_the_possible() -> None:
    assert wording.quality_range(Interval(0.99, 0.97, 1.02), True) == "99.0 % [97.0, 100.0]"
    assert wording.quality_range(Interval(0.99), True) == "99.0 %"
    assert wording.quality_range(Interval(31.27, 30.1, 32.4), False) == "31.27 [30.1, 32.4]"


def test_differences_are_signed() -> None:
    assert wording.difference(Interval(-0.003, -0.011, 0.004), True) == "−0.3 points [−1.1, +0.4]"
    assert wording.difference(Interval(-0.0001, -0.01, 0.01), True) == "0 points [−1.0, +1.0]"
    assert wording.difference(Interval(0.25), False) == "+0.25"


def test_bits() -> None:
    assert [wording.bits(value) for value in (None, 4, 0, FLOAT_BITS, (2, 3, 7))] == [
        "–",
        "4",
        "0 (pruned)",
        "float",
        "4.0 (2–7)",
    ]


def test_durations() -> None:
    assert [wording.times(seconds) for seconds in (8.14, 59.94, 200, 7500)] == [
        "8.1 s",
        "59.9 s",
        "3 min 20 s",
        "2 h 05 min",
    ]


def test_plugins_show_their_class_and_options() -> None:
    assert wording.plugin({"name": "bismo", "options": {}}) == "bismo"
    assert wording.plugin({"name": "/a/b/mine.py:Chip", "options": {"clock": 2}}) == "Chip (clock: 2)"


def test_limits() -> None:
    assert wording.limit(Bound("latency", 0.002, False, ""), "s", False) == "≤ 2.00 ms"
    assert wording.limit(Bound("accuracy", 0.97, True, ""), "", True) == "≥ 97.0 %"
