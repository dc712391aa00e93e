"""Several runs side by side."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from report_checks import check_markdown, check_page
from report_runs import RunFactory
from rich.console import Console

from qsearch.errors import ConfigError
from qsearch.report.comparison import comparison_rows, grouped
from qsearch.report.comparison_plots import looks
from qsearch.report.summary import comparison_summary
from qsearch.report.terminal import comparison_table, run_table
from qsearch.report.write import write_comparison
from qsearch.run import Run


def shown(table: object, width: int = 100) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(table)
    return stream.getvalue()


def test_rows_are_means_over_seeds(comparable: Callable[[], list[Run]]) -> None:
    runs = comparable()
    rows = {row.name: row for row in comparison_rows(runs)}
    assert list(rows) == ["uniform", "random", "optuna", "ilp"]
    random = [run for run in runs if run.config.searcher.name == "random"]
    row = rows["random"]
    best = [run.best.value("accuracy") for run in random if run.best is not None]
    assert row.seeds == (0, 1, 2)
    assert row.objective is not None
    assert row.objective.mean == pytest.approx(np.mean(best))
    assert row.objective.high - row.objective.mean == pytest.approx(4.30265 * np.std(best, ddof=1) / 3**0.5, rel=1e-4)
    assert row.relative_costs["latency"] <= 0.6
    assert row.limit_shares["latency"] == pytest.approx(
        max(run.best.value("latency") / run.info.bounds[0].limit for run in random if run.best is not None)
    )
    test = [quality.metric for run in random if (quality := run.tested(str(run.best.number if run.best else None)))]
    assert row.test is not None
    assert row.test.mean == pytest.approx(np.mean(test))
    assert row.test_difference is not None
    assert row.test_difference.mean == pytest.approx(np.mean(test) - random[0].tested("float").metric)
    assert rows["ilp"].sensitivity_samples == 1024
    assert rows["optuna"].searcher == "optuna (sampler: TPE)"
    assert rows["uniform"].objective.low is None


def test_hypervolumes_share_one_box(comparable: Callable[[], list[Run]]) -> None:
    runs = comparable()
    volumes = [row.hypervolume.mean for row in comparison_rows(runs) if row.hypervolume]
    assert len(volumes) == 4
    assert all(0 < volume <= 1 for volume in volumes)
    together = Run(runs[0].folder, runs[0].config, runs[0].info, tuple(trial for run in runs for trial in run.trials))
    assert comparison_rows([together])[0].hypervolume.mean >= max(volumes)


def test_options_make_a_searcher_of_its_own(make_run: RunFactory) -> None:
    runs = [
        make_run(
            name=f"demo/{sampler}-s{seed}", searcher="optuna", options={"sampler": sampler}, seed=seed, evaluations=5
        )
        for sampler in ("TPE", "GP")
        for seed in (1, 0)
    ]
    groups = grouped(runs)
    assert [[run.config.seed for run in group.runs] for group in groups] == [[0, 1], [0, 1]]
    assert [group.label for group in groups] == ["optuna (sampler: TPE)", "optuna (sampler: GP)"]


def test_colours_stay_with_the_searcher(comparable: Callable[[], list[Run]]) -> None:
    groups = grouped(comparable())
    found = looks(groups)
    assert len({look["color"] for look in found}) == len(groups)
    many = looks(groups * 5)
    pairs = {
        (look["color"], str(look["linestyle"]))
        for group, look in zip(groups * 5, many, strict=True)
        if group.label != "uniform"
    }
    assert len(pairs) == 15


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"workload": "cifar10-resnet20"}, "workload"),
        ({"objectives": [("loss", "minimize")]}, "objectives"),
        ({"limit": 0.5}, "constraints"),
        ({"layers": 5}, "layers"),
    ],
)
def test_different_problems_are_refused(make_run: RunFactory, change: dict[str, object], key: str) -> None:
    runs = [make_run(name="a", evaluations=3), make_run(name="b", evaluations=3, **change)]
    with pytest.raises(ConfigError, match=f"same {key}") as caught:
        comparison_rows(runs)
    assert " in a, " in str(caught.value)


def test_the_same_run_twice_or_none_is_refused(make_run: RunFactory) -> None:
    run = make_run(evaluations=3)
    with pytest.raises(ConfigError, match="once"):
        comparison_rows([run, run])
    with pytest.raises(ConfigError, match="at least one run"):
        comparison_rows([])


def test_the_page(comparable: Callable[[], list[Run]], tmp_path: Path) -> None:
    report = write_comparison(comparable(), tmp_path / "out")
    page, text = check_page(report.html), check_markdown(report.markdown)
    for words in (
        "found by",
        "Fewer than 5 seeds",
        "Every searcher was judged by the same evaluator, ptq",
        "demo/random-s2",
    ):
        assert words in page.text
        assert words in text
    assert "different budgets" not in text
    assert "No uniform run" not in text
    assert {path.name for path in report.plots} >= {
        "comparison-best.png",
        "comparison-hypervolume.png",
        "comparison-assignments.png",
    }
    again = write_comparison(comparable(), tmp_path / "again")
    assert again.html.read_bytes() == report.html.read_bytes()


def test_budgets_and_unfinished_runs_are_notes(make_run: RunFactory, tmp_path: Path) -> None:
    runs = [make_run(name="a", evaluations=4), make_run(name="b", evaluations=6, seed=1, status="running")]
    text = write_comparison(runs, tmp_path / "out").markdown.read_text(encoding="utf-8")
    assert "different budgets (4 evaluations, 6 evaluations)" in text
    assert "Some runs have not ended" in text
    assert "No uniform run is among these" in text


def test_searchers_that_find_nothing_stay_in_the_table(make_run: RunFactory, tmp_path: Path) -> None:
    nothing = [make_run(name=f"n{seed}", evaluations=3, failures=3, seed=seed) for seed in range(2)]
    rows = comparison_rows(nothing)
    assert rows[0].objective is None
    assert rows[0].feasible_runs == 0
    check_page(write_comparison(nothing, tmp_path / "out").html)
    assert "0 of 2" in shown(comparison_table(rows))
    mixed = [*nothing, make_run(name="ilp", searcher="ilp", evaluations=5)]
    page = check_page(write_comparison(mixed, tmp_path / "mixed").html)
    assert "nothing found" in page.text


@pytest.mark.parametrize("objectives", [[("accuracy", "maximize"), ("size", "minimize")], [("energy", "minimize")]])
def test_other_objectives(make_run: RunFactory, tmp_path: Path, objectives: list[tuple[str, str]]) -> None:
    runs = [
        make_run(name=f"r{seed}", seed=seed, objectives=objectives, evaluations=8, kernel_wise=True)
        for seed in range(2)
    ]
    check_page(write_comparison(runs, tmp_path / "out").html)
    assert objectives[0][0] in shown(comparison_table(comparison_rows(runs)))


def test_rows_are_json(comparable: Callable[[], list[Run]]) -> None:
    values = comparison_summary(comparison_rows(comparable()))
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values[1]["runs"] == 3


def test_terminal_tables_fit_in_100_columns(comparable: Callable[[], list[Run]], make_run: RunFactory) -> None:
    text = shown(comparison_table(comparison_rows(comparable())))
    assert max(map(len, text.splitlines())) <= 100
    assert all(word in text for word in ("uniform", "random", "optuna", "ilp", "98.50 %"))
    run = make_run(layers=60, evaluations=8, failures=2)
    text = shown(run_table(run))
    assert max(map(len, text.splitlines())) <= 100
    assert "2 failures" in text
    assert run.best is not None
    line = " ".join(str(run.best.assignment[layer.weight_site]) for layer in run.info.layers)
    assert line in " ".join(text.split())


def test_terminal_shows_brackets_as_they_are(make_run: RunFactory) -> None:
    run = make_run(name="a", searcher="x.py:Mine", options={"mode": "[red]x[/red]"}, evaluations=4)
    assert "[red]" in shown(comparison_table(comparison_rows([run])), 160)
    assert "No assignment within the limits" in shown(run_table(make_run(name="b", limit=0.02, evaluations=2)))
