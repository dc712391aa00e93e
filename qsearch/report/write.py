"""From a run, or several, to files: ``report.md``, ``report.html`` and ``plots/*.png``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qsearch.errors import StorageError
from qsearch.files import write_atomically
from qsearch.report import html, markdown, style
from qsearch.report.comparison_page import comparison
from qsearch.report.document import Document
from qsearch.report.sections import report
from qsearch.run import Run


@dataclass(frozen=True)
class Report:
    """The files of a report."""

    markdown: Path
    html: Path
    plots: tuple[Path, ...]


def write_report(run: Run) -> Report:
    """Write the report of a run into its folder.

    Raises:
        StorageError: the folder cannot be written.
    """
    return write_document(report(run), run.folder, "report")


def write_comparison(runs: Sequence[Run], folder: Path) -> Report:
    """Write the comparison of several runs into a folder, as ``comparison.md`` and ``comparison.html``.

    Raises:
        ConfigError: the runs are not of one problem; names the first difference.
        StorageError: the folder cannot be written.
    """
    return write_document(comparison(runs), folder, "comparison")


def write_document(document: Document, folder: Path, name: str) -> Report:
    """Write a document as ``name.md``, ``name.html`` and ``plots/name-*.png``; each file whole or not at all.

    Raises:
        StorageError: the folder cannot be written.
    """
    images = {plot.name: f"plots/{name}-{plot.name}.png" for plot in document.plots}
    drawings = {plot.name: style.svg(plot.figure, plot.name, plot.title) for plot in document.plots}
    try:
        (folder / "plots").mkdir(parents=True, exist_ok=True)
        for plot in document.plots:
            write_atomically(folder / images[plot.name], style.png(plot.figure))
        text, page = folder / f"{name}.md", folder / f"{name}.html"
        write_atomically(text, markdown.render(document, images).encode())
        write_atomically(page, html.render(document, drawings).encode())
    except OSError as error:
        raise StorageError(
            "the folder of a report must be writable", got=f"{folder}: {error}", fix="check rights and free space"
        ) from error
    return Report(text, page, tuple(folder / image for image in images.values()))
