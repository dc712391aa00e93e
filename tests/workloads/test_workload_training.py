"""Training: the same for the same seed, unseen by the caller; distortions against SciPy's."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from qsearch.workloads.base import Samples
from qsearch.workloads.training import Recipe, distorted, fit, isolated

RECIPE = Recipe(epochs=3, batch_size=8)


def build() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))


def data() -> Samples:
    generator = torch.Generator().manual_seed(7)
    targets = torch.arange(40) % 2
    return Samples(torch.rand(40, 1, 8, 8, generator=generator) * 0.3 + targets.view(-1, 1, 1, 1) * 0.5, targets)


def weights(seed: int) -> torch.Tensor:
    return fit(build, data(), RECIPE, seed)[1].weight.detach()


def fail_in_isolation() -> None:
    with isolated(0):
        assert torch.get_num_threads() == 1
        _ = 1 / 0


def test_a_seed_fixes_the_weights_whatever_the_callers_state() -> None:
    first = weights(1)
    torch.rand(3)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(first, weights(1))
    finally:
        torch.set_num_threads(threads)
    assert not torch.equal(first, weights(2))


def test_the_callers_state_is_put_back() -> None:
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        weights(1)
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError):
            fail_in_isolation()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_trains_where_the_caller_has_gradients_off(mode: type[torch.no_grad]) -> None:
    with mode():
        inside = weights(1)
        assert not torch.is_grad_enabled()
    assert torch.equal(inside, weights(1))


def test_it_learns_and_ends_in_evaluation_mode() -> None:
    network = fit(build, data(), Recipe(epochs=20, batch_size=8), 0)
    assert not network.training
    assert torch.equal(network(data().inputs).argmax(dim=1), data().targets)


def test_memory_layout_changes_speed_and_not_what_is_learnt() -> None:
    def convolutional() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))

    plain = fit(convolutional, data(), RECIPE, 0)
    other = fit(convolutional, data(), replace(RECIPE, channels_last=True), 0)
    assert other[0].weight.is_contiguous()
    torch.testing.assert_close(other[0].weight, plain[0].weight, atol=1e-4, rtol=1e-3)


def test_it_minimises_the_loss_that_it_is_given_on_inputs_as_prepared() -> None:
    seen: list[torch.Tensor] = []

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output[:, 0] - target.float()).square().mean()

    def prepare(inputs: torch.Tensor) -> torch.Tensor:
        seen.append(inputs)
        return inputs.float() / 255

    stored = Samples((data().inputs * 255).to(torch.uint8), data().targets)
    plain = Recipe(epochs=30, batch_size=8, rotation=0, scaling=0, shift=0)
    network = fit(build, stored, plain, 0, loss=loss, prepare=prepare)
    assert {inputs.dtype for inputs in seen} == {torch.uint8}
    with torch.no_grad():
        assert float((network(data().inputs)[:, 0] - stored.targets).abs().max()) < 0.3


def test_flipping_mirrors_about_half_of_the_images() -> None:
    images = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    recipe = Recipe(epochs=1, rotation=0, scaling=0, shift=0, flip=True)
    found = distorted(images, recipe, torch.Generator().manual_seed(0))
    same = torch.isclose(found, images, atol=1e-5).flatten(1).all(1)
    mirrored = torch.isclose(found, images.flip(-1), atol=1e-5).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 70 < int(mirrored.sum()) < 130


def test_no_distortion_changes_nothing() -> None:
    images = data().inputs
    plain = Recipe(epochs=1, rotation=0.0, scaling=0.0, shift=0.0)
    torch.testing.assert_close(distorted(images, plain, torch.Generator()), images, atol=1e-5, rtol=0)


def test_distortion_is_the_affine_map_of_its_draws() -> None:
    images, recipe = data().inputs[:5], Recipe(epochs=1, rotation=20.0, scaling=0.2, shift=1.5)
    found = distorted(images, recipe, torch.Generator().manual_seed(3)).numpy()
    draws = torch.rand(4, 5, generator=torch.Generator().manual_seed(3)).double().numpy() * 2 - 1
    centre = np.full(2, 3.5)
    for image, result, (rotation, scaling, right, down) in zip(images[:, 0].numpy(), found[:, 0], draws.T, strict=True):
        angle, scale = math.radians(20) * rotation, 1 + 0.2 * scaling
        # output (row, column) → where it is read from, about the centre
        matrix = scale * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        offset = centre - matrix @ centre + 1.5 * np.array([down, right])
        expected = ndimage.affine_transform(image, matrix, offset, order=1, mode="grid-constant")
        np.testing.assert_allclose(result, expected, atol=1e-5)
