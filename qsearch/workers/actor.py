"""What runs in a worker: an evaluator that is loaded once, and asked many times."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import torch

from qsearch.assignment import BitAssignment
from qsearch.errors import EvaluationError
from qsearch.protocols import Batching, Evaluator
from qsearch.trial import Quality
from qsearch.workers.shipping import packed, unpacked

Answer = Quality | Exception


def versions() -> dict[str, str]:
    """What answers may depend on beside the evaluator."""
    return {"python": platform.python_version(), "torch": torch.__version__, "qsearch": version("qsearch")}


class Holder:
    """Holds an evaluator. Ray makes an actor of it: one process, one call at a time."""

    _evaluator: Evaluator

    def load(self, content: bytes, threads: int) -> Mapping[str, str]:
        """Take an evaluator, and so many processor threads; :func:`versions` of this machine."""
        torch.set_num_threads(threads)
        self._evaluator = unpacked(content)
        return versions()

    def answer(self, assignments: Sequence[BitAssignment], seed: int) -> list[Answer]:
        """A quality for each assignment, or what its evaluation raised."""
        return [portable(found) for found in self._answers(assignments, seed)]

    def _answers(self, assignments: Sequence[BitAssignment], seed: int) -> Iterator[Answer]:
        if isinstance(self._evaluator, Batching):
            yield from self._evaluator.evaluate_many(assignments, seed=seed)
            return
        for assignment in assignments:
            try:
                yield self._evaluator.evaluate(assignment, seed=seed)
            except Exception as error:  # it belongs to this assignment, whatever it is
                yield error


def portable(answer: Any) -> Answer:
    """An answer that survives the way back: an exception that would not becomes one of ours with its type and text."""
    if not isinstance(answer, Exception):
        return answer  # type: ignore[no-any-return]  # what is no quality, the oracle tells
    with suppress(Exception):  # of a class that cannot be copied
        if str(unpacked(packed(answer))) == str(answer):
            return answer.with_traceback(None)
    return EvaluationError(str(answer) if isinstance(answer, EvaluationError) else f"{type(answer).__name__}: {answer}")
