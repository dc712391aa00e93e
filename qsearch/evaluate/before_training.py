"""``BeforeTraining``: what an evaluator that trains answers of the network that its trainings start from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import BitAssignment
from qsearch.evaluate.float_network import CalibratedFloatNetwork
from qsearch.evaluate.ptq import PostTraining
from qsearch.protocols import Probe
from qsearch.training.lessons import Lessons


class BeforeTraining:
    """Sensitivities and lessons of an evaluator that trains: options of the training do not enter, as they precede it."""

    _untrained: PostTraining
    _lessons: Lessons

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
