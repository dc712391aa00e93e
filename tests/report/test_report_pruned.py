"""Runs in which evaluations were ended early: what the reports count, and what they leave out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_runs import RunFactory, quality_of

from qsearch.config import PluginConfig
from qsearch.report import facts, markdown, wording
from qsearch.report.comparison import comparison_rows
from qsearch.report.comparison_page import comparison
from qsearch.report.curves import best_so_far, common_box, hypervolume_curve, main_plane, spending
from qsearch.report.sections import report
from qsearch.report.summary import summary, trial_values
from qsearch.report.terminal import comparison_table, run_table
from qsearch.run import Run
from qsearch.trial import Trial

HALVING = PluginConfig(name="successive-halving")


def pruned(run: Run, every: int = 2, share: float = 0.25) -> Run:
    """The same run, with every so-many-th evaluation ended at a share of its effort, at 5 points less."""
    trials: list[Trial] = []
    evaluated = 0
    for trial in run.trials:
        evaluated += trial.evaluated
        if trial.state == "complete" and trial.quality is not None and evaluated % every == 0:
            quality = replace(quality_of(trial.quality.metric - 0.05), details={"epochs": 2})
            reports = ((share, quality.metric),)
            trial = replace(trial, state="pruned", quality=quality, reports=reports, reason="pruned after 25 %")
        trials.append(trial)
    config = run.config.model_copy(update={"pruner": HALVING})
    info = run.info.model_copy(update={"evaluations": sum(trial.effort for trial in trials), "tested": {}})
    return Run(run.folder, config, info, tuple(trials))


def text_of(run: Run) -> str:
    document = report(run)
    return markdown.render(document, {plot.name: "p.png" for plot in document.plots})


def test_effort_is_counted_in_parts(make_run: RunFactory) -> None:
    run = pruned(make_run(evaluations=40))
    assert facts.spent_evaluations(run) == 20 + 20 * 0.25
    assert len(facts.pruned(run)) == 20
    assert [spent for spent, _ in spending(run)][:4] == [1.0, 1.25, 2.25, 2.5]


def test_the_report_says_how_many_and_what_they_took(make_run: RunFactory) -> None:
    run = pruned(make_run(evaluations=21))
    text = text_of(run)
    assert "13.5 (budget: 21 evaluations)" in text
    assert "10, ended early as hopeless; 2.5 spent on them" in text
    assert "successive-halving" in text
    plain = text_of(make_run(name="demo/random-s1", evaluations=21))
    assert "pruned evaluations" not in plain


def test_the_terminal_does_too(make_run: RunFactory) -> None:
    cells = [str(cell) for cell in run_table(pruned(make_run(evaluations=21))).columns[1].cells]
    assert any("13.5 evaluations (10 pruned)" in cell for cell in cells)
    plain = [str(cell) for cell in run_table(make_run(name="demo/random-s1", evaluations=21)).columns[1].cells]
    assert any(cell.startswith("21 evaluations, ") for cell in plain)


def test_json(make_run: RunFactory) -> None:
    run = pruned(make_run(evaluations=21))
    spent = summary(run)["spent"]
    assert {key: spent[key] for key in ("evaluations", "failed", "pruned")} == {
        "evaluations": 13.5,
        "failed": 0,
        "pruned": 10,
    }
    one = trial_values(run, facts.pruned(run)[0])
    assert (one["state"], one["effort"], one["quality"]["details"]) == ("pruned", 0.25, {"epochs": 2})


def test_what_was_pruned_is_no_result(make_run: RunFactory) -> None:
    """Even where it had more than all others when it ended."""
    run = pruned(make_run(evaluations=12))
    top = replace(facts.pruned(run)[0], quality=quality_of(1.0))
    run = Run(run.folder, run.config, run.info, tuple(top if t.number == top.number else t for t in run.trials))
    assert run.best is not None
    assert run.best.state == "complete"
    assert top not in run.front
    assert all(trial.state == "complete" for trial in facts.uniform_trials(run).values())
    plane = main_plane(run)
    assert plane is not None
    assert max(value for value in best_so_far(run) if value is not None) == run.best.value("accuracy")


def test_uniform_bits_that_were_pruned_are_no_reference(make_run: RunFactory) -> None:
    run = make_run(limit=0.6, start=(5, 3), evaluations=6)
    assert list(facts.uniform_trials(run)) == [3, 5]
    assert list(facts.uniform_trials(pruned(run))) == [5]


def test_the_nearest_miss_came_to_its_end_if_any_did(make_run: RunFactory) -> None:
    run = make_run(limit=0.02, evaluations=4)
    closest = facts.nearest(run)
    assert closest is not None
    ended = replace(closest, state="pruned", quality=quality_of(0.5), violations={"x": -1.0}, reports=((0.5, 0.5),))
    both = Run(run.folder, run.config, run.info, (*run.trials, replace(ended, number=len(run.trials))))
    assert facts.nearest(both) == closest
    alone = Run(run.folder, run.config, run.info, (ended,))
    assert facts.nearest(alone) == ended
    assert facts.headline(alone) == "No usable assignment was found in 0.5 evaluations."


def test_curves_have_a_value_for_each_evaluation_spent(make_run: RunFactory) -> None:
    """By hand: the best of the trials that have ended when k evaluations are spent."""
    run = pruned(make_run(evaluations=40), every=3)
    plane = main_plane(run)
    assert plane is not None
    box = common_box([run], plane)
    assert box is not None
    curve, volumes = best_so_far(run), hypervolume_curve(run, plane, box)
    total = facts.spent_evaluations(run)
    assert len(curve) == len(volumes) == int(np.ceil(total))
    for k, value in enumerate(curve, 1):
        ended = tuple(trial for spent, trial in spending(run) if spent <= k)
        best = Run(run.folder, run.config, run.info, ended).best
        assert value == (None if best is None else best.value("accuracy"))
        last = hypervolume_curve(Run(run.folder, run.config, run.info, ended), plane, box)
        assert volumes[k - 1] == pytest.approx(last[-1])


def test_a_run_that_was_all_pruned_within_one_evaluation(make_run: RunFactory) -> None:
    run = pruned(make_run(evaluations=3), every=1)
    assert best_so_far(run) == [None]
    assert run.best is None
    assert "Nothing usable was found" in text_of(run)


def test_a_comparison_counts_them(make_run: RunFactory) -> None:
    plain = make_run(evaluations=20)
    ended = pruned(make_run(name="demo/pruned-s0", evaluations=20))
    rows = comparison_rows([plain, ended])
    assert [row.searcher for row in rows] == ["random", "random + successive-halving"]
    assert [(row.evaluations, row.pruned) for row in rows] == [(20, 0), (12.5, 10)]
    document = comparison([plain, ended])
    text = markdown.render(document, {plot.name: "p.png" for plot in document.plots})
    assert "Pruned evaluations were ended early" in text
    assert "12.5" in text
    evaluations = list(comparison_table(rows).columns[-3].cells)
    assert [str(cell) for cell in evaluations] == ["20", "12.5"]


def test_runs_of_several_seeds_and_one_pruner_are_one_group(make_run: RunFactory) -> None:
    runs = [pruned(make_run(name=f"demo/random-s{seed}", seed=seed, evaluations=10)) for seed in range(2)]
    (row,) = comparison_rows(runs)
    assert row.seeds == (0, 1)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1, "1"), (1200, "1,200"), (23.5, "23.5"), (22.999999999, "23"), (1 / 3, "0.3")]
)
def test_numbers_of_things(value: float, text: str) -> None:
    assert wording.number(value) == text


def test_one_and_a_part_are_many() -> None:
    assert [wording.count(value, "run") for value in (1, 0.5, 1.5, 1 - 1e-9)] == [
        "1 run",
        "0.5 runs",
        "1.5 runs",
        "1 run",
    ]


def test_plots_are_drawn(make_run: RunFactory, tmp_path: Path) -> None:
    document = report(pruned(make_run(evaluations=30)))
    for plot in document.plots:
        plot.figure.savefig(tmp_path / f"{plot.name}.png")
        if plot.name == "progress":
            labels = [text.get_text() for legend in plot.figure.legends for text in legend.get_texts()]
            assert any(label.startswith("pruned") for label in labels)
