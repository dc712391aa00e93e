"""Trained agents on disk: networks and optimisers (``NAME.zip``, as Stable-Baselines3 writes it), replay (``NAME.npz``).

Observations are scaled by the space of the problem at hand, so that an agent fits any network and any hardware. What else
is scaled, the reward baseline, is in the replay.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from zipfile import BadZipFile

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from qsearch.agents.replay import EpisodeReplay
from qsearch.errors import ConfigError, StorageError

FOLDER = "agent"


def save(model: BaseAlgorithm, folder: Path | None, name: str = "agent") -> None:
    """Write an agent; nothing where there is no folder.

    Raises:
        StorageError: the folder cannot be written.
    """
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        model.save(folder / f"{name}.zip")
        replay = getattr(model, "replay_buffer", None)
        if isinstance(replay, EpisodeReplay):
            np.savez_compressed(folder / f"{name}.npz", allow_pickle=False, **replay.state())
    except OSError as error:
        raise StorageError("the agent's folder must be writable", got=f"{folder}: {error}") from error


def find(run: str, name: str = "agent") -> Path:
    """The file of a run's agent.

    Raises:
        ConfigError: that run has no agent of this kind.
    """
    path = Path(run) / FOLDER / f"{name}.zip"
    if not path.is_file():
        raise ConfigError("option 'init' must name a run with a trained agent", got=run, fix=f"{path} must exist")
    return path


def load(model: BaseAlgorithm, run: str, name: str = "agent") -> None:
    """Give a new agent what the agent of a run has learnt.

    Raises:
        ConfigError: that run has no agent of this kind.
    """
    path = find(run, name)
    try:
        model.set_parameters(str(path), device="cpu")
        replay = getattr(model, "replay_buffer", None)
        if isinstance(replay, EpisodeReplay):
            with path.with_suffix(".npz").open("rb") as file, np.load(file) as state:
                replay.restore(dict(state))
    except (ValueError, RuntimeError, KeyError, OSError, BadZipFile) as error:
        reason = (str(error).splitlines()[1:2] or [str(error)])[0]  # torch lists all that does not fit below a headline
        raise ConfigError(
            "the agent of option 'init' must be of the same kind, with the same 'hidden'",
            got=f"{run}: {shorten(reason, 160)}",
        ) from error
