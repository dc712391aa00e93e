"""Where the network comes from that is exported: from the run's evaluator, or from a fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from qsearch import finetuned
from qsearch.errors import ConfigError
from qsearch.evaluate.data import Split
from qsearch.export.deployment import Deployable, Trained
from qsearch.finetuning.network_file import read_settled, settled_network
from qsearch.finetuning.tuning import validation_of
from qsearch.protocols import Remembering
from qsearch.quantize.network import QuantizedNetwork
from qsearch.run import Run
from qsearch.setting import Setting
from qsearch.trial import Trial


@dataclass(frozen=True)
class Judged:
    """A network, and the samples that it was judged on."""

    network: QuantizedNetwork
    data: Split


Source: TypeAlias = Callable[[Setting, Run, Trial], Judged]
"""Gives the network of a trial."""


def evaluated(setting: Setting, run: Run, trial: Trial) -> Judged:
    """What the run's evaluator has judged; it trains the network again where it trains.

    Raises:
        ConfigError: it has no network to export.
    """
    evaluator = setting.evaluator
    if isinstance(evaluator, Trained):
        if isinstance(evaluator, Remembering):
            evaluator.remember(run.folder, run.trials)  # a network that was trained from another's is so again
        return Judged(evaluator.trained(trial.assignment, seed=run.config.seed), evaluator.validation)
    if isinstance(evaluator, Deployable):
        return Judged(evaluator.network, evaluator.validation)
    raise ConfigError(
        "an evaluator whose network is exported must have a network and validation data",
        got=type(evaluator).__name__,
        fix="the evaluators 'ptq' and 'qat' have them; json and csv need neither",
    )


def fine_tuned(run: Run, trial: Trial, folder: Path) -> Source:
    """What a fine-tuning of a trial has kept in a folder.

    Raises:
        ConfigError: there is none, or another trial's.
        StorageError: what is there is damaged.
    """
    _check_there(run, trial, folder)
    return lambda setting, run, trial: Judged(settled_network(setting, read_settled(folder)), validation_of(setting))


def _check_there(run: Run, trial: Trial, folder: Path) -> None:
    """Raise unless a fine-tuning of the trial has ended in the folder."""
    found = finetuned.read(folder)
    command = f"qsearch finetune {run.folder} --trial {trial.number}"
    if found is None:
        raise ConfigError(f"trial {trial.number} must be fine-tuned first", got=f"nothing in {folder}", fix=command)
    if found.settings.assignment != trial.assignment.digest:
        raise ConfigError(
            f"{folder} must hold the fine-tuning of trial {trial.number}",
            got=f"trial {found.settings.trial} of {found.settings.run}",
            fix=f"{command} --output FOLDER",
        )
