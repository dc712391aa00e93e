"""Inputs that vary at random: which workloads can, and that nothing but the inputs' content changes."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from qsearch.protocols import Augmenting
from qsearch.workloads.cifar import SHIFT, CifarWorkload
from qsearch.workloads.digits import DigitsResNet
from qsearch.workloads.shapes import ShapesUNet
from qsearch.workloads.training import distorted


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def digits() -> DigitsResNet:
    return DigitsResNet(DigitsResNet.Options())


def test_a_network_that_trains_itself_is_distorted_as_in_its_training() -> None:
    workload, inputs = digits(), torch.rand(20, 1, 8, 8, generator=seeded())
    assert isinstance(workload, Augmenting)
    found = workload.augment(inputs, seeded(1))
    assert torch.equal(found, distorted(inputs, workload.recipe, seeded(1)))
    assert not torch.equal(found, inputs)
    assert not torch.equal(found, workload.augment(inputs, seeded(2)))


def test_pictures_whose_targets_are_pictures_stay() -> None:
    inputs = torch.rand(4, 3, 32, 32, generator=seeded())
    assert torch.equal(ShapesUNet(ShapesUNet.Options()).augment(inputs, seeded(1)), inputs)


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """(C, H, W) as seen from ``down`` rows and ``right`` columns further, zero outside."""
    found, (height, width) = torch.zeros_like(image), image.shape[1:]
    rows, columns = (range(max(0, -by), extent - max(0, by)) for by, extent in ((down, height), (right, width)))
    kept = image[:, rows.start + down : rows.stop + down, columns.start + right : columns.stop + right]
    found[:, rows.start : rows.stop, columns.start : columns.stop] = kept
    return found


@pytest.mark.parametrize("seed", range(3))
def test_cifar_images_are_mirrored_and_shifted(seed: int) -> None:
    inputs = torch.rand(6, 3, 10, 12, generator=seeded(9))
    before = inputs.clone()
    found = CifarWorkload.augment(object.__new__(_Cifar), inputs, seeded(seed))
    assert torch.equal(inputs, before)
    for image, varied in zip(inputs, found, strict=True):
        ways = [
            (mirrored, down, right)
            for mirrored in (False, True)
            for down in range(-SHIFT, SHIFT + 1)
            for right in range(-SHIFT, SHIFT + 1)
            if torch.equal(shifted(image.flip(2) if mirrored else image, down, right), varied)
        ]
        assert len(ways) == 1


def test_cifar_images_vary_in_every_way() -> None:
    """Of a picture with one bright pixel in the middle: each place and both halves are as likely."""
    picture = torch.zeros(4000, 1, 9, 9)
    picture[:, 0, 4, 4] = 1
    picture[:, 0, 4, 5] = 2
    found = CifarWorkload.augment(object.__new__(_Cifar), picture, seeded())
    places = (found[:, 0] == 1).flatten(1).float().mean(0)
    assert places.min() > 0.5 / 81
    assert places.max() < 2 / 81
    bright = (found[:, 0] == 2).flatten(1).float().argmax(1) - (found[:, 0] == 1).flatten(1).float().argmax(1)
    both = bright[(found[:, 0] == 2).flatten(1).any(1)]
    assert float((both == -1).float().mean()) == pytest.approx(0.5, abs=0.05)


class _Cifar(CifarWorkload):
    """Without images."""

    name = "cifar"

    def network(self) -> torch.nn.Module:
        raise AssertionError
