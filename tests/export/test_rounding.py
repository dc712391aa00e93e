"""What a network decides, on outputs worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qsearch.export.rounding import Rounding


def rows(*gaps: float) -> Tensor:
    """A sample for each gap between its two classes."""
    return torch.tensor([[gap, 0.0] for gap in gaps])


def test_a_prediction_that_changes_is_undecided_and_so_is_a_near_one() -> None:
    """Each sample by its own noise: 0.75 is near where outputs move by 0.5, and far where they do not."""
    y = rows(0.25, 0.75, 0.75, 2.0, 1.0)
    doubled, single = y.clone(), y.clone()
    doubled[0] = torch.tensor([0.0, 0.5])
    doubled[1, 0] += 0.125
    single[1, 1] -= 0.5
    single[3, 0] -= 0.5
    single[4, 0] += 0.5
    found = Rounding.of(y, {"in double precision": doubled, "on one sample at a time": single})
    assert found.decided.tolist() == [False, False, True, True, True]  # 1.0 is twice 0.5, and not nearer
    assert found.changed == 1
    assert not found.enough
    assert found.mean == pytest.approx(1.5 / 10)
    assert str(found) == (
        "2 of 5 predictions (40.00%) are within rounding of another class, 1 of which the evaluated network itself "
        "changes in double precision or on one sample at a time"
    )


def test_positions_of_a_map_are_decided_one_by_one_by_the_noise_of_their_sample() -> None:
    y = torch.zeros(2, 3, 2, 2)
    y[:, 1] = torch.tensor([[0.25, 1.5], [3.0, 3.0]])
    again = y.clone()
    again[0, 2, 1, 1] += 0.5
    found = Rounding.of(y, {"again": again})
    assert found.decided.tolist() == [[[False, True], [True, True]], [[True, True], [True, True]]]
    assert found.enough is False


def test_twenty_predictions_of_which_one_is_undecided() -> None:
    """It may differ, another may not; nor may outputs be off by more than twice what rounding moves them."""
    y = rows(0.25, *[4.0] * 19)
    again = y.clone()
    again[0] = torch.tensor([0.0, 0.25])
    found = Rounding.of(y, {"again": again})
    assert found.enough
    assert found.excuses(again)
    assert "1 of 20 predictions (5.00%)" in found.told(again)
    assert "of the others 19 of 19 are the same" in found.told(again)
    other = y.clone()
    other[1] = torch.tensor([0.0, 0.0])
    other[2] = torch.tensor([0.0, 4.1])
    assert not found.excuses(other)
    assert "of the others 18 of 19 are the same" in found.told(other)
    assert found.excuses(y + 0.02)
    assert not found.excuses(y + 0.03)  # rounding moves them by 0.0125 on average
    assert not found.excuses(torch.full_like(y, torch.nan))


def test_a_network_that_decides_nothing_excuses_nothing() -> None:
    """Outputs that chance makes: as far off as the network's own, and no prediction the same."""
    y, again = rows(*[0.1] * 50), rows(*[-0.1] * 50)
    found = Rounding.of(y, {"again": again})
    assert (int(found.decided.sum()), found.changed) == (0, 50)
    assert not found.excuses(again)
    assert not found.enough


@pytest.mark.parametrize("shape", [(10,), (10, 1), (10, 1, 4)])
def test_other_outputs_are_excused_by_the_average_difference(shape: tuple[int, ...]) -> None:
    y = torch.ones(shape)
    found = Rounding.of(y, {"in double precision": y + 0.01, "on one sample at a time": y + 0.1})
    assert found.excuses(y + 0.19)
    assert not found.excuses(y + 0.21)
    assert "differ, in double precision by 1.0e-02; on one sample at a time by 1.0e-01 on average" in found.told(y)
