"""Plug-ins for the tests of campaigns: a network small enough to search in a second, and parts that break on purpose.

A campaign file names them by path, as a user's own: ``tests/campaign/tiny_plugins.py:Tiny``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from qsearch.assignment import FLOAT_BITS
from qsearch.evaluate.ptq import PostTraining
from qsearch.protocols import CostModel, Searcher
from qsearch.registry import PluginOptions
from qsearch.trial import Cost, Quality
from qsearch.workloads.base import ArrayWorkload, Samples, Splits


class Tiny(ArrayWorkload):
    """A convolutional network with drawn weights; its targets are its own answers on cleaner inputs."""

    name = "tiny"
    classes = 4
    input_shape = (1, 6, 6)

    def load(self) -> Splits:
        clean = torch.randn(256, 1, 6, 6, generator=torch.Generator().manual_seed(0))
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            targets = self.model()(clean).argmax(1)
        samples = Samples(clean + 0.3 * noise, targets.clone())
        parts = torch.arange(256).split([64, 128, 64])
        calibration, validation, test = (samples.take(part) for part in parts)
        return Splits(calibration, validation, test, None)

    def network(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(
                nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)
            )


class WithoutTest(Tiny):
    """No test split."""

    def load(self) -> Splits:
        splits = super().load()
        return Splits(splits.calibration, splits.validation, None, None)


class NotAWeight(Tiny):
    """A network whose weights hold a NaN."""

    def network(self) -> nn.Module:
        network = super().network()
        with torch.no_grad():
            network[0].weight[0, 0, 0, 0] = float("nan")
        return network


class Logarithm(nn.Module):
    def forward(self, x):
        return torch.log(x)


class NotANumber(Tiny):
    """A network with sound weights that gives NaN: the logarithm of negative numbers."""

    def network(self) -> nn.Module:
        return nn.Sequential(*super().network(), Logarithm())


class NoCalibration:
    """Not an ``ArrayWorkload``, so nothing checks its loaders for it; the calibration loader is empty."""

    name, metric = "no-calibration", "accuracy"
    empty = "calibration"

    def model(self) -> nn.Module:
        return Tiny().model()

    def calibration(self) -> DataLoader:
        return self._loader("calibration")

    def validation(self) -> DataLoader:
        return self._loader("validation")

    test = train = validation
    loss, score = Tiny.loss, Tiny.score

    def _loader(self, split: str) -> DataLoader:
        count = 0 if split == self.empty else 32
        return DataLoader(TensorDataset(torch.zeros(count, 1, 6, 6), torch.zeros(count, dtype=torch.int64)), 16)


class NoValidation(NoCalibration):
    name = "no-validation"
    empty = "validation"


class Raises(Tiny):
    """A workload that cannot be made."""

    def network(self) -> nn.Module:
        raise RuntimeError("no weights\nto be found")


class Slow(PostTraining):
    """Takes its time over each evaluation, so that a test can stop it at a chosen one; fails on some, always the same."""

    class Options(PostTraining.Options):
        seconds: float = 0.0

    def evaluate(self, assignment, *, fidelity=1.0, seed=0):
        time.sleep(self._options.seconds)
        if assignment["0.weight"] == 3:
            raise RuntimeError("three bits")
        return super().evaluate(assignment, fidelity=fidelity, seed=seed)


class Fails(PostTraining):
    """Fails whenever the first weight has an odd number of bits; so long as ``while_exists`` exists, if given."""

    class Options(PostTraining.Options):
        while_exists: Path | None = None

    def evaluate(self, assignment, *, fidelity=1.0, seed=0):
        waiting = self._options.while_exists is None or self._options.while_exists.exists()
        if waiting and assignment["0.weight"] % 2:
            raise RuntimeError(f"odd bits: {assignment['0.weight']}")
        return super().evaluate(assignment, fidelity=fidelity, seed=seed)


class FailsAlways(PostTraining):
    """Fails on everything that is quantised."""

    def evaluate(self, assignment, *, fidelity=1.0, seed=0):
        if set(assignment.values()) != {FLOAT_BITS}:
            raise RuntimeError("no luck")
        return super().evaluate(assignment, fidelity=fidelity, seed=seed)


class FailsOnFloat(PostTraining):
    """Fails before the search begins."""

    def evaluate(self, assignment, *, fidelity=1.0, seed=0):
        raise RuntimeError("no luck")


class FailsOnTest(PostTraining):
    """Fails after the search has ended."""

    def test(self, assignment):
        raise RuntimeError("no luck")


class Odd(PostTraining):
    """Answers with something that is no quality."""

    def evaluate(self, assignment, *, fidelity=1.0, seed=0):
        return 0.9


class CountsTests(PostTraining):
    """Writes a line to a file for each look at the test split."""

    class Options(PostTraining.Options):
        log: Path

    def test(self, assignment) -> Quality:
        with self._options.log.open("a") as file:
            file.write(assignment.digest + "\n")
        return super().test(assignment)


class Adder(CostModel):
    """Bits times weights: the sound cost model that the broken ones derive from."""

    units: Mapping[str, str] = {"size": "bit"}

    def layer_cost(self, layer, weight_bits, activation_bits):
        return {"size": float(np.sum(weight_bits)) * layer.kernel_params}


class Negative(Adder):
    def layer_cost(self, layer, weight_bits, activation_bits):
        return {"size": -1.0}


class NoUnit(Adder):
    def layer_cost(self, layer, weight_bits, activation_bits):
        return {"size": 1.0, "latency": 1.0}


class NoMetric(Adder):
    units: Mapping[str, str] = {"size": "bit", "latency": "s"}


class CostNaN(Adder):
    def layer_cost(self, layer, weight_bits, activation_bits):
        return {"size": float("nan")}


class Coupled(Adder):
    """Costs the square of what its layers cost: not additive."""

    additive = False

    def estimate(self, layers, assignment):
        found = super().estimate(layers, assignment)
        return Cost({"size": found.totals["size"] ** 2}, found.units, found.layers)


class CostRaises(Adder):
    def layer_cost(self, layer, weight_bits, activation_bits):
        raise ZeroDivisionError("division by\nzero")


class Walk(Searcher):
    """Every assignment of the space in order."""

    stochastic = False

    def search(self, oracle) -> None:
        for assignment in self._order(oracle):
            oracle.evaluate(assignment)

    def _order(self, oracle) -> Iterator:
        yield from oracle.problem.space.enumerate()


class Stumbles(Walk):
    """Fails after its first trial."""

    def _order(self, oracle) -> Iterator:
        yield oracle.problem.space.decode(oracle.problem.space.lowest)
        raise IndexError("oops")


class OptionSearcher(Searcher):
    """Two nested options, for the errors about them."""

    class Options(PluginOptions):
        class Inner(PluginOptions):
            depth: int = 1

        inner: Inner = Inner()
        step_size: float = 0.1

    def __init__(self, options) -> None:
        self.options = options

    def search(self, oracle) -> None:
        oracle.evaluate(oracle.problem.space.uniform(8))


number = 3
