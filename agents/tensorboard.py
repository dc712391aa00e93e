"""Loggers of the learners: TensorBoard's on request, and otherwise one that writes nothing, not even a folder."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import configure_logger

from qsearch.errors import ConfigError


def require() -> None:
    """Raise unless TensorBoard is installed.

    Raises:
        ConfigError: it is not.
    """
    if find_spec("tensorboard") is None:
        raise ConfigError(
            "option 'tensorboard' needs the package tensorboard", got="not installed", fix="pip install tensorboard"
        )


def logger(folder: Path | None, name: str) -> Logger:
    """A logger for a learner; with a folder, it writes for TensorBoard to ``NAME_1``, ``NAME_2``, … in it.

    Raises:
        ConfigError: a folder is given, and TensorBoard is not installed.
    """
    if folder is None:
        return Logger(folder=None, output_formats=[])
    require()
    return configure_logger(0, str(folder), name)
