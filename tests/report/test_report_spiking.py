"""Spiking networks in reports: states, leaks and thresholds are no weights and no activations, wherever bits are shown."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from report_runs import RunFactory, quality_of
from rich.console import Console

from qsearch import registry
from qsearch.anatomy import Anatomy
from qsearch.assignment import BitAssignment
from qsearch.evaluate import scoring as evaluated
from qsearch.inspection import Inspection
from qsearch.layers import Layer
from qsearch.measuring import Bench
from qsearch.protocols import SensitivityTable
from qsearch.remeasured import folder_of
from qsearch.remeasuring import remeasure
from qsearch.report import facts, inspection_table, markdown, neurons
from qsearch.report.layer_bits import all_bits, named
from qsearch.report.plots import bits_per_layer, kernel_bits
from qsearch.report.sections import report
from qsearch.report.sensitivity_plot import damages
from qsearch.report.sensitivity_table import sensitivity_table
from qsearch.report.style import BLUE, ORANGE, PURPLE, SKY, VERMILION
from qsearch.report.summary import trial_values
from qsearch.report.terminal import bits_line, run_table
from qsearch.run import Run
from qsearch.sites import build_space
from qsearch.survey import Survey, SurveyConfig
from qsearch.trial import Cost, Trial

STEPS = 5
LAYERS = (
    Layer("conv", "conv", 1, 4, (3, 3), (1, 1), 1, (6, 6), (4, 4), uses=STEPS),  # 36 weights, 180 numbers in
    Layer("lif", "neuron", 4, 4, (), (), 1, (4, 4), (4, 4), uses=STEPS, constants=1, events=96.0),  # 64 states
    Layer("lif.threshold", "threshold", 4, 4, (), (), 1, (4, 4), (4, 4), uses=STEPS, constants=4, events=96.0),
    Layer("fc", "linear", 64, 12, uses=STEPS, events=96.0),  # 768 weights, 64 inputs that are spikes
    Layer("fire", "neuron", 12, 12, uses=STEPS, events=18.0),  # 12 states, no leak
    Layer("fire.threshold", "threshold", 12, 12, uses=STEPS, constants=1, events=18.0),
)
BITS = {
    "conv.weight": 2,
    "conv.input": 8,
    "lif.leak": 6,
    "lif.state": 10,
    "lif.threshold": 4,
    "fc.weight": 3,
    "fc.input": 1,
    "fire.leak": 1,
    "fire.state": 6,
    "fire.threshold": 2,
}
CHOICES = {"weight": [2, 3, 8], "input": [4, 8], "leak": [2, 6, 8], "state": [4, 6, 8, 10], "threshold": [2, 4, 8]}
VARIABLES = {name: CHOICES[name.rpartition(".")[2]] for name in BITS if name not in ("fc.input", "fire.leak")}


def spiking_run(made: Run, *assignments: BitAssignment, spikes: float = 80.0) -> Run:
    """A run with a trial of each assignment, as many spikes a sample in all; 100 in float."""
    cost = Cost({"latency": 1.0, "energy": 1.0, "size": 1.0}, made.info.units)
    quality = replace(quality_of(0.9), details={neurons.SPIKES: spikes})
    trials = tuple(Trial(i, one, "complete", quality=quality, cost=cost) for i, one in enumerate(assignments))
    floating = {**made.info.float_quality, "details": {neurons.SPIKES: 100.0}}
    update = {"layers": LAYERS, "variables": VARIABLES, "tested": {}, "bounds": (), "float_quality": floating}
    return replace(made, info=made.info.model_copy(update=update), trials=trials)


@pytest.fixture
def run(make_run: RunFactory) -> Run:
    return spiking_run(make_run(limit=0, evaluations=1), BitAssignment(BITS))


def plain(text: str) -> str:
    """With spaces that may break."""
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_means_count_each_kind_by_its_own_numbers() -> None:
    """Spikes are no activations, constants no weights."""
    assignment = BitAssignment(BITS)
    assert facts.mean_bits(LAYERS, assignment, "weight") == pytest.approx((2 * 36 + 3 * 768) / 804)
    assert facts.mean_bits(LAYERS, assignment, "activation") == 8
    assert facts.mean_bits(LAYERS, assignment, "state") == pytest.approx((10 * 64 + 6 * 12) / 76)
    assert facts.mean_bits(LAYERS, assignment, "leak") == 6
    assert facts.mean_bits(LAYERS, assignment, "threshold") == pytest.approx((4 * 4 + 2 * 1) / 5)
    assert facts.mean_bits(LAYERS[3:], assignment, "activation") is None


def test_layers_in_words() -> None:
    found = {named(layer): plain(all_bits(layer, BitAssignment(BITS))) for layer in LAYERS}
    assert found == {
        "conv": "weight 2, input 8",
        "lif (neurons)": "leak 6, state 10",
        "lif.threshold": "threshold 4",
        "fc": "weight 3, spikes",
        "fire (neurons)": "state 6",
        "fire.threshold": "threshold 2",
    }


def test_rows_of_bits_in_the_terminal(run: Run) -> None:
    rows = {role: bits_line(run, BitAssignment(BITS), role) for role in facts.quantities(LAYERS)}
    assert rows == {"weight": "2 3", "activation": "8 s", "leak": "6 –", "state": "10 6", "threshold": "4 2"}
    names = list(run_table(run).columns[0].cells)
    assert [str(name) for name in names if str(name).endswith("bits")] == [f"{role} bits" for role in rows]
    told = dict(zip(map(str, names), map(str, run_table(run).columns[1].cells), strict=True))
    assert told["spikes"] == "80 per sample, 0.800 of the float network's 100"
    assert told["result"].startswith("Weights at 3.0, activations at 8.0 and states at 9.4 bits on average")


def test_a_network_whose_inputs_are_all_spikes_has_no_row_of_activations() -> None:
    assert facts.quantities(LAYERS[3:]) == ("weight", "state", "threshold")


def test_the_report_has_a_row_for_each_layer(run: Run) -> None:
    document = report(run)
    text = markdown.render(document, {plot.name: "p.png" for plot in document.plots})
    rows = {
        cells[1]: cells[2:4] for line in text.splitlines() if len(cells := [c.strip() for c in line.split("|")]) > 4
    }
    assert rows["lif (neurons)"] == ["leak 6, state 10", "96 (0.300)"]  # 96 of 64 neurons in 5 steps
    assert rows["fc"] == ["weight 3, spikes", "96 (0.300)"]
    assert rows["lif.threshold"] == ["threshold 4", "–"]
    assert rows["conv"] == ["weight 2, input 8", "–"]
    assert "Spikes that leave neurons, on validation data: 80 per sample, 0.800 of the float network's 100." in text
    assert "mean state bits" in text
    assert run.best is not None
    values = trial_values(run, run.best)
    assert values["mean_state_bits"] == pytest.approx(712 / 76)
    assert values["quality"]["details"] == {"spikes": 80.0}


def test_a_network_without_neurons_says_nothing_of_states(make_run: RunFactory) -> None:
    run = make_run()
    assert run.best is not None
    assert "mean_state_bits" not in trial_values(run, run.best)
    assert neurons.spikes_sentence(run, run.best) is None
    document = report(run)
    text = markdown.render(document, {plot.name: "p.png" for plot in document.plots})
    assert "state" not in text.lower().replace("stated", "")
    assert "| layer | weight bits | activation bits | MACs" in " ".join(text.split())


def test_bars_of_neurons() -> None:
    figure = bits_per_layer(LAYERS, BitAssignment(BITS))
    (axes,) = figure.axes
    bars = {
        (round(bar.get_y() + bar.get_height() / 2, 2), to_rgb(bar.get_facecolor())): bar.get_width()
        for bar in axes.patches
    }
    assert bars == {
        (-0.19, to_rgb(BLUE)): 2,
        (0.19, to_rgb(ORANGE)): 8,
        (0.81, to_rgb(SKY)): 6,
        (1.19, to_rgb(PURPLE)): 10,
        (2.0, to_rgb(VERMILION)): 4,
        (2.81, to_rgb(BLUE)): 3,
        (4.19, to_rgb(PURPLE)): 6,
        (5.0, to_rgb(VERMILION)): 2,
    }
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["weights", "input activations", "leaks", "states", "thresholds"]
    assert [text.get_text() for text in axes.texts] == ["spikes"]


def test_only_weights_have_kernels_to_show() -> None:
    axes = kernel_bits(LAYERS, BitAssignment({**BITS, "conv.weight": [2, 2, 3, 8]})).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["conv", "fc"]


def same_everywhere(bits: int, **changes: int) -> BitAssignment:
    """Weights and inputs at ``bits``, the rest at its nearest choice, the lower of two."""
    nearest = {name: min(VARIABLES[name], key=lambda b: abs(b - bits)) for name in VARIABLES}
    return BitAssignment({**BITS, **nearest, "conv.input": bits, **changes})


def test_uniform_trials_have_neurons_at_the_nearest_choice(make_run: RunFactory) -> None:
    eight, off = same_everywhere(8), same_everywhere(8, **{"lif.state": 10})
    run = spiking_run(make_run(limit=0, evaluations=1), off, eight, BitAssignment(BITS))
    assert {bits: trial.number for bits, trial in facts.uniform_trials(run).items()} == {8: 1}
    assert eight["lif.leak"] == 8


def test_uniform_trials_where_neurons_alone_are_searched(make_run: RunFactory) -> None:
    made = spiking_run(make_run(limit=0, evaluations=1), BitAssignment(BITS))
    own = {"lif.leak": [2, 4, 8], "lif.state": [4, 8, 16], "lif.threshold": [2, 8]}
    run = replace(made, info=made.info.model_copy(update={"variables": own}))
    cases = {16: (8, 16, 8), 8: (8, 8, 8), 2: (2, 4, 2), None: (8, 4, 8)}
    for bits, (leak, state, threshold) in cases.items():
        given = {**BITS, "lif.leak": leak, "lif.state": state, "lif.threshold": threshold}
        assert facts.uniform_bits(run, BitAssignment(given)) == bits


def test_sensitivities_have_a_map_for_each_kind() -> None:
    space = build_space(LAYERS, weight_bits=(2, 8), activation_bits=(4, 8), leak_bits=(2, 4), threshold_bits=(2,))
    damage = {v.name: np.arange(1.0, 1 + len(v.choices))[None, ::-1] for v in space.variables}
    config = SurveyConfig(workload={"name": "w", "options": {}}, sensitivity={"name": "one-at-a-time", "options": {}})
    figure = damages(Survey(config, "w", "loss", space, SensitivityTable(damage, {}, 100), 1.0, quality_of(0.9)))
    maps = {
        axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_visible() and axes.get_title(loc="left")
    }
    rows = {title: [text.get_text() for text in axes.get_yticklabels()] for title, axes in maps.items()}
    assert rows == {
        "weights": ["conv", "fc"],
        "inputs of layers": ["conv"],
        "leaks": ["lif"],
        "states": ["lif", "fire"],
        "thresholds": ["lif", "fire"],
    }


def survey_of(**choices: range | tuple[int, ...]) -> Survey:
    space = build_space(LAYERS, **{"weight_bits": (2, 8), "activation_bits": (4, 8), **choices})
    damage = {v.name: np.geomspace(2.04e-5, 9.64e-9, len(v.choices))[None] for v in space.variables}
    config = SurveyConfig(workload={"name": "w", "options": {}}, sensitivity={"name": "one-at-a-time", "options": {}})
    return Survey(config, "w", "loss", space, SensitivityTable(damage, {}, 100), 1.0, quality_of(0.9))


@pytest.mark.parametrize("prefix", ["", "backbone.stage3.block11.branch_main."])
def test_a_terminal_shows_every_number_of_every_kind_in_full(prefix: str) -> None:
    """Within 100 columns; more bits than there is room for go into a further table."""
    layers = tuple(replace(layer, name=prefix + layer.name) for layer in LAYERS)
    space = build_space(layers, weight_bits=range(2, 9), activation_bits=range(1, 17), state_bits=(4, 6, 8, 10, 12, 16))
    damage = {v.name: -np.geomspace(2.04e-5, 9.64e-9, len(v.choices))[None] for v in space.variables}
    made = survey_of()
    survey = replace(made, space=space, table=SensitivityTable(damage, {}, 100))
    console = Console(width=100, file=io.StringIO(), color_system=None)
    console.print(sensitivity_table(survey))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert [line.split("  ")[0].strip() for line in text.splitlines() if " bits" in line] == [
        "weights",
        "inputs of layers",
        "inputs of layers",
        "leaks",
        "states",
        "thresholds",
    ]
    numbers = re.findall(r"−\d\.\de−\d\b", text)
    assert len(numbers) == sum(len(v.choices) for v in space.variables)
    assert text.count("−9.6e−9") == len(space.variables)


def test_an_inspection_counts_the_sites_that_it_shows() -> None:
    """Not the leak of neurons that forget nothing; JSON lists it, and counts it."""
    sites = build_space(LAYERS, weight_bits=(8,), activation_bits=(8,)).sites
    found = Inspection("w", Anatomy(LAYERS), sites, quality_of(0.9))
    rows = [str(cell) for cell in inspection_table.tables(found)[0].columns[3].cells]
    assert rows == ["weight, input", "leak, state", "threshold", "weight, spikes", "state", "threshold", "9 sites"]
    assert inspection_table.inspection_json(found)["totals"]["sites"] == 10


def test_ticks_of_a_map_stand_below_its_last_row() -> None:
    figure = damages(survey_of())
    bottoms = {
        axes.get_title(loc="left"): (axes.spines.bottom.get_position(), len(axes.get_yticks()))
        for axes in figure.axes
        if axes.get_visible() and axes.get_title(loc="left")
    }
    assert bottoms == {
        title: (("data", rows - 0.5), rows)
        for title, rows in {"weights": 2, "inputs of layers": 1, "leaks": 1, "states": 2, "thresholds": 2}.items()
    }


def test_measured_layer_by_layer_neurons_are_layers(make_run: RunFactory) -> None:
    """A model against itself: what is measured is what is predicted; 8 bits everywhere leave spikes at one."""
    model, assignment = registry.create("cost_models", "size", {}), BitAssignment(BITS)
    run = spiking_run(make_run(limit=0, evaluations=1), assignment)
    config = {**run.info.config, "hardware": {"name": "size", "options": {}}}
    info = run.info.model_copy(update={"config": config, "units": dict(model.units)})
    trials = (replace(run.trials[0], cost=model.estimate(LAYERS, assignment)),)
    run = replace(run, info=info, trials=trials)
    with Bench("size", {}, folder_of(run, "size", {})) as bench:
        found = remeasure(run, bench, 1)
    assert not found.missing
    best, uniform = found.assignments
    assert best.measured == pytest.approx(best.predicted, rel=1e-12)
    reference = build_space(LAYERS, weight_bits=(8,), activation_bits=(8,)).reference(8)
    assert uniform.predicted == pytest.approx(dict(model.estimate(LAYERS, reference).totals), rel=1e-12)
    assert {layer.name: layer.bits for layer in uniform.layers}["fc"] == (8, 1)


def test_evaluators_and_reports_agree_on_the_name_of_spikes() -> None:
    """Reports load no torch, and so cannot ask."""
    assert neurons.SPIKES == evaluated.SPIKES
