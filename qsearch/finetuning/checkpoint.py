"""``Checkpoint``: a training between two epochs, as a file that only holds numbers.

It is read by ``torch.load`` with ``weights_only``: whatever a file holds, nothing in it is executed.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qsearch.errors import StorageError
from qsearch.files import write_atomically
from qsearch.finetuned import CHECKPOINT, Epoch, Settings

VERSION = 1
"""Of the file, for later ones to tell it by."""


@dataclass(frozen=True)
class Checkpoint:
    """A training so far.

    Attributes:
        settings: what it is.
        training: see :meth:`qsearch.training.finetuning.FineTuning.state`.
        best: state of the network after the best epoch.
        history: epochs so far, at least one.
    """

    settings: Settings
    training: Mapping[str, Any]
    best: Mapping[str, Tensor]
    history: tuple[Epoch, ...]

    def write(self, folder: Path) -> None:
        """Put it into a folder, whole or not at all.

        Raises:
            OSError: the folder cannot be written, or the disk is full; the one that was there stays.
        """
        content = io.BytesIO()
        value = {
            "version": VERSION,
            "settings": self.settings.model_dump(mode="json"),
            "training": dict(self.training),
            "best": dict(self.best),
            "history": [epoch.model_dump() for epoch in self.history],
        }
        torch.save(value, content)
        write_atomically(folder / CHECKPOINT, content.getvalue())

    @classmethod
    def read(cls, folder: Path) -> Checkpoint | None:
        """That of a folder; None where there is none.

        Raises:
            StorageError: it is damaged, or holds more than numbers.
        """
        path = folder / CHECKPOINT
        if not path.is_file():
            return None
        try:
            with warnings.catch_warnings(action="ignore"):  # of files that are none of ours: they are told of below
                value = torch.load(path, map_location="cpu", weights_only=True)
            if value["version"] != VERSION:
                raise ValueError(f"version {value['version']!r} of its format, not {VERSION}")
            settings, history = Settings.model_validate(value["settings"]), map(Epoch.model_validate, value["history"])
            return cls(settings, value["training"], value["best"], tuple(history))
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, LookupError, TypeError) as error:
            raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> StorageError:
    """The error of a checkpoint that is of no use."""
    told = " ".join(str(error).split()) or type(error).__name__
    return StorageError(
        "a checkpoint must be whole to go on from",
        got=f"{path}: {told[:200]}",
        fix="remove it to train from the start",
    )
