"""``ArrayWorkload``: fixed order, no trace in the caller's state, one clear line for data that does not fit."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qsearch.errors import DataError
from qsearch.workloads.base import ArrayWorkload, Samples, Splits


class Small(ArrayWorkload):
    name = "small"
    classes = 3
    input_shape = (2,)
    batch_size = 4

    def __init__(self, inputs: Tensor | None = None, targets: Tensor | None = None) -> None:
        self.inputs = torch.arange(20.0).view(10, 2) if inputs is None else inputs
        self.targets = torch.arange(10) % 3 if targets is None else targets

    def load(self) -> Splits:
        samples = Samples(self.inputs, self.targets)
        return Splits(calibration=samples, validation=samples, test=None, train=None)

    def network(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 3), nn.Dropout())


def test_batches_come_in_order_and_the_last_may_be_short() -> None:
    batches = list(Small().validation())
    assert [len(targets) for _, targets in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), Small().inputs)
    assert torch.equal(torch.cat([targets for _, targets in batches]), Small().targets)


def test_passing_over_data_leaves_the_random_state() -> None:
    before = torch.random.get_rng_state()
    list(Small().validation())
    assert torch.equal(before, torch.random.get_rng_state())


def test_models_are_copies_in_evaluation_mode() -> None:
    workload = Small()
    first = workload.model()
    nn.init.zeros_(first[0].weight)
    first.train()
    second = workload.model()
    assert bool(second[0].weight.any())
    assert not any(module.training for module in second.modules())


def test_a_network_whose_weights_hooks_compute_is_copied_too() -> None:
    class Normed(Small):
        def network(self) -> nn.Module:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                return nn.Sequential(nn.utils.weight_norm(nn.Linear(2, 3)))

    workload = Normed()
    one, other = workload.model(), workload.model()
    nn.init.zeros_(one[0].weight_g)
    inputs = torch.ones(4, 2)
    assert not torch.equal(one(inputs), other(inputs))
    assert torch.equal(other(inputs), workload.model()(inputs))


def test_loss_and_score_by_hand() -> None:
    output = torch.tensor([[0.0, math.log(2.0), 0.0], [math.log(4.0), 0.0, 0.0]])  # softmax 1/4 1/2 1/4; 4/6 1/6 1/6
    target = torch.tensor([1, 2])
    assert float(Small().loss(output, target)) == pytest.approx((math.log(2) + math.log(6)) / 2)
    assert Small().score(output, target).tolist() == [1.0, 0.0]


def test_splits_that_do_not_exist() -> None:
    assert Small().train() is None
    with pytest.raises(DataError, match="'small' has no test split; report its validation split"):
        Small().test()


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), "the validation split of 'small' must not be empty"),
        (torch.zeros(3, 2), torch.tensor([0, 1]), "one target per input; got 3 inputs and 2 targets"),
        (torch.zeros(2, 5), torch.tensor([0, 1]), r"must have shape \(2,\); got \(5,\)"),
        (torch.zeros(2, 2, 2), torch.tensor([0, 1]), r"must have shape \(2,\); got \(2, 2\)"),
        (torch.tensor([[0.0, math.nan]]), torch.tensor([0]), "must be finite; got NaN or infinity"),
        (torch.zeros(2, 2), torch.tensor([0, 3]), r"must be within 0\.\.2; got 0\.\.3"),
        (torch.zeros(2, 2), torch.tensor([-1, 1]), r"must be within 0\.\.2; got -1\.\.1"),
        (torch.zeros(2, 2), torch.tensor([0.0, 1.0]), "must be int64 of shape"),
        (torch.zeros(2, 2), torch.tensor([[0], [1]]), "must be int64 of shape"),
    ],
)
def test_data_that_does_not_fit_is_told_in_one_line(inputs: Tensor, targets: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Small(inputs, targets).validation()
    assert "\n" not in str(caught.value)


def test_targets_that_are_maps_have_the_extents_that_they_should() -> None:
    class Maps(Small):
        target_shape = (2, 2)

    targets = torch.arange(8).view(2, 2, 2) % 3
    assert len(Maps(torch.zeros(2, 2), targets).validation().dataset) == 2
    with pytest.raises(DataError, match=r"must be int64 of shape \(N, 2, 2\); got torch.int64 of shape \(2, 2\)"):
        Maps(torch.zeros(2, 2), targets[:, 0]).validation()


def on_meta() -> nn.Module:
    return nn.Linear(2, 3, device="meta")


def mixed() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, device="meta"))


def elsewhere() -> nn.Module:
    return nn.Linear(2, 3).to("cuda")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (on_meta, "the network of 'small' must be on the processor, as its data are; got weight on meta; call"),
        (mixed, r"must be on the processor, as its data are; got 1\.weight on meta; call \.cpu\(\)"),
        pytest.param(
            elsewhere,
            "must be made on a device that is there; got AssertionError: Torch not compiled with CUDA|"
            "must be made on a device that is there; got RuntimeError: .*NVIDIA",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU"),
        ),
    ],
)
def test_a_network_on_another_device_is_told_in_one_line(make: Callable[[], nn.Module], message: str) -> None:
    class Placed(Small):
        def network(self) -> nn.Module:
            return make()

    with pytest.raises(DataError, match=message) as caught:
        Placed().model()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("message", ["PyTorch is not linked with support for mps devices", "no XPU here"])
def test_a_device_is_recognised_however_it_is_written(message: str) -> None:
    class Placed(Small):
        def network(self) -> nn.Module:
            raise RuntimeError(message)

    with pytest.raises(DataError, match=f"must be made on a device that is there; got RuntimeError: {message}"):
        Placed().model()


def test_errors_that_have_nothing_to_do_with_devices_are_left_as_they_are() -> None:
    class Faulty(Small):
        def network(self) -> nn.Module:
            raise RuntimeError("my own")

    with pytest.raises(RuntimeError, match="my own"):
        Faulty().model()


def test_data_on_another_device_is_told() -> None:
    with pytest.raises(
        DataError, match="samples of the validation split of 'small' must be on the processor; got meta"
    ):
        Small(torch.zeros(2, 2, device="meta"), torch.tensor([0, 1])).validation()
