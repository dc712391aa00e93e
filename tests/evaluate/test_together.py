"""Several assignments at once, against one after the other."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from qsearch import registry
from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import ConfigError, EvaluationError, SpaceError
from qsearch.evaluate.ptq import PostTraining
from qsearch.evaluate.together import Settings, Together
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.program import State, stacked
from qsearch.quantize.trace import trace_layers
from qsearch.trial import Quality


class Net(nn.Module):
    """Convolutions with and without a batch-norm, a residual sum, relus in place."""

    def __init__(self, *, twice: bool = False) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.block, self.head, self.twice = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 3), twice

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu_()
        if self.twice:
            x = self.norm(x)
        return self.head((x + functional.relu(self.block(x), inplace=True)).mean((2, 3)))


class Noise:
    """Labels of noise; in double precision, so that no number falls on another code by rounding."""

    name, metric = "noise", "accuracy"

    def __init__(self, *, twice: bool = False, model: nn.Module | None = None, single: bool = False) -> None:
        torch.manual_seed(0)
        self.dtype = torch.float32 if single else torch.float64
        self.network = (model or Net(twice=twice)).eval().to(self.dtype)

    def model(self) -> nn.Module:
        return self.network

    def train(self) -> None:
        return None

    def calibration(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self._samples(20, 1)

    def validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self._samples(37, 2)

    test = validation

    def _samples(self, count: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(count, 1, 6, 6, generator=generator).to(self.dtype)
        yield x, torch.randint(0, 3, (count,), generator=generator)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output, target)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        return (output.argmax(-1) == target).float()


def evaluator(workload: Noise, **options: Any) -> PostTraining:
    layers = trace_layers(workload.model(), next(workload.calibration())[0])
    return PostTraining(workload, layers, PostTraining.Options(batch_size=16, **options))


def together(ptq: PostTraining, at_once: int, *, correction: bool = True, **settings: Any) -> Together:
    calibration = ptq.calibration.inputs if correction else None
    wanted = Settings(at_once, 16, **settings)
    return Together(ptq.network, ptq.scoring, ptq.validation, calibration, wanted, ptq.evaluate)


@cache
def prepared(correction: bool = True) -> tuple[PostTraining, Together]:
    ptq = evaluator(Noise(), correction=correction)
    return ptq, together(ptq, 3, correction=correction)


def drawn(network: QuantizedNetwork, count: int, kernels: bool = False) -> list[BitAssignment]:
    draws = np.random.default_rng(count)
    return [BitAssignment({site: _bits(network, site, draws, kernels) for site in network.sites}) for _ in range(count)]


def _bits(network: QuantizedNetwork, site: str, draws: np.random.Generator, kernels: bool) -> Any:
    if not kernels or not network.is_weight(site):
        return int(draws.integers(1, 9))
    return draws.integers(0, 9, len(network.quantized_weight(site, 2).scales)).tolist()


def check(found: Sequence[Quality | Exception], expected: Sequence[Quality]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, Quality)
        assert one.metric == other.metric
        assert one.loss == pytest.approx(other.loss, rel=1e-6)
        np.testing.assert_array_equal(one.outcomes, other.outcomes)


@pytest.mark.parametrize("correction", [True, False])
@pytest.mark.parametrize(("count", "kernels"), [(7, False), (3, True), (1, False), (0, False)])
def test_answers_are_those_of_one_after_the_other(count: int, kernels: bool, correction: bool) -> None:
    ptq, many = prepared(correction)
    assignments = drawn(ptq.network, count, kernels)
    check(list(many.evaluate_many(assignments)), [ptq.evaluate(assignment) for assignment in assignments])


def test_outputs_are_those_of_the_network() -> None:
    ptq, many = prepared()
    assignments = drawn(ptq.network, 3)
    with torch.inference_mode():
        found = torch.cat(many.outputs([many._state(assignment) for assignment in assignments]), 1)
    for assignment, outputs in zip(assignments, found, strict=True):
        ptq.network.apply(
            assignment
        )  # corrected in batches of 16 and 4, in lockstep: statistics are kept in double here
        torch.testing.assert_close(outputs, ptq.network(ptq.validation.inputs), rtol=1e-9, atol=1e-9)


def test_an_assignment_may_come_twice_and_be_float() -> None:
    ptq, many = prepared()
    first, second = drawn(ptq.network, 2)
    float_, wide = BitAssignment({}), BitAssignment({**first, "block.input": 28})
    assignments = [first, first, float_, second, wide, first, BitAssignment(dict.fromkeys(first, FLOAT_BITS))]
    check(list(many.evaluate_many(assignments)), [ptq.evaluate(assignment) for assignment in assignments])


def test_an_answer_does_not_depend_on_what_else_is_asked() -> None:
    ptq = evaluator(Noise(single=True))
    many = together(ptq, 4)
    assignments = drawn(ptq.network, 6)
    found = list(many.evaluate_many(assignments))
    alone = [answer for assignment in assignments for answer in many.evaluate_many([assignment])]
    turned = list(many.evaluate_many(assignments[::-1]))[::-1]
    for one, other, third in zip(found, alone, turned, strict=True):
        assert isinstance(one, Quality)
        assert one == other == third


def test_what_does_not_fit_is_told_in_its_place() -> None:
    ptq, many = prepared()
    good, other = drawn(ptq.network, 2)
    unknown, short = BitAssignment({"other.weight": 2}), BitAssignment({**good, "stem.weight": [2, 3]})
    found = list(many.evaluate_many([unknown, good, short, other]))
    assert isinstance(found[0], SpaceError)
    assert isinstance(found[2], Exception)
    with pytest.raises(type(found[2]), match=r"stem\.weight"):
        ptq.evaluate(short)
    check([found[1], found[3]], [ptq.evaluate(good), ptq.evaluate(other)])


class Overflowing(Net):
    """Gives what is not finite where the weights of its head are pruned."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / self.head.weight.abs().sum()


def test_outputs_that_are_not_finite_are_told_in_their_place() -> None:
    ptq = evaluator(Noise(model=Overflowing()))
    many = together(ptq, 4)
    good = drawn(ptq.network, 2)
    pruned = BitAssignment({**good[0], "head.weight": 0})
    found = list(many.evaluate_many([good[0], pruned, good[1]]))
    assert isinstance(found[1], EvaluationError)
    assert "the quantised network does, the float one does not" in str(found[1])
    check([found[0], found[2]], [ptq.evaluate(assignment) for assignment in good])


def test_a_network_whose_correction_is_no_graph_is_corrected_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    ptq = evaluator(Noise(twice=True))
    many = together(ptq, 2)
    assert "corrected one assignment at a time" in caplog.text
    assignments = drawn(ptq.network, 5)
    check(list(many.evaluate_many(assignments)), [ptq.evaluate(assignment) for assignment in assignments])


def test_groups_are_evaluated_as_they_are_asked_for() -> None:
    ptq, many = prepared()
    network, applied = ptq.network, list[int]()
    original = many.outputs

    def outputs(states: Sequence[State]) -> list[Tensor]:
        applied.append(len(states))
        return original(states)

    many.outputs = outputs  # type: ignore[method-assign]
    try:
        found = many.evaluate_many(drawn(network, 7))
        next(found)
        assert applied == [3]
        list(found)
        assert applied == [3, 3, 1]
    finally:
        many.outputs = original  # type: ignore[method-assign]


def test_groups_are_halved_where_memory_does_not_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    ptq = evaluator(Noise())
    many, tried = together(ptq, 5), list[int]()
    original = many.outputs

    def outputs(states: Sequence[State]) -> list[Tensor]:
        tried.append(len(states))
        if len(states) > 2:
            raise torch.OutOfMemoryError
        return original(states)

    monkeypatch.setattr(many, "outputs", outputs)
    assignments = drawn(ptq.network, 5)
    check(list(many.evaluate_many(assignments)), [ptq.evaluate(assignment) for assignment in assignments])
    assert tried == [5, 2, 2, 1]


def test_a_gpu_without_memory_for_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ptq, many = prepared(False)

    def outputs(states: Sequence[State]) -> list[Tensor]:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(many, "outputs", outputs)
    monkeypatch.setattr(many, "_at_once", 1)
    with pytest.raises(ConfigError, match="a smaller batch_size"):
        list(many.evaluate_many(drawn(ptq.network, 1)))


def test_stacks_are_gone_after_their_group(monkeypatch: pytest.MonkeyPatch) -> None:
    ptq, many = prepared(False)
    seen = list[Any]()

    def watched(states: Sequence[State]) -> State:
        stack = stacked(states)
        seen.append([weakref.ref(tensor) for tensor in (*stack.tensors.values(), stack.grids)])
        return stack

    monkeypatch.setattr("qsearch.evaluate.together.stacked", watched)
    found = many.evaluate_many(drawn(ptq.network, 6))
    next(found)
    gc.collect()
    assert seen
    assert all(tensor() is None for tensor in seen[0])


class Making(Net):
    """Makes tensors of its own as it runs, on the processor and where its input is."""

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(6, dtype=x.dtype)[:, None] + torch.tensor([0.5, 1.5, 2.5, 1.5, 0.5, -0.5], dtype=x.dtype)
        return super().forward(x + places.tanh()) * torch.ones(3, dtype=x.dtype, device=x.device)


@pytest.mark.parametrize("model", [Net, Making])
@pytest.mark.parametrize("correction", [True, False])
def test_nothing_is_left_on_the_processor(correction: bool, model: type[nn.Module]) -> None:
    """On the device "meta", which has no numbers, a tensor of the processor in a graph is an error, as it is on a GPU."""
    ptq = evaluator(Noise(model=model()), correction=correction)
    many = together(ptq, 2, correction=correction, device="meta")
    states = [many._state(assignment) for assignment in drawn(ptq.network, 2, kernels=True)]
    tensors = [tensor for state in states for tensor in (*state.tensors.values(), state.grids)]
    assert {tensor.device.type for tensor in [*tensors, *many._states.base.values()]} == {"meta"}
    found = many.outputs(states)
    assert [tuple(batch.shape) for batch in found] == [(2, 16, 3), (2, 16, 3), (2, 5, 3)]
    assert {batch.device.type for batch in found} == {"meta"}


def test_devices_that_are_not_there_are_refused() -> None:
    ptq, _ = prepared()
    for device in ("cuda:63", "nowhere"):
        with pytest.raises(ConfigError, match="device must be one that torch has here") as caught:
            together(ptq, 2, device=device)
        assert "\n" not in str(caught.value)


class Sorting(Net):
    """Ends in an operation that cannot be mapped: how many numbers it gives depends on the data."""

    def forward(self, x: Tensor) -> Tensor:
        found = super().forward(x)
        return found + torch.nonzero(found.new_zeros(3)).sum()


def test_operations_that_cannot_be_mapped_are_told_in_one_line() -> None:
    ptq = evaluator(Noise(model=Sorting()), correction=False)
    with pytest.raises(ConfigError) as caught:
        list(together(ptq, 2, correction=False).evaluate_many(drawn(ptq.network, 2)))
    assert "\n" not in str(caught.value)
    assert "assignments_at_once: 1" in str(caught.value)


def test_a_compiler_takes_the_graphs() -> None:
    ptq, _ = prepared()
    taken = list[int]()

    def compiler(graph: nn.Module, arguments: Sequence[Tensor]) -> nn.Module:
        taken.append(len(arguments))
        return graph

    many = together(ptq, 2)
    many._settings = replace(many._settings, compiler=compiler)  # type: ignore[arg-type]
    assignments = drawn(ptq.network, 2)
    check(list(many.evaluate_many(assignments)), [ptq.evaluate(assignment) for assignment in assignments])
    assert len(taken) == 3  # correction, batches of 16, and the last of 5


@pytest.mark.slow
def test_a_real_network_in_single_precision() -> None:
    """A few codes fall to the other side, in one of some 10⁵ numbers: what is measured stays."""
    workload = registry.create("workloads", "digits-resnet")
    layers = trace_layers(workload.model(), next(iter(workload.calibration()))[0])
    ptq = PostTraining(workload, layers, PostTraining.Options(samples=200, calibration_samples=64))
    many = Together(ptq.network, ptq.scoring, ptq.validation, ptq.calibration.inputs, Settings(4, 64), ptq.evaluate)
    assignments = [BitAssignment(dict.fromkeys(ptq.network.sites, bits)) for bits in (3, 4, 6, 8)]
    for assignment, found in zip(assignments, many.evaluate_many(assignments), strict=True):
        expected = ptq.evaluate(assignment)
        assert isinstance(found, Quality)
        assert found.metric == pytest.approx(expected.metric, abs=2 / 200)
        assert found.loss == pytest.approx(expected.loss, rel=0.02)
