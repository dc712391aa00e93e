"""The post-training evaluator on a small workload, and its contract."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import ConfigError, DataError, EvaluationError
from qsearch.evaluate.ptq import PostTraining, divergence
from qsearch.layers import Layer
from qsearch.quantize.trace import trace_layers
from qsearch.sensitivity import floating
from qsearch.sites import build_space
from qsearch.space import SearchSpace
from qsearch.testing.evaluator import EvaluatorContract


class Stripes:
    """Which of three stripes is in a noisy 6×6 picture; a trained convolution, batch-norm and linear layer."""

    name = "stripes"
    metric = "accuracy"

    def __init__(self) -> None:
        self.data = {split: stripes(count, seed) for seed, (split, count) in enumerate(COUNTS.items())}

    def model(self) -> nn.Module:
        return trained()

    def train(self) -> None:
        return None

    def calibration(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.loader("calibration")

    def validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.loader("validation")

    def test(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.loader("test")

    def loader(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self.data[split]
        return zip(x.split(16), y.split(16), strict=True)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output, target)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        return (output.argmax(-1) == target).float()


COUNTS = {"calibration": 64, "validation": 90, "test": 45}


def stripes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (count,), generator=generator)
    x = torch.randn(count, 1, 6, 6, generator=generator)
    x[torch.arange(count), 0, 2 * y] += 0.8
    return x, y


@cache
def trained() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    x, y = stripes(600, 99)
    for _ in range(30):
        optimiser.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model.eval()


def layers() -> tuple[Layer, ...]:
    return trace_layers(trained(), torch.zeros(1, 1, 6, 6))


def evaluator(workload: Stripes | None = None, **options: Any) -> PostTraining:
    return PostTraining(workload or Stripes(), layers(), PostTraining.Options(**options))


def bits(weights: int, activations: int = FLOAT_BITS) -> BitAssignment:
    return BitAssignment({"0.weight": weights, "0.input": activations, "4.weight": weights, "4.input": activations})


class TestContract(EvaluatorContract):
    def evaluator(self) -> PostTraining:
        return evaluator()

    def space(self) -> SearchSpace:
        return build_space(layers(), weight_bits=[1, 2, 4, 8], activation_bits=[2, 4, 8])


class TestContractByKernelWithoutCorrection(EvaluatorContract):
    def evaluator(self) -> PostTraining:
        return evaluator(correction=False, batch_size=7, samples=50)

    def space(self) -> SearchSpace:
        return build_space(layers(), weight_bits=[0, 2, 4], activation_bits=[3, 8], granularity="kernel")


def test_float_quality_is_that_of_the_network() -> None:
    quality = evaluator().evaluate(bits(FLOAT_BITS))
    x, y = Stripes().data["validation"]
    with torch.no_grad():
        output = trained()(x)
    assert quality.metric == pytest.approx(float((output.argmax(1) == y).float().mean()))
    assert quality.loss == pytest.approx(float(functional.cross_entropy(output, y)), rel=1e-6)
    assert (quality.samples, quality.name) == (90, "accuracy")
    assert quality.metric > 0.7
    assert np.array_equal(quality.outcomes, (output.argmax(1) == y).numpy())


def test_each_split_has_its_method() -> None:
    found = evaluator()
    assert found.evaluate(bits(4)).samples == COUNTS["validation"]
    assert found.test(bits(4)).samples == COUNTS["test"]
    assert found.probe(bits(4)).samples == COUNTS["calibration"]


def test_samples_and_fidelity() -> None:
    found = evaluator(samples=40)
    full, part = found.evaluate(bits(2)), found.evaluate(bits(2), fidelity=0.25)
    assert (full.samples, part.samples) == (40, 10)
    assert np.array_equal(full.outcomes[:10], part.outcomes)
    assert evaluator().evaluate(bits(2), fidelity=1.0) == evaluator().evaluate(bits(2), seed=3)


def test_probe_is_loss_and_divergence_on_calibration_data() -> None:
    found = evaluator()
    probe = found.probe(bits(2, 3))
    x, y = Stripes().data["calibration"]
    with torch.no_grad():
        expected, output = trained()(x), found.network(x)
    kl = (expected.softmax(1) * (expected.log_softmax(1) - output.log_softmax(1))).sum(1).mean()
    assert probe.loss == pytest.approx(float(functional.cross_entropy(output, y)), rel=1e-4)
    assert probe.divergence == pytest.approx(float(kl), rel=1e-3)
    assert found.probe(bits(FLOAT_BITS)).divergence == 0


def test_probes_do_not_read_validation_or_test_data() -> None:
    workload = Stripes()
    found = evaluator(workload)
    before = found.probe(bits(2))
    x, y = workload.data["validation"]
    workload.data["validation"] = (x * 0, y)
    workload.data["test"] = (x * 0, y)
    assert evaluator(workload).probe(bits(2)) == before


def test_the_correction_helps_at_two_bits() -> None:
    assert evaluator().probe(bits(2)).divergence < evaluator(correction=False).probe(bits(2)).divergence


def test_weight_errors_are_those_of_each_kernel() -> None:
    found = evaluator()
    errors = found.weight_errors("0.weight", 3)
    w = trained()[0].weight.detach()
    found.evaluate(bits(3))
    expected = (w - found.network.model[0].weight).double().square().sum((1, 2, 3))
    assert errors == pytest.approx(expected.numpy())


def test_threads_hold_for_the_evaluation_only() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []

    class Watching(Stripes):
        def loss(self, output: Tensor, target: Tensor) -> Tensor:
            seen.append(torch.get_num_threads())
            return super().loss(output, target)

    found = evaluator(Watching(), threads=before + 1)
    found.evaluate(bits(4))
    found.probe(bits(4))
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("split", ["calibration", "validation"])
def test_an_empty_loader_is_told_at_once(split: str) -> None:
    workload = Stripes()
    workload.data[split] = (torch.zeros(0, 1, 6, 6), torch.zeros(0, dtype=torch.long))
    with pytest.raises(DataError, match=f"{split} loader of workload 'stripes' is empty"):
        evaluator(workload)


def test_an_empty_test_loader_is_told_when_it_is_read() -> None:
    workload = Stripes()
    workload.data["test"] = (torch.zeros(0, 1, 6, 6), torch.zeros(0, dtype=torch.long))
    found = evaluator(workload)
    found.evaluate(bits(4))
    with pytest.raises(DataError, match="test loader of workload 'stripes' is empty"):
        found.test(bits(4))


def test_a_float_network_that_gives_nan_is_told() -> None:
    workload = Stripes()
    workload.data["validation"][0][3] = float("nan")
    found = evaluator(workload)
    with pytest.raises(EvaluationError, match=r"got NaN \(the float network itself does\).*'stripes'"):
        found.evaluate(bits(4))
    workload.data["calibration"][0][3] = float("nan")
    with pytest.raises(EvaluationError, match=r"0\.input.*float network itself"):
        evaluator(workload)


def test_a_loss_that_quantisation_makes_nan_is_told_apart() -> None:
    class Fragile(Stripes):
        def loss(self, output: Tensor, target: Tensor) -> Tensor:
            worth = super().loss(output, target)
            return worth if float(worth) < 0.75 else worth * float("nan")

    found = evaluator(Fragile(), correction=False, batch_size=90)
    assert np.isfinite(found.evaluate(bits(FLOAT_BITS)).loss)
    with pytest.raises(EvaluationError, match=r"got NaN \(the quantised network does, the float one does not\); raise"):
        found.evaluate(bits(0))
    assert np.isfinite(found.evaluate(bits(FLOAT_BITS)).loss)


def test_a_loss_that_is_nan_of_the_float_network_too_is_not_put_down_to_bits() -> None:
    class Broken(Stripes):
        def loss(self, output: Tensor, target: Tensor) -> Tensor:
            return super().loss(output, target) * float("nan")

    class BrokenScore(Stripes):
        def score(self, output: Tensor, target: Tensor) -> Tensor:
            return super().score(output, target) * float("inf")

    for workload in (Broken(), BrokenScore()):
        found = evaluator(workload)
        for assignment in (bits(FLOAT_BITS), bits(2)):
            with pytest.raises(EvaluationError, match=r"\(the float network itself does\); check .* the loss"):
                found.evaluate(assignment)


@pytest.mark.parametrize("fidelity", [0, -1, 1.01])
def test_fidelity_must_be_a_share(fidelity: float) -> None:
    with pytest.raises(ConfigError, match=r"within \(0, 1\]"):
        evaluator().evaluate(bits(4), fidelity=fidelity)


def test_divergence_of_outputs_that_are_no_logits_is_their_squared_difference() -> None:
    one, other = torch.zeros(4, 2, 3), torch.full((4, 2, 3), 0.5)
    assert divergence(one, other) == pytest.approx(0.25)
    assert divergence(one[:, :1, 0], other[:, :1, 0]) == pytest.approx(0.25)


def test_divergence_is_kl_of_the_float_network_from_the_quantised() -> None:
    p, q = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.25, 0.25, 0.5]])
    assert divergence(p.log(), q.log()) == pytest.approx(0.5 * np.log(2) - 0.25 * np.log(2), rel=1e-6)


class ScalarScore(Stripes):
    def score(self, output: Tensor, target: Tensor) -> Tensor:
        return super().score(output, target).mean()


class FloatScore(Stripes):
    def score(self, output: Tensor, target: Tensor) -> float:
        return float(super().score(output, target).mean())


class WideScore(Stripes):
    def score(self, output: Tensor, target: Tensor) -> Tensor:
        return output


class ScoreWithoutNumbers(Stripes):
    def score(self, output: Tensor, target: Tensor) -> object:
        return {"accuracy": super().score(output, target)}


class LossPerSample(Stripes):
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output, target, reduction="none")


class LossOfOtherTargets(Stripes):
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output, target.float()[:, None])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (ScalarScore, r"score of workload 'stripes' must be one number per sample, shape \(64,\); got shape \(\);"),
        (FloatScore, r"score of workload 'stripes' must be one number per sample, shape \(64,\); got shape \(\);"),
        (WideScore, r"score of workload 'stripes' must be one number per sample.*got shape \(64, 3\)"),
        (ScoreWithoutNumbers, r"score of workload 'stripes' must take outputs of shape \(64, 3\).*got \w+Error: "),
        (LossPerSample, r"loss of workload 'stripes' must be one number, the mean over the batch; got shape \(64,\)"),
        (LossOfOtherTargets, r"loss of workload 'stripes' must take outputs of shape \(64, 3\) and targets of shape"),
    ],
)
def test_a_workload_that_answers_amiss_is_told_in_one_line(kind: type[Stripes], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        evaluator(kind()).evaluate(bits(8))
    assert "\n" not in str(caught.value)


def test_errors_of_our_own_and_of_the_system_pass_through_a_workload_as_they_are() -> None:
    class Full(Stripes):
        def score(self, output: Tensor, target: Tensor) -> Tensor:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        evaluator(Full()).evaluate(bits(8))


def test_outcomes_may_be_truth_values() -> None:
    class Booleans(Stripes):
        def score(self, output: Tensor, target: Tensor) -> Tensor:
            return output.argmax(-1) == target

    assert evaluator(Booleans()).evaluate(bits(8)) == evaluator().evaluate(bits(8))


def test_the_probe_and_the_evaluation_see_one_network_whatever_its_layers_do_with_their_bias() -> None:
    class Unbiased(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(x, self.weight)

    class Overridden(Stripes):
        """Validation data are the calibration data, in one batch."""

        def model(self) -> nn.Module:
            model = copy.deepcopy(trained())
            model[4] = Unbiased(128, 3)
            model[4].load_state_dict(trained()[4].state_dict())
            return model

        def validation(self) -> Iterator[tuple[Tensor, Tensor]]:
            return self.loader("calibration")

    found = evaluator(Overridden())
    assert found.probe(bits(2)).loss == pytest.approx(found.evaluate(bits(2)).loss, rel=1e-5)


class WritesIntoItsInput(Stripes):
    """Standardises its pictures in place."""

    def model(self) -> nn.Module:
        class Standardising(nn.Sequential):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x.sub_(0.1).mul_(0.9))

        return Standardising(*trained()).eval()


def test_a_network_that_writes_into_its_input_is_evaluated_on_the_data_as_they_are() -> None:
    workload = WritesIntoItsInput()
    kept = {split: x.clone() for split, (x, _) in workload.data.items()}
    found = evaluator(workload)
    first = found.evaluate(bits(3, 4))
    found.fingerprint()
    batch = next(found.float_network().batches())
    inputs = batch[0].clone()
    found.probe(bits(2, 2))
    floating.forward(found.float_network(), batch[0])
    assert found.evaluate(bits(3, 4)) == first == evaluator(workload).evaluate(bits(3, 4))
    assert torch.equal(batch[0], inputs)
    assert all(torch.equal(x, kept[split]) for split, (x, _) in workload.data.items())
