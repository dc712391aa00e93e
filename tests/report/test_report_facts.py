"""What a report says about a run, against hand-made runs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from report_runs import UNITS, RunFactory, cost_of, make_layers, quality_of, uniform

from qsearch.assignment import BitAssignment
from qsearch.report import facts, markdown
from qsearch.report.sections import report
from qsearch.report.summary import summary
from qsearch.trial import Trial


def test_mean_bits_weigh_layers_by_their_size() -> None:
    layers = make_layers(2)
    bits = {
        layers[0].weight_site: 2,
        layers[1].weight_site: 8,
        layers[0].activation_site: 4,
        layers[1].activation_site: 8,
    }
    weights, inputs = [layer.params for layer in layers], [layer.input_elements for layer in layers]
    assignment = BitAssignment(bits)
    assert facts.mean_bits(layers, assignment, "weight") == pytest.approx(
        (2 * weights[0] + 8 * weights[1]) / sum(weights)
    )
    assert facts.mean_bits(layers, assignment, "activation") == pytest.approx(
        (4 * inputs[0] + 8 * inputs[1]) / sum(inputs)
    )
    assert facts.mean_bits(layers, BitAssignment({layers[0].weight_site: 3}), "activation") is None


def test_what_a_cost_model_is_unsure_of_and_what_it_counts_is_told(make_run: RunFactory) -> None:
    run = make_run(limit=0.5)
    unsure = tuple(
        replace(trial, cost=trial.cost and replace(trial.cost, deviations={"latency": 0.1 * trial.value("latency")}))
        for trial in run.trials
    )
    run = replace(run, trials=unsure, info=run.info.model_copy(update={"definitions": {"latency": "a count of mine"}}))
    assert run.best is not None
    row = facts.usage(run, run.best)[0]
    assert row.deviation == pytest.approx(0.1 * row.used)
    assert "±" in facts.used(run, row)
    text = markdown.render(report(run), {plot.name: "p.png" for plot in report(run).plots})
    assert "a count of mine" in text
    assert "± is one standard deviation" in text
    certain = make_run(name="demo/random-s1", limit=0.5)
    assert "±" not in facts.used(certain, facts.usage(certain, certain.best)[0])


def test_usage_tells_allowed_and_used(make_run: RunFactory) -> None:
    run = make_run(limit=0.5)
    assert run.best is not None
    latency, energy, size = facts.usage(run, run.best)
    assert latency.allowed_relative == pytest.approx(0.5)
    assert latency.share == pytest.approx(run.best.value("latency") / (0.5 * run.info.reference["latency"]))
    assert latency.share <= 1
    assert latency.relative == pytest.approx(0.5 * latency.share)
    assert (energy.bound, energy.share, size.metric) == (None, None, "size")


def test_uniform_trials_are_found_by_their_bits(make_run: RunFactory) -> None:
    run = make_run(limit=0.6, start=(5, 3, 8), evaluations=6)
    assert list(facts.uniform_trials(run)) == [3, 5]
    fixed = {**dict(uniform(run.info.layers, 3)), run.info.layers[0].weight_site: 8}
    assert facts.uniform_bits(run, BitAssignment(fixed)) is None
    variables = {name: bits for name, bits in run.info.variables.items() if name != run.info.layers[0].weight_site}
    pinned = type(run)(run.folder, run.config, run.info.model_copy(update={"variables": variables}), run.trials)
    assert facts.uniform_bits(pinned, BitAssignment(fixed)) == 3


def test_nearest_misses_by_least(make_run: RunFactory) -> None:
    run = make_run(limit=0.02, evaluations=4)
    closest = facts.nearest(run)
    assert closest is not None
    assert max(closest.violations.values()) == min(max(trial.violations.values()) for trial in run.trials)
    assert run.best is None
    assert f"trial {closest.number}" in facts.headline(run)
    assert "No assignment within the limits" in facts.headline(run)


def test_all_failed_is_said(make_run: RunFactory) -> None:
    run = make_run(evaluations=5, failures=5)
    run = type(run)(run.folder, run.config, run.info, tuple(trial for trial in run.trials if trial.state == "failed"))
    assert facts.headline(run) == "No usable assignment was found in 5 evaluations: every one of them failed."
    reasons = facts.failure_reasons(run)
    assert sum(times for _, times in reasons) == 5
    assert reasons[0] == ("EvaluationError: loss and scores must be finite", 4)


def test_headline_prefers_test_data(make_run: RunFactory) -> None:
    run = make_run(limit=0.5)
    assert run.best is not None
    assert run.best.quality is not None
    text = facts.headline(run)
    assert "accuracy on test data, float 98.9 %" in text
    assert f"latency {run.best.value('latency') / run.info.reference['latency']:.2f}" in text
    plain = facts.headline(make_run(tested=False))
    assert "accuracy on validation data, float 99.0 %" in plain


def test_a_score_that_is_no_share_is_not_per_cent(make_run: RunFactory) -> None:
    layers = make_layers(8)
    assignment = uniform(layers, 4)
    quality = quality_of(0.9)
    score = type(quality).from_outcomes(30 * quality.outcomes + 1, 0.1)
    run = make_run(trials=[Trial(0, assignment, "complete", cost_of(layers, assignment), score, {})])
    info = run.info.model_copy(update={"float_quality": {**run.info.float_quality, "outcomes": None, "metric": 31.0}})
    assert facts.percent(type(run)(run.folder, run.config, info, run.trials)) is False
    assert facts.percent(make_run()) is True
    assert facts.percent(make_run(), "loss") is False


@pytest.mark.parametrize(
    "options",
    [{}, {"limit": 0.02}, {"tested": False, "failures": 4}, {"kernel_wise": True}, {"trials": ()}, {"limit": 0}],
)
def test_summary_is_strict_json(make_run: RunFactory, options: dict[str, object]) -> None:
    run = make_run(**options)
    values = summary(run)
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert (values["best"] is None) == (run.best is None)
    if run.best is not None:
        assert BitAssignment(values["best"]["bits"]) == run.best.assignment
        assert values["best"]["costs"] == pytest.approx({metric: run.best.value(metric) for metric in UNITS})
        assert values["spent"]["evaluations"] == run.info.evaluations


def test_summary_has_no_infinities(make_run: RunFactory) -> None:
    layers = make_layers(8)
    assignment = uniform(layers, 4)
    bad = type(quality_of(1))(0.5, float("inf"), 10, float("nan"))
    run = make_run(
        trials=[Trial(0, assignment, "complete", cost_of(layers, assignment), bad, {"a": -np.inf})], tested=False
    )
    best = summary(run)["best"]
    assert best["quality"]["loss"] is None
    assert best["violations"] == {"a": None}


def test_tables_in_the_terminal_need_no_plots() -> None:
    """What the CLI prints must not wait for matplotlib, templates or torch."""
    code = (
        "import sys, qsearch.report.terminal, qsearch.report.summary; "
        "print([name for name in ('matplotlib', 'jinja2', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
