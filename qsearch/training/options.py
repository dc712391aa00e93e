"""``TrainingOptions``: how a network is trained under quantisers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qsearch.registry import PluginOptions


class TrainingOptions(PluginOptions):
    """How to train; options of everything that does.

    Attributes:
        quantizer: what quantises: a name of :data:`qsearch.training.families.FAMILIES`; what quantises the network's data
            stays as calibrated (:mod:`qsearch.training.lsq`).
        epochs: passes over the training data.
        batch_size: samples in a step.
        train_samples: the first n training samples are used; all if None.
        optimiser: stochastic gradient descent with momentum, Adam with decoupled weight decay, or RMSprop.
        rate: the highest learning rate.
        step_rate: that of the quantisers' own parameters; ``rate`` if None.
        momentum: of ``sgd`` and ``rmsprop``.
        weight_decay: of weights, not of biases, of batch-norms and of quantisers.
        schedule: how the rate goes: down along a cosine, up and down in one cycle, or not at all.
        distillation: share of the loss that is the divergence from the float network's outputs, the rest is the workload's.
        temperature: of the outputs that are compared.
        batch_norm: "late" lets statistics follow the data until ``freeze_at``, "frozen" leaves them as they are from the
            start, "running" never freezes them, "folded" folds them into the weights before training.
        freeze_at: share of the training after which statistics stay.
        augment: vary inputs at random, where the workload can; short trainings may do better without.
        clip_gradient: greatest norm of a step's gradient; none if None.
        precision: of the arithmetic; "bfloat16" and "float16" are mixed precision, for a GPU.
        device: where to train: "cpu", "cuda", "cuda:1".
        explosion: a loss so many times the least of the first steps, or of 0.1, ends the training as diverged.
    """

    quantizer: str = "lsq"
    epochs: int = Field(default=6, ge=1)
    batch_size: int = Field(default=100, ge=2)
    train_samples: int | None = Field(default=None, ge=2)
    optimiser: Literal["sgd", "adam", "rmsprop"] = "sgd"
    rate: float = Field(default=0.01, gt=0)
    step_rate: float | None = Field(default=None, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    schedule: Literal["cosine", "one-cycle", "constant"] = "cosine"
    distillation: float = Field(default=0.0, ge=0, le=1)
    temperature: float = Field(default=4.0, gt=0)
    batch_norm: Literal["late", "frozen", "running", "folded"] = "late"
    freeze_at: float = Field(default=0.7, ge=0, le=1)
    augment: bool = False
    clip_gradient: float | None = Field(default=None, gt=0)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "cpu"
    explosion: float = Field(default=20.0, gt=1)
