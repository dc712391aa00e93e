"""Predicted beside measured: sums by brute force, a model against itself, and what the section says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_runs import RunFactory, make_layers, quality_of, random_assignment, uniform

from qsearch import registry
from qsearch.assignment import BitAssignment
from qsearch.errors import ConfigError, StorageError
from qsearch.measuring import Bench
from qsearch.remeasured import FILE, Remeasured, folder_of, read
from qsearch.remeasuring import best_trials, bits_of, remeasure
from qsearch.report.document import Paragraph, Section, Table
from qsearch.report.markdown import render
from qsearch.report.remeasured import remeasured_section, sections
from qsearch.report.sections import report
from qsearch.run import Run
from qsearch.trial import Trial

ODD = Path(__file__).parents[1] / "targets" / "odd_targets.py"
PRICE = {(4, 8): 3e-9, (8, 8): 5e-9, (32, 32): 4e-9}
ZYNQ = {"platform": "zynq-7020"}
LAYERS = make_layers(4)
MODEL = registry.create("cost_models", "bismo", ZYNQ)


def trial(number: int, assignment: BitAssignment, accuracy: float) -> Trial:
    return Trial(number, assignment, "complete", MODEL.estimate(LAYERS, assignment), quality_of(accuracy))


def a_run(make_run: RunFactory, kernel_wise: bool = False) -> Run:
    """Four trials of random bits, costed by the model that the campaign names; the third is best."""
    rng = np.random.default_rng(3)
    trials = [
        trial(number, random_assignment(LAYERS, rng, kernel_wise), accuracy)
        for number, accuracy in enumerate((0.8, 0.7, 0.9, 0.6))
    ]
    return make_run(layers=4, limit=0, trials=trials)


def measured(run: Run, target: str, options: Mapping[str, Any] | None = None, top: int = 3) -> Remeasured:
    name = target if target in {"bismo", "size"} else f"{ODD}:{target}"
    with Bench(name, options or {}, folder_of(run, name, options or {})) as bench:
        return remeasure(run, bench, top)


def the_table(part: Section, column: str) -> Table:
    """The first table with this column."""
    return next(block for block in part.blocks if isinstance(block, Table) and column in block.header)


def test_a_model_measured_against_itself_is_as_predicted(make_run):
    run = a_run(make_run)
    found = measured(run, "bismo", ZYNQ)
    assert [one.name for one in found.assignments] == ["trial 2", "trial 0", "trial 1", "8 bits everywhere"]
    for one in found.assignments:
        for metric in ("latency", "energy", "size"):
            assert one.measured[metric] == pytest.approx(one.predicted[metric], rel=1e-12)
        for layer in one.layers:
            assert layer.measured == pytest.approx(layer.predicted, rel=1e-12)
            assert set(layer.ran_at.values()) == {layer.bits}
    assert found.agreement("latency") == (6, 6)
    best = found.assignments[0]
    assert best.predicted == dict(run.trials[2].cost.totals)
    assert not found.missing


@pytest.mark.parametrize("kernel_wise", [False, True])
def test_each_layer_runs_at_the_cheapest_pair_that_holds_its_bits(make_run, kernel_wise):
    run = a_run(make_run, kernel_wise)
    found = measured(run, "FloatIsQuick")
    assert set(found.missing) == {"fc"}
    assignments = [*(one.assignment for one in best_trials(run, 3)), uniform(LAYERS, 8)]
    for record, assignment in zip(found.assignments, assignments, strict=True):
        expected = 0.0
        for layer in LAYERS[:-1]:
            weight, activation = int(np.max(assignment[layer.weight_site])), int(assignment[layer.activation_site])
            assert bits_of(layer, assignment) == (weight, activation)
            held = {pair: price for pair, price in PRICE.items() if pair[0] >= weight and pair[1] >= activation}
            expected += layer.macs * min(held.values())
        assert record.measured["latency"] == pytest.approx(expected, rel=1e-12)
        whole = MODEL.estimate(LAYERS, assignment)
        without = whole.totals["latency"] - whole.layers["fc"]["latency"]
        assert record.predicted["latency"] == pytest.approx(without, rel=1e-9)


def test_a_layer_without_weights_left_costs_nothing(make_run):
    pruned = uniform(LAYERS, 4).replace({LAYERS[0].weight_site: 0})
    run = make_run(layers=4, limit=0, trials=[trial(0, pruned, 0.9)])
    layer = measured(run, "FloatIsQuick").assignments[0].layers[0]
    assert (layer.measured, layer.ran_at) == ({"latency": 0.0}, {})


def test_the_order_of_pairs_is_counted(make_run):
    """Against the sign of both differences, pair by pair."""
    found = measured(a_run(make_run), "FloatIsQuick")
    costs = [(one.predicted["latency"], one.measured["latency"]) for one in found.assignments]
    pairs = [(a, b) for i, a in enumerate(costs) for b in costs[i + 1 :]]
    alike = sum((a[0] - b[0]) * (a[1] - b[1]) > 0 for a, b in pairs)
    assert found.agreement("latency") == (alike, len(pairs))


def test_the_section_shows_both_where_they_are_the_same_quantity(make_run):
    run = a_run(make_run)
    measured(run, "FloatIsQuick")
    (part,) = sections(run)
    assert part.title.startswith("Predicted and measured: bismo and ")
    totals = the_table(part, "assignment")
    assert {"predicted latency", "measured latency", "measured / predicted"} <= set(totals.header)
    assert [row[0] for row in totals.rows] == ["trial 2", "trial 0", "trial 1", "8 bits everywhere"]
    assert totals.rows[-1][4:] == ("1.000", "1.000", "1.000")
    assert "in the predicted order" in totals.note
    layers = the_table(part, "layer of trial 2")
    assert [row[0] for row in layers.rows] == [layer.name for layer in LAYERS[:-1]]
    text = " ".join(block.text for block in part.blocks if isinstance(block, Paragraph))
    assert "their sum is not the time of the network" in text
    assert "Left out of all sums" in text
    assert "fc (the target does not run it at" in text


def words(part: Section) -> str:
    return " ".join(block.text for block in part.blocks if isinstance(block, Paragraph))


def test_a_target_on_which_float_is_fastest_is_told_so(make_run):
    """At 8 bits FloatIsQuick runs every layer in float; at 4 bits of weights it does not."""
    eight, mixed = uniform(LAYERS, 8), uniform(LAYERS, 8).replace({LAYERS[1].weight_site: 4})
    nothing = make_run(layers=4, limit=0, trials=[trial(0, eight, 0.9), trial(1, eight, 0.8)])
    measured(nothing, "FloatIsQuick")
    (part,) = sections(nothing)
    assert "on this target fewer bits gain nothing" in words(part)
    assert the_table(part, "assignment").note == (
        "All assignments measure the same: each layer ran at the same bits in all of them."
    )
    something = make_run(layers=4, limit=0, trials=[trial(0, mixed, 0.9)])
    measured(something, "FloatIsQuick")
    assert "gain nothing" not in words(sections(something)[0])


def test_the_best_assignment_is_told_in_a_sentence(make_run):
    run = a_run(make_run)
    found = measured(run, "bismo", ZYNQ)
    best, last = found.assignments[0], found.assignments[-1]
    ratio = f"{best.measured['latency'] / last.measured['latency']:.3f}"
    assert f"Trial 2, against 8 bits everywhere: {ratio} of the latency predicted, {ratio} measured." in words(
        sections(run)[0]
    )
    assert "standard deviation" not in words(sections(run)[0]), "a cost model's readings have none"


def test_what_the_calls_alone_take_is_told_where_the_target_knows(make_run):
    run = a_run(make_run)
    found = measured(run, "FloatIsQuick")
    assert found.floor == {}
    calls = 0.25 * found.assignments[0].measured["latency"]
    part = remeasured_section(found.model_copy(update={"floor": {"latency": calls}}))
    assert "calls that compute nothing would take" in words(part)
    assert "25.0 % of that of trial 2" in words(part)


def test_the_floor_counts_every_use_of_the_layers_that_were_measured(make_run, monkeypatch):
    run = a_run(make_run)
    with Bench(f"{ODD}:FloatIsQuick", {}, folder_of(run, "FloatIsQuick", {})) as bench:
        monkeypatch.setattr(bench.target, "floor", lambda: {"latency": 2.0, "energy": 1.0}, raising=False)
        found = remeasure(run, bench, 1)
    assert found.floor == {"latency": 2.0 * sum(layer.uses for layer in LAYERS[:-1])}


def test_other_units_are_compared_by_their_ratio_to_8_bits_only(make_run):
    run = a_run(make_run)
    found = measured(run, "InCycles")
    (part,) = sections(run)
    totals = the_table(part, "assignment")
    assert totals.header == ("assignment", "predicted, of uniform-8", "measured, of uniform-8", "ratio of the two")
    assert "Latency is predicted in s and measured in cycle: the two do not share an axis" in totals.note
    one, last = found.assignments[0], found.assignments[-1]
    ratio = one.measured["latency"] / last.measured["latency"] / (one.predicted["latency"] / last.predicted["latency"])
    assert float(totals.rows[0][3]) == pytest.approx(ratio, rel=1e-2)


def test_other_definitions_do_not_share_an_axis_either(make_run):
    run = a_run(make_run)
    found = measured(run, "bismo", ZYNQ)
    changed = found.model_copy(
        update={
            "definitions": {**found.definitions, "latency": "by a stopwatch"},
            "predicted_definitions": {**found.predicted_definitions, "latency": "by an oscilloscope"},
        }
    )
    assert found.comparable("latency")
    assert not changed.comparable("latency")


def test_a_later_report_shows_it_again_without_measuring(make_run):
    run = a_run(make_run)
    found = measured(run, "FloatIsQuick")
    measured(run, "bismo", ZYNQ, top=1)
    assert found in read(run)
    text = render(report(run), {plot.name: "x.png" for plot in report(run).plots})
    assert text.count("## Predicted and measured") == 2


def test_a_run_that_was_not_measured_has_no_section(make_run):
    assert not sections(a_run(make_run))


def test_a_damaged_record_is_told(make_run):
    run = a_run(make_run)
    measured(run, "FloatIsQuick")
    (path,) = (run.folder / "measured").glob(f"*/{FILE}")
    path.write_text(path.read_text()[:-40])
    with pytest.raises(StorageError, match=r"must be readable.*remeasured\.json.*remove the file"):
        read(run)


def test_what_cannot_be_measured_is_refused(make_run):
    with pytest.raises(ConfigError, match="must share a metric; got speed on the target, latency, energy, size in"):
        measured(a_run(make_run), "OnlySpeed")
    nothing = make_run(name="demo/none-s0", layers=4, trials=[])
    with pytest.raises(ConfigError, match="without a feasible trial"):
        measured(nothing, "FloatIsQuick")


def test_of_several_objectives_the_front_comes_first(make_run):
    cheap, dear, dominated = (uniform(LAYERS, bits) for bits in (2, 8, 6))
    trials = [trial(0, dominated, 0.7), trial(1, cheap, 0.65), trial(2, dear, 0.9), trial(3, uniform(LAYERS, 4), 0.75)]
    run = make_run(layers=4, limit=0, trials=trials, objectives=[("accuracy", "maximize"), ("latency", "minimize")])
    assert {one.number for one in best_trials(run, 3)} == {1, 2, 3}
    assert best_trials(run, 9)[-1].number == 0
