"""Reading a workload's data."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from qsearch.errors import DataError
from qsearch.evaluate.data import Split, read


def loader(count: int, batch: int = 4) -> DataLoader[tuple[torch.Tensor, ...]]:
    return DataLoader(TensorDataset(torch.arange(count * 2.0).reshape(count, 2), torch.arange(count)), batch_size=batch)


def test_all_samples_in_order() -> None:
    split = read(loader(11), "a loader")
    assert len(split) == 11
    assert torch.equal(split.targets, torch.arange(11))
    assert torch.equal(split.inputs, torch.arange(22.0).reshape(11, 2))


@pytest.mark.parametrize(("samples", "expected"), [(1, 1), (4, 4), (6, 6), (11, 11), (99, 11)])
def test_the_first_samples(samples: int, expected: int) -> None:
    assert torch.equal(read(loader(11), "a loader", samples).targets, torch.arange(expected))


def test_no_more_batches_are_read_than_needed() -> None:
    def batches():
        yield torch.zeros(5, 2), torch.zeros(5)
        raise AssertionError("read on")

    assert len(read(batches(), "a loader", 5)) == 5


@pytest.mark.parametrize("size", [1, 3, 11, 20])
def test_batches_put_together_are_the_split(size: int) -> None:
    split = read(loader(11), "a loader")
    parts = list(split.batches(size))
    assert torch.equal(torch.cat([part.targets for part in parts]), split.targets)
    assert torch.equal(torch.cat([part.inputs for part in parts]), split.inputs)
    assert all(len(part) == size for part in parts[:-1])


@pytest.mark.parametrize(("fidelity", "expected"), [(1.0, 10), (0.5, 5), (0.24, 2), (0.001, 1)])
def test_share(fidelity: float, expected: int) -> None:
    assert len(Split(torch.zeros(10, 1), torch.zeros(10)).share(fidelity)) == expected


def test_several_inputs_stay_together() -> None:
    batches = [
        ((torch.ones(3, 2), torch.zeros(3, 5)), torch.arange(3)),
        ([torch.ones(2, 2), torch.zeros(2, 5)], torch.arange(2)),
    ]
    split = read(batches, "a loader")
    assert isinstance(split.inputs, tuple)
    assert [tuple(part.shape) for part in split.inputs] == [(5, 2), (5, 5)]
    assert [tuple(part.shape) for part in split.head(4).inputs] == [(4, 2), (4, 5)]


@pytest.mark.parametrize("batches", [[], [(torch.zeros(0, 2), torch.zeros(0))]])
def test_an_empty_loader_is_named(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    with pytest.raises(DataError, match="validation loader of workload 'x' is empty"):
        read(batches, "validation loader of workload 'x'")


@pytest.mark.parametrize(
    ("batch", "described"),
    [
        ({"x": torch.zeros(3, 2), "y": torch.zeros(3)}, "dict"),
        (({"x": torch.zeros(3, 2)}, torch.zeros(3)), r"\(dict, Tensor\)"),
        ([torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3)], r"\(Tensor, Tensor, Tensor\)"),
        ((torch.zeros(3), torch.tensor(1)), r"\(Tensor, Tensor without extents\)"),
        ((torch.tensor(1.0), torch.zeros(3)), r"\(Tensor without extents, Tensor\)"),
        (([torch.zeros(3), "text"], torch.zeros(3)), r"\(\(Tensor, str\), Tensor\)"),
    ],
)
def test_refusals_say_what_the_batch_was_made_of(batch: object, described: str) -> None:
    with pytest.raises(DataError, match=rf"batches of tensors, .*; got {described}; an input may be a tensor, or"):
        read([batch], "a loader")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((torch.zeros(3, 4), torch.zeros(3)), (torch.zeros(2, 5), torch.zeros(2))),
        ((torch.zeros(3, 4), torch.zeros(3)), (torch.zeros(2, 4), torch.zeros(2, 1))),
        (((torch.zeros(3, 4), torch.zeros(3, 4)), torch.zeros(3)), (torch.zeros(2, 4), torch.zeros(2))),
    ],
    ids=["inputs", "targets", "number of inputs"],
)
def test_ragged_batches_are_refused(one: object, other: object) -> None:
    with pytest.raises(DataError, match=r"a loader must yield samples of one shape in all batches; got .*, then of"):
        read([one, other], "a loader")


def test_batches_without_samples_are_passed_over() -> None:
    batches = [(torch.zeros(0, 2), torch.zeros(0)), (torch.ones(3, 2), torch.ones(3)), (torch.zeros(0), torch.zeros(0))]
    assert torch.equal(read(batches, "a loader").inputs, torch.ones(3, 2))


@pytest.mark.parametrize(
    "batch",
    [torch.zeros(3), (torch.zeros(3),), (torch.zeros(3), "labels"), ("text", torch.zeros(3)), ((), torch.zeros(2))],
)
def test_other_batches_are_refused(batch: object) -> None:
    with pytest.raises(DataError, match=r"a loader must yield \(input, target\) batches"):
        read([batch], "a loader")


def test_inputs_and_targets_must_be_as_many() -> None:
    with pytest.raises(DataError, match="as many inputs as targets; got 3, 2"):
        read([(torch.zeros(3, 1), torch.zeros(2))], "a loader")
