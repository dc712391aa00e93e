"""An evaluator that no sensitivity can ask."""

from __future__ import annotations


class Blind:
    """An evaluator that answers on validation data only."""

    def __init__(self, evaluator):
        self._evaluator = evaluator

    def evaluate(self, assignment, *, fidelity=1.0, seed=0):
        return self._evaluator.evaluate(assignment, fidelity=fidelity, seed=seed)
