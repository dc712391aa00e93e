"""Plots: what is within their range."""

from __future__ import annotations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from report_runs import RunFactory

from qsearch.report.plots import cost_range, pareto


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([1.0, 100.0], 0.0, 108.0),
        ([49.0, 100.0], 0.0, 108.0),
        ([90.0, 100.0], 89.2, 100 + 0.08 * 10.8),
        ([5.0], 0.0, 5.4),
        ([5.0, 5.0], 0.0, 5.4),
        ([0.0], 0.0, 1.0),
        ([], 0.0, 1.0),
    ],
)
def test_costs_begin_at_zero_unless_they_all_lie_far_from_it(values: list[float], low: float, high: float) -> None:
    assert cost_range(values) == pytest.approx((low, high))


@pytest.mark.parametrize("options", [{"start": (8,), "limit": 0}, {"start": (8, 4), "limit": 0, "evaluations": 2}, {}])
def test_labels_end_within_the_plot(make_run: RunFactory, options: dict[str, object]) -> None:
    figure = pareto(make_run(evaluations=options.pop("evaluations", 20), **options), "latency")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes = figure.axes[0]
    frame = axes.get_window_extent()
    assert all(text.get_window_extent().x1 < frame.x1 for text in axes.texts)
    right = axes.get_xlim()[1]
    shown = [offset[0] for item in axes.collections for offset in item.get_offsets()]
    shown += [float(x) for line in axes.lines if line.get_label() != "float network" for x in line.get_xdata()]
    assert max(shown) < 0.95 * right
