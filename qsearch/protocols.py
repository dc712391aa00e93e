"""The seams: everything a plug-in can be, on one page.

A plug-in is one class. It is found by an entry point (``qsearch.cost_models``, ``.targets``, ``.workloads``,
``.evaluators``, ``.pruners``, ``.searchers``, ``.sensitivities``, ``.rewards``, ``.workers``), or named in a campaign file as
``module:Class`` or ``path/to/file.py:Class``. The page of pruners is :mod:`qsearch.pruning`.
If the class has a nested pydantic model ``Options``, it is built as ``Class(options)``, else as ``Class()``; evaluators
get the workload and its layers in front, ``Class(workload, layers, options)``, rewards the problem.

Contracts that check a plug-in are in :mod:`qsearch.testing`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import BitArray, BitAssignment
from qsearch.errors import CostModelError
from qsearch.layers import Layer
from qsearch.problem import Problem
from qsearch.space import SearchSpace, SiteBits
from qsearch.trial import Cost, Quality, Trial

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn
    from torch.utils.data import DataLoader

    from qsearch.training.lessons import Lessons


class CostModel(Protocol):
    """What an assignment costs on one piece of hardware.

    Inherit from it and write ``units`` and ``layer_cost``: the network then costs the sum of its layers, or their
    greatest for metrics named in ``maxima``. Override
    ``estimate`` where that is not so, and set ``additive = False``. Costs are per forward pass, finite,
    never negative, and non-decreasing in every bit.
    """

    units: Mapping[str, str]
    """Metric → unit: ``{"latency": "s", "energy": "J"}``."""

    additive: bool = True
    """Whether the network costs the sum of its layers."""

    kernel_additive: bool = False
    """Whether a layer costs the mean, over its kernels, of what it would cost with that kernel's bits everywhere."""

    maxima: Collection[str] = frozenset()
    """Metrics of which the network has the greatest of its layers' and not their sum: {"peak_memory"}."""

    definitions: Mapping[str, str] = {}
    """Metric → what is counted, and by whose numbers: {"energy": "45 nm: MACs, SRAM, DRAM (QKeras)"}.

    Metrics of one name that are defined differently never share a table's column or a plot's axis.
    """

    def layer_cost(self, layer: Layer, weight_bits: BitArray, activation_bits: int) -> Mapping[str, float]:
        """Cost of one layer. ``weight_bits`` has shape (kernels,); 0 is a pruned kernel, 32 is float."""
        ...

    def estimate(self, layers: Sequence[Layer], assignment: BitAssignment) -> Cost:
        """Cost of a network, with its breakdown by layer."""
        parts: dict[str, Mapping[str, float]] = {}
        for layer in layers:
            weight = assignment.vector(layer.weight_site, layer.kernels)
            # float for inputs that are no site, such as an embedding's indices
            found = self.layer_cost(layer, weight, assignment.highest(layer.activation_site))
            if not isinstance(found, Mapping):
                raise CostModelError("layer_cost must return a mapping {metric: cost}", got=type(found).__name__)
            parts[layer.name] = found
        return self.added_up(parts)

    def added_up(self, parts: Mapping[str, Mapping[str, float]]) -> Cost:
        """Cost of a network from those of its layers: layer → metric → cost."""
        totals: dict[str, float] = {}
        for found in parts.values():  # plain addition: sum() is compensated from Python 3.12, vectorised sums are not
            for metric, value in found.items():
                so_far = totals.get(metric, 0.0)
                totals[metric] = max(so_far, value) if metric in self.maxima else so_far + value
        return Cost(totals, dict(self.units), parts)

    def estimate_many(self, layers: Sequence[Layer], bits: SiteBits) -> Mapping[str, NDArray[np.float64]]:
        """Totals of a batch of A assignments: metric → shape (A,). Here a loop; vectorised models override it."""
        batch = max(len(value) for value in bits.values())
        rows = [
            self.estimate(
                layers, BitAssignment({site: value[min(row, len(value) - 1)] for site, value in bits.items()})
            )
            for row in range(batch)
        ]
        return {metric: np.asarray([row.totals[metric] for row in rows]) for metric in rows[0].totals}


class Target(Protocol):
    """Hardware, or a simulator of it, that runs one layer at a time and says what that took.

    ``qsearch hardware measure`` calls it, in a process of its own: it repeats, warms up, keeps time limits and stores
    every reading. A target only takes one.
    """

    units: Mapping[str, str]
    """Metric → unit: ``{"latency": "s", "energy": "J"}``."""

    definitions: Mapping[str, str] = {}
    """As of a :class:`CostModel`."""

    maxima: Collection[str] = frozenset()
    """As of a :class:`CostModel`: metrics of which a network has the greatest of its layers', {"peak_memory"}."""

    deterministic: bool = False
    """Whether one reading says all, as of a simulator."""

    def precisions(self, layer: Layer) -> Sequence[tuple[int, int]]:
        """Pairs of weight and activation bits that it runs a layer at; none where it cannot run it. 32 is float."""
        ...

    def versions(self) -> Mapping[str, str]:
        """What readings depend on beside the machine: {"onnxruntime": "1.31.1", "threads": "1"}."""
        ...

    def measure(self, layer: Layer, weight_bits: int, activation_bits: int) -> Mapping[str, float]:
        """One reading: metric → cost of one forward pass of the layer, all its uses."""
        ...

    def floor(self) -> Mapping[str, float]:
        """Metric → what a call costs that computes nothing, where that is known. Readings contain it."""
        return {}


class Workload(Protocol):
    """A trained network and its data. Loaders yield ``(input, target)`` batches in a fixed order, without augmentation."""

    name: str
    metric: str
    """What :meth:`score` is called: "accuracy"."""

    def model(self) -> nn.Module:
        """The float network, trained, in evaluation mode."""
        ...

    def calibration(self) -> DataLoader[Any]:
        """Sets ranges and corrections; part of the training data."""
        ...

    def validation(self) -> DataLoader[Any]:
        """All that a search may see."""
        ...

    def test(self) -> DataLoader[Any]:
        """Read once, by the report."""
        ...

    def train(self) -> DataLoader[Any] | None:
        """Training data for fine-tuning, or None."""
        ...

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean loss over the batch, a scalar."""
        ...

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """One number per sample, shape (batch,), higher is better."""
        ...


@runtime_checkable
class Augmenting(Protocol):
    """A workload that can vary its training inputs, as training does to see more than there is."""

    def augment(self, inputs: Tensor, generator: Generator) -> Tensor:
        """A batch of inputs as :meth:`Workload.train` gives them, each varied at random, of the same shape."""
        ...


class Evaluator(Protocol):
    """How good the workload's network is under an assignment."""

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        """Quality on validation data. ``fidelity`` in (0, 1] is the share of the full effort to spend."""
        ...


@runtime_checkable
class Batching(Protocol):
    """Who answers several assignments together: an evaluator that can, or workers that divide them among themselves."""

    def evaluate_many(self, assignments: Sequence[BitAssignment], *, seed: int = 0) -> Iterator[Quality | Exception]:
        """The qualities, in the order of asking; an exception in the place of one whose evaluation raised it.

        Each is what :meth:`Evaluator.evaluate` gives, but for rounding. Whoever stops iterating needs no more: close it.

        Raises:
            Failure: nobody is left to answer.
        """
        ...


class Workers(Protocol):
    """Other processes, here or on other machines, that evaluate in the place of the campaign's own."""

    active: bool = True
    """Whether there are any."""

    def start(self, evaluator: Evaluator) -> AbstractContextManager[Batching]:
        """Inside, workers that hold a copy of the evaluator each; afterwards they are gone.

        Raises:
            PluginError: the evaluator cannot be copied.
            Failure: no worker could be started.
        """
        ...


@runtime_checkable
class CalibrationProbe(Protocol):
    """An evaluator that can also answer on calibration data, which sensitivities need: no validation data is seen."""

    def probe(self, assignment: BitAssignment) -> Probe:
        """Loss and divergence from the float network on the calibration data."""
        ...


@runtime_checkable
class Progressive(Protocol):
    """An evaluator whose effort grows in steps, so that a pruner may end a hopeless evaluation early."""

    def progress(self, assignment: BitAssignment, *, seed: int = 0) -> Iterator[tuple[float, Quality]]:
        """Share of the full effort spent so far, ascending to 1, and the quality on validation data there.

        Whoever stops iterating spends no more: close the generator.
        """
        ...


@runtime_checkable
class Remembering(Protocol):
    """An evaluator that may start from what it has trained for other assignments."""

    def remember(self, folder: Path | None, trials: Sequence[Trial]) -> None:
        """Told once, before a search: where it may keep that, None for nowhere, and what was evaluated before."""
        ...


@runtime_checkable
class Teaching(Protocol):
    """An evaluator that can hand out its network with training data, for searchers that learn bits by gradient."""

    def lessons(self) -> Lessons:
        """The network, its layers, its calibrated grids, and training data.

        Raises:
            DataError: the workload has no training data.
        """
        ...


@runtime_checkable
class WeightPruning(Protocol):
    """An evaluator whose networks are more than their grids: it also puts single weights to zero, which no bits say."""

    def kept(self, assignment: BitAssignment) -> Mapping[str, int]:
        """Weight site → how many of its weights are left, of the sites that are pruned."""
        ...


@runtime_checkable
class HeldOutEvaluator(Protocol):
    """An evaluator that can answer on the test split, which the report does once."""

    def test(self, assignment: BitAssignment) -> Quality:
        """Quality on test data."""
        ...


@dataclass(frozen=True)
class Probe:
    """What :class:`CalibrationProbe` answers.

    Attributes:
        loss: mean loss.
        divergence: mean KL(float ‖ quantised) of the softmax of the outputs, in nats.
        samples: samples that were passed through the network for it.
    """

    loss: float
    divergence: float
    samples: int


Correction: TypeAlias = Literal["none", "shift", "moments"]
"""Nothing, the change of the mean, or that of the mean and of the variance, as behind a batch-norm."""


class FloatNetwork(Protocol):
    """The float network with its calibration data, for sensitivities that differentiate its loss."""

    model: nn.Module
    """A copy, in evaluation mode; its parameters take gradients."""
    layers: Mapping[str, nn.Module]
    """Layer name → its module within ``model``."""

    def batches(self) -> Iterator[tuple[Any, Tensor]]:
        """Calibration data in order: inputs, a tensor or a tuple of tensors, and targets."""
        ...

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean loss over a batch, a scalar that can be differentiated."""
        ...

    def quantized_weight(self, site: str, bits: int) -> Tensor:
        """A weight at one bitwidth, in the shape of the weight."""
        ...

    def quantized_input(self, site: str, bits: int, x: Tensor) -> Tensor:
        """A layer's input as it is at one bitwidth."""
        ...

    def step(self, site: str, bits: int) -> Tensor:
        """Distance of a quantiser's levels: shape (kernels,) of a weight, () of an input; not negative.

        A weight at 0 bits has one level: its step is √12 times its root mean square, so that step²/12 is what
        quantisation loses there too.
        """
        ...

    def correction(self, layer: str) -> Correction:
        """What an evaluation takes out again of how quantisation changes a layer's output, channel by channel."""
        ...


@runtime_checkable
class Differentiable(Protocol):
    """An evaluator whose float network sensitivities may differentiate."""

    def float_network(self) -> FloatNetwork:
        """A copy to work on."""
        ...


@runtime_checkable
class Fingerprinted(Protocol):
    """An evaluator that can say what its answers on calibration data depend on; sensitivities of such are cached."""

    def fingerprint(self) -> str | None:
        """A digest that differs wherever such an answer, or a derivative, may: weights, data, options, code.

        None where it cannot tell, as of code without a source: nothing is cached then.
        """
        ...


@dataclass(frozen=True)
class SensitivityTable:
    """Predicted damage of each choice of each variable, others left in float, and of pairs beyond their sum.

    Attributes:
        damage: variable name → shape (kernels, choices); (1, choices) for layer-wise variables.
        samples: samples passed through the network to find it, in float forward passes: a backward pass counts
            for two.
        interactions: names of two layer-wise variables, in the order of the space → shape (choices, choices'): damage
            of both beyond the sum of each; pairs that are not in it do not interact.
    """

    damage: Mapping[str, NDArray[np.float64]]
    samples: int
    interactions: Mapping[tuple[str, str], NDArray[np.float64]] = field(default_factory=dict)


class Sensitivity(Protocol):
    """How much damage each choice does, estimated on calibration data."""

    def table(self, space: SearchSpace, evaluator: Evaluator) -> SensitivityTable:
        """Damage of every choice of every variable of the space."""
        ...


class Reward(Protocol):
    """One number for a trial that has a quality; higher is better. Built as ``Class(problem, options)``."""

    def __call__(self, trial: Trial) -> float:
        """The reward; from validation quality and from costs."""
        ...


class Oracle(Protocol):
    """What a searcher is given: the one door to an evaluation."""

    problem: Problem
    seed: int
    folder: Path | None
    """Where a searcher may leave what it has learnt; None where nothing is kept."""

    @property
    def trials(self) -> Sequence[Trial]:
        """Trials so far, in order."""
        ...

    @property
    def remaining(self) -> int:
        """Evaluations left."""
        ...

    def evaluate(self, assignment: BitAssignment) -> Trial:
        """Cost and quality of an assignment. A known assignment costs nothing; one over a cost bound neither.

        Raises:
            SpaceError: not in the space.
            BudgetExhausted: nothing is left; a searcher may let it pass, the campaign ends on it.
        """
        ...

    def evaluate_many(self, assignments: Sequence[BitAssignment]) -> list[Trial]:
        """The same for several, in order, in parallel where workers exist."""
        ...

    def sensitivity(self, name: str, options: Mapping[str, Any] | None = None) -> SensitivityTable:
        """Sensitivities of the workload, by the name of a plug-in; computed once a campaign."""
        ...

    def lessons(self) -> Lessons:
        """The network with its training data, to learn bits by gradient; tell :meth:`trained` what that took.

        Raises:
            ConfigError: the evaluator has none to give.
            DataError: the workload has no training data.
        """
        ...

    def trained(self, samples: int, seconds: float) -> None:
        """Record what a searcher has trained on :meth:`lessons`, though an earlier run may have paid: runs compare.

        What follows is evaluated though the training outlasted a budget of minutes; seconds of an earlier run count as spent.

        Args:
            samples: each one passed forwards and backwards once.
            seconds: that it took.
        """
        ...

    def note(self, **values: float) -> None:
        """What the searcher would like to see beside its progress: ``episode=12, reward=-0.3``."""
        ...


class Searcher(Protocol):
    """A way to spend evaluations. Deterministic, given the oracle's seed and answers: resume is replay.

    One that cannot take every problem may have a method ``check(problem)``, which raises a
    :class:`qsearch.errors.UserError`; it is called before anything is spent.
    """

    stochastic: bool = True
    """Whether the seed changes what it does; if not, one run stands for all seeds."""

    def search(self, oracle: Oracle) -> None:
        """Spend the budget; return when the oracle is exhausted or nothing is left to try."""
        ...
