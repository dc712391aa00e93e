"""Whether a file computes what was evaluated.

Notation: y outputs of the evaluated network on the validation samples, z those of the file's own runtime, (n, C, …).

Where C classes stand along the second extent, C ≥ 2, predictions are compared: argmax_C y with argmax_C z, at each sample,
and at each position of a map or a sequence. Other outputs are compared by ‖z − y‖ / ‖y‖. Both are bound by one number:
predictions must agree in at least 99.9 %, so that among fewer than 1,000 all must; the relative error is at most 0.1 %.

A runtime adds in another order, which carries a value here and there across the edge between two codes, and the layers
behind make much of that: of ResNet-20's predictions on 250 images, at bits mixed from 2 to 8, torch alone changes two
when it evaluates one image at a time. What cannot be told apart so is no fault of a file. One that misses the bound still
agrees if it meets it among the predictions that the evaluated network decides (see :mod:`qsearch.export.rounding`), if
those are nine in ten, and if its outputs differ from y by no more, on average, than ``LEEWAY`` times what those of the
evaluated network do when it is evaluated again. For outputs that are no classes the last of these is all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

REQUIRED = 0.999
"""Least share of predictions that agree; one less it is the greatest relative error of outputs that are no classes."""

LEEWAY = 2.0
"""The difference of two evaluations is a matter of few values and samples: its mean may well be half of another's."""


@dataclass(frozen=True)
class Agreement:
    """How far two sets of outputs agree.

    Attributes:
        same, compared: predictions that agree, and how many there are; 0 of 0 for outputs that are no classes.
        largest, mean: of |z − y|.
        relative: ‖z − y‖ / ‖y‖.
    """

    same: int
    compared: int
    largest: float
    mean: float
    relative: float

    @property
    def holds(self) -> bool:
        """Whether the file may leave."""
        if self.compared:
            return self.same >= REQUIRED * self.compared
        return self.relative <= 1 - REQUIRED

    def __str__(self) -> str:
        differences = f"outputs differ by {self.mean:.1e} on average, {self.largest:.1e} at most"
        if not self.compared:
            return f"relative error {self.relative:.1e} (at most {1 - REQUIRED:.1%}); {differences}"
        share = f"{self.same:,} of {self.compared:,} predictions the same ({self.same / self.compared:.2%})"
        return f"{share}; {differences}"


def compare(evaluated: Tensor, found: Tensor, counted: Tensor | None = None) -> Agreement:
    """Hold a runtime's outputs z against the evaluated ones y, both of shape (n, …); NaN agrees with nothing.

    Args:
        counted: the predictions that are compared, booleans of shape (n, …); all if None.
    """
    y, z = evaluated.double(), found.double()
    if z.shape != y.shape:
        z = torch.full_like(y, torch.nan)
    difference = (z - y).abs()
    norm = float(y.norm())
    classes = y.dim() >= 2 and y.shape[1] >= 2
    same = (y.argmax(1) == z.argmax(1)) & torch.isfinite(z).all(1) if classes else torch.zeros(0)
    if counted is not None:
        same = same[counted]
    return Agreement(
        same=int(same.sum()),
        compared=same.numel(),
        largest=float(difference.max()),
        mean=float(difference.mean()),
        relative=float(difference.norm()) / norm if norm else float(difference.norm()),
    )
