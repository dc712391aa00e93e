"""The evaluator that trains, on a small workload, and its contract."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from qat_workload import COUNTS, Stripes, bits, evaluator, layers, network, space, stripes, untrained
from torch import Tensor, nn
from torch.nn import functional

from qsearch import registry
from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import ConfigError, DataError, EvaluationError
from qsearch.evaluate.qat import QuantizationAware
from qsearch.protocols import (
    CalibrationProbe,
    Differentiable,
    Fingerprinted,
    HeldOutEvaluator,
    Progressive,
    Remembering,
    Teaching,
)
from qsearch.quantize.trace import trace_layers
from qsearch.space import SearchSpace
from qsearch.testing.evaluator import EvaluatorContract
from qsearch.training.finetuning import FineTuning
from qsearch.trial import Quality


class TestContract(EvaluatorContract):
    def evaluator(self) -> QuantizationAware:
        return evaluator()

    def space(self) -> SearchSpace:
        return space()


class TestContractByKernel(EvaluatorContract):
    def evaluator(self) -> QuantizationAware:
        return evaluator(evaluation_batch_size=7, samples=50, distillation=0.5, optimiser="adam", rate=0.001)

    def space(self) -> SearchSpace:
        return space(weight_bits=[0, 2, 4], activation_bits=[3, 8], granularity="kernel")


def same(one: Quality, other: Quality) -> bool:
    """Bit for bit, outcomes and details included."""
    return one == other and np.array_equal(one.outcomes, other.outcomes) and one.details == other.details


def test_it_is_found_by_name_and_fits_all_seams() -> None:
    found = registry.create("evaluators", "qat", {"epochs": 1}, Stripes(), layers())
    for seam in (
        CalibrationProbe, Differentiable, Fingerprinted, HeldOutEvaluator, Progressive, Remembering, Teaching
    ):  # fmt: skip
        assert isinstance(found, seam), seam


def test_float_is_not_trained() -> None:
    found, reference = evaluator(), untrained()
    floating = bits(FLOAT_BITS, FLOAT_BITS)
    assert same(found.evaluate(floating), reference.evaluate(floating))
    assert same(found.evaluate(floating, fidelity=0.2, seed=4), reference.evaluate(floating))
    assert [share for share, _ in found.progress(floating)] == [1.0]
    assert same(found.test(floating), reference.test(floating))
    assert "epochs" not in found.evaluate(floating).details


def test_training_helps_at_two_bits() -> None:
    trained = evaluator(epochs=8).evaluate(bits(2, 4))
    assert trained.loss < 0.8 * untrained().evaluate(bits(2, 4)).loss


def test_the_quality_is_that_of_a_network_trained_by_hand() -> None:
    """One layer with a weight on a grid whose step does not learn: plain training with rounding."""
    x, y = stripes("train")
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))

    class Plain(Stripes):
        def model(self) -> nn.Module:
            return model.eval()

    options = QuantizationAware.Options(
        epochs=2, batch_size=160, schedule="constant", momentum=0, weight_decay=0, rate=0.1, step_rate=1e-30
    )
    found = QuantizationAware(Plain(), trace_layers(model, x[:1]), options)
    got = found.evaluate(BitAssignment({"1.weight": 4}))
    scales = untrained_scales(found)
    weight, bias = (parameter.detach().clone().requires_grad_() for parameter in model[1].parameters())
    for _ in range(2):
        codes = (weight / scales).round().clamp(-8, 7)
        inside = (weight / scales >= -8) & (weight / scales <= 7)
        rounded = weight * inside + (codes * scales - weight * inside).detach()
        loss = functional.cross_entropy(functional.linear(x.flatten(1), rounded, bias), y)
        by_weight, by_bias = torch.autograd.grad(loss, (weight, bias))
        with torch.no_grad():
            weight -= 0.1 * by_weight
            bias -= 0.1 * by_bias
    held, targets = stripes("validation")
    with torch.no_grad():
        output = functional.linear(held.flatten(1), (weight / scales).round().clamp(-8, 7) * scales, bias)
    assert got.loss == pytest.approx(float(functional.cross_entropy(output, targets)), rel=1e-5)
    assert got.details["training_loss"] == pytest.approx(float(loss.detach()), rel=1e-5)


def untrained_scales(found: QuantizationAware) -> Tensor:
    return found.lessons().calibrated.quantized_weight("1.weight", 4).scales.view(-1, 1)


@pytest.mark.parametrize(
    ("quantizer", "batch_norm"), [("lsq", "late"), ("pact", "running"), ("dorefa", "frozen"), ("ewgs", "folded")]
)
def test_progress_agrees_with_what_would_be_settled_and_ends_with_evaluate(quantizer: str, batch_norm: str) -> None:
    options = {"epochs": 3, "quantizer": quantizer, "batch_norm": batch_norm}
    found = evaluator(**options)
    reports = list(found.progress(bits(2, 4), seed=5))
    assert [share for share, _ in reports] == pytest.approx([1 / 3, 2 / 3, 1])
    assert same(reports[-1][1], evaluator(**options).evaluate(bits(2, 4), seed=5))
    for done, (_, quality) in enumerate(reports, 1):
        assert quality.details["epochs"] == done
        course = found._course(bits(2, 4), 5, 3)
        training = found._begin(course)
        found._train(training, done)
        network = found._settle(course, training.network)
        settled = found._untrained.scoring.quality(network, found.validation)
        assert settled == quality
        assert np.array_equal(settled.outcomes, quality.outcomes)


def test_whoever_stops_iterating_trains_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[int] = []
    plain = FineTuning.epoch
    monkeypatch.setattr(FineTuning, "epoch", lambda self: (epochs.append(self.done), plain(self))[1])
    reports = evaluator(epochs=5).progress(bits(2))
    assert len(list(islice(reports, 2))) == 2
    reports.close()
    assert epochs == [0, 1]


def test_fidelity_is_a_training_of_its_own_in_fewer_epochs() -> None:
    part = evaluator(epochs=6).evaluate(bits(2), fidelity=0.5, seed=1)
    assert same(part, evaluator(epochs=3).evaluate(bits(2), seed=1))
    assert part.samples == COUNTS["validation"]
    assert evaluator(epochs=6).evaluate(bits(2), fidelity=0.01).details["epochs"] == 1


def test_the_seed_matters_and_the_callers_random_state_does_not() -> None:
    torch.manual_seed(1)
    first = evaluator().evaluate(bits(2), seed=3)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    assert same(first, evaluator().evaluate(bits(2), seed=3))
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.loss != evaluator().evaluate(bits(2), seed=4).loss


def test_it_works_in_inference_mode_too() -> None:
    expected = evaluator().evaluate(bits(2))
    with torch.inference_mode():
        assert same(expected, evaluator().evaluate(bits(2)))


def test_test_data_are_judged_by_the_network_that_was_evaluated() -> None:
    found = evaluator()
    found.evaluate(bits(2), seed=7)
    x, y = stripes("test")
    expected = found.trained(bits(2), seed=7)(x)
    again = evaluator()
    assert torch.equal(expected, again.trained(bits(2), seed=7)(x))
    quality = found.test(bits(2))
    assert quality.samples == COUNTS["test"]
    assert quality.metric == pytest.approx(float((expected.argmax(1) == y).float().mean()))
    assert quality != again.test(bits(2))  # of seed 0, as nothing else is known there
    assert again.trained(bits(FLOAT_BITS, FLOAT_BITS))(x).shape == (45, 3)


def test_sensitivities_are_those_of_the_untrained_network() -> None:
    found, reference = evaluator(), untrained()
    found.evaluate(bits(2))
    assert found.probe(bits(2, 4)) == reference.probe(bits(2, 4))
    assert np.array_equal(found.weight_errors("0.weight", 3), reference.weight_errors("0.weight", 3))
    assert found.fingerprint() == reference.fingerprint()
    assert torch.equal(found.float_network().step("0.weight", 2), reference.float_network().step("0.weight", 2))
    assert len(found.lessons().data) == COUNTS["train"]


def test_the_workloads_own_network_is_never_touched() -> None:
    before = {name: value.clone() for name, value in Stripes().model().state_dict().items()}
    evaluator().evaluate(bits(2))
    after = Stripes().model().state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.grad is not None for parameter in Stripes().model().parameters())


def test_divergence_is_the_reason_of_a_failure() -> None:
    with pytest.raises(EvaluationError, match=r"training must not diverge; got .*; lower the rate"):
        evaluator(rate=1e6).evaluate(bits(2))


def test_weights_that_the_last_step_makes_infinite_are_told() -> None:
    class Steep(Stripes):
        def loss(self, output: Tensor, target: Tensor) -> Tensor:
            return super().loss(output, target) + (output.sum() * float("inf") if output.requires_grad else 0.0)

    with pytest.raises(EvaluationError, match="training must not diverge"):
        evaluator(Steep(), epochs=1, batch_size=160, explosion=1e30).evaluate(bits(2))


class Untaught(Stripes):
    def train(self) -> Iterator[tuple[Tensor, Tensor]] | None:
        return None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantizer": "lqs"}, "unknown quantizer 'lqs'; did you mean 'lsq'?"),
        ({"epochs": 0}, "epochs in options of 'qat': input should be greater than or equal to 1; got 0"),
        ({"device": "cuda:99"}, "training needs a device that is there, not 'cuda:99'; got .*; device: cpu"),
        ({"device": "gpu"}, "training needs a device that is there, not 'gpu'; got .*; device: cpu"),
        ({"precision": "float16"}, "a processor does not train in float16; precision: bfloat16 or float32"),
        ({"epoch": 3}, "unknown option 'epoch' in options of 'qat'; did you mean 'epochs'?"),
        ({"keep": 0}, "keep in options of 'qat'"),
        ({"warm_start": True, "batch_norm": "folded"}, "got batch_norm: folded; batch_norm: late"),
    ],
)
def test_bad_options_are_told_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as told:
        registry.create("evaluators", "qat", options, Stripes(), layers())
    assert "\n" not in str(told.value)


def test_a_workload_without_training_data_is_told_before_anything_is_spent() -> None:
    class Watched(Untaught):
        def calibration(self) -> Iterator[tuple[Tensor, Tensor]]:
            raise AssertionError("calibrated in vain")

    with pytest.raises(DataError, match=r"'stripes' must have training data .* evaluate with 'ptq'"):
        evaluator(Watched())


def test_bfloat16_trains_on_a_processor() -> None:
    quality = evaluator(precision="bfloat16").evaluate(bits(4))
    assert quality.loss < 1.1
    assert same(quality, evaluator(precision="bfloat16").evaluate(bits(4)))


def test_threads_hold_for_the_evaluation_only() -> None:
    before = torch.get_num_threads()
    seen: set[int] = set()

    class Watching(Stripes):
        def loss(self, output: Tensor, target: Tensor) -> Tensor:
            seen.add(torch.get_num_threads())
            return super().loss(output, target)

    found = evaluator(Watching(), threads=before + 1)
    seen.clear()
    for _, _ in found.progress(bits(4)):
        assert torch.get_num_threads() == before
    found.test(bits(4))
    assert seen == {before + 1}


def test_a_network_that_is_not_the_layers_own_is_refused() -> None:
    class Other(Stripes):
        def model(self) -> nn.Module:
            return network()[:5].eval()

    with pytest.raises(DataError):
        evaluator(Other())
