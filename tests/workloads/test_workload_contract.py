"""The contract itself: each way of breaking it is caught by the test that is there for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from qsearch.protocols import Workload
from qsearch.testing.workload import WorkloadContract
from qsearch.workloads.base import ArrayWorkload, Samples, Splits


class Sound(ArrayWorkload):
    name = "sound"
    classes = 3
    input_shape = (4,)

    def load(self) -> Splits:
        inputs = torch.arange(80.0).view(20, 4) / 80
        data = Samples(inputs, torch.arange(20) % 3)
        train, validation, test = (data.take(part) for part in torch.arange(20).split([8, 6, 6]))
        return Splits(calibration=train, validation=validation, test=test, train=train)

    def network(self) -> nn.Module:
        network = nn.Sequential(nn.Linear(4, 3))
        nn.init.constant_(network[0].weight, 0.5)
        nn.init.constant_(network[0].bias, 0.1)
        return network


class Nameless(Sound):
    name = ""


class Empty(Sound):
    def validation(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)))


class Keyed(Sound):
    """The loader gives what tokenisers give."""

    def validation(self) -> DataLoader[Any]:
        inputs, targets = self.splits.validation.inputs, self.splits.validation.targets
        return DataLoader([({"x": x}, y) for x, y in zip(inputs, targets, strict=True)], batch_size=3)


class Ragged(Sound):
    def validation(self) -> DataLoader[Any]:
        inputs, targets = self.splits.validation.inputs, self.splits.validation.targets
        return DataLoader([(x[: 4 - row // 3], y) for row, (x, y) in enumerate(zip(inputs, targets, strict=True))], 3)


class Wrapped(Sound):
    """The network answers in a dictionary."""

    def network(self) -> nn.Module:
        class Answers(nn.Sequential):
            def forward(self, x: Tensor) -> dict[str, Tensor]:
                return {"logits": super().forward(x)}

        return Answers(super().network())

    def loss(self, output: dict[str, Tensor], target: Tensor) -> Tensor:
        return super().loss(output["logits"], target)


class Paired(Sound):
    """A network with two inputs, collated to a list by the default loader: sound."""

    def network(self) -> nn.Module:
        class Sum(nn.Module):
            def __init__(self, network: nn.Module) -> None:
                super().__init__()
                self.network = network

            def forward(self, one: Tensor, other: Tensor) -> Tensor:
                return self.network(one + other)

        return Sum(super().network())

    def _loader(self, split: str, samples: Samples) -> DataLoader[Any]:
        return DataLoader([((x, x.sqrt()), y) for x, y in zip(samples.inputs, samples.targets, strict=True)], 4)


class Shuffled(Sound):
    def validation(self) -> DataLoader[Any]:
        return DataLoader(super().validation().dataset, batch_size=3, shuffle=True)


class Leaky(Sound):
    def test(self) -> DataLoader[Any]:
        return self.validation()


class CalibratedOnValidation(Sound):
    def calibration(self) -> DataLoader[Any]:
        return self.validation()


class Training(Sound):
    def model(self) -> nn.Module:
        return super().model().train()


class Dropping(Sound):
    def network(self) -> nn.Module:
        return nn.Sequential(super().network(), AlwaysDropout())


class AlwaysDropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


class Unseeded(Sound):
    def network(self) -> nn.Module:
        return nn.Linear(4, 3)


class Diverged(Sound):
    def network(self) -> nn.Module:
        network = nn.Linear(4, 3)
        nn.init.constant_(network.weight, torch.nan)
        return network


class SummedLoss(Sound):
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return super().loss(output, target) * len(output)


class VectorLoss(Sound):
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, target, reduction="none")


class MeanScore(Sound):
    def score(self, output: Tensor, target: Tensor) -> Tensor:
        return super().score(output, target).mean()


class RelativeScore(Sound):
    def score(self, output: Tensor, target: Tensor) -> Tensor:
        return output[:, 0] - output[:, 0].mean()


def contract(kind: type[Workload]) -> WorkloadContract:
    class Case(WorkloadContract):
        def workload(self) -> Workload:
            return kind()

    return Case()


CHECKS = [name for name in dir(WorkloadContract) if name.startswith("test_")]


@pytest.mark.parametrize("check", CHECKS)
def test_a_sound_workload_passes(check: str) -> None:
    getattr(contract(Sound), check)()
    getattr(contract(Paired), check)()


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (Nameless, "test_it_says_what_it_is_called_and_what_it_measures"),
        (Empty, "test_every_loader_yields_pairs"),
        (Keyed, "test_every_loader_yields_pairs"),
        (Ragged, "test_every_loader_yields_pairs"),
        (Wrapped, "test_the_model_gives_a_row_per_sample"),
        (Shuffled, "test_every_loader_keeps_its_order"),
        (Leaky, "test_splits_do_not_overlap"),
        (CalibratedOnValidation, "test_splits_do_not_overlap"),
        (Training, "test_the_model_is_in_evaluation_mode"),
        (Dropping, "test_the_model_is_deterministic"),
        (Unseeded, "test_two_constructions_have_the_same_weights"),
        (Diverged, "test_weights_are_finite"),
        (SummedLoss, "test_loss_is_a_finite_mean"),
        (VectorLoss, "test_loss_is_a_finite_mean"),
        (MeanScore, "test_score_is_one_number_per_sample"),
        (RelativeScore, "test_score_is_one_number_per_sample"),
    ],
)
def test_a_broken_workload_is_caught(kind: type[Workload], check: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with pytest.raises(AssertionError):
            getattr(contract(kind), check)()
