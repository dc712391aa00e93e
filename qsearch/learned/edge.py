"""``edge``: channel-wise learned precision with gradient scaling (Schaefer et al., WACV 2024).

"Edge Inference with Fully Differentiable Quantized Mixed Precision Neural Networks": steps and ranges of DQ
(:mod:`qsearch.learned.ranges`), per output channel where the space has bits per kernel, and per layer where it has not.
What differs from ``dq``:

- the gradient through rounding is scaled: of weights by EWGS, of inputs by the inverse-tanh profile, both of strength
  δ = 5e-3;
- ranges begin at the greater of \\|μ − 3σ\\| and \\|μ + 3σ\\| of each kernel, and at the 99.9th percentile of \\|x\\| of an input;
- three phases: all at the same bits; then bits learn every 20 steps, less where training is short; then they stand;
- beside the penalty on costs there may be one on the sum of all activations in bytes, as in the paper, where it is 2,524 kB
  beside 1,731 kB of weights for EfficientNet-Lite0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from qsearch.assignment import BitArray, BitAssignment
from qsearch.costs import NetworkCost
from qsearch.hardware.base import Costs, VectorCostModel
from qsearch.layers import Layer
from qsearch.learned.dq import LearnedRange
from qsearch.learned.learning import LearnedOptions
from qsearch.learned.limits import REFERENCE, Limit
from qsearch.learned.ranges import RangeBits, RangeQuantizer
from qsearch.learned.schemes import LearnedBits
from qsearch.learned.searcher import LearnedSearcher
from qsearch.problem import Problem
from qsearch.quantize.modules import forward, given
from qsearch.quantize.network import input_sites
from qsearch.training.families import family
from qsearch.training.lessons import Lessons
from qsearch.training.network import TrainableNetwork

QUANTILE = 0.999
SAMPLES = 256
"""Training samples that ranges of inputs are found on, drawn from all that are trained on."""

DRAW = 0
"""Seed of that draw: every training of a network begins with the same ranges."""

VALUES = 1 << 20
"""Numbers of an input that the percentile is taken of, at most about."""

FLOATING = "lsq"
"""Family of a network in float, which has no quantiser."""


class ActivationSum(VectorCostModel):
    """Bytes of all inputs of all layers together; metric ``activation_sum``."""

    units: Mapping[str, str] = {"activation_sum": "byte"}
    kernel_additive = True

    def layer_costs(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray) -> Costs:
        """See :meth:`VectorCostModel.layer_costs`."""
        if layer.kind in ("embedding", "neuron", "threshold"):  # reads indices, or nothing but what it keeps
            return {"activation_sum": np.zeros(len(activation_bits))}
        total = activation_bits.astype(np.float64) * (layer.input_elements / 8.0)
        if layer.kind == "matmul":
            total = total + weight_bits.mean(axis=1) * (layer.uses * layer.params / 8.0)
        return {"activation_sum": total}


class EdgeRange(LearnedRange):
    """The scheme.

    Args:
        lessons: the network and its data.
        delta: δ.
        train_samples: of the data, how many are trained on; all if None.
    """

    def __init__(self, lessons: Lessons, delta: float, train_samples: int | None = None) -> None:
        super().__init__(lessons)
        self._delta = delta
        self._reaches = input_percentiles(lessons, train_samples)

    def weight(self, bits: LearnedBits, site: str, weight: Tensor) -> RangeQuantizer:
        """See :class:`qsearch.learned.schemes.Scheme`."""
        assert isinstance(bits, RangeBits)
        return RangeQuantizer(bits, three_sigma(weight), True, delta=self._delta)

    def input(self, bits: LearnedBits, site: str) -> RangeQuantizer:
        """See :class:`qsearch.learned.schemes.Scheme`."""
        assert isinstance(bits, RangeBits)
        reach = torch.tensor([self._reaches[site]])
        return RangeQuantizer(bits, reach, self.signed(site), delta=self._delta, profile="inverse-tanh")


class Edge(LearnedSearcher):
    """Learns step and range of each channel or layer, with the gradient of rounding scaled."""

    class Options(LearnedOptions):
        """See :class:`LearnedOptions`.

        Attributes:
            delta: strength of the scaling of gradients through rounding.
            activation_target: mean bits that all activations together may have, weighted by their numbers; no limit if None.
        """

        bits_every: int = Field(default=20, ge=1)
        bits_rate: float = Field(default=0.1, gt=0)
        mixed_from: float = Field(default=0.2, ge=0, lt=1)
        delta: float = Field(default=5e-3, ge=0)
        activation_target: float | None = Field(default=None, gt=0, le=32)

    def scheme(self, lessons: Lessons) -> EdgeRange:
        """See :class:`LearnedSearcher`."""
        return EdgeRange(lessons, self.own.delta, self.own.train_samples)

    def limits(self, problem: Problem, target: float) -> tuple[Limit, ...]:
        """See :class:`LearnedSearcher`; also that on the sum of activations."""
        found = super().limits(problem, target)
        if self.own.activation_target is None:
            return found
        cost = NetworkCost(ActivationSum(), problem.layers, problem.space)
        top = cost.estimate(problem.space.reference(REFERENCE)).totals["activation_sum"]
        return (*found, Limit(cost, "activation_sum", self.own.activation_target / REFERENCE * top))

    @property
    def own(self) -> Edge.Options:
        """The options, as what they are."""
        assert isinstance(self.options, Edge.Options)
        return self.options


def three_sigma(weight: Tensor) -> Tensor:
    """max(|μ − 3σ|, |μ + 3σ|) of each kernel of a weight of shape (K, …), shape (K,)."""
    kernels = weight.reshape(len(weight), -1)
    return kernels.mean(1).abs() + 3 * kernels.std(1, correction=0)


@torch.inference_mode(False)
@torch.no_grad()
def input_percentiles(lessons: Lessons, train_samples: int | None = None) -> dict[str, float]:
    """Site → the 99.9th percentile of |x| of an input, in float on training data; the greatest of several uses.

    Args:
        lessons: the network and its data.
        train_samples: only so many of the first samples are drawn from; all if None.
    """
    network = TrainableNetwork(lessons, BitAssignment({}), family(FLOATING)).eval()
    modules: Mapping[str, nn.Module] = dict(network.model.named_modules())
    found: dict[str, float] = {}
    for layer in lessons.layers:
        for site, (_, operand) in input_sites(layer).items():
            modules[layer.name].register_forward_pre_hook(_percentile(found, site, operand), with_kwargs=True)
    count = min(len(lessons.data), train_samples or len(lessons.data))
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(DRAW))[:SAMPLES]
    forward(network.model, lessons.data.take(drawn).inputs)
    return found


def _percentile(found: dict[str, float], site: str, operand: int) -> Any:
    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        values = given(args, kwargs, operand).abs().flatten().float()
        values = values[:: max(1, len(values) // VALUES)]
        found[site] = max(found.get(site, 0.0), float(torch.quantile(values, QUANTILE)))

    return note
