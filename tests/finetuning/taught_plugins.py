"""Workloads with training data, small enough to be trained in a fraction of a second."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "campaign"))  # a process of its own has no conftest

from tiny_plugins import Tiny

from qsearch.assignment import BitAssignment
from qsearch.trial import Quality
from qsearch.workloads.base import Samples, Splits

TAUGHT = Path(__file__)


def taught(name: str) -> str:
    return f"{TAUGHT}:{name}"


class Taught(Tiny):
    """The small network with training data, and augmentation by chance."""

    name = "taught"
    seconds = 0.0

    def load(self) -> Splits:
        samples = torch.randn(200, 1, 6, 6, generator=torch.Generator().manual_seed(2))
        with torch.inference_mode():
            targets = self.model()(samples).argmax(1)
        return replace(super().load(), train=Samples(samples, targets.clone()))

    def augment(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        time.sleep(self.seconds)
        return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)


class Unhurried(Taught):
    """Takes its time over each batch, so that a test can stop it within an epoch."""

    name = "unhurried"
    seconds = 0.1


class Untested(Taught):
    """No test split."""

    name = "untested"

    def load(self) -> Splits:
        return replace(super().load(), test=None)


class Distance:
    """Judges bits by their sum: an evaluator without a network."""

    def __init__(self, workload: object, layers: object) -> None:
        pass

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        return Quality.from_outcomes(np.full(4, float(sum(map(assignment.highest, assignment)))), 1.0, "accuracy")
