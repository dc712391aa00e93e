"""Which predictions the evaluated network itself decides, however its additions are rounded.

Notation: y outputs of the evaluated network, y′ those of one of its re-evaluations (in double precision, on one sample at
a time), (n, C, …) with C classes; y₍₁₎ ≥ y₍₂₎ the two largest of a prediction's outputs.

    η = max |y′ − y|  over the re-evaluations and all outputs of a sample

A prediction is *undecided* where a re-evaluation changes it, or where y₍₁₎ − y₍₂₎ < 2·η: outputs that are each off by η
can swap the two. η is the sample's own, as rounding tells where a value is carried across the edge between two codes:
in most samples nowhere, so that one level for all samples would be too much for these and too little for the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qsearch.export.agreement import LEEWAY, Agreement, compare

DECIDED = 0.9
"""Least share of predictions that must be decided: of a network that decides fewer, agreement would say too little."""


@dataclass(frozen=True)
class Rounding:
    """What re-evaluations of a network tell.

    Attributes:
        evaluated: y.
        again: how it was evaluated again → how far those outputs agree with y; at least one.
        decided: of each prediction, (n, …); empty for outputs that are no classes.
        changed: predictions that a re-evaluation changes.
    """

    evaluated: Tensor
    again: Mapping[str, Agreement]
    decided: Tensor
    changed: int

    @classmethod
    def of(cls, evaluated: Tensor, again: Mapping[str, Tensor]) -> Rounding:
        """By the outputs y and each y′."""
        agreements = {how: compare(evaluated, outputs) for how, outputs in again.items()}
        if not next(iter(agreements.values())).compared:
            return cls(evaluated, agreements, torch.zeros(0, dtype=torch.bool), 0)
        y, others = evaluated.double(), [outputs.double() for outputs in again.values()]
        changed = torch.stack([other.argmax(1) != y.argmax(1) for other in others]).any(0)
        noise = torch.stack([(other - y).abs().flatten(1).amax(1) for other in others]).amax(0)
        first, second = y.topk(2, dim=1).values.unbind(1)
        near = first - second < 2 * noise.reshape(-1, *[1] * (first.dim() - 1))
        return cls(evaluated, agreements, ~(changed | near), int(changed.sum()))

    @property
    def enough(self) -> bool:
        """Whether the network decides enough for a file to be judged by the rest."""
        return int(self.decided.sum()) >= DECIDED * self.decided.numel()

    @property
    def mean(self) -> float:
        """The greatest mean difference of a re-evaluation."""
        return max(agreement.mean for agreement in self.again.values())

    def excuses(self, found: Tensor) -> bool:
        """Whether a file's outputs z, which miss the bound, are those of the network but for rounding."""
        agreement = compare(self.evaluated, found, self.decided)
        near = agreement.mean <= LEEWAY * self.mean
        return near and (agreement.holds and self.enough if self.decided.numel() else True)

    def told(self, found: Tensor) -> str:
        """The counts, and how far z is off where the network decides."""
        own = "; ".join(f"{how} by {agreement.mean:.1e}" for how, agreement in self.again.items())
        off = f"the evaluated network's own outputs differ, {own} on average"
        if not self.decided.numel():
            return off
        rest = compare(self.evaluated, found, self.decided)
        return f"{self}; of the others {rest.same:,} of {rest.compared:,} are the same; {off}"

    def __str__(self) -> str:
        count, undecided = self.decided.numel(), int((~self.decided).sum())
        return (
            f"{undecided:,} of {count:,} predictions ({undecided / count:.2%}) are within rounding of another class, "
            f"{self.changed:,} of which the evaluated network itself changes {' or '.join(self.again)}"
        )
