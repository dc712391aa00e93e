"""What the commands do once their arguments are read. Loaded when a command runs, never for ``--help``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from qsearch import inspection, registry
from qsearch import run as runs_module
from qsearch.config import CampaignConfig, Sweep, changed
from qsearch.errors import ConfigError, Interrupted
from qsearch.finetuned import CURVE, NETWORK, folder_of
from qsearch.inspection import InspectionConfig
from qsearch.report import inspection_table
from qsearch.report.artifacts import attach
from qsearch.report.comparison import comparison_rows
from qsearch.report.finetuned import terminal_table as fine_tuned_table
from qsearch.report.finetuned import values as fine_tuned_values
from qsearch.report.finetuning_plot import write_curve
from qsearch.report.sensitivity_page import write_survey
from qsearch.report.sensitivity_table import notes, sensitivity_json, sensitivity_table
from qsearch.report.summary import comparison_summary, summary
from qsearch.report.terminal import comparison_table, run_table
from qsearch.report.write import write_comparison, write_report
from qsearch.run import Run
from qsearch.survey import SurveyConfig
from qsearch.surveyor import survey
from qsearch.sweep import run_folders, run_sweep
from qsearch.terminal import epoch_progress, search_progress, set_up_logging
from qsearch.trial import Trial

if TYPE_CHECKING:
    from qsearch.export.writing import Exported


def search(sweep: Sweep, root: Path, as_json: bool) -> None:
    """Run a sweep with progress, write the report of each run as it ends, and print what was found.

    Raises:
        Interrupted: by the user; what is recorded stays.
    """
    set_up_logging()
    folder = root / sweep.name
    pages: list[str] = []
    try:
        with search_progress() as progress:

            def ended(run: Run) -> None:
                progress.finish(run.config.name)
                pages.append(report(run))

            runs = run_sweep(
                sweep,
                root,
                on_start=progress.start,
                on_trial=progress,
                on_run=ended,
            )
    except KeyboardInterrupt:
        fix = f"go on with: qsearch resume {folder}" if run_folders(folder) else "nothing was begun"
        raise Interrupted("interrupted", fix=fix) from None
    if len(runs) > 1:
        compare(runs, folder, as_json)
    elif as_json:
        print_json(summary(runs[0]))
    else:
        print_table(run_table(runs[0]))
        print(f"\nreport     {pages[0]}")
    if not as_json:
        print(f"dashboard  qsearch dashboard {folder}")


def compare(runs: list[Run], folder: Path, as_json: bool) -> None:
    """Put runs on one page, and print the table."""
    rows = comparison_rows(runs)
    page = write_comparison(runs, folder)
    if as_json:
        print_json(comparison_summary(rows))
    else:
        print_table(comparison_table(rows))
        print(f"report     {page.html}")


def sensitivity(config: SurveyConfig, output: Path | None, as_json: bool) -> None:
    """Find the sensitivities of a workload, print them, and write page and files into a folder if one is given."""
    set_up_logging()
    with _nothing_kept():
        found = survey(config)
    written = None if output is None else write_survey(found, output)
    if as_json:
        print_json(sensitivity_json(found))
        return
    print_table(sensitivity_table(found))
    for name, text in notes(found).items():
        print(f"{name:<10} {text}")
    if written is not None:
        print(f"report     {written.page.html}")


def inspect(config: InspectionConfig, as_json: bool) -> None:
    """Print what a workload's network consists of, and how good it is in float."""
    set_up_logging()
    with _nothing_kept():
        found = inspection.inspect(config)
    if as_json:
        print_json(inspection_table.inspection_json(found))
        return
    for table in inspection_table.tables(found):
        print_table(table)


def export_network(run: Run, trial: Trial, name: str, output: Path | None, finetuned: bool = False) -> None:
    """Write the network of a trial in a binary format, and print how far the file agrees with what was evaluated.

    Args:
        finetuned: the one that was fine-tuned in the run's folder.

    Raises:
        EvaluationError: too little; nothing is written.
        Interrupted: by the user; nothing is written.
    """
    set_up_logging()
    with _nothing_kept():
        from qsearch.export.writing import export_network as write  # torch waits until a network is written

        if finetuned:
            written = _export_fine_tuned(run, trial, name, output, folder_of(run, trial))
        else:
            written = write(run, trial, name, output)
    _tell(written)


def _export_fine_tuned(run: Run, trial: Trial, name: str, output: Path | None, folder: Path) -> Exported:
    """Write the network that a fine-tuning has kept in a folder; beside it if there is no other place."""
    from qsearch.export.sources import fine_tuned
    from qsearch.export.writing import export_network as write

    return write(run, trial, name, output, fine_tuned(run, trial, folder), folder)


def _tell(written: Exported) -> None:
    print(f"wrote      {written.path} ({written.size:,} bytes)")
    for note in written.notes:
        print(f"           {note}")
    print(f"checked    {written.runtime}: {written.agreement}")


@dataclass(frozen=True)
class FineTuneRequest:
    """What ``qsearch finetune`` was asked for.

    Attributes:
        epochs, changes: see :func:`qsearch.finetuning.options.training_options`.
        patience, folder: see :class:`qsearch.finetuning.tuning.Job`; RUN/finetune/trial-N if None.
        formats: to export in.
    """

    epochs: int | None
    changes: Sequence[str]
    patience: int | None
    folder: Path | None
    formats: Sequence[str]


def finetune(run: Run, trial: Trial, request: FineTuneRequest, as_json: bool) -> None:
    """Train the network of a trial with progress, or go on; draw its course, export it, and print what was gained.

    Raises:
        Interrupted: by the user; whole epochs are kept.
    """
    set_up_logging()
    from qsearch.finetuning.options import training_options
    from qsearch.finetuning.tuning import Job, fine_tune

    options = training_options(run, request.epochs, request.changes)
    job = Job(run, trial, options, request.patience, request.folder or folder_of(run, trial))
    try:
        name = f"{run.config.name}, trial {trial.number}"
        with epoch_progress(name, run.info.quality_name, options.epochs, speaks=not as_json) as progress:
            found = fine_tune(job, progress)
        write_curve(run, found, job.folder)
        written = [_export_fine_tuned(run, trial, one, None, job.folder) for one in request.formats]
    except KeyboardInterrupt:
        raise Interrupted("interrupted", fix="run the same command to go on") from None
    if as_json:
        exports = [str(one.path) for one in written]
        print_json({**fine_tuned_values(run, trial, job.folder, found), "exports": exports})
        return
    print_table(fine_tuned_table(run, trial, found))
    print(f"network    {job.folder / NETWORK}")
    print(f"course     {job.folder / CURVE}")
    for one in written:
        _tell(one)


@contextmanager
def _nothing_kept() -> Iterator[None]:
    """Inside, an interruption leaves nothing behind, and says so."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted", fix="nothing was kept; start it again") from None


def report(run: Run) -> str:
    """Write the report of a run, its plots attached to the study; the path of the page."""
    written = write_report(run)
    attach(run, written.plots)
    return str(written.html)


def load(folders: list[Path]) -> list[Run]:
    """The runs in these folders, those of a sweep included."""
    return [runs_module.load(found) for folder in folders for found in run_folders(folder) or [folder]]


def with_settings(run: Run, changes: Sequence[str]) -> Run:
    """A run with settings of its campaign changed, such as where its data lie; what it recorded stays.

    Raises:
        ConfigError: one is not valid.
    """
    value = changed(run.config.model_dump(mode="json"), changes)
    return replace(run, config=registry.validate(CampaignConfig, value, str(run.folder))) if changes else run


def trial_of(run: Run, number: int | None) -> Trial:
    """A trial by its number; the best without one.

    Raises:
        ConfigError: there is none.
    """
    if number is None:
        if run.best is None:
            raise ConfigError("a run without a feasible trial has no best one", fix="name one with --trial")
        return run.best
    if not 0 <= number < len(run.trials):
        raise ConfigError(f"the trials of {run.folder} are numbered 0..{len(run.trials) - 1}", got=number)
    return run.trials[number]


def print_table(table: Table) -> None:
    """A table on standard output; a file or a pipe is taken to be as wide as a table needs."""
    console = Console()
    if not console.is_terminal:
        console.width = 100
    console.print(table)


def print_json(value: Any) -> None:
    """JSON on standard output, and nothing else there."""
    print(json.dumps(value, indent=2, default=str))
