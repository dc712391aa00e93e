"""Training a spiking network in float by surrogate gradients: weights, biases, leaks and thresholds together.

Adam (Kingma and Ba, 2015) without a penalty on weights; the rate falls along a cosine to nothing. Seeded, on one thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from qsearch.errors import EvaluationError
from qsearch.spiking.neurons import Integrator
from qsearch.workloads.base import Samples
from qsearch.workloads.training import Loss, isolated

Vary = Callable[[Tensor, Generator], Tensor]
"""A batch of inputs → the same, each varied at random."""


@dataclass(frozen=True)
class Course:
    """How to train.

    Attributes:
        epochs: passes over the data.
        batch_size: samples of a step.
        rate: highest learning rate.
    """

    epochs: int
    batch_size: int = 100
    rate: float = 1e-3


def trained(
    network: nn.Module, samples: Samples, loss: Loss, course: Course, seed: int, vary: Vary | None = None
) -> tuple[nn.Module, float]:
    """The network given, trained, in evaluation mode, and its mean loss in the last epoch; the same for the same seed.

    Raises:
        EvaluationError: the loss is not finite.
    """
    steps = course.epochs * math.ceil(len(samples) / course.batch_size)
    mean = math.nan
    with isolated(seed):
        network.requires_grad_(True).train()
        optimiser = torch.optim.Adam(network.parameters(), lr=course.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        generator = torch.Generator().manual_seed(seed)
        for epoch in range(course.epochs):
            losses = []
            for part in torch.split(torch.randperm(len(samples), generator=generator), course.batch_size):
                batch = samples.take(part)
                inputs = batch.inputs if vary is None else vary(batch.inputs, generator)
                optimiser.zero_grad()
                found = loss(network(inputs), batch.targets)
                found.backward()  # type: ignore[no-untyped-call]  # torch leaves it out
                optimiser.step()
                schedule.step()
                constrain(network)
                losses.append(float(found.detach()))
            mean = math.fsum(losses) / len(losses)
            if not math.isfinite(mean):
                raise EvaluationError(
                    "training must not diverge", got=f"loss {mean} in epoch {epoch + 1}", fix="lower the rate"
                )
    return network.requires_grad_(False).eval(), mean


def constrain(network: nn.Module) -> None:
    """Bring the constants of all neurons back to where they make sense."""
    for module in network.modules():
        if isinstance(module, Integrator):
            module.constrain()
