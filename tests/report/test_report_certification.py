"""What a report says the data can and cannot certify, on runs whose outcomes are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from report_runs import RunFactory, cost_of, make_layers, uniform

from qsearch.problem import Bound, Constraint
from qsearch.report import certification, html, markdown
from qsearch.report.document import Paragraph, Table
from qsearch.report.sections import report
from qsearch.report.style import svg
from qsearch.report.write import write_report
from qsearch.run import Run
from qsearch.search.paired import score_interval
from qsearch.serialise import quality_to_json
from qsearch.trial import Quality, Trial

SAMPLES = 1000
FLOAT_RIGHT = 900


def scores(losses: int, gains: int, samples: int = SAMPLES, right: int = FLOAT_RIGHT) -> Quality:
    """Of a network that loses the first samples that float has right, and gains the first that it has wrong."""
    outcomes = np.zeros(samples, np.float32)
    outcomes[losses:right] = 1
    outcomes[right : right + gains] = 1
    return Quality.from_outcomes(outcomes, 0.3)


def run_with(
    make_run: RunFactory,
    *limits: str,
    validation: Quality,
    test: Quality | None = None,
    floating: Quality | None = None,
) -> Run:
    """A run of one trial with given outcomes, under limits on its quality."""
    layers = make_layers(4)
    trial = Trial(0, uniform(layers, 4), "complete", cost_of(layers, uniform(layers, 4)), validation, {}, "", 0.1)
    run = make_run(layers=4, limit=0.0, trials=[trial], tested=False)
    constraints = [Constraint.parse(limit) for limit in limits]
    reference = floating or scores(0, 0)
    bounds = [
        Bound(c.metric, c.factor * (reference.metric if c.relative_to == "float" else 1), c.at_least is not None, label)
        for c in constraints
        for label in [str(c).replace(" x auto", "")]
    ]
    written = [
        {"metric": c.metric, "at_least": c.at_least, "at_most": c.at_most, "relative_to": c.relative_to or "auto"}
        for c in constraints
    ]
    config = run.config.model_validate({**run.config.model_dump(), "constraints": written})
    tested = {} if test is None else {"float": quality_to_json(reference), "0": quality_to_json(test)}
    info = run.info.model_copy(
        update={"bounds": tuple(bounds), "float_quality": quality_to_json(reference), "tested": tested}
    )
    return Run(run.folder, config, info, run.trials)


def test_the_three_verdicts(make_run: RunFactory) -> None:
    """Of 1,000 samples, 900 right in float: 0.99 × float allows nine lost; 2 are certified, 9 are neither, 30 refuted."""
    found = []
    for losses in (2, 9, 30):
        (one,) = certification.certificates(
            run_with(make_run, "accuracy>=0.99*float", validation=scores(losses, 0), test=None)
        )
        assert (one.data, one.samples, one.relative) == ("validation", SAMPLES, True)
        assert one.limit == pytest.approx(-0.009)
        assert one.observed.mean == pytest.approx(-losses / SAMPLES)
        assert (one.observed.low, one.observed.high) == pytest.approx(score_interval(losses, 0, SAMPLES, 0.95))
        found.append(one.verdict)
    assert found == ["certified", "neither", "refuted"]


def test_test_data_come_first_and_have_a_limit_of_their_own(make_run: RunFactory) -> None:
    test = scores(0, 0, samples=400, right=300)
    run = run_with(make_run, "accuracy>=0.98*float", validation=scores(1, 1), test=test)
    run = Run(
        run.folder,
        run.config,
        run.info.model_copy(update={"tested": {"float": quality_to_json(test), "0": quality_to_json(test)}}),
        run.trials,
    )
    first, second = certification.certificates(run)
    assert (first.data, first.samples, second.data) == ("test", 400, "validation")
    assert first.limit == pytest.approx(-0.02 * 0.75)
    assert first.observed.mean == 0.0
    assert first.least == pytest.approx(3.8415 / (400 + 3.8415), rel=1e-4)


def test_what_no_result_on_so_many_samples_could_certify_is_said(make_run: RunFactory) -> None:
    """0.9999 × float allows 0.009 points of 0.9: 42,680 samples without one that differs."""
    run = run_with(make_run, "accuracy>=0.9999*float", validation=scores(0, 0))
    (one,) = certification.certificates(run)
    assert one.verdict == "neither"
    assert one.needed == int(np.ceil(3.841459 * (1 - 9e-5) / 9e-5))
    table, sentence = certification.blocks(run)
    assert isinstance(table, Table)
    assert isinstance(sentence, Paragraph)
    assert sentence.text == (
        "“accuracy >= 0.9999 x float” is finer than 1,000 validation samples can certify, "
        f"even if not one of them differs from float: it takes at least {one.needed:,}."
    )
    whole = run_with(make_run, "accuracy>=1*float", validation=scores(0, 0))
    assert "no number of samples is enough" in certification.blocks(whole)[1].text
    better = run_with(make_run, "accuracy>=1*float", validation=scores(0, 20))
    assert [one.verdict for one in certification.certificates(better)] == ["certified"]
    assert len(certification.blocks(better)) == 1


def test_the_least_certifiable_drop_is_where_the_verdict_turns(make_run: RunFactory) -> None:
    least = certification.certificates(run_with(make_run, "accuracy>=0.9*float", validation=scores(0, 0)))[0].least
    assert least is not None
    for share, verdict in ((1.01, "certified"), (0.99, "neither")):
        run = run_with(make_run, f"accuracy>={1 - share * least / 0.9:.8f}*float", validation=scores(0, 0))
        one = certification.certificates(run)[0]
        assert one.verdict == verdict
        assert (len(certification.blocks(run)) == 2) == (verdict == "neither")


def test_a_limit_that_is_not_relative_is_held_against_the_metric_itself(make_run: RunFactory) -> None:
    verdicts = {
        limit: certification.certificates(run_with(make_run, f"accuracy>={limit}", validation=scores(0, 0)))[0]
        for limit in (0.85, 0.9, 0.95)
    }
    assert [one.verdict for one in verdicts.values()] == ["certified", "neither", "refuted"]
    assert not any(one.relative for one in verdicts.values())
    assert verdicts[0.9].observed.mean == pytest.approx(0.9)
    fine = run_with(make_run, "accuracy>=0.9999", validation=scores(0, 0))
    assert "even if all of them are right" in certification.blocks(fine)[1].text


def test_scores_that_are_no_shares_are_judged_by_students_t(make_run: RunFactory) -> None:
    rng = np.random.default_rng(0)
    floating = Quality.from_outcomes(rng.normal(5, 1, 200).astype(np.float32), 0.1)
    assert floating.outcomes is not None
    found = Quality.from_outcomes(floating.outcomes + rng.normal(0, 0.1, 200).astype(np.float32), 0.1)
    (one,) = certification.certificates(run_with(make_run, "accuracy>=0.98*float", validation=found, floating=floating))
    assert (one.least, one.needed, one.verdict) == (None, None, "certified")
    assert (
        len(certification.blocks(run_with(make_run, "accuracy>=0.98*float", validation=found, floating=floating))) == 1
    )


def test_without_outcomes_nothing_is_certified(make_run: RunFactory) -> None:
    run = run_with(make_run, "accuracy>=0.5*float", validation=Quality(0.9, 0.1, 1000, 0.01))
    (one,) = certification.certificates(run)
    assert (one.verdict, one.observed.low) == ("neither", None)


def test_other_limits_and_runs_without_a_result_say_nothing(make_run: RunFactory) -> None:
    run = run_with(make_run, "latency<=0.9", "loss<=2", "accuracy<=0.99", validation=scores(0, 0))
    assert certification.blocks(run) == []
    assert certification.blocks(make_run(name="none", limit=0.02, evaluations=4)) == []
    assert "certif" not in markdown_of(make_run(name="plain"))


def markdown_of(run: Run) -> str:
    document = report(run)
    return markdown.render(document, {plot.name: f"{plot.name}.png" for plot in document.plots})


def test_markdown_and_html_say_it_where_they_speak_of_limits(make_run: RunFactory) -> None:
    run = run_with(make_run, "accuracy>=0.9999*float", validation=scores(3, 1), test=scores(2, 2))
    document = report(run)
    part = next(section for section in document.sections if section.title == "What it costs")
    assert [block.kind for block in part.blocks] == ["table", "table", "paragraph"]
    page = html.render(document, {plot.name: svg(plot.figure, plot.name, plot.title) for plot in document.plots})
    for text in (page, markdown_of(run)):
        assert "neither certified nor refuted" in text
        assert "−0.20 points [" in text
        assert "it takes at least" in text
        assert text.index("What it costs") < text.index("neither certified") < text.index("Which bits each layer got")


def test_it_is_written_with_the_report(make_run: RunFactory, tmp_path: Path) -> None:
    run = run_with(make_run, "accuracy>=0.9*float", validation=scores(3, 1))
    written = write_report(run)
    assert "| certified |" in written.markdown.read_text(encoding="utf-8")


def test_sentences_say_it_in_a_line(make_run: RunFactory) -> None:
    run = run_with(make_run, "accuracy>=0.99*float", validation=scores(2, 0))
    (line,) = certification.sentences(run)
    assert line.startswith("accuracy >= 0.99 x float: certified by 1,000 validation samples, −0.20 points [")
    assert line.endswith("], allowed ≥ −0.90 points")
