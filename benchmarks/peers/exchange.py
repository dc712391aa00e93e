"""The files between the processes: what every tool is given, and what it answers.

Nothing here needs qsearch but the plain torch modules of :mod:`qsearch.models`, so that every environment can read it.

``given/``: ``given.json`` (where the network's class is), ``network.pt`` (its state), ``data.npz``. The targets of the
judged images are not among them: they stay with the judge.

``answer/``: ``answer.json`` (bits, price), ``weights.npz`` (the quantised weights), ``logits.npz``.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Bits: TypeAlias = "int | list[int]"
"""Of a layer's weights: one number, or one per kernel."""

BATCH = 64
"""Images of a batch, in every tool."""


@dataclass(frozen=True)
class Given:
    """What a tool is given, in a folder."""

    folder: Path

    def write(self, network: nn.Module, arguments: Mapping[str, Any], **arrays: NDArray[Any]) -> None:
        """Put a network and its data there.

        Args:
            arguments: those that the network's class was called with.
            arrays: ``inputs`` and ``targets`` to calibrate with, ``judged`` inputs.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save(network.state_dict(), self.folder / "network.pt")
        np.savez(self.folder / "data.npz", **arrays)  # type: ignore[arg-type]  # the stub takes them for its options
        source = {"module": type(network).__module__, "name": type(network).__qualname__, "arguments": arguments}
        (self.folder / "given.json").write_text(json.dumps(source))

    def network(self) -> nn.Module:
        """The trained float network, in evaluation mode."""
        source = json.loads((self.folder / "given.json").read_text())
        kind = getattr(importlib.import_module(source["module"]), source["name"])
        network: nn.Module = kind(**source["arguments"])
        network.load_state_dict(torch.load(self.folder / "network.pt", weights_only=True))
        return network.eval()

    @cached_property
    def inputs(self) -> Tensor:
        """Images to calibrate with, float32, (N, C, H, W)."""
        return self._array("inputs")

    @cached_property
    def targets(self) -> Tensor:
        """Their classes, int64, (N,)."""
        return self._array("targets")

    @cached_property
    def judged(self) -> Tensor:
        """Images that the answer is judged on, float32, (M, C, H, W)."""
        return self._array("judged")

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Calibration images with their classes."""
        return zip(in_batches(self.inputs), in_batches(self.targets), strict=True)

    def _array(self, name: str) -> Tensor:
        with np.load(self.folder / "data.npz") as data:
            return torch.from_numpy(data[name])


def in_batches(samples: Tensor) -> Sequence[Tensor]:
    """Samples (N, …) in batches of :data:`BATCH`."""
    return torch.split(samples, BATCH)


@dataclass(frozen=True)
class Price:
    """What an answer cost.

    Attributes:
        seconds: of processor time, user and system, with those of child processes.
        passes: forward passes of one image through the float network that the same arithmetic would make.
        mebibytes: the most memory that the process held.
    """

    seconds: float
    passes: float
    mebibytes: float


@dataclass(frozen=True)
class Answer:
    """What a tool answered.

    Attributes:
        bits: layer → bits of its weights, as the tool says.
        weights: layer → quantised weights, kernels first.
        logits: of the judged images, (M, classes).
        price: of finding it; judging is not in it.
    """

    bits: Mapping[str, Bits]
    weights: Mapping[str, NDArray[np.float32]]
    logits: NDArray[np.float32]
    price: Price

    def write(self, folder: Path) -> None:
        """Put it into a folder; ``answer.json`` comes last, and says that the answer is whole."""
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "weights.npz", **self.weights)  # type: ignore[arg-type]  # as above
        np.savez(folder / "logits.npz", logits=self.logits)
        (folder / "answer.json").write_text(json.dumps({"bits": dict(self.bits), "price": asdict(self.price)}))

    @classmethod
    def read(cls, folder: Path) -> Answer:
        """Inverse of :meth:`write`."""
        said = json.loads((folder / "answer.json").read_text())
        with np.load(folder / "weights.npz") as weights, np.load(folder / "logits.npz") as logits:
            return cls(said["bits"], dict(weights), logits["logits"], Price(**said["price"]))
