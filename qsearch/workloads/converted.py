"""``converted``: the network of another workload as a spiking one, of few steps with direct input; its data stay.

The network is converted with thresholds balanced on the workload's calibration data (:mod:`qsearch.spiking.conversion`), and then,
if asked for, trained on its training data in float: weights, biases, leaks and thresholds together, by surrogate gradients
(Datta et al., 2107.11979, train so in a last phase under quantised weights too, which is what the evaluator ``qat`` does).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader

from qsearch import registry
from qsearch.errors import DataError, StorageError
from qsearch.files import cache_folder
from qsearch.protocols import Augmenting, Workload
from qsearch.quantize.copies import duplicate, evaluation_copy
from qsearch.registry import PluginOptions
from qsearch.spiking.conversion import Balancing, Conversion, Last, Per, convert
from qsearch.spiking.neurons import Reset
from qsearch.workloads.base import Samples
from qsearch.workloads.files import is_file
from qsearch.workloads.surrogate_training import Course, trained
from qsearch.workloads.weight_cache import restore, store

log = logging.getLogger(__name__)


class Converted:
    """A workload with the network of another one, converted to spikes.

    Args:
        options: see :class:`Options`.

    Attributes:
        name: that of the other workload, and "-spiking".
        metric: as of the other workload.
        source: the other workload.

    Raises:
        PluginError, ConfigError: the other workload cannot be made; as :class:`Conversion`.
    """

    class Options(PluginOptions):
        """Options of the workload.

        Attributes:
            workload: the other workload: a name, or ``module:Class``.
            options: of the other workload; files in them are told from the working folder.
            steps: T.
            balancing, percentile, per: how thresholds are found; see :class:`Conversion`.
            leak: λ that training starts from; None for neurons that never leak.
            reset: what a spike leaves behind.
            last: the last layer integrates, or spikes.
            epochs: passes of fine-tuning in float; 0 for the network as it is converted.
            rate: the highest learning rate, of Adam, which falls along a cosine.
            batch_size: samples of a step.
            augment: vary inputs at random, where the other workload can.
            seed: of the fine-tuning.
        """

        workload: str
        options: dict[str, Any] = Field(default_factory=dict)
        steps: int = Field(default=5, ge=1, le=10_000)
        balancing: Balancing = "percentile"
        percentile: float = Field(default=99.9, gt=0, le=100)
        per: Per = "channel"
        leak: float | None = Field(default=None, ge=0, le=1)
        reset: Reset = "subtract"
        last: Last = "integrate"
        epochs: int = Field(default=0, ge=0)
        rate: float = Field(default=1e-3, gt=0)
        batch_size: int = Field(default=100, ge=2)
        augment: bool = True
        seed: int = Field(default=0, ge=0, lt=2**31)

        @property
        def conversion(self) -> Conversion:
            """How the network is converted."""
            how = self.model_dump(include={"steps", "balancing", "percentile", "per", "leak", "reset", "last"})
            return Conversion(**how)

        @property
        def course(self) -> Course:
            """How it is trained then."""
            return Course(self.epochs, self.batch_size, self.rate)

    def __init__(self, options: Options) -> None:
        self.options = options
        self.source: Workload = registry.create("workloads", options.workload, options.options)
        self.name = f"{self.source.name}-spiking"
        self.metric = self.source.metric

    def model(self) -> nn.Module:
        """A copy of the spiking network."""
        return duplicate(self._network).eval()

    def calibration(self) -> DataLoader[Any]:
        """As of the other workload."""
        return self.source.calibration()

    def validation(self) -> DataLoader[Any]:
        """As of the other workload."""
        return self.source.validation()

    def test(self) -> DataLoader[Any]:
        """As of the other workload."""
        return self.source.test()

    def train(self) -> DataLoader[Any] | None:
        """As of the other workload."""
        return self.source.train()

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """As of the other workload."""
        return self.source.loss(output, target)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """As of the other workload."""
        return self.source.score(output, target)

    def augment(self, inputs: Tensor, generator: Generator) -> Tensor:
        """As of the other workload; inputs as they are where it cannot."""
        return self.source.augment(inputs, generator) if isinstance(self.source, Augmenting) else inputs

    @cached_property
    def _network(self) -> nn.Module:
        inputs = _gathered(self.calibration(), self.name).inputs
        converted = convert(evaluation_copy(self.source.model()), inputs, self.options.conversion)
        return self._tuned(converted) if self.options.epochs else converted

    def _tuned(self, converted: nn.Module) -> nn.Module:
        """The network after fine-tuning: from the cache folder where it is there and whole, else trained and put there.

        Raises:
            DataError: the other workload has no training data.
        """
        loader = self.train()
        if loader is None:
            raise DataError(
                f"workload {self.source.name!r} must have training data to be fine-tuned", fix="set epochs: 0"
            )
        samples = _gathered(loader, self.name)
        path = cache_folder() / f"{self.name}-{self._key(converted, samples)}.safetensors"
        if is_file(path):
            try:
                state, _ = restore(path, converted.state_dict())
            except StorageError as error:
                log.warning("%s; discarded, training again", error)
            else:
                converted.load_state_dict(state)
                return converted
        log.info("fine-tuning %s for %d epochs, once", self.name, self.options.epochs)
        vary = self.augment if self.options.augment else None
        network, loss = trained(converted, samples, self.loss, self.options.course, self.options.seed, vary)
        try:
            store(path, network.state_dict(), loss)
        except OSError as error:
            log.warning("cannot keep trained weights in %s: %s", path.parent, error.strerror or error)
        return network

    def _key(self, converted: nn.Module, samples: Samples) -> str:
        """What the weights after fine-tuning depend on, as twelve digits."""
        settings = [self.options.model_dump_json(), _TRAINING_VERSION, _code(self.source)]
        total = hashlib.sha256(json.dumps(settings).encode())
        parts: Mapping[str, Tensor] = {**converted.state_dict(), "inputs": samples.inputs, "targets": samples.targets}
        for name, value in parts.items():
            total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            total.update(value.contiguous().numpy().data)
        return total.hexdigest()[:12]


_TRAINING_VERSION = 2
"""Raised whenever fine-tuning, or this key, changes in a way that options do not show."""


def _code(source: Workload) -> list[str]:
    """Names of what judges and varies."""
    found = [source.loss, *([source.augment] if isinstance(source, Augmenting) else [])]
    return [getattr(method, "__qualname__", type(method).__qualname__) for method in found]


def _gathered(loader: DataLoader[Any], name: str) -> Samples:
    """All samples of a loader.

    Raises:
        DataError: no sample, or inputs of several tensors.
    """
    batches = list(loader)
    if not batches or not all(len(batch) == 2 and isinstance(batch[0], Tensor) for batch in batches):
        raise DataError(
            f"data of {name!r} must be batches of inputs and targets, one tensor each",
            got="no batch" if not batches else f"a batch of {len(batches[0])} parts",
            fix="convert a workload whose network takes one tensor",
        )
    return Samples(torch.cat([inputs for inputs, _ in batches]), torch.cat([targets for _, targets in batches]))
