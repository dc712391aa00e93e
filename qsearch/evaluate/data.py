"""A workload's data in memory, read once.

Notation: n samples; the first extent of every tensor is the sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from qsearch.errors import DataError
from qsearch.quantize.trace import Inputs
from qsearch.training.lessons import Batch


class Split(Batch):
    """Samples of one split, in the loader's order."""

    def head(self, count: int) -> Split:
        """The first ``count`` samples; all where there are fewer."""
        return Split(_rows(self.inputs, 0, count), self.targets[:count])

    def share(self, fidelity: float) -> Split:
        """The first ``fidelity`` · n samples, at least one."""
        return self if fidelity == 1 else self.head(max(1, round(fidelity * len(self))))

    def batches(self, size: int) -> Iterator[Split]:
        """The samples in order, ``size`` at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield Split(_rows(self.inputs, start, start + size), self.targets[start : start + size])


def read(loader: Iterable[Any], name: str, samples: int | None = None) -> Split:
    """Read the first ``samples`` samples of a loader; all where it is None or has fewer.

    Args:
        loader: yields ``(input, target)``; an input is a tensor, or a list or tuple of tensors. Batches without
            samples are passed over.
        name: what it is, for messages: "validation loader of workload 'digits-resnet'".

    Raises:
        DataError: it is empty, yields something else, or batches whose samples differ in shape.
    """
    inputs: list[tuple[Tensor, ...]] = []
    targets: list[Tensor] = []
    count, single = 0, True
    for batch in loader:
        given, target = _pair(batch, name)
        if not len(target):
            continue
        single = isinstance(given, Tensor)
        inputs.append((given,) if isinstance(given, Tensor) else given)
        targets.append(target)
        _check_alike(inputs, targets, name)
        count += len(target)
        if samples is not None and count >= samples:
            break
    if not count:
        raise DataError(f"{name} is empty", fix="it must yield at least one (input, target) batch")
    columns = tuple(torch.cat(column) for column in zip(*inputs, strict=True))
    split = Split(columns[0] if single else columns, torch.cat(targets))
    return split if samples is None else split.head(samples)


def _pair(batch: Any, name: str) -> tuple[Inputs, Tensor]:
    """Input and target of one batch."""
    if isinstance(batch, list | tuple) and len(batch) == 2:
        given, target = batch
        given = tuple(given) if isinstance(given, list | tuple) else given
        tensors = given if isinstance(given, tuple) else (given,)
        if tensors and all(isinstance(part, Tensor) and part.dim() for part in (*tensors, target)):
            counts = [len(part) for part in (*tensors, target)]
            if len(set(counts)) > 1:
                raise DataError(f"{name} must yield as many inputs as targets", got=", ".join(map(str, counts)))
            return given, target
    raise DataError(
        f"{name} must yield (input, target) batches of tensors, the samples along their first extents",
        got=_described(batch),
        fix="an input may be a tensor, or a list or tuple of tensors that the network takes in this order",
    )


def _check_alike(inputs: Sequence[tuple[Tensor, ...]], targets: Sequence[Tensor], name: str) -> None:
    """Raise DataError unless the samples of the last batch have the shapes of those of the first."""
    first, last = ([tuple(part.shape[1:]) for part in (*inputs[row], targets[row])] for row in (0, -1))
    if first != last:
        raise DataError(
            f"{name} must yield samples of one shape in all batches",
            got=f"inputs and target of {', '.join(map(str, first))}, then of {', '.join(map(str, last))}",
            fix="pad or crop them",
        )


def _described(value: Any) -> str:
    """What a batch is made of: "(dict, Tensor)"."""
    if isinstance(value, list | tuple):
        parts = [_described(part) for part in value[:4]] + ["…"] * (len(value) > 4)
        return f"({', '.join(parts)})"
    scalar = isinstance(value, Tensor) and not value.dim()
    return "Tensor without extents" if scalar else type(value).__name__


def _rows(inputs: Inputs, start: int, stop: int) -> Inputs:
    if isinstance(inputs, tuple):
        return tuple(part[start:stop] for part in inputs)
    return inputs[start:stop]
