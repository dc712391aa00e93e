"""Pages: well-formed, self-contained, small, escaped, and the same every time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from report_checks import Page, check_markdown, check_page
from report_runs import RunFactory

from qsearch.assignment import FLOAT_BITS
from qsearch.errors import StorageError
from qsearch.report.document import Code, Document, Paragraph, Section, Table
from qsearch.report.html import render as render_html
from qsearch.report.markdown import escape, render
from qsearch.report.write import write_report
from qsearch.run import Run

EVIL = "<script>alert(1)</script>"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"start": (3, 4, 5), "skill": 0.4}, ["What it costs", "test data", "share of latency"]),
        ({"limit": 0.02, "evaluations": 4}, ["Nothing usable was found", "nearest"]),
        ({"objectives": [("accuracy", "maximize"), ("energy", "minimize")]}, ["no other beats"]),
        ({"objectives": [("latency", "minimize"), ("energy", "minimize")]}, ["latency", "no other beats"]),
        ({"objectives": [("loss", "minimize")]}, ["Down and to the left"]),
        ({"kernel_wise": True}, ["whiskers", "kernels have that many bits"]),
        ({"failures": 4, "status": "running"}, ["has not ended", "loss and scores must be finite"]),
        ({"tested": False}, ["no result on test data"]),
        ({"limit": 0}, ["No limit was asked for"]),
        ({"trials": ()}, ["Nothing has been tried yet"]),
    ],
)
def test_reports_of_every_kind(make_run: RunFactory, options: dict[str, object], expected: list[str]) -> None:
    run = make_run(**{"evaluations": 15, **options})
    report = write_report(run)
    page = check_page(report.html)
    text = check_markdown(report.markdown)
    for words in expected:
        assert words in page.text
        assert words in text
    assert page.tags["svg"] == len(report.plots)
    assert {path.parent for path in report.plots} <= {run.folder / "plots"}
    assert page.text.startswith(run.config.name)


def test_the_table_of_bits_is_the_assignment(make_run: RunFactory) -> None:
    run = make_run(evaluations=10)
    assert run.best is not None
    text = write_report(run).markdown.read_text(encoding="utf-8")
    for layer in run.info.layers:
        row = next(line for line in text.splitlines() if line.startswith(f"| {layer.name} |"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1:5] == [
            str(run.best.assignment[layer.weight_site]),
            str(run.best.assignment[layer.activation_site]),
            f"{layer.macs:,}",
            f"{layer.params:,}",
        ]
        assert run.best.cost is not None
        share = run.best.cost.layers[layer.name]["latency"] / run.best.cost.totals["latency"]
        assert cells[5] == f"{100 * share:.1f} %"


def test_sixty_layers_stay_small_and_complete(make_run: RunFactory) -> None:
    run = make_run(layers=60, evaluations=30, kernel_wise=True)
    page = check_page(write_report(run).html)
    assert all(layer.name in page.text for layer in run.info.layers)


def test_thousands_of_trials_stay_small(make_run: RunFactory) -> None:
    run = make_run(layers=3, evaluations=1600, limit=0)
    report = write_report(run)
    check_page(report.html)
    assert report.html.stat().st_size < 400_000


def test_the_same_run_gives_the_same_bytes(make_run: RunFactory, tmp_path: Path) -> None:
    run = make_run(evaluations=12, kernel_wise=True)
    first = write_report(run)
    before = {path: path.read_bytes() for path in (first.html, first.markdown, *first.plots)}
    second = write_report(run)
    assert {path: path.read_bytes() for path in (second.html, second.markdown, *second.plots)} == before
    assert not [path for path in run.folder.rglob("*") if ".tmp" in path.name]


def renamed(run: Run) -> Run:
    """The same run with markup wherever a user may write a name."""
    layers = (*run.info.layers[:-1], type(run.info.layers[-1])(f"{EVIL}|`$a$`", "linear", 8, 10))
    config = {**run.info.config, "workload": {"name": EVIL, "options": {"a|b": EVIL}}}
    info = run.info.model_copy(update={"layers": layers, "config": config})
    trials = tuple(
        type(trial)(trial.number, trial.assignment, "failed", None, None, {}, EVIL) if trial.number == 0 else trial
        for trial in run.trials
    )
    return Run(run.folder, run.config, info, trials)


def test_names_cannot_become_markup(make_run: RunFactory) -> None:
    report = write_report(renamed(make_run(evaluations=10)))
    page = check_page(report.html)
    assert EVIL in page.text
    text = check_markdown(report.markdown)
    outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert "<script" not in outside
    assert "&lt;script&gt;" in outside


def test_float_and_missing_sites_are_shown(make_run: RunFactory) -> None:
    run = make_run(evaluations=6)
    assert run.best is not None
    bits = {**run.best.assignment, run.info.layers[0].weight_site: FLOAT_BITS, "lif1.state": 6}
    del bits[run.info.layers[1].activation_site]
    best = type(run.best)(**{**vars(run.best), "assignment": type(run.best.assignment)(bits)})
    trials = tuple(best if trial.number == best.number else trial for trial in run.trials)
    text = check_markdown(write_report(Run(run.folder, run.config, run.info, trials)).markdown)
    assert f"| {run.info.layers[0].name} | float |" in text
    assert "| lif1.state | 6 |" in text


def test_a_folder_that_cannot_be_written_is_one_line(make_run: RunFactory) -> None:
    run = make_run(evaluations=3)
    (run.folder / "plots").write_text("in the way")
    with pytest.raises(StorageError, match="the folder of a report must be writable") as caught:
        write_report(run)
    assert "\n" not in str(caught.value)


def test_markdown_escapes_what_would_be_markup() -> None:
    assert escape("a|b") == "a\\|b"
    assert escape("*a* `b` <i> &amp;") == "\\*a\\* \\`b\\` &lt;i&gt; &amp;amp;"
    assert escape("[x](y) snake_case _a_") == "[x]\\(y) snake_case \\_a\\_"
    assert escape("two\nlines") == "two lines"


def test_code_cannot_leave_its_fence() -> None:
    document = Document("t", "l", (Section("s", (Code("file", "```\nescaped?"), Paragraph("p", strong=True))),))
    text = render(document, {})
    assert "````yaml\n```\nescaped?\n````" in text
    assert "**p**" in text


def test_blocks_keep_their_columns() -> None:
    table = Table(("name", "number"), (("a", "1"), ("b", "2")), note="why")
    document = Document("t", "l", (Section("s", (table,)),))
    assert "| name | number |\n|---|--:|\n| a | 1 |\n| b | 2 |\n\nwhy" in render(document, {})
    page = Page(render_html(document, {}))
    assert page.tags["th"] == 4
    assert page.tags["td"] == 2
