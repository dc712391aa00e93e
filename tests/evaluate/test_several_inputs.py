"""Workloads whose networks take several inputs, from the loader to the quality; and those that cannot be read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from qsearch.errors import DataError
from qsearch.evaluate.ptq import PostTraining
from qsearch.setting import layers_of
from qsearch.sites import build_space
from qsearch.space import SearchSpace
from qsearch.testing.evaluator import EvaluatorContract
from qsearch.testing.workload import WorkloadContract


class Joined(nn.Module):
    """A picture and a few numbers beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 3)
        self.head = nn.Linear(4 + 3, 2)

    def forward(self, picture: Tensor, numbers: Tensor) -> Tensor:
        return self.head(torch.cat([self.conv(picture).relu().mean(-1), numbers], 1))


class Pairs:
    """Its samples are ((picture, numbers), label), which torch's default loader collates to lists."""

    name = "pairs"
    metric = "accuracy"

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        pictures, numbers = torch.randn(60, 2, 9, generator=generator), torch.randn(60, 3, generator=generator)
        labels = (numbers.sum(1) + pictures.sum((1, 2)) > 0).long()
        self.samples = [((pictures[i], numbers[i]), labels[i]) for i in range(60)]

    def model(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Joined().eval()

    def calibration(self) -> DataLoader[Any]:
        return DataLoader(self.samples[:20], batch_size=8)

    def validation(self) -> DataLoader[Any]:
        return DataLoader(self.samples[20:40], batch_size=8)

    def test(self) -> DataLoader[Any]:
        return DataLoader(self.samples[40:], batch_size=8)

    def train(self) -> None:
        return None

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output, target)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        return (output.argmax(1) == target).float()


class TestPairsWorkload(WorkloadContract):
    def workload(self) -> Pairs:
        return Pairs()


class TestPairsEvaluator(EvaluatorContract):
    def evaluator(self) -> PostTraining:
        workload = Pairs()
        return PostTraining(workload, layers_of(workload), PostTraining.Options(batch_size=7))

    def space(self) -> SearchSpace:
        return build_space(layers_of(Pairs()), weight_bits=[2, 4, 8], activation_bits=[4, 8])


def test_layers_are_found_on_a_collated_batch() -> None:
    conv, head = layers_of(Pairs())
    assert (conv.name, conv.macs, head.name, head.macs) == ("conv", 7 * 4 * 2 * 3, "head", 14)


class Attentive(nn.Module):
    """A sequence that is attended to, and how long it is; written with functions."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Parameter(torch.randn(3 * 6, 4) / 2)
        self.head = nn.Linear(6, 2)

    def forward(self, sequence: Tensor, lengths: Tensor) -> Tensor:  # (B, 9, 4), (B,)
        q, k, v = functional.linear(sequence, self.project).unflatten(-1, (3, 2, 3)).permute(2, 0, 3, 1, 4)
        shown = torch.arange(9, device=lengths.device) < lengths[:, None]
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=shown[:, None, None])
        return self.head(mixed.transpose(1, 2).flatten(2).mean(1))


class Sequences(Pairs):
    """Its samples are ((sequence, length), label)."""

    name = "sequences"

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        sequences, lengths = torch.randn(60, 9, 4, generator=generator), torch.arange(60) % 7 + 3
        labels = (sequences.mean((1, 2)) > 0).long()
        self.samples = [((sequences[i], lengths[i]), labels[i]) for i in range(60)]

    def model(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Attentive().eval()


class TestSequencesWorkload(WorkloadContract):
    def workload(self) -> Sequences:
        return Sequences()


class TestSequencesEvaluator(EvaluatorContract):
    def evaluator(self) -> PostTraining:
        workload = Sequences()
        return PostTraining(workload, layers_of(workload), PostTraining.Options(batch_size=7))

    def space(self) -> SearchSpace:
        return build_space(layers_of(Sequences()), weight_bits=[2, 4, 8], activation_bits=[4, 8])


def test_the_float_network_has_the_sites_of_functional_calls() -> None:
    workload = Sequences()
    layers = layers_of(workload)
    assert [layer.name for layer in layers] == ["linear", "scores", "context", "head"]
    evaluator = PostTraining(workload, layers, PostTraining.Options(batch_size=7))
    network = evaluator.float_network()
    inputs, targets = next(network.batches())
    seen: list[tuple[Tensor, Tensor]] = []
    network.layers["scores"].register_forward_pre_hook(
        lambda module, args: seen.append((args[0].detach(), args[1].detach()))
    )
    loss = network.loss(network.model(*inputs), targets)
    torch.testing.assert_close(loss, workload.loss(workload.model()(*inputs), targets), rtol=1e-4, atol=1e-6)
    ((queries, keys),) = seen
    assert (queries.shape, keys.shape) == ((7, 2, 9, 3), (7, 2, 3, 9))
    assert float(torch.autograd.grad(loss, [network.layers["linear"].weight])[0].abs().max()) > 0
    for site, x in (("scores.input", queries), ("scores.other", keys)):
        found = network.quantized_input(site, 4, x)
        assert len(found.unique()) <= 16
        assert float((found - x).abs().mean()) < float(network.step(site, 4))
    assert set(evaluator.network.corrections) == {"linear", "head"}


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "calibration loader of workload 'pairs' is empty"),
        ([{"picture": torch.zeros(4, 2, 9), "label": torch.zeros(4)}], r"must yield \(input, target\).*got dict"),
        ([({"picture": torch.zeros(4, 2, 9)}, torch.zeros(4))], r"must yield \(input, target\).*got \(dict, Tensor\)"),
        ([torch.zeros(4, 2, 9)], r"must yield \(input, target\).*got Tensor"),
        ([(torch.zeros(4, 2, 9), torch.zeros(4))], "must run on the example input.*missing 1 required"),
    ],
    ids=["empty", "dict", "dict of inputs", "no target", "an input missing"],
)
def test_what_cannot_be_read_is_refused_in_one_line(batches: list[Any], message: str) -> None:
    class Other(Pairs):
        def calibration(self) -> Any:
            return batches

    with pytest.raises(DataError, match=message) as caught:
        layers_of(Other())
    assert "\n" not in str(caught.value)
