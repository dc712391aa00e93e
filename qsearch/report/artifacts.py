"""The plots of a report as artifacts of the study, where the Optuna dashboard shows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact

from qsearch.ledger import Ledger
from qsearch.run import Run, root_of, storage_url


def artifact_folder(run: Run) -> Path:
    """Where the artifacts of a run's storage lie: beside its ledger."""
    return root_of(run.folder, run.config.name) / run.config.name.split("/")[0] / "artifacts"


def attach(run: Run, plots: Sequence[Path]) -> None:
    """Attach plots to the run's study; a plot of the same name is replaced.

    Raises:
        StorageError: the ledger cannot be written.
    """
    folder = artifact_folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(folder)
    ledger = Ledger(storage_url(run.config, root_of(run.folder, run.config.name)), run.config.name, run.objectives)
    known = {meta.filename: meta.artifact_id for meta in get_all_artifact_meta(ledger.study)}
    for plot in plots:
        if plot.name in known:
            with plot.open("rb") as content:
                store.write(known[plot.name], content)
        else:
            upload_artifact(artifact_store=store, file_path=str(plot), study_or_trial=ledger.study)
