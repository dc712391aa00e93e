"""Training a small network on images: seeded, on one thread, leaving the caller's random state and threads alone.

Notation: N images (N, C, H, W) with targets (N, …); each is seen once an epoch, freshly distorted.

The schedule is one cycle (Smith and Topin, 2018): the rate rises to its peak over the first 30 % of the steps, then
falls to nearly nothing along a cosine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812  # the name torch's own documentation uses
from torch import Generator, Tensor, nn

from qsearch.workloads.base import Samples

Loss = Callable[[Tensor, Tensor], Tensor]
"""Output and target of a batch → scalar."""


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the data.
        batch_size: images per step.
        peak_rate: highest learning rate of the cycle.
        momentum: of Nesterov's method.
        weight_decay: L2 penalty.
        label_smoothing: probability spread over all classes.
        rotation, scaling, shift: bounds of the random distortion, in degrees, as a share, in pixels; none where all are
            zero, as targets that are images must not be left behind.
        flip: half of the images are mirrored, left to right, as part of the distortion.
        channels_last: keep the channels of a pixel together in memory, which depthwise convolutions are faster with.
        version: raised whenever training changes in a way that the numbers above do not show.
    """

    epochs: int
    batch_size: int = 50
    peak_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-3
    label_smoothing: float = 0.1
    rotation: float = 10.0
    scaling: float = 0.1
    shift: float = 1.0
    flip: bool = False
    channels_last: bool = False
    version: int = 1


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Torch on one thread, seeded, with gradients on; what the caller had is put back.

    One thread makes the result independent of how many the caller uses: sums are taken in one order.
    """
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def fit(
    build: Callable[[], nn.Module],
    samples: Samples,
    recipe: Recipe,
    seed: int,
    *,
    loss: Loss | None = None,
    prepare: Callable[[Tensor], Tensor] = lambda inputs: inputs,
    after_step: Callable[[nn.Module], None] = lambda network: None,
) -> nn.Module:
    """A network from ``build``, trained on ``samples``, in evaluation mode; the same for the same seed.

    Args:
        loss: what to minimise; the cross-entropy with the recipe's smoothing where None.
        prepare: stored inputs of a batch → inputs of the network.
        after_step: what is done to the network then.
    """
    minimised = loss or partial(F.cross_entropy, label_smoothing=recipe.label_smoothing)
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    with isolated(seed):
        network = build().to(memory_format=layout).train()  # type: ignore[call-overload]  # torch leaves it out
        optimiser, schedule = _optimiser(network, recipe, len(samples))
        generator = torch.Generator().manual_seed(seed)
        for _ in range(recipe.epochs):
            order = torch.randperm(len(samples), generator=generator)
            for start in range(0, len(order), recipe.batch_size):
                batch = samples.take(order[start : start + recipe.batch_size])
                inputs = distorted(prepare(batch.inputs), recipe, generator).contiguous(memory_format=layout)
                optimiser.zero_grad()
                minimised(network(inputs), batch.targets).backward()  # type: ignore[no-untyped-call]  # torch leaves it
                optimiser.step()
                schedule.step()
                after_step(network)
    return network.to(memory_format=torch.contiguous_format).eval()  # type: ignore[no-any-return]  # as above


def _optimiser(
    network: nn.Module, recipe: Recipe, count: int
) -> tuple[torch.optim.SGD, torch.optim.lr_scheduler.OneCycleLR]:
    """The recipe's optimiser and schedule for ``count`` samples."""
    optimiser = torch.optim.SGD(
        network.parameters(),
        lr=recipe.peak_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    steps = recipe.epochs * math.ceil(count / recipe.batch_size)
    return optimiser, torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.peak_rate, total_steps=steps)


def distorted(images: Tensor, recipe: Recipe, generator: Generator) -> Tensor:
    """Each image rotated, scaled, shifted and mirrored at random, zero outside: (N, C, H, W) → (N, C, H, W)."""
    if not (recipe.rotation or recipe.scaling or recipe.shift or recipe.flip):
        return images
    count, _, height, width = images.shape
    rotation, scaling, right, down = torch.rand(4, count, generator=generator) * 2 - 1
    angle, scale = rotation * math.radians(recipe.rotation), 1 + scaling * recipe.scaling
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    # the grid runs from −1 to 1, so a pixel is 2 / extent
    right, down = right * recipe.shift * 2 / width, down * recipe.shift * 2 / height
    rows = torch.stack([torch.stack([cosine, -sine, right], dim=1), torch.stack([sine, cosine, down], dim=1)], dim=1)
    if recipe.flip:
        rows[:, :, 0] *= (torch.rand(count, 1, generator=generator) < 0.5).float() * 2 - 1
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
