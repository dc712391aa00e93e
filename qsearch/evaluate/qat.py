"""``QuantizationAware``: quality under an assignment after fine-tuning under it.

The network is trained on training data, and judged on validation data as :class:`qsearch.evaluate.ptq.PostTraining` judges,
under the weights and the grids that training has settled on. Batch-norm statistics are those of the training; nothing is
corrected after it.

The answer to an assignment depends on the options, the assignment and the seed, and on nothing that was asked before, on
one machine. With ``warm_start`` it depends on what was evaluated before, in its order, and on no interruption of it.

Sensitivities are those of the network that a training starts from: what quantisation does before anything is trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import Field

from qsearch.assignment import BitAssignment
from qsearch.errors import ConfigError, EvaluationError
from qsearch.evaluate.before_training import BeforeTraining, JudgedTrainingOptions
from qsearch.evaluate.fidelity import check_fidelity
from qsearch.evaluate.lessons import training_loader
from qsearch.evaluate.threads import threads
from qsearch.evaluate.warm_start import FLOAT, Course, Past, State, begin_from, state_of
from qsearch.layers import Layer
from qsearch.protocols import Workload
from qsearch.quantize.network import QuantizedNetwork
from qsearch.sites import in_float
from qsearch.training.devices import check_device, outputs_of, repeatable
from qsearch.training.families import family
from qsearch.training.finetuning import FineTuning
from qsearch.training.network import TrainableNetwork
from qsearch.trial import Quality, Trial

SETTLED = 2
"""Trained networks that are kept in memory: a test, or an export, often follows the evaluation."""


class QuantizationAware(BeforeTraining):
    """Evaluates assignments of a workload by quantisation-aware training.

    An assignment that leaves all in float is not trained: its quality is that of the float network.

    Args:
        workload: the network and its data, training data included.
        layers: the layers of its network.
        options: see :class:`Options`.

    Raises:
        ConfigError: a quantiser, a device or a precision that there is not; options that do not go together.
        DataError: no training data; else as :class:`PostTraining`.
    """

    class Options(JudgedTrainingOptions):
        """Options of the evaluator, beside those of :class:`JudgedTrainingOptions`.

        Attributes:
            correction: take out the shift that quantisation causes, in what sensitivities ask; training needs none.
            warm_start: start from the state of the nearest assignment that was evaluated before, and not from the float
                network. Qualities then depend on the order of trials, as later ones have been trained for longer.
            keep: how many of the last states may be started from; each takes as much room as the network.
        """

        correction: bool = True
        warm_start: bool = False
        keep: int = Field(default=64, ge=1)

    def __init__(self, workload: Workload, layers: Sequence[Layer], options: Options) -> None:
        self._family = family(options.quantizer)
        check_device(options)
        if options.warm_start and options.batch_norm == "folded":
            raise ConfigError(
                "a warm start needs batch-norms that stay beside their layers",
                got="batch_norm: folded",
                fix="batch_norm: late",
            )
        training_loader(workload)  # told before anything is calibrated
        self._options, self._layers, self._workload = options, tuple(layers), workload
        super().__init__(workload, layers, options, correction=options.correction)
        self._past = Past(self._layers, options.keep)
        self._settled: dict[Course, QuantizedNetwork] = {}

    def remember(self, folder: Path | None, trials: Sequence[Trial]) -> None:
        """See :class:`qsearch.protocols.Remembering`; states of networks are kept in the folder's ``trained``."""
        self._past.open(folder, trials)
        self._settled.clear()

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        """Quality on validation data after training.

        Args:
            fidelity: share of the epochs; a training of its own with the whole schedule in fewer epochs, at least one.
                :meth:`progress` reports of one schedule on its way, which is something else.
            seed: of the order of samples, augmentation and dropout.

        Raises:
            ConfigError: fidelity outside (0, 1].
            SpaceError: an assignment that does not fit the network.
            EvaluationError: training diverged, or NaN and infinity.
            DataError: a loss or score that is not what :class:`Workload` asks for.
        """
        check_fidelity(fidelity)
        if in_float(self._layers, assignment):
            return self._untrained.evaluate(assignment)
        course = self._course(assignment, seed, max(1, round(fidelity * self._options.epochs)))
        training = self._begin(course)
        loss = self._train(training, course.epochs)
        return self._concluded(course, training, loss, recorded=fidelity == 1)

    def progress(self, assignment: BitAssignment, *, seed: int = 0) -> Iterator[tuple[float, Quality]]:
        """Share of the epochs done, and quality on validation data there; the last is that of :meth:`evaluate`.

        Raises:
            SpaceError, EvaluationError, DataError: as :meth:`evaluate`.
        """
        if in_float(self._layers, assignment):
            yield 1.0, self._untrained.evaluate(assignment)
            return
        course = self._course(assignment, seed, self._options.epochs)
        training = self._begin(course)
        for done in range(1, course.planned):
            loss = self._train(training, done)
            so_far = replace(course, epochs=done)
            try:
                yield training.share, self._quality(so_far, training.network, loss)
            except GeneratorExit:  # it ends here, and others may start from what it has come to
                self._note(so_far, training.network)
                raise
        loss = self._train(training, course.planned)
        yield 1.0, self._concluded(course, training, loss, recorded=True)

    def test(self, assignment: BitAssignment) -> Quality:
        """Quality on the whole test split of the network that :meth:`evaluate` has judged; it is trained again if need be.

        Raises:
            DataError: the test loader is empty or malformed; else as :meth:`evaluate`.
            EvaluationError: as :meth:`evaluate`.
        """
        if in_float(self._layers, assignment):
            return self._untrained.test(assignment)
        data, network = self._untrained.held_out(), self.trained(assignment)
        with threads(self._options.threads):
            return self._untrained.scoring.quality(network, data, network.model)

    def trained(self, assignment: BitAssignment, *, seed: int | None = None) -> QuantizedNetwork:
        """The network that was judged, under the assignment; that of an evaluation that a pruner ended early is so too.

        Args:
            seed: of its training; if None that of its recorded evaluation, and 0 where there is none.

        Raises:
            SpaceError, EvaluationError: as :meth:`evaluate`.
        """
        if in_float(self._layers, assignment):
            self._untrained.network.apply(assignment)
            return self._untrained.network
        known = self._past.course(assignment)
        if known is not None and seed in (None, known.seed):
            course = known
        else:
            course = self._course(assignment, seed or 0, self._options.epochs)
        if course not in self._settled:
            training = self._begin(course)
            self._train(training, course.epochs)
            self._settle(course, training.network)
        return self._settled[course]

    def _course(self, assignment: BitAssignment, seed: int, epochs: int) -> Course:
        """How an assignment is trained: from the start that it had if it was trained before."""
        known = self._past.course(assignment)
        if known is not None:
            start = known.start
        else:
            start = self._past.nearest(assignment) if self._options.warm_start else FLOAT
        return Course(assignment, seed, epochs, epochs, start)

    def _begin(self, course: Course) -> FineTuning:
        """A training before its first epoch; what it starts from is trained again where it is not kept."""
        state, missing = None, list[Course]()
        name = course.start
        while state is None and name != FLOAT:
            start = self._past.named(name)
            state = self._past.load(start)
            if state is None:
                missing.append(start)
                name = start.start
        for start in reversed(missing):
            training = self._begin_from(start, state)
            self._train(training, start.epochs)
            state = state_of(training.network)
            self._past.store(start, state)
        return self._begin_from(course, state)

    def _begin_from(self, course: Course, state: State | None) -> FineTuning:
        """A training from the state that its start was trained to; None for the float network."""
        network = TrainableNetwork(self._lessons, course.assignment, self._family)
        if state is not None:
            begin_from(network, course.assignment, state, self._past.named(course.start).assignment)
        options = self._options.model_copy(update={"epochs": course.planned})
        return FineTuning(network, self._lessons, options, course.seed)

    def _train(self, training: FineTuning, epochs: int) -> float:
        """Go on until so many epochs are done; the mean loss of the last.

        Raises:
            EvaluationError: training diverged.
        """
        loss = math.nan
        with threads(self._options.threads), repeatable():
            while training.done < epochs:
                loss = training.epoch()
        if not all(bool(torch.isfinite(value).all()) for value in training.network.state_dict().values()):
            raise _diverged(f"weights that are not finite after epoch {training.done}")
        return loss

    def _concluded(self, course: Course, training: FineTuning, loss: float, *, recorded: bool) -> Quality:
        """Quality of a network whose training is over.

        Args:
            recorded: others may start from it.
        """
        network = self._settle(course, training.network)
        with threads(self._options.threads):
            quality = self._untrained.scoring.quality(network, self.validation, network.model)
        if recorded:
            self._note(course, training.network)
        return replace(quality, details={**quality.details, **course.details, "training_loss": loss})

    def _quality(self, course: Course, network: TrainableNetwork, loss: float) -> Quality:
        """Quality of a network in training: what it would have if it settled now, without the effort of that."""
        network.eval()
        outputs = outputs_of(network, self._options.device)
        with threads(self._options.threads):
            quality = self._untrained.scoring.quality(outputs, self.validation, network.model)
        return replace(quality, details={**quality.details, **course.details, "training_loss": loss})

    def _settle(self, course: Course, network: TrainableNetwork) -> QuantizedNetwork:
        """The network with what training has found, under its assignment; the last few are kept."""
        batches = [batch.inputs for batch in self._untrained.calibration.batches(self._options.evaluation_batch_size)]
        model, settled = self._workload.model(), network.settled()
        try:
            with threads(self._options.threads):
                found = QuantizedNetwork(model, self._layers, batches, correction=False, settled=settled)
                found.apply(course.assignment)
        except EvaluationError as error:  # numbers that are not finite: the untrained network's were
            raise _diverged("a network that gives NaN or infinity") from error
        others = {key: value for key, value in self._settled.items() if key != course}
        self._settled = dict([*others.items(), (course, found)][-SETTLED:])
        return found

    def _note(self, course: Course, network: TrainableNetwork) -> None:
        """Remember what was trained, and its state where others may start from it."""
        if self._past.course(course.assignment) is not None:
            return
        self._past.add(course)
        if self._options.warm_start:
            self._past.store(course, state_of(network))


def _diverged(got: str) -> EvaluationError:
    return EvaluationError("training must not diverge", got=got, fix="lower the rate, or raise the bits")
