"""The edge-inference scheme: gradient scaling, starts of ranges, phases, the sum of activations."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from taught import Seen, lessons
from torch import Tensor

from qsearch.costs import NetworkCost
from qsearch.layers import Layer
from qsearch.learned.edge import ActivationSum, Edge, EdgeRange, input_percentiles, three_sigma
from qsearch.learned.learning import Learning
from qsearch.learned.limits import Limit
from qsearch.learned.network import LearningNetwork
from qsearch.learned.ranges import RangeBits, quantize_range
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Bound, Problem
from qsearch.sites import build_space
from qsearch.space import Variable
from qsearch.testing.networks import resnet20
from qsearch.testing.problems import ACCURACY, WeightSize, linear_layers
from qsearch.training.families import family

DELTA = 5e-3


def by_values(x: Tensor, gradient: Tensor, profile: str) -> Tensor:
    x = x.clone().requires_grad_()
    one = torch.ones(1, dtype=torch.float64)
    quantize_range(x, one, 7 * one, True, DELTA, profile).backward(gradient)  # type: ignore[arg-type]
    assert x.grad is not None
    return x.grad


class TestGradientScaling:
    x = torch.tensor([0.3, -0.3, 1.45, -1.45, 0.0, 6.9, 7.1, -9.0], dtype=torch.float64)
    gradient = torch.tensor([1.0, 1.0, -2.0, -2.0, 3.0, 1.0, 5.0, 5.0], dtype=torch.float64)

    def test_weights_by_ewgs(self) -> None:
        offsets = [0.3, -0.3, 0.45, -0.45, 0.0, -0.1]
        expected = [
            g * (1 + DELTA * math.copysign(1, g) * e) for g, e in zip(self.gradient.tolist(), offsets, strict=False)
        ]
        np.testing.assert_allclose(by_values(self.x, self.gradient, "linear"), [*expected, 0, 0])

    def test_inputs_by_the_inverse_tanh(self) -> None:
        offsets = [0.3, -0.3, 0.45, -0.45, 0.0, -0.1]
        expected = [
            g * (1 + DELTA * math.copysign(1, g) * 0.5 * math.atanh(1.9 * e) / math.atanh(0.95))
            for g, e in zip(self.gradient.tolist(), offsets, strict=False)
        ]
        np.testing.assert_allclose(by_values(self.x, self.gradient, "inverse-tanh"), [*expected, 0, 0])

    def test_the_scheme_takes_each_for_its_own(self) -> None:
        scheme = EdgeRange(lessons(linear_layers([4])), DELTA)
        bits = scheme.bits(Variable("layer0.weight", ("layer0.weight",), (2, 8), 1, 0), 4.0)
        weight = scheme.weight(bits, "layer0.weight", torch.randn(4, 8))
        input_ = scheme.input(bits, "layer0.input")
        assert (weight._delta, weight._profile) == (DELTA, "linear")
        assert (input_._delta, input_._profile) == (DELTA, "inverse-tanh")


class TestStarts:
    def test_weights_begin_at_three_sigma(self) -> None:
        weight = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0)) + 0.2
        for found, kernel in zip(three_sigma(weight), weight.numpy().astype(np.float64), strict=True):
            mean, deviation = kernel.mean(), kernel.std()
            assert found.item() == pytest.approx(max(abs(mean - 3 * deviation), abs(mean + 3 * deviation)), rel=1e-5)

    def test_inputs_begin_at_their_percentile(self) -> None:
        given = lessons(linear_layers([4, 3]), samples=40)
        x = given.data.inputs
        assert isinstance(x, Tensor)
        expected = np.quantile(np.abs(x.numpy()), 0.999)
        assert input_percentiles(given) == {
            "layer0.input": pytest.approx(expected, rel=1e-5),
            "layer1.input": pytest.approx(expected, rel=1e-5),
        }

    def test_inputs_are_drawn_from_all_that_are_trained_on(self) -> None:
        """Data in the order of its classes: the first samples are small, the last ones are left out."""
        given = lessons(linear_layers([4]), samples=2000)
        x = given.data.inputs
        assert isinstance(x, Tensor)
        ordered = x.sign() * torch.arange(2000.0)[:, None]
        given = replace(given, data=replace(given.data, inputs=ordered))
        assert 1800 < input_percentiles(given)["layer0.input"] < 2000
        assert 900 < input_percentiles(given, 1000)["layer0.input"] < 1000
        assert input_percentiles(given) == input_percentiles(given)

    def test_kernels_have_steps_of_their_own_where_the_space_has_their_bits(self) -> None:
        scheme = EdgeRange(lessons(linear_layers([4])), DELTA)
        bits = scheme.bits(Variable("layer0.weight", ("layer0.weight",), (2, 3, 8), 4, 0), 3.0)
        assert isinstance(bits, RangeBits)
        weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
        module = scheme.weight(bits, "layer0.weight", weight)
        before = module(weight).detach()
        bits.set_to(torch.tensor([3.0, 8.0, 3.0, 3.0]))
        changed = (module(weight) != before).any(1)
        assert changed.tolist() == [False, True, False, False]
        module(weight).square().sum().backward()
        assert bits.log_step.grad.shape == (4,)


def learning(**options: object) -> tuple[LearningNetwork, Learning]:
    layers = linear_layers([4, 6])
    given = lessons(layers, [1.0, 1.0], samples=40)
    space = build_space(layers, weight_bits=range(2, 9), activation_bits=[8], fixed={"activations": 8})
    limits = [Limit(NetworkCost(WeightSize(), layers, space), "size", 3.0 * 80)]
    chosen = Edge.Options(batch_size=4, train_samples=40, epochs=20, **options)  # 200 steps
    scheme = EdgeRange(given, DELTA)
    network = LearningNetwork(given, space, limits, scheme, family("lsq"), weight=10.0, start=5.0, share=1.2)
    return network, Learning(network, given, chosen, seed=0)


class TestPhases:
    def test_bits_stand_first_then_move_every_20_steps(self) -> None:
        network, run = learning(mixed_from=0.2, freeze_bits_at=1.0, bits_every=20)
        assert run.every == 4  # so that bits learn 40 times in 160 steps
        for _ in range(4):
            run.epoch()
        np.testing.assert_allclose(network.real_bits(), 5.0, atol=1e-5)
        moved = []
        step = run._step

        def watched(batch: object, share: float) -> float:
            before = network.real_bits()
            loss = step(batch, share)
            moved.append(bool((network.real_bits() != before).any()))
            return loss

        run._step = watched
        run.epoch()
        assert moved == [True, False, False, False, True, False, False, False, True, False]

    def test_frozen_bits_stand_where_they_were_settled_while_weights_train(self) -> None:
        network, run = learning()
        run.epoch()
        network.freeze(np.asarray([1, 3]))  # 3 and 5 bits
        weight = network.model.get_submodule("layer0").parametrizations.weight.original
        before = weight.detach().clone()
        run.done = 17
        run.epoch()
        np.testing.assert_allclose(network.real_bits(), [3.0, 5.0], atol=1e-5)
        assert not torch.equal(weight, before)

    def test_a_training_taken_up_again_goes_on_as_if_it_had_never_stopped(self) -> None:
        """Halfway from one step of bits to the next, too."""
        options = {"mixed_from": 0.0, "freeze_bits_at": 1.0, "bits_every": 3}
        network, run = learning(**options)
        for _ in range(6):
            run.epoch()
        before, first = learning(**options)
        for _ in range(2):
            first.epoch()
        kept = io.BytesIO()
        torch.save(first.state(), kept)
        kept.seek(0)
        again, second = learning(**options)
        second.load(torch.load(kept))
        assert np.array_equal(before.real_bits(), again.real_bits())
        for _ in range(4):
            second.epoch()
        assert np.array_equal(again.real_bits(), network.real_bits())
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters(), strict=True))
        assert second.samples == run.samples

    def test_bits_come_down_to_the_target(self) -> None:
        network, run = learning(mixed_from=0.0, freeze_bits_at=1.0, bits_every=1)
        assert network.overrun() == pytest.approx(5 / 3)
        for _ in range(20):
            run.epoch()
        assert network.overrun() < 1.1
        assert run.samples == 20 * 40


class TestActivationSum:
    def test_bytes_of_all_inputs(self) -> None:
        layers = (*resnet20()[:2], Layer("product", "matmul", 4, 6, output_size=(5,), input_size=(5,), uses=2))
        space = build_space(layers, weight_bits=[4], activation_bits=[4, 8])
        cost = NetworkCost(ActivationSum(), layers, space)
        found = cost.estimate(space.reference(8).replace({"conv1.input": 4})).totals["activation_sum"]
        assert found == 3 * 32 * 32 / 2 + 16 * 32 * 32 + 2 * 4 * 5 + 2 * 4 * 6

    def test_a_target_brings_inputs_down_as_well(self) -> None:
        layers = linear_layers([4, 6])
        space = build_space(layers, weight_bits=range(2, 9), activation_bits=range(2, 9))
        cost = NetworkCost(WeightSize(), layers, space)
        problem = Problem(space, cost, ACCURACY, (Bound("size", 3.0 * 80, False, "size"),))
        options = Edge.Options(batch_size=8, epochs=20, activation_target=5.0)
        oracle = CampaignOracle(problem, Seen(lessons(layers)), MemoryRecord(), Budget(evaluations=3))
        Edge(options).search(oracle)
        (trial,) = oracle.trials
        inputs = [trial.assignment.highest(layer.activation_site) for layer in layers]
        assert sum(inputs) == 10
        assert sum(trial.assignment.highest(layer.weight_site) * layer.params for layer in layers) <= 3.0 * 80
