"""``BeforeTraining``: what evaluators that train have in common: the network that trainings start from, and who judges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qsearch.assignment import BitAssignment
from qsearch.evaluate.data import Split
from qsearch.evaluate.float_network import CalibratedFloatNetwork
from qsearch.evaluate.ptq import PostTraining
from qsearch.layers import Layer
from qsearch.protocols import Probe, Workload
from qsearch.training.lessons import Lessons
from qsearch.training.options import TrainingOptions


class JudgedTrainingOptions(TrainingOptions):
    """Options of every evaluator that trains, beside those of :class:`TrainingOptions`.

    Attributes:
        samples: the first n validation samples are used; all if None.
        calibration_samples: the first n calibration samples set the ranges that training starts from.
        evaluation_batch_size: samples in a forward pass of an evaluation.
        threads: processor threads during an evaluation; as they are if None.
    """

    samples: int | None = Field(default=None, ge=1)
    calibration_samples: int = Field(default=512, ge=1)
    evaluation_batch_size: int = Field(default=64, ge=1)
    threads: int | None = Field(default=None, ge=1)


class BeforeTraining:
    """Sensitivities and lessons of an evaluator that trains: options of the training do not enter, as they precede it.

    Args:
        workload, layers, options: of the evaluator.
        correction: take out the shift that quantisation causes, in what sensitivities ask.
    """

    def __init__(
        self, workload: Workload, layers: Sequence[Layer], options: JudgedTrainingOptions, *, correction: bool = True
    ) -> None:
        self._untrained = PostTraining(
            workload,
            layers,
            PostTraining.Options(
                samples=options.samples,
                calibration_samples=options.calibration_samples,
                correction=correction,
                batch_size=options.evaluation_batch_size,
                threads=options.threads,
            ),
        )
        self._lessons = self._untrained.lessons()

    @property
    def validation(self) -> Split:
        """The samples that an evaluation uses."""
        return self._untrained.validation

    def probe(self, assignment: BitAssignment) -> Probe:
        """See :meth:`PostTraining.probe`; before anything is trained."""
        return self._untrained.probe(assignment)

    def weight_errors(self, site: str, bits: int) -> NDArray[np.float64]:
        """See :meth:`PostTraining.weight_errors`; before anything is trained."""
        return self._untrained.weight_errors(site, bits)

    def float_network(self) -> CalibratedFloatNetwork:
        """See :meth:`PostTraining.float_network`."""
        return self._untrained.float_network()

    def fingerprint(self) -> str | None:
        """See :class:`qsearch.protocols.Fingerprinted`."""
        return self._untrained.fingerprint()

    def lessons(self) -> Lessons:
        """See :class:`qsearch.protocols.Teaching`."""
        return self._lessons
