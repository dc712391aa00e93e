"""The judge: every answer scored from its logits by the same code, its bits counted in its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from exchange import Answer, Bits, Given, Price
from numpy.typing import NDArray
from torch import Tensor

from qsearch import registry
from qsearch.assignment import BitAssignment
from qsearch.evaluate.data import read
from qsearch.layers import Layer
from qsearch.protocols import Evaluator, Workload
from qsearch.report.statistics import Interval, paired_difference
from qsearch.setting import layers_of
from qsearch.trial import Quality

INPUT_BITS = 8

OPTIONS = {"cifar10-resnet20": {"split": "training"}}
"""Test on all the test images there are; nobody looks at validation images here."""


@dataclass(frozen=True)
class Verdict:
    """What became of an answer.

    Attributes:
        bits: mean over all weights; what the tool says, which its weights were held to.
        quality: on the judged images.
        difference: accuracy less that of the float network, on the same images.
    """

    bits: float
    quality: Quality
    difference: Interval
    price: Price | None = None


class Judge:
    """A workload with its judged images.

    Args:
        name: of the workload.
    """

    def __init__(self, name: str) -> None:
        self.workload: Workload = registry.create("workloads", name, OPTIONS.get(name, {}))
        self.layers: tuple[Layer, ...] = layers_of(self.workload)
        self._judged = read(self.workload.test(), f"test loader of {name}")
        with torch.inference_mode():
            self.reference = self.quality(self.workload.model()(self._judged.inputs))

    def hand_out(self, given: Given) -> None:
        """Write what every tool is given."""
        calibration = read(self.workload.calibration(), f"calibration loader of {self.workload.name}")
        # the networks of both workloads are built with what their classes default to
        given.write(
            self.workload.model(),
            {},
            inputs=array(calibration.inputs),
            targets=array(calibration.targets),
            judged=array(self._judged.inputs),
        )

    def quality(self, logits: Tensor) -> Quality:
        """Accuracy and loss of logits of the judged images, (M, classes)."""
        targets = self._judged.targets
        outcomes = self.workload.score(logits, targets).numpy()
        return Quality.from_outcomes(outcomes, float(self.workload.loss(logits, targets)), self.workload.metric)

    def pipeline(self, answer: Answer) -> Verdict:
        """An answer as it is: the tool's own quantiser and recovery.

        Raises:
            ValueError: its weights have more levels than its bits allow, or layers are missing.
        """
        check_levels(answer.weights, answer.bits)
        quality = self.quality(torch.from_numpy(answer.logits))
        return Verdict(self.mean_bits(answer.bits), quality, self._difference(quality), answer.price)

    def allocation(self, bits: Mapping[str, Bits], evaluator: Evaluator) -> Verdict:
        """An answer's bits, with everything else from ``evaluator``, which :meth:`evaluator` gives."""
        sites = {layer.weight_site: bits[layer.name] for layer in self.layers}
        sites |= {layer.activation_site: INPUT_BITS for layer in self.layers}
        quality = evaluator.test(BitAssignment(sites))  # type: ignore[attr-defined]  # ours has it
        return Verdict(self.mean_bits(bits), quality, self._difference(quality))

    def evaluator(self, *, correction: bool) -> Evaluator:
        """Our quantiser, with or without recovery."""
        made: Evaluator = registry.create("evaluators", "ptq", {"correction": correction}, self.workload, self.layers)
        return made

    def mean_bits(self, bits: Mapping[str, Bits]) -> float:
        """Mean over all weights.

        Raises:
            ValueError: a layer has no bits.
        """
        missing = {layer.name for layer in self.layers} - set(bits)
        if missing:
            raise ValueError(f"no bits for {', '.join(sorted(missing))}")
        total = sum(float(np.mean(bits[layer.name])) * layer.params for layer in self.layers)
        return total / sum(layer.params for layer in self.layers)

    def _difference(self, quality: Quality) -> Interval:
        found = paired_difference([quality], [self.reference])
        assert found is not None  # both have outcomes
        return found


def check_levels(weights: Mapping[str, NDArray[np.float32]], bits: Mapping[str, Bits]) -> None:
    """Hold weights to the bits that are claimed for them.

    Raises:
        ValueError: a kernel has more than 2^b distinct values, or a layer has no weights.
    """
    for layer, claimed in bits.items():
        if layer not in weights:
            raise ValueError(f"no weights of {layer}")
        found = levels(weights[layer])
        allowed = 2.0 ** np.broadcast_to(claimed, found.shape)
        if (found > allowed).any():
            worst = int(np.argmax(found / allowed))
            raise ValueError(f"{layer}, kernel {worst}: {found[worst]} levels, but {allowed[worst]:g} are claimed")


def levels(weights: NDArray[np.float32]) -> NDArray[np.int64]:
    """Distinct values of each kernel: (K, …) → (K,)."""
    return np.asarray([len(np.unique(kernel)) for kernel in weights])


def array(part: Tensor | Sequence[Tensor]) -> NDArray[np.float32]:
    """A split's inputs, which are one tensor here, as an array."""
    assert isinstance(part, Tensor)
    found: NDArray[np.float32] = part.numpy()
    return found
