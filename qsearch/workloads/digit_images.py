"""scikit-learn's digits, split: 1,797 grey images of 8×8, values 0 … 16, divided by 16.

Source: E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI, 1998. Split by class with a fixed seed:
1,000 to train, of which some calibrate, 400 to validate, 397 to test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits

from qsearch.workloads.base import Samples, Splits
from qsearch.workloads.division import divide

CLASSES, SHAPE = 10, (1, 8, 8)
TRAIN, VALIDATION = 1000, 400
"""Images of these splits; the rest are for test."""


@dataclass(frozen=True, eq=False)
class DigitSplits(Splits):
    """All splits are there."""

    test: Samples
    train: Samples


def digit_splits(calibration: int) -> DigitSplits:
    """The digits, float32 (N, 1, 8, 8) within [0, 1]; ``calibration`` of the training images calibrate."""
    digits = load_digits()
    images = torch.from_numpy(digits.images / 16).float().unsqueeze(1)
    data = Samples(images, torch.from_numpy(digits.target).long())
    train, rest = divide(np.arange(len(digits.target)), digits.target, TRAIN)
    validation, test = divide(rest, digits.target, VALIDATION)
    chosen, _ = divide(train, digits.target, calibration)
    return DigitSplits(*(data.take(torch.from_numpy(part)) for part in (chosen, validation, test, train)))
