"""The Optuna dashboard on the ledger of a run."""

from __future__ import annotations

import socket

import optuna_dashboard
from optuna.artifacts import FileSystemArtifactStore

from qsearch.errors import ConfigError
from qsearch.ledger import open_storage
from qsearch.report.artifacts import artifact_folder
from qsearch.run import Run, root_of, storage_url


def serve(run: Run, host: str, port: int) -> None:
    """Serve the dashboard until interrupted; the studies of the whole storage are shown.

    Raises:
        ConfigError: the port is taken, or the address is not this machine's.
        StorageError: the storage cannot be opened.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                "the dashboard needs a free port", got=f"{host}:{port}: {error.strerror}", fix="choose one with --port"
            ) from error
    storage = open_storage(storage_url(run.config, root_of(run.folder, run.config.name)))
    folder = artifact_folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    optuna_dashboard.run_server(storage, host=host, port=port, artifact_store=FileSystemArtifactStore(folder))
