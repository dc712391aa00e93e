"""``digits-resnet``: a narrow residual network on scikit-learn's digits; works offline, trains itself on first use.

Data: 1,797 grey images of 8×8, values 0 … 16 (E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits*,
UCI, 1998), divided by 16. Split by class with a fixed seed: 1,000 to train, of which some calibrate, 400 to validate,
397 to test.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from qsearch.errors import StorageError
from qsearch.files import cache_folder
from qsearch.models.resnet_digits import DigitsNetwork
from qsearch.registry import PluginOptions
from qsearch.workloads.base import ArrayWorkload, Samples, Splits
from qsearch.workloads.files import is_file, sha256
from qsearch.workloads.training import Recipe, accuracy, fit
from qsearch.workloads.weight_cache import restore, store

TRAIN, VALIDATION = 1000, 400
"""Images of these splits; the rest are for test."""

log = logging.getLogger(__name__)


class DigitsResNet(ArrayWorkload):
    """Residual network on 8×8 digits.

    First use trains it, for about 15 seconds, and keeps the weights in the cache folder under a name that carries the
    seed and a key of architecture and recipe. A file that is damaged is told of and replaced; a folder that cannot be
    written is told of and done without.
    """

    name = "digits-resnet"
    classes = 10
    input_shape = (1, 8, 8)
    batch_size = 200
    widths: ClassVar[tuple[int, ...]] = (6, 12, 24)
    blocks: ClassVar[int] = 2
    recipe: ClassVar[Recipe] = Recipe(epochs=120)

    class Options(PluginOptions):
        """Options of the workload.

        Attributes:
            seed: of the training; the splits are the same for all.
            calibration: calibration images, out of the training images.
        """

        seed: int = Field(default=0, ge=0, lt=2**31)
        calibration: int = Field(default=256, ge=10, le=TRAIN - 10)

    def __init__(self, options: Options) -> None:
        self.options = options

    def load(self) -> Splits:
        """The digits, split."""
        return Splits(**self._parts)

    @cached_property
    def _parts(self) -> dict[str, Samples]:
        """Samples of each split."""
        digits = load_digits()
        images = torch.from_numpy(digits.images / 16).float().unsqueeze(1)
        data = Samples(images, torch.from_numpy(digits.target).long())
        labels = digits.target
        train, rest = _divide(np.arange(len(labels)), labels, TRAIN)
        validation, test = _divide(rest, labels, VALIDATION)
        calibration, _ = _divide(train, labels, self.options.calibration)
        parts = {"train": train, "calibration": calibration, "validation": validation, "test": test}
        return {name: data.take(torch.from_numpy(part)) for name, part in parts.items()}

    def network(self) -> nn.Module:
        """The trained network: from the cache where it is whole, else trained and put there."""
        return self._cached() or self._train()

    @cached_property
    def path(self) -> Path:
        """Where the weights are kept."""
        recipe = {"widths": self.widths, "blocks": self.blocks, "train": TRAIN, **asdict(self.recipe)}
        key = sha256(json.dumps(recipe, sort_keys=True).encode())[:12]
        return cache_folder() / f"{self.name}-{key}-seed{self.options.seed}.safetensors"

    @property
    def _build(self) -> Callable[[], nn.Module]:
        return partial(DigitsNetwork, self.widths, self.blocks, self.classes)

    def _cached(self) -> nn.Module | None:
        """The network from the cache, or None; a file that is there but of no use is told of."""
        if not is_file(self.path):
            return None
        network = self._build()
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
        log.info("training %s (seed %d), about 15 seconds, once", self.name, self.options.seed)
        network = fit(self._build, self._parts["train"], self.recipe, self.options.seed)
        try:
            store(self.path, network.state_dict(), accuracy(network, self._parts["test"]))
        except OSError as error:
            log.warning(
                "cannot keep trained weights in %s: %s; set QSEARCH_CACHE to a folder that can be written, "
                "or each run trains again",
                self.path.parent,
                error.strerror or error,
            )
        return network

    def _verify(self, network: nn.Module, recorded: float) -> None:
        """Raise StorageError unless the test accuracy is as recorded, to one sample: processors round differently."""
        measured = accuracy(network, self._parts["test"])
        if abs(measured - recorded) > 1.5 / len(self._parts["test"]):
            raise StorageError(
                f"cached weights {self.path} must reach their recorded accuracy {recorded:.4f}", got=f"{measured:.4f}"
            )


def _divide(
    indices: NDArray[np.int64], labels: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``count`` of the indices and the rest, each with the classes in proportion and in rising order."""
    first, second = train_test_split(indices, train_size=count, stratify=labels[indices], random_state=0)
    return np.sort(first), np.sort(second)
