"""Trained agents on disk: networks and optimisers (``NAME.zip``, as Stable-Baselines3 writes it), replay (``NAME.npz``).

Observations are scaled by the space of the problem at hand, so that an agent fits any network and any hardware
(``ppo``: with as many choices). What else is scaled, the reward baseline, is in the replay.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from textwrap import shorten
from zipfile import BadZipFile

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from qsearch.agents.replay import EpisodeReplay
from qsearch.agents.session import FOLDER
from qsearch.errors import ConfigError, StorageError
from qsearch.files import write_atomically

INIT = "init"
"""In the folder of a run's agent: what it began with, so that the run can be resumed whatever becomes of the source."""


def save(model: BaseAlgorithm, folder: Path | None, name: str = "agent") -> None:
    """Write an agent; nothing where there is no folder.

    Raises:
        StorageError: the folder cannot be written.
    """
    if folder is None:
        return
    try:
        packed = BytesIO()
        model.save(packed)
        write_atomically(folder / f"{name}.zip", packed.getvalue())
        replay = getattr(model, "replay_buffer", None)
        if isinstance(replay, EpisodeReplay):
            arrays = BytesIO()
            np.savez_compressed(arrays, allow_pickle=False, **replay.state())
            write_atomically(folder / f"{name}.npz", arrays.getvalue())
    except OSError as error:
        raise StorageError("the agent's folder must be writable", got=f"{folder}: {error}") from error


def source(run: Path, folder: Path | None, *names: str) -> Path:
    """The folder of the agent to begin with: a copy in the run's own, made when it begins; without one, the original.

    Args:
        run: folder of the run that was trained.
        folder: of the agent that begins.
        names: of the agents within.

    Raises:
        ConfigError: that run has no agent of this kind.
        StorageError: the copy cannot be written.
    """
    own = None if folder is None else folder / INIT
    if own is not None and all((own / f"{name}.zip").is_file() for name in names):
        return own
    origin = run / FOLDER
    for name in names:
        if not (origin / f"{name}.zip").is_file():
            path = origin / f"{name}.zip"
            raise ConfigError(
                "option 'init' must name a run with a trained agent", got=str(run), fix=f"{path} must exist"
            )
    if own is None:
        return origin
    try:
        for path in (origin / f"{name}{suffix}" for name in names for suffix in (".npz", ".zip")):
            if path.is_file():  # the .zip comes last: it says that the copy is whole
                write_atomically(own / path.name, path.read_bytes())
    except OSError as error:
        raise StorageError("the agent's folder must be writable", got=f"{own}: {error}") from error
    return own


def load(model: BaseAlgorithm, folder: Path, name: str = "agent") -> None:
    """Give a new agent what a trained one has learnt, from its folder.

    Raises:
        ConfigError: it is damaged, or of another kind.
    """
    path = folder / f"{name}.zip"
    try:
        model.set_parameters(str(path), device="cpu")
        replay = getattr(model, "replay_buffer", None)
        if isinstance(replay, EpisodeReplay):
            with path.with_suffix(".npz").open("rb") as file, np.load(file) as state:
                replay.restore(dict(state))
    except (ValueError, RuntimeError, KeyError, OSError, BadZipFile) as error:
        reason = (str(error).splitlines()[1:2] or [str(error)])[0]  # torch lists all that does not fit below a headline
        raise ConfigError(
            "the agent of option 'init' must be whole and of the same kind: networks of the same 'hidden', and for ppo"
            " as many choices",
            got=f"{path}: {shorten(reason, 160)}",
        ) from error
