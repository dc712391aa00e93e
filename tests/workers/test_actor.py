"""What a worker asks of the evaluator that it holds."""

from __future__ import annotations

import pytest
from odd_evaluators import Fails, Plain, Together, assignments

from qsearch.errors import EvaluationError
from qsearch.protocols import Evaluator
from qsearch.trial import Quality
from qsearch.workers.actor import Holder
from qsearch.workers.shipping import packed


def holding(evaluator: Evaluator) -> Holder:
    holder = Holder()
    holder.load(packed(evaluator), 1)
    return holder


@pytest.mark.parametrize("count", [1, 3])
def test_evaluators_that_answer_several_are_asked_as_such_for_one_too(count: int) -> None:
    """Where they compute, and how, may be known to that method only: campaigns without workers ask no other."""
    answers = holding(Together()).answer(assignments([8] * count), 0)
    assert [answer.details for answer in answers if isinstance(answer, Quality)] == [{"together": count}] * count


def test_others_are_asked_one_by_one() -> None:
    first, second = holding(Plain()).answer(assignments([8, 16]), 3)
    assert isinstance(first, Quality)
    assert isinstance(second, Quality)
    assert (first.metric, second.metric, second.details["seed"]) == (0.25, 0.5, 3)
    failed, found = holding(Fails()).answer(assignments([1, 8]), 0)
    assert isinstance(failed, EvaluationError)
    assert isinstance(found, Quality)
