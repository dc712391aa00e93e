"""``WorkloadContract``: what every workload must keep, as tests to inherit.

::

    class TestMyWorkload(WorkloadContract):
        def workload(self) -> Workload:
            return MyWorkload()

It is called several times a test: let a workload that takes long to make keep its weights.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from qsearch.errors import DataError
from qsearch.evaluate.data import Split, read
from qsearch.protocols import Workload
from qsearch.quantize.trace import forward


class WorkloadContract(ABC):
    """Inherit, write :meth:`workload`, and let pytest collect the class under a name that begins with ``Test``.

    Attributes:
        repeated_samples: equal inputs that two splits may share, for data sets that repeat themselves.
    """

    repeated_samples: int = 0

    @abstractmethod
    def workload(self) -> Workload:
        """A newly constructed workload."""

    def test_it_says_what_it_is_called_and_what_it_measures(self) -> None:
        """Name and metric are words; the metric is not called loss."""
        workload = self.workload()
        assert isinstance(workload.name, str), "name must be a string"
        assert workload.name, "name must not be empty"
        assert isinstance(workload.metric, str), "metric must be a string"
        assert workload.metric not in ("", "loss"), "metric names the score; 'loss' is taken"

    def test_every_loader_yields_pairs(self) -> None:
        """Every batch is (input, target), tensors with as many samples each, all samples of one shape."""
        for split, loader in _loaders(self.workload()).items():
            shapes = {_shapes(_read([batch], split)) for batch in loader}
            assert shapes, f"the {split} loader must not be empty"
            assert len(shapes) == 1, f"the samples of {split} must have one shape, got {sorted(shapes)}"

    def test_every_loader_keeps_its_order(self) -> None:
        """Two passes over a loader agree, and so do the loaders of two constructions."""
        first, second = _loaders(self.workload()), _loaders(self.workload())
        for split, loader in first.items():
            samples = _samples(loader)
            assert samples == _samples(loader), f"two passes over {split} must agree"
            assert samples == _samples(second[split]), f"two constructions must agree on {split}"

    def test_splits_do_not_overlap(self) -> None:
        """No two splits share an input, but for calibration and train."""
        inputs = {split: set(_inputs(loader)) for split, loader in _loaders(self.workload()).items()}
        pairs = [(one, other) for one in inputs for other in inputs if one < other]
        for one, other in pairs:
            if {one, other} == {"calibration", "train"}:
                continue  # calibration data are training data
            shared = len(inputs[one] & inputs[other])
            assert shared <= self.repeated_samples, f"{one} and {other} share {shared} inputs"

    def test_the_model_is_in_evaluation_mode(self) -> None:
        """No module is in training mode."""
        training = [
            name or "the network" for name, module in self.workload().model().named_modules() if module.training
        ]
        assert not training, f"modules in training mode: {training}"

    def test_the_model_is_deterministic(self) -> None:
        """One input gives one output."""
        workload = self.workload()
        inputs = _read(islice(workload.validation(), 1), "validation").inputs
        model = workload.model()
        with torch.no_grad():
            first, second = forward(model, inputs), forward(model, inputs)
        assert _fingerprints(first) == _fingerprints(second), "one input must always give one output"

    def test_the_model_gives_a_row_per_sample(self) -> None:
        """The output is one tensor, the samples along its first extent."""
        _, output, target = self._validation_batch()
        assert isinstance(output, Tensor), f"the model must give one tensor, got {type(output).__name__}"
        assert output.shape[:1] == (len(target),), f"{len(target)} samples gave outputs {tuple(output.shape)}"

    def test_two_constructions_have_the_same_weights(self) -> None:
        """Training is seeded, or its result kept."""
        first, second = self.workload().model().state_dict(), self.workload().model().state_dict()
        assert first.keys() == second.keys(), "two constructions must have the same tensors"
        for name, value in first.items():
            assert torch.equal(value, second[name]), f"two constructions differ in {name}"

    def test_weights_are_finite(self) -> None:
        """No weight or statistic is NaN or infinite."""
        for name, value in self.workload().model().state_dict().items():
            assert bool(torch.isfinite(value).all()), f"{name} holds NaN or infinity"

    def test_loss_is_a_finite_mean(self) -> None:
        """The loss is a scalar, the mean over the samples of a batch."""
        workload, output, target = self._validation_batch()
        loss = workload.loss(output, target)
        assert loss.shape == (), f"loss must be a scalar, got shape {tuple(loss.shape)}"
        assert bool(torch.isfinite(loss)), f"loss must be finite, got {loss}"
        single = [workload.loss(output[row : row + 1], target[row : row + 1]) for row in range(len(output))]
        mean = torch.stack(single).double().mean()
        message = f"loss must be the mean over the batch: {float(loss)}, mean over samples {float(mean)}"
        assert torch.isclose(loss.double(), mean, rtol=1e-4, atol=1e-6), message

    def test_score_is_one_number_per_sample(self) -> None:
        """Scores have shape (batch,), are finite, and do not depend on the rest of the batch."""
        workload, output, target = self._validation_batch()
        score = workload.score(output, target)
        assert score.shape == (len(output),), f"score must have shape ({len(output)},), got {tuple(score.shape)}"
        assert bool(torch.isfinite(score).all()), "scores must be finite"
        single = [workload.score(output[row : row + 1], target[row : row + 1]) for row in range(len(output))]
        assert torch.equal(score, torch.cat(single)), "a sample's score must not depend on its batch"

    def _validation_batch(self) -> tuple[Workload, Tensor, Tensor]:
        """The workload, and output and target of its first validation batch."""
        workload = self.workload()
        first = _read(islice(workload.validation(), 1), "validation")
        with torch.no_grad():
            return workload, forward(workload.model(), first.inputs), first.targets


def _loaders(workload: Workload) -> dict[str, DataLoader[Any]]:
    """The loaders that the workload has."""
    found = {"calibration": workload.calibration(), "validation": workload.validation()}
    train = workload.train()
    if train is not None:
        found["train"] = train
    with suppress(DataError):  # how a workload says that it has no test split
        found["test"] = workload.test()
    return found


def _read(batches: Iterable[Any], split: str) -> Split:
    """Batches as evaluators read them; what they refuse is a failure here."""
    try:
        return read(batches, f"the {split} loader")
    except DataError as error:
        raise AssertionError(str(error)) from error


def _shapes(data: Split) -> tuple[tuple[int, ...], ...]:
    """Extents of one sample: of its inputs and its target."""
    inputs = data.inputs if isinstance(data.inputs, tuple) else (data.inputs,)
    return tuple(tuple(part.shape[1:]) for part in (*inputs, data.targets))


def _samples(loader: DataLoader[Any]) -> list[bytes]:
    """A digest of each sample, target included, in order."""
    return [
        one + other
        for inputs, targets in loader
        for one, other in zip(_fingerprints(inputs), _fingerprints(targets), strict=True)
    ]


def _inputs(loader: DataLoader[Any]) -> list[bytes]:
    """A digest of each input, in order."""
    return [digest for inputs, _ in loader for digest in _fingerprints(inputs)]


def _fingerprints(value: Any) -> list[bytes]:
    """A digest per sample of a batch: of a tensor's rows, or of what containers of tensors hold for it."""
    if isinstance(value, Tensor):
        rows = value.detach().cpu().contiguous()
        return [hashlib.sha256(row.numpy().tobytes()).digest() for row in rows]
    if isinstance(value, tuple | list):
        return [b"".join(parts) for parts in zip(*map(_fingerprints, value), strict=True)]
    raise AssertionError(f"a batch must be made of tensors, got {type(value).__name__}")
