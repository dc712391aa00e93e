"""``Learning``: a training in which bits learn beside the weights, in up to three phases.

::

    homogeneous    up to mixed_from        all at the same bits: weights get used to being quantised
    mixed          up to freeze_bits_at    bits learn, every few steps, against the penalty on their cost
    frozen         to the end              bits are settled, the weights train on at those that learned
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, model_validator

from qsearch.errors import EvaluationError
from qsearch.learned.network import LearningNetwork
from qsearch.learned.schemes import parameters_of
from qsearch.training.finetuning import FineTuning, rate_at
from qsearch.training.lessons import Batch, Lessons
from qsearch.training.options import TrainingOptions

UPDATES = 40
"""Steps in which bits learn at least, where there are as many."""


class LearnedOptions(TrainingOptions):
    """How bits are learned; options of all searchers that do, beside those of :class:`TrainingOptions`.

    Attributes:
        epochs: passes over the training data, for each target.
        quantizer: what quantises sites whose bits do not learn.
        bits_rate: the highest learning rate of bits, in bits a step, about; by Adam, whatever trains the weights. It goes the
            way of ``rate``.
        bits_every: bits learn in every n-th step; more often where they would learn fewer than 40 times.
        penalty: weight of the penalty.
        start_bits: what all bits begin with, as far as their choices reach; where the cost is a fifth over the target if None.
        mixed_from: share of the training from which bits learn.
        freeze_bits_at: share of the training from which they stand.
        targets: what costs are driven to, one training each, in this order: factors of the bounds, or of the cost at uniform
            8 bits where costs have none. One at the bound if None, five on a front.
        fill: where bits, once rounded, leave room within the limits, use it up.
    """

    epochs: int = Field(default=12, ge=1)
    bits_rate: float = Field(default=0.05, gt=0)
    bits_every: int = Field(default=1, ge=1)
    penalty: float = Field(default=10.0, gt=0)
    start_bits: float | None = Field(default=None, gt=0, le=32)
    mixed_from: float = Field(default=0.0, ge=0, lt=1)
    freeze_bits_at: float = Field(default=0.8, gt=0, le=1)
    targets: tuple[float, ...] | None = Field(default=None, min_length=1)
    fill: bool = True

    @model_validator(mode="after")
    def _check(self) -> LearnedOptions:
        if self.mixed_from >= self.freeze_bits_at:
            raise ValueError("mixed_from must lie before freeze_bits_at")
        if self.targets is not None and min(self.targets) <= 0:
            raise ValueError("targets must be above 0")
        if self.precision == "float16":
            raise ValueError("bits are learned in float32 or bfloat16: their gradients are not rescaled")
        if self.batch_norm == "folded":
            raise ValueError(
                "bits are learned beside batch-norms, not with them folded into weights: late, frozen or running"
            )
        return self


class Learning(FineTuning):
    """The training of one network and of its bits.

    Args:
        network: what is trained.
        lessons, options, seed: as of :class:`FineTuning`.

    Attributes:
        samples: samples trained on so far, each once forwards and once backwards.
    """

    network: LearningNetwork
    options: LearnedOptions

    def __init__(self, network: LearningNetwork, lessons: Lessons, options: LearnedOptions, seed: int) -> None:
        super().__init__(network, lessons, options, seed)
        self.samples = self._count_of_steps = 0
        self._adam = torch.optim.Adam(parameters_of(network.bits), lr=options.bits_rate) if network.bits else None

    @property
    def mixed(self) -> bool:
        """Whether bits may still learn."""
        return self.share < self.options.freeze_bits_at

    @property
    def every(self) -> int:
        """Steps from one in which bits learn to the next."""
        options = self.options
        mixed = (options.freeze_bits_at - options.mixed_from) * options.epochs * self.steps
        return max(1, min(options.bits_every, int(mixed) // UPDATES))

    def state(self) -> dict[str, Any]:
        """See :class:`FineTuning`; also how bits learn."""
        bits = None if self._adam is None else self._adam.state_dict()
        return {**super().state(), "bits": bits, "samples": self.samples, "steps": self._count_of_steps}

    def load(self, state: dict[str, Any]) -> None:
        """See :class:`FineTuning`."""
        super().load(state)
        if self._adam is not None:
            self._adam.load_state_dict(state["bits"])
        self.samples, self._count_of_steps = state["samples"], state["steps"]

    def _step(self, batch: Batch, share: float) -> float:
        """One step; its loss."""
        options = self.options
        now = options.mixed_from <= share < options.freeze_bits_at and self._count_of_steps % self.every == 0
        self._count_of_steps += 1
        self.samples += len(batch)
        self.network.learn(now)
        if self._adam is None or not now:
            return super()._step(batch, share)
        self._adam.zero_grad(set_to_none=True)
        loss = super()._step(batch, share)
        self._adam.param_groups[0]["lr"] = options.bits_rate * rate_at(options, share)
        self._adam.step()
        for bits in self.network.bits:
            bits.constrain()
        self._check_bits()
        return loss

    def _check_bits(self) -> None:
        if all(bool(torch.isfinite(bits.real()).all()) for bits in self.network.bits):
            return
        raise EvaluationError(
            "learned bits must stay finite",
            got=f"NaN or infinity in epoch {self.done + 1} of {self.options.epochs}",
            fix="lower rate or bits_rate",
        )
