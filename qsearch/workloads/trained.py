"""``TrainedWorkload``: a workload that trains its network on first use and keeps the weights."""

from __future__ import annotations

import hashlib
import json
import logging
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from qsearch.errors import StorageError
from qsearch.files import cache_folder
from qsearch.registry import PluginOptions
from qsearch.workloads.base import ArrayWorkload, Samples
from qsearch.workloads.checkpoint import load_checkpoint
from qsearch.workloads.files import is_file, sha256
from qsearch.workloads.training import Loss, Recipe, distorted, fit
from qsearch.workloads.weight_cache import restore, store

JUDGED = 500
"""Samples, at most, that weights from the cache are judged on."""

log = logging.getLogger(__name__)


class TrainedOptions(PluginOptions):
    """Options of every workload that trains itself.

    Attributes:
        seed: of the training; the splits are the same for all.
        weights: a checkpoint of the same network, to be used instead: safetensors, or by ``torch.save``.
    """

    seed: int = Field(default=0, ge=0, lt=2**31)
    weights: Path | None = None


class TrainedWorkload(ArrayWorkload):
    """A workload whose network is trained on first use; a subclass gives the network, the recipe and the samples.

    The weights are kept in the cache folder, under a name that carries the seed and a key of architecture, recipe,
    training data, and the names of the functions that build, prepare and judge. A file that is damaged is told of and replaced; a folder that cannot be written is told of and done
    without.

    Attributes:
        recipe: how to train.
        duration: of the training, in words.
        options: a subclass may ask for more.
    """

    recipe: ClassVar[Recipe]
    duration: ClassVar[str]
    options: TrainedOptions

    @abstractmethod
    def build(self) -> nn.Module:
        """The network with weights drawn at random."""

    @abstractmethod
    def architecture(self) -> Mapping[str, object]:
        """What :meth:`build` depends on, as JSON."""

    @abstractmethod
    def lessons(self) -> Samples:
        """What it is trained on, whatever part of that calibrates."""

    @abstractmethod
    def judged(self) -> Samples:
        """What weights from the cache are judged on: the same whatever the options of the splits."""

    def augment(self, inputs: Tensor, generator: Generator) -> Tensor:
        """Prepared inputs, distorted as in the training of the network; see :class:`qsearch.protocols.Augmenting`."""
        return distorted(inputs, self.recipe, generator)

    def training_loss(self) -> Loss | None:
        """What training minimises; None for the cross-entropy with the recipe's smoothing."""
        return None

    def network(self) -> nn.Module:
        """The option's weights; else those of the cache where they are whole, else trained and put there.

        Raises:
            DataError: weights of the option that do not fit.
        """
        if self.options.weights is None:
            return self._cached() or self._train()
        network = self._untrained()
        load_checkpoint(network, self.options.weights.expanduser())
        return network

    @cached_property
    def path(self) -> Path:
        """Where the weights are kept."""
        code = [_qualified_name(method) for method in (self.build, self.prepare, self.loss, self.training_loss())]
        settings = {**self.architecture(), **asdict(self.recipe), "data": _digest(self.lessons()), "code": code}
        key = sha256(json.dumps(settings, sort_keys=True).encode())[:12]
        return cache_folder() / f"{self.name}-{key}-seed{self.options.seed}.safetensors"

    def taught(self) -> nn.Module:
        """The network, trained; here by the recipe."""
        return fit(
            self.build, self.lessons(), self.recipe, self.options.seed, loss=self.training_loss(), prepare=self.prepare
        )

    def _untrained(self) -> nn.Module:
        """What :meth:`build` gives; the caller's random state stays."""
        with torch.random.fork_rng(devices=[]):
            return self.build()

    def _cached(self) -> nn.Module | None:
        """The network from the cache, or None; a file that is there but of no use is told of."""
        if not is_file(self.path):
            return None
        network = self._untrained()
        try:
            state, recorded = restore(self.path, network.state_dict())
            network.load_state_dict(state)
            self._verify(network.eval(), recorded)
        except StorageError as error:
            log.warning("%s; discarded, training again", error)
            return None
        return network

    def _train(self) -> nn.Module:
        """The network, trained and kept; a cache that cannot be written costs only the time to train again."""
        log.info("training %s (seed %d), %s, once", self.name, self.options.seed, self.duration)
        network = self.taught()
        try:
            store(self.path, network.state_dict(), self._measured(network))
        except OSError as error:
            log.warning(
                "cannot keep trained weights in %s: %s; set QSEARCH_CACHE to a folder that can be written, "
                "or each run trains again",
                self.path.parent,
                error.strerror or error,
            )
        return network

    def _verify(self, network: nn.Module, recorded: float) -> None:
        """Raise StorageError unless the score is as recorded, to one sample: processors round differently."""
        measured = self._measured(network)
        if abs(measured - recorded) > 1.5 / min(len(self.judged()), JUDGED):
            raise StorageError(
                f"cached weights {self.path} must reach their recorded {self.metric} {recorded:.4f}",
                got=f"{measured:.4f}",
            )

    @torch.no_grad()
    def _measured(self, network: nn.Module) -> float:
        """Mean score of a network in evaluation mode."""
        samples = self.judged().take(torch.arange(min(len(self.judged()), JUDGED)))
        scores: list[Tensor] = []
        for start in range(0, len(samples), self.batch_size):
            batch = samples.take(torch.arange(start, min(start + self.batch_size, len(samples))))
            scores.append(self.score(network(self.prepare(batch.inputs)), batch.targets))
        return float(torch.cat(scores).double().mean())


def _qualified_name(method: object) -> str:
    """Class and name of a function, of a bound one too; of another callable its class."""
    return getattr(method, "__qualname__", type(method).__qualname__)


def _digest(samples: Samples) -> str:
    """SHA-256 over types, shapes and bytes."""
    total = hashlib.sha256()
    for part in (samples.inputs, samples.targets):
        total.update(f"{part.dtype} {tuple(part.shape)}\n".encode())
        total.update(part.contiguous().numpy().data)
    return total.hexdigest()
