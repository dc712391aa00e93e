"""Bars of costs by layer: every bar is within its panel, and costs share an axis only where it shows all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsearch.report.cost_plot import by_layer

BITS = (2, 8)


def draw(*greatest: float):
    """A figure of three layers, one panel for each number, its greatest cost."""
    panels = {
        f"model {place}": number * np.array([[0.1, 0.2], [0.5, 1.0], [0.3, 0.3]])
        for place, number in enumerate(greatest)
    }
    return by_layer("latency", ["a", "b", "c"], BITS, panels, "latency, ms")


def limits(figure) -> list[float]:
    return [axes.get_xlim()[1] for axes in figure.axes]


@settings(deadline=None, max_examples=10)
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=4))
def test_no_bar_leaves_its_panel(greatest):
    figure = draw(*greatest)
    for axes, number in zip(figure.axes, greatest, strict=True):
        assert axes.get_xlim()[0] == 0
        assert axes.get_xlim()[1] > number
        assert max(bar.get_width() for bar in axes.patches) == pytest.approx(number)


@pytest.mark.parametrize("greatest", [(1.0, 3.0), (3.0, 1.0)])
def test_costs_that_are_alike_share_an_axis(greatest):
    figure = draw(*greatest)
    first, second = limits(figure)
    assert first == second
    assert "axes differ" not in figure.get_suptitle()


def test_costs_that_one_axis_would_hide_have_their_own():
    figure = draw(1.0, 1000.0)
    first, second = limits(figure)
    assert first < 2 < 1000 < second
    assert "the axes differ" in figure.get_suptitle()
