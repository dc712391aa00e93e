"""Plots attached to a study, and the address that the dashboard listens on; no browser is needed."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from dashboard_ledgers import write_run
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta

from qsearch.dashboard import serve
from qsearch.errors import ConfigError
from qsearch.ledger import Ledger
from qsearch.report.artifacts import artifact_folder, attach
from qsearch.run import Run, load, storage_url


def stored(run: Run) -> dict[str, bytes]:
    """The artifacts of the run's study, as the dashboard reads them: file name → content."""
    ledger = Ledger(storage_url(run.config, run.folder.parent), run.config.name, run.objectives)
    store = FileSystemArtifactStore(artifact_folder(run))
    found = get_all_artifact_meta(ledger.study)
    assert len({meta.filename for meta in found}) == len(found)
    contents = {}
    for meta in found:
        with store.open_reader(meta.artifact_id) as content:
            contents[meta.filename] = content.read()
    return contents


def test_plots_are_stored_whole_and_replaced_by_name(tmp_path: Path) -> None:
    written = write_run(tmp_path, count=12)
    run = load(written.folder)
    plots = [written.folder / "plots" / name for name in written.plots]
    assert stored(run) == {plot.name: plot.read_bytes() for plot in plots}
    plots[0].write_bytes(b"another plot")
    attach(run, plots)
    assert stored(run) == {plot.name: plot.read_bytes() for plot in plots}


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    run = load(write_run(tmp_path, count=4).folder)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"needs a free port.*--port"):
            serve(run, "127.0.0.1", taken.getsockname()[1])
