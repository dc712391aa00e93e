"""``fine_tune``: a trial's network trained to its end, in one go or in many.

After every epoch the network is judged on validation data, the best so far is kept, and all of it is written down. A
training that was killed goes on from its last whole epoch, and ends as if it had never been: each epoch draws its order and
its chance from the seed and its own number (:mod:`qsearch.training.finetuning`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from qsearch import finetuned
from qsearch.assignment import BitAssignment
from qsearch.errors import ConfigError, DataError, StorageError
from qsearch.evaluate.data import Split, read
from qsearch.evaluate.scoring import Scoring
from qsearch.evaluate.threads import threads
from qsearch.files import write_atomically
from qsearch.finetuned import CHECKPOINT, HISTORY, RESULT, Epoch, FineTuned, Judged, Settings, Stage
from qsearch.finetuning.checkpoint import Checkpoint, damaged
from qsearch.finetuning.network_file import settled_network, write_settled
from qsearch.protocols import Teaching, WeightPruning
from qsearch.quantize.modules import Inputs
from qsearch.quantize.network import QuantizedNetwork
from qsearch.run import Run, provenance
from qsearch.serialise import quality_to_json
from qsearch.setting import Setting, prepare
from qsearch.training.devices import outputs_of, repeatable
from qsearch.training.families import family
from qsearch.training.finetuning import FineTuning
from qsearch.training.lessons import Lessons
from qsearch.training.network import TrainableNetwork
from qsearch.training.options import TrainingOptions
from qsearch.trial import Trial

log = logging.getLogger(__name__)

BATCH = 64
"""Samples that are judged at a time."""


@dataclass(frozen=True)
class Job:
    """A training to be done.

    Attributes:
        run, trial: whose assignment.
        options: how to train it; the run's seed is that of the training, its evaluator's threads, if it has that option,
            are those of the training.
        patience: epochs without a better one after which it ends early; None to never.
        folder: where its files are kept.
    """

    run: Run
    trial: Trial
    options: TrainingOptions
    patience: int | None
    folder: Path

    @property
    def settings(self) -> Settings:
        """What another training may not share a folder with it without."""
        config = self.run.config
        return Settings(
            run=config.name,
            workload=finetuned.digest(config.workload, leave_out="data"),
            space=finetuned.digest(config.space),
            evaluator=finetuned.digest(config.evaluator),
            trial=self.trial.number,
            assignment=self.trial.assignment.digest,
            seed=config.seed,
            patience=self.patience,
            options=self.options.model_dump(mode="json"),
        )


def fine_tune(job: Job, on_epoch: Callable[[Sequence[Epoch]], None] = lambda history: None) -> FineTuned:
    """Train, or go on, or give back what has been found before.

    Args:
        job: what to train.
        on_epoch: called with the epochs so far, where training goes on and after each.

    Raises:
        ConfigError: the folder holds another training; the evaluator hands out no network.
        DataError: the workload has no training data.
        EvaluationError: the training has diverged.
        StorageError: the folder cannot be written, is damaged, or another process trains in it.
    """
    found = finetuned.read(job.folder)
    if found is not None:
        finetuned.check_same(job.settings, found.settings, job.folder)
        return found
    with _locked(job.folder), threads(job.run.config.evaluator.options.get("threads")):
        earlier = Checkpoint.read(job.folder)
        if earlier is not None:
            finetuned.check_same(job.settings, earlier.settings, job.folder)
        training = _Training(job, prepare(job.run.config), earlier)
        if training.history:
            on_epoch(training.history)
        while not training.ended:
            training.epoch()
            on_epoch(training.history)
        return training.result()


class _Training:
    """The training of a job.

    Args:
        earlier: what it goes on from.
    """

    def __init__(self, job: Job, setting: Setting, earlier: Checkpoint | None) -> None:
        self._job, self._setting = job, setting
        self._lessons = _lessons(setting, job.trial.assignment)
        self._validation = validation_of(setting)
        self._scoring = Scoring(setting.workload, self._float, BATCH)
        self._network = TrainableNetwork(self._lessons, job.trial.assignment, family(job.options.quantizer))
        self._tuning = FineTuning(self._network, self._lessons, job.options, job.run.config.seed)
        self.history: tuple[Epoch, ...] = ()
        self._best: dict[str, Tensor] = {}
        if earlier is not None:
            self._go_on(earlier)

    @property
    def ended(self) -> bool:
        """After the last epoch, or early."""
        early = bool(self.history) and finetuned.ended_early(self.history, self._job.patience)
        return early or self._tuning.done >= self._job.options.epochs

    def epoch(self) -> None:
        """Train for an epoch, judge, keep what is best, and write it all down."""
        start = time.perf_counter()
        with repeatable():
            loss = self._tuning.epoch()
        quality = self._scoring.quality(outputs_of(self._network, self._job.options.device), self._validation)
        number, seconds = self._tuning.done, time.perf_counter() - start
        epoch = Epoch(
            number=number, loss=loss, metric=quality.metric, validation_loss=quality.loss, seconds=round(seconds, 3)
        )
        if epoch.better_than(finetuned.best_of(self.history)):
            self._best = {name: value.detach().cpu().clone() for name, value in self._network.state_dict().items()}
        self.history = (*self.history, epoch)
        with _written(self._job.folder):
            Checkpoint(self._job.settings, self._tuning.state(), self._best, self.history).write(self._job.folder)
            self._write_history()

    def result(self) -> FineTuned:
        """Judge the best network, on test data too, beside what it came from; write network and result."""
        best = finetuned.best_of(self.history)
        assert best is not None  # a training has an epoch at least
        self._network.load_state_dict(self._best)
        settled = self._network.cpu().settled()
        network = settled_network(self._setting, settled)
        found = FineTuned(
            settings=self._job.settings,
            epochs=len(self.history),
            best=best.number,
            stopped=len(self.history) < self._job.options.epochs,
            judged=self._judged(network),
            provenance={name: value for name, value in provenance().items() if name != "started"},
        )
        with _written(self._job.folder):
            write_settled(settled, self._job.folder)
            self._write_history()
            write_atomically(self._job.folder / RESULT, found.model_dump_json(indent=2).encode() + b"\n")
        return found

    def _go_on(self, earlier: Checkpoint) -> None:
        try:
            self._network.load_state_dict(earlier.best)
            self._tuning.load(dict(earlier.training))
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise damaged(self._job.folder / CHECKPOINT, error) from error
        self.history, self._best = earlier.history, dict(earlier.best)

    def _write_history(self) -> None:
        write_atomically(self._job.folder / HISTORY, finetuned.history_text(self.history).encode())

    def _judged(self, tuned: QuantizedNetwork) -> dict[Stage, Judged]:
        """The three networks, one after another."""
        calibrated, test, assignment = self._lessons.calibrated, _test(self._setting), self._job.trial.assignment
        networks: dict[Stage, tuple[QuantizedNetwork, BitAssignment]] = {
            "float": (calibrated, BitAssignment({})),
            "post-training": (calibrated, assignment),
            "fine-tuned": (tuned, assignment),
        }
        judged: dict[Stage, Judged] = {}
        for stage, (network, bits) in networks.items():
            network.apply(bits)  # which corrects on calibration data: before the spikes of a split are counted
            judged[stage] = Judged(
                validation=quality_to_json(self._scoring.quality(network, self._validation, network.model)),
                test=None if test is None else quality_to_json(self._scoring.quality(network, test, network.model)),
            )
        return judged

    def _float(self, inputs: Inputs) -> Tensor:
        """Output of the float network."""
        calibrated = self._lessons.calibrated
        calibrated.apply(BitAssignment({}))
        output: Tensor = calibrated(inputs)
        return output


def _lessons(setting: Setting, assignment: BitAssignment) -> Lessons:
    evaluator, fix = setting.evaluator, "fine-tune a run that was evaluated by 'ptq' or 'qat'"
    if not isinstance(evaluator, Teaching):
        rule = "fine-tuning needs an evaluator that hands out its network"
        raise ConfigError(rule, got=type(evaluator).__name__, fix=fix)
    if isinstance(evaluator, WeightPruning) and (kept := evaluator.kept(assignment)):
        raise ConfigError(
            "fine-tuning would train weights that the evaluator has pruned, as bits do not say which these are",
            got=f"{type(evaluator).__name__}, which prunes {', '.join(map(repr, kept))}",
            fix=f"its own retraining is all there is: give it more epochs; or {fix}",
        )
    return evaluator.lessons()


def validation_of(setting: Setting) -> Split:
    """The samples that the search has judged by, where the evaluator says which; else all there are."""
    found: Any = getattr(setting.evaluator, "validation", None)
    workload = setting.workload
    if isinstance(found, Split):
        return found
    return read(workload.validation(), f"validation loader of workload {workload.name!r}")


def _test(setting: Setting) -> Split | None:
    """The test split; None, and a word about it, where there is none."""
    workload = setting.workload
    try:
        return read(workload.test(), f"test loader of workload {workload.name!r}")
    except DataError as error:
        log.warning("not tested: %s", error)
        return None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """A folder, made if need be, held against other processes; a dead process holds no lock."""
    with _written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(folder / ".lock", timeout=0).acquire()
        except Timeout:
            raise StorageError(
                "a network may be trained by one process at a time",
                got=str(folder),
                fix="wait for the other, or stop it",
            ) from None
    with lock:
        yield


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """Inside, what cannot be written becomes one line."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            "the folder of a training must be writable",
            got=f"{folder}: {error.strerror or error}",
            fix="mend it, and the same command goes on from the last whole epoch; or keep it elsewhere with --output FOLDER",
        ) from error
