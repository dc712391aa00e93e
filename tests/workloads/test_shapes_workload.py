"""``shapes-unet``: pictures as drawn, Dice by counting, a loss whose gradient is right, and training that works."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from qsearch.assignment import BitAssignment
from qsearch.models.unet import UNet
from qsearch.registry import create
from qsearch.setting import layers_of
from qsearch.sites import build_space
from qsearch.workloads.base import Splits
from qsearch.workloads.segmentation import cross_entropy_and_dice, dice
from qsearch.workloads.shape_images import CLASSES, _disc, _rectangle, _triangle, draw
from qsearch.workloads.shapes import ShapesUNet
from qsearch.workloads.training import Recipe


def test_pictures_are_drawn_from_their_seed() -> None:
    first, again, other = draw(20, 3), draw(20, 3), draw(20, 4)
    assert first.inputs.shape == (20, 3, 32, 32)
    assert first.targets.shape == (20, 32, 32)
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.targets, other.targets)
    assert torch.equal(draw(5, 3).inputs, first.inputs[:5])


def test_every_class_is_common_and_shapes_stand_out() -> None:
    samples = draw(300, 0)
    shares = np.bincount(samples.targets.flatten(), minlength=len(CLASSES)) / samples.targets.numel()
    assert shares[0] == pytest.approx(0.75, abs=0.15)
    assert shares[1:].min() > 0.03
    inside, outside = (
        torch.stack(
            [image[:, mask].float().mean(1) for image, mask in zip(samples.inputs, masks, strict=True) if mask.any()]
        )
        for masks in (
            samples.targets > 0,
            (samples.targets == 0) & (samples.targets > 0).flatten(1).any(1)[:, None, None],
        )
    )
    assert float((inside - outside).abs().mean()) > 20  # grey levels; the noise of one pixel is 20


@pytest.mark.parametrize(
    ("shape", "area"),
    [(_disc, math.pi), (_rectangle, 4 * 0.5 / 1.25), (_triangle, 3 * math.sqrt(3) / 4)],
)
def test_shapes_have_their_area_and_stay_within_their_circle(shape: object, area: float) -> None:
    v, u = np.mgrid[-150:151, -150:151].astype(float)
    inside = shape(u, v, 100.0, 0.5)  # type: ignore[operator]
    assert inside.sum() / 100**2 == pytest.approx(area, rel=0.02)
    assert np.hypot(u, v)[inside].max() <= 100 + 1e-9
    assert inside[150, 150]


def counted_dice(predicted: Tensor, target: Tensor) -> float:
    """The definition, pixel by pixel."""
    values = []
    for label in set(target.flatten().tolist()):
        p = {place for place, value in enumerate(predicted.flatten().tolist()) if value == label}
        t = {place for place, value in enumerate(target.flatten().tolist()) if value == label}
        values.append(2 * len(p & t) / (len(p) + len(t)))
    return sum(values) / len(values)


def test_dice_is_what_counting_gives() -> None:
    generator = torch.Generator().manual_seed(0)
    target = draw(12, 9, size=16).targets
    output = torch.randn(12, 4, 16, 16, generator=generator) + 2 * F.one_hot(target, 4).movedim(-1, 1)
    expected = [counted_dice(one.argmax(0), other) for one, other in zip(output, target, strict=True)]
    np.testing.assert_allclose(dice(output, target).numpy(), expected, rtol=1e-6)


def test_dice_of_a_perfect_and_of_a_wrong_answer() -> None:
    target = torch.tensor([[[0, 0], [2, 2]], [[1, 1], [1, 1]]])
    right = 9.0 * F.one_hot(target, 4).movedim(-1, 1).float()
    assert dice(right, target).tolist() == [1.0, 1.0]
    wrong = 9.0 * F.one_hot(3 - target, 4).movedim(-1, 1).float()
    assert dice(wrong, target).tolist() == [0.0, 0.0]
    background = 9.0 * F.one_hot(torch.zeros_like(target), 4).movedim(-1, 1).float()
    assert dice(background, target).tolist() == pytest.approx([1 / 3, 0.0])  # (2·2/6 + 0) / 2


def test_the_loss_by_hand_and_its_gradient_by_differences() -> None:
    target = torch.tensor([[[0, 1], [1, 1]]])
    flat = torch.zeros(1, 4, 2, 2)
    # p = 1/4 everywhere: Dice of 0 is 2·¼/(1 + 1), of 1 is 2·¾/(1 + 3)
    assert float(cross_entropy_and_dice(flat, target)) == pytest.approx(math.log(4) + 1 - (0.25 + 0.375) / 2)
    output = torch.randn(1, 4, 2, 2, dtype=torch.double, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: cross_entropy_and_dice(z, target), output)


def test_the_network_joins_both_paths_at_every_scale() -> None:
    network = UNet((4, 6, 8)).eval()
    inputs = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        output = network(inputs)
        fine = network.encoders[0](inputs)
        middle = network.encoders[1](F.max_pool2d(fine, 2))
        coarse = network.encoders[2](F.max_pool2d(middle, 2))
        up = network.decoders[0](torch.cat([F.interpolate(coarse, scale_factor=2, mode="nearest"), middle], 1))
        up = network.decoders[1](torch.cat([F.interpolate(up, scale_factor=2, mode="nearest"), fine], 1))
        assert torch.equal(output, network.classify(up))
    assert output.shape == (2, 4, 16, 16)


def test_the_splits_are_apart_and_as_large_as_they_say() -> None:
    splits = ShapesUNet(ShapesUNet.Options(calibration=40)).splits
    assert splits.train is not None
    assert splits.test is not None
    parts = (splits.calibration, splits.train, splits.validation, splits.test)
    assert [len(part) for part in parts] == [40, 1600, 200, 200]
    rows = [{row.numpy().tobytes() for row in part.inputs} for part in parts[1:]]
    assert len(set.union(*rows)) == 2000


def test_a_few_steps_of_training_lower_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Quick(ShapesUNet):
        recipe: ClassVar[Recipe] = Recipe(epochs=1, rotation=0, scaling=0, shift=0, channels_last=True)

    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path))
    workload = Quick(Quick.Options())
    inputs, targets = next(iter(workload.validation()))
    torch.manual_seed(0)
    with torch.no_grad():
        before, after = (float(workload.loss(net(inputs), targets)) for net in (workload.build(), workload.model()))
    assert after < 0.85 * before


@pytest.mark.slow
def test_the_default_network_finds_shapes() -> None:
    workload = create("workloads", "shapes-unet")
    model = workload.model()
    with torch.no_grad():
        scores = torch.cat([workload.score(model(inputs), targets) for inputs, targets in workload.test()])
    assert float(scores.mean()) > 0.75


class Untrained(ShapesUNet):
    """Random weights, few pictures: what is tested is that outputs with pixels go all the way."""

    def network(self) -> nn.Module:
        torch.manual_seed(0)
        return self.build().eval()

    def load(self) -> Splits:
        return Splits(draw(12, 0), draw(20, 1), None, None)


def test_outputs_with_pixels_are_evaluated_probed_and_differentiated() -> None:
    workload = Untrained(Untrained.Options())
    layers = layers_of(workload)
    assert len(layers) == 11
    evaluator = create("evaluators", "ptq", {"batch_size": 8}, workload, layers)
    inputs, targets = next(iter(workload.validation()))
    with torch.no_grad():
        expected = workload.score(workload.model()(inputs), targets)
    floating = evaluator.evaluate(BitAssignment({}))
    assert floating.metric == pytest.approx(float(expected.mean()), abs=1e-5)
    low = BitAssignment(dict.fromkeys(evaluator.network.sites, 2))
    assert evaluator.evaluate(low).loss != floating.loss
    assert evaluator.probe(low).divergence > 0
    table = create("sensitivities", "fisher").table(
        build_space(layers, weight_bits=[2, 8], activation_bits=[2, 8]), evaluator
    )
    assert len(table.damage) == 22
    for name, damage in table.damage.items():
        assert damage[0, 0] > damage[0, 1] >= 0, name
