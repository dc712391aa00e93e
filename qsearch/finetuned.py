"""What the fine-tuning of a trial found, and its files: ``finetune/trial-N`` in the run's folder, unless put elsewhere.

==========================  =================================================================================
file                        content
==========================  =================================================================================
``checkpoint.pt``           all that the training needs to go on; written after every epoch
``history.csv``             a line per epoch
``network.safetensors``     the best network: see :mod:`qsearch.finetuning.network_file`
``result.json``             :class:`FineTuned`; written last, so that a training with one has ended
``curve.png``               the history, drawn
==========================  =================================================================================
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from qsearch.errors import ConfigError, StorageError
from qsearch.run import Run
from qsearch.serialise import quality_from_json
from qsearch.trial import Quality, Trial

FOLDER = "finetune"
CHECKPOINT, HISTORY, NETWORK, RESULT, CURVE = (
    "checkpoint.pt",
    "history.csv",
    "network.safetensors",
    "result.json",
    "curve.png",
)

Stage = Literal["float", "post-training", "fine-tuned"]
"""What is compared: the float network, the assignment without training, and with it."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Settings(_Record):
    """What a training depends on: one with others is another training.

    Attributes:
        run: name of the run.
        workload, space, evaluator: digests of its settings, the folder of the data left out.
        trial: its number.
        assignment: digest of its assignment.
        seed: of the training.
        patience: epochs without a better one after which it ends early; None to never.
        options: :class:`qsearch.training.options.TrainingOptions`, as JSON.
    """

    run: str
    workload: str
    space: str
    evaluator: str
    trial: int
    assignment: str
    seed: int
    patience: int | None
    options: dict[str, Any]

    def flat(self) -> dict[str, Any]:
        """Name → value, options among the others."""
        return {**self.model_dump(exclude={"options"}), **self.options}


class Epoch(_Record):
    """One epoch.

    Attributes:
        number: from 1.
        loss: mean of the training loss over its steps.
        metric, validation_loss: on validation data after it.
        seconds: it took, validation included.
    """

    number: int
    loss: float
    metric: float
    validation_loss: float
    seconds: float

    def better_than(self, other: Epoch | None) -> bool:
        """A higher metric, or the same at a lower loss."""
        if other is None:
            return True
        return (self.metric, -self.validation_loss) > (other.metric, -other.validation_loss)


class Judged(_Record):
    """Quality of one network, as :mod:`qsearch.serialise` writes it; None on test data where there is none."""

    validation: dict[str, Any]
    test: dict[str, Any] | None

    def quality(self, split: Literal["validation", "test"]) -> Quality | None:
        """On a split; None where it was not judged."""
        found = self.validation if split == "validation" else self.test
        return None if found is None else quality_from_json(found)


class FineTuned(_Record):
    """What came of a training.

    Attributes:
        settings: what it was.
        epochs: done.
        best: the epoch whose network is kept.
        stopped: whether it ended early.
        judged: the three networks, on the same samples.
        provenance: versions, machine, git commit.
    """

    settings: Settings
    epochs: int
    best: int
    stopped: bool
    judged: dict[Stage, Judged]
    provenance: dict[str, Any]


def best_of(history: Sequence[Epoch]) -> Epoch | None:
    """The first epoch that no other is better than; None of none."""
    best: Epoch | None = None
    for epoch in history:
        best = epoch if epoch.better_than(best) else best
    return best


def ended_early(history: Sequence[Epoch], patience: int | None) -> bool:
    """Whether the last so many epochs have brought nothing better."""
    best = best_of(history)
    return patience is not None and best is not None and history[-1].number - best.number >= patience


def folder_of(run: Run, trial: Trial) -> Path:
    """Where the fine-tuning of a trial is kept unless it is told otherwise."""
    return run.folder / FOLDER / f"trial-{trial.number}"


def read(folder: Path) -> FineTuned | None:
    """What is kept in a folder; None where no training has ended there, or a file of it is gone.

    Raises:
        StorageError: it is damaged.
    """
    path = folder / RESULT
    if not all((folder / name).is_file() for name in (RESULT, NETWORK, HISTORY)):
        return None
    try:
        return FineTuned.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise _damaged(path, error) from error


def read_all(run: Run) -> list[tuple[Path, FineTuned]]:
    """Folders and results of the trainings in a run's folder that have ended, by the number of the trial.

    One of a trial that had another assignment, before the run was made anew, is left out.

    Raises:
        StorageError: one is damaged.
    """
    folders = [path.parent for path in (run.folder / FOLDER).glob(f"trial-*/{RESULT}")]
    numbered = {int(name[1]): folder for folder in folders if (name := re.fullmatch(r"trial-(\d+)", folder.name))}
    known = {number: run.trials[number].assignment.digest for number in sorted(numbered) if number < len(run.trials)}
    found = [(numbered[number], read(numbered[number]), digest) for number, digest in known.items()]
    return [(folder, one) for folder, one, digest in found if one is not None and one.settings.assignment == digest]


def history_text(history: Sequence[Epoch]) -> str:
    """``history.csv``."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(Epoch.model_fields), lineterminator="\n")
    table.writeheader()
    table.writerows(epoch.model_dump() for epoch in history)
    return text.getvalue()


def read_history(folder: Path) -> tuple[Epoch, ...]:
    """The epochs of a training.

    Raises:
        StorageError: the file is missing or damaged.
    """
    path = folder / HISTORY
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return tuple(Epoch.model_validate(row) for row in csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:  # pydantic's error is a ValueError
        raise _damaged(path, error) from error


def check_same(ours: Settings, earlier: Settings, folder: Path) -> None:
    """Raise unless a folder holds this very training.

    Raises:
        ConfigError: the first setting that differs.
    """
    here, there = ours.flat(), earlier.flat()
    changed = [key for key in {**here, **there} if here.get(key) != there.get(key)]
    if changed:
        first = changed[0]
        told = f"{first}: {there.get(first)!r} there, {here.get(first)!r} here"
        if first in _DIGESTS:
            told = f"other settings of the {first} there, in a run of the same name"
        raise ConfigError(
            f"{folder} holds another training{_WHY.get(first, '')}",
            got=told,
            fix="keep this one elsewhere with --output FOLDER, or remove that one",
        )


def digest(settings: BaseModel, leave_out: str | None = None) -> str:
    """Short digest of a part of a campaign's settings, but for one option, which says where and not what."""
    found = settings.model_dump(mode="json")
    found.get("options", {}).pop(leave_out, None)
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:12]


_DIGESTS = ("workload", "space", "evaluator")

_WHY: Mapping[str, str] = {"epochs": ", as all of its course depends on how many epochs there are"}


def _damaged(path: Path, error: Exception) -> StorageError:
    return StorageError(
        "what is kept of a training must be readable",
        got=f"{path}: {str(error).splitlines()[0]}",
        fix=f"remove {path.with_name(RESULT)}; the same qsearch finetune makes it again",
    )
