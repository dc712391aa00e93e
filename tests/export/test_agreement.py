"""Agreement on outputs worked out by hand."""

from __future__ import annotations

import pytest
import torch

from qsearch.export.agreement import compare


def logits(*classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), 3).float()


def test_predictions_are_counted() -> None:
    found = compare(logits(0, 1, 2, 2), logits(0, 1, 2, 1))
    assert (found.same, found.compared) == (3, 4)
    assert found.largest == 1.0
    assert found.mean == pytest.approx(2 / 12)
    assert not found.holds
    assert "3 of 4 predictions the same (75.00%)" in str(found)


@pytest.mark.parametrize(
    ("wrong", "count", "holds"), [(0, 999, True), (1, 999, False), (1, 1000, True), (2, 1999, False)]
)
def test_one_in_a_thousand_may_differ(wrong: int, count: int, holds: bool) -> None:
    evaluated, found = torch.zeros(count, 2), torch.zeros(count, 2)
    evaluated[:, 0] = 1
    found[:, 0] = 1
    found[:wrong, 1] = 2
    assert compare(evaluated, found).holds is holds


def test_maps_are_compared_at_each_position() -> None:
    evaluated = torch.zeros(2, 3, 4, 4)
    evaluated[:, 1] = 1
    found = evaluated.clone()
    found[0, 2, 0, 0] = 5
    assert (compare(evaluated, found).same, compare(evaluated, found).compared) == (31, 32)


@pytest.mark.parametrize("shape", [(10,), (10, 1), (10, 1, 4)])
def test_other_outputs_are_compared_by_relative_error(shape: tuple[int, ...]) -> None:
    y = torch.full(shape, 2.0)
    assert compare(y, y * 1.0009).holds
    assert not compare(y, y * 1.0011).holds
    assert compare(y, y * 1.01).relative == pytest.approx(0.01, rel=1e-4)
    assert compare(y, y).compared == 0


@pytest.mark.parametrize("shape", [(4, 3), (4,)])
def test_nan_and_other_shapes_agree_with_nothing(shape: tuple[int, ...]) -> None:
    y = torch.zeros(shape)
    assert not compare(y, torch.full(shape, torch.nan)).holds
    assert not compare(y, torch.zeros(5, 7)).holds


def test_some_predictions_are_counted_and_all_outputs_measured() -> None:
    found = compare(logits(0, 1, 2, 2), logits(0, 1, 2, 1), torch.tensor([True, False, True, False]))
    assert (found.same, found.compared) == (2, 2)
    assert found.holds
    assert found.mean == pytest.approx(2 / 12)
