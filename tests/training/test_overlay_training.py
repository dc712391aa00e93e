"""Overlaid weights in training: what they begin as, their gradients, and that they settle on what they computed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from qsearch.overlay import PATTERNS
from qsearch.quantize.overlay import OverlaidWeight, OverlayTable
from qsearch.quantize.weights import WeightTable
from qsearch.training.families import FAMILIES
from qsearch.training.overlay import OverlaidLearner, overlaid_learner

CHANNELS = PATTERNS.index("channels")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def begun(weight: Tensor, bits: int = 4, kept: int = 2, family: str = "lsq") -> tuple[OverlaidWeight, OverlaidLearner]:
    start = OverlayTable(WeightTable("w", weight), 8).overlaid(bits, kept, CHANNELS)
    return start, overlaid_learner(start, weight, FAMILIES[family])


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kept", [0, 2, 4])
def test_begins_as_the_calibrated_overlay_to_the_last_bit(bits: int, kept: int) -> None:
    weight = normal(6, 4, 3, 3)
    start, learner = begun(weight, bits, kept)
    assert torch.equal(learner(weight), start.values)
    found = learner.overlaid(weight)
    for name in ("ternary", "ternary_scales", "mask", "codes", "scales", "values", "errors"):
        assert torch.equal(getattr(found, name), getattr(start, name)), name


@pytest.mark.parametrize("family", list(FAMILIES))
def test_settles_on_what_it_computes(family: str) -> None:
    """After some steps, for every family."""
    weight = torch.nn.Parameter(normal(4, 8, 3, 3))
    start, learner = begun(weight.detach().clone(), family=family)
    optimiser = torch.optim.SGD([weight, *learner.parameters()], lr=0.05)
    target = normal(4, 8, 3, 3, seed=1)
    for _ in range(5):
        optimiser.zero_grad()
        functional.mse_loss(learner(weight), target, reduction="sum").div(8).backward()
        optimiser.step()
        learner.constrain()
    found = learner.overlaid(weight)
    assert torch.equal(found.values, learner(weight).detach())
    assert torch.equal(found.mask, start.mask), "the mask stays"
    assert not torch.equal(found.ternary, start.ternary), "codes follow the weight"
    assert not (found.ternary * found.codes).any()
    (one,) = learner.settle(weight)
    assert torch.equal(one.values, found.values)


def test_gradients_go_straight_through_where_nothing_is_kept() -> None:
    weight = normal(3, 8, 2, 2).requires_grad_(True)
    _, learner = begun(weight.detach())
    upstream = normal(3, 8, 2, 2, seed=2)
    learner(weight).backward(upstream)
    assert weight.grad is not None
    assert torch.equal(weight.grad[~learner.mask], upstream[~learner.mask])
    alone = weight.detach().clone().requires_grad_(True)
    learner.high(alone).backward(upstream * learner.mask)
    assert alone.grad is not None
    assert torch.equal(weight.grad[learner.mask], alone.grad[learner.mask])


def test_steps_learn_from_kept_weights_only() -> None:
    weight = normal(3, 8, 2, 2)
    _, learner = begun(weight)
    (step,) = learner.parameters()
    learner(weight).backward((~learner.mask).float())
    assert step.grad is not None
    assert not step.grad.any()


def test_training_lowers_what_post_training_leaves() -> None:
    """A linear layer whose targets are those of float weights: the superposition fits its outputs better after training."""
    x, teacher = normal(256, 16, seed=3), normal(8, 16, seed=4)
    x = x + 0.5 * (x @ normal(16, 16, seed=5))  # correlated, so that rounding each weight by itself is not the best
    weight = torch.nn.Parameter(teacher.clone())
    _, learner = begun(teacher, bits=4, kept=1)
    optimiser = torch.optim.Adam([weight, *learner.parameters()], lr=0.003)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 200)

    def loss() -> Tensor:
        return functional.mse_loss(functional.linear(x, learner(weight)), functional.linear(x, teacher))

    first = float(loss().detach())
    for _ in range(200):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
        learner.constrain()
        schedule.step()
    assert float(loss().detach()) < 0.8 * first


def test_kept_floats_learn_as_they_are() -> None:
    weight = normal(4, 8).requires_grad_(True)
    start, learner = begun(weight.detach(), bits=32)
    assert torch.equal(learner(weight), start.values)
    learner(weight).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones(4, 8))
    found = learner.overlaid(weight + 0.5)
    assert torch.equal(found.values, learner(weight + 0.5).detach())
    assert torch.equal(found.values[found.mask], (weight + 0.5)[found.mask])
    assert not found.codes.any()
    assert not list(learner.parameters())
