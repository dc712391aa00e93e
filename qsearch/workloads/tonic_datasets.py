"""Data sets of tonic's, from a folder and from nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from qsearch.errors import DataError, PluginError

try:
    from tonic import datasets
except ImportError as error:
    raise PluginError(
        "the workloads 'dvs-gesture' and 'shd' need the package tonic",
        got=str(error),
        fix="pip install 'qsearch[events]'",
    ) from error


def opened(name: str, folder: Path, *, train: bool) -> Any:
    """A data set of tonic's that lies in a folder.

    Raises:
        DataError: it is not there, or not whole; tonic would fetch it.
    """

    class Present(getattr(datasets, name)):  # type: ignore[misc]  # tonic has no types
        def download(self) -> NoReturn:
            raise DataError(
                f"{name} must lie in a data folder as tonic leaves it, archive and all",
                got=f"no whole {folder / name}",
                fix=f"tonic.datasets.{name}(save_to=FOLDER) fetches it; name FOLDER by the option 'data' or QSEARCH_DATA",
            )

    Present.__name__ = name  # tonic names its folder after the class
    return Present(save_to=str(folder), train=train)
