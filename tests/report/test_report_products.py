"""Products of two activations in reports: they have two operands and no weight, wherever bits are shown."""

from __future__ import annotations

from dataclasses import replace

import pytest
from matplotlib.colors import to_rgb
from report_runs import RunFactory, cost_of, quality_of

from qsearch.assignment import BitAssignment
from qsearch.layers import Layer
from qsearch.report import facts, markdown
from qsearch.report.plots import bits_per_layer, kernel_bits
from qsearch.report.sections import report
from qsearch.report.style import BLUE, GREEN, ORANGE
from qsearch.report.summary import trial_values
from qsearch.report.terminal import bits_line
from qsearch.run import Run
from qsearch.trial import Trial

LAYERS = (
    Layer("query", "linear", 8, 6, input_size=(10,), output_size=(10,)),  # 48 weights, 80 inputs
    Layer("scores", "matmul", 3, 10, input_size=(10,), output_size=(10,), uses=2),  # 60 and 60 numbers
    Layer("fc", "linear", 20, 4),  # 80 weights, 20 inputs
)
BITS = {
    "query.weight": 2,
    "query.input": 4,
    "scores.other": 3,
    "scores.input": 7,
    "fc.weight": 8,
    "fc.input": 5,
}


@pytest.fixture
def run(make_run: RunFactory) -> Run:
    """A run with one trial, of :data:`BITS`."""
    made = make_run(limit=0)
    assignment = BitAssignment(BITS)
    trial = Trial(0, assignment, "complete", quality=quality_of(0.9), cost=cost_of(LAYERS, assignment))
    info = made.info.model_copy(
        update={"layers": LAYERS, "variables": {name: [2, 3, 4, 5, 7, 8] for name in BITS}, "tested": {}, "bounds": ()}
    )
    return replace(made, info=info, trials=(trial,))


def test_mean_bits_count_the_other_operand_among_activations() -> None:
    assignment = BitAssignment(BITS)
    assert facts.mean_bits(LAYERS, assignment, "weight") == pytest.approx((2 * 48 + 8 * 80) / 128)
    inputs = (4 * 80 + 3 * 60 + 7 * 60 + 5 * 20) / 220
    assert facts.mean_bits(LAYERS, assignment, "activation") == pytest.approx(inputs)
    assert facts.mean_bits(LAYERS[1:2], assignment, "weight") is None


def test_bits_of_layers_in_a_row(run: Run) -> None:
    assert bits_line(run, BitAssignment(BITS), "weight") == "2 – 8"
    assert bits_line(run, BitAssignment(BITS), "activation") == "4 7×3 5"
    assert bits_line(run, BitAssignment(dict.fromkeys(BITS, 32)), "activation") == "f f×f f"


def test_the_table_of_layers_shows_both_operands_and_no_weight(run: Run) -> None:
    text = markdown.render(report(run), {plot.name: "p.png" for plot in report(run).plots})
    row = next(line for line in text.splitlines() if line.startswith("| scores"))
    assert [cell.strip() for cell in row.split("|")[1:6]] == ["scores", "–", "7 × 3", "600", "0"]
    assert "of its input × of its other operand" in text
    assert run.best is not None
    assert trial_values(run, run.best)["mean_weight_bits"] == pytest.approx(5.75)


def test_bars_of_operands_are_not_those_of_weights() -> None:
    """Per layer: weight or other operand above, input below, each in its colour, as the legend says."""
    figure = bits_per_layer(LAYERS, BitAssignment(BITS))
    (axes,) = figure.axes
    bars = {
        (round(bar.get_y() + bar.get_height() / 2, 2), to_rgb(bar.get_facecolor())): bar.get_width()
        for bar in axes.patches
    }
    assert bars == {
        (-0.19, to_rgb(BLUE)): 2,
        (0.19, to_rgb(ORANGE)): 4,
        (0.81, to_rgb(GREEN)): 3,
        (1.19, to_rgb(ORANGE)): 7,
        (1.81, to_rgb(BLUE)): 8,
        (2.19, to_rgb(ORANGE)): 5,
    }
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["weights", "input activations", "other operands of products"]


def test_a_network_without_products_has_the_legend_it_had() -> None:
    figure = bits_per_layer(LAYERS[::2], BitAssignment({k: v for k, v in BITS.items() if "scores" not in k}))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["weights", "input activations"]


def test_a_product_has_no_kernels_to_show() -> None:
    kernels = BitAssignment({**BITS, "query.weight": [2, 2, 4, 4, 4, 8]})
    axes = kernel_bits(LAYERS, kernels).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["query", "fc"]
