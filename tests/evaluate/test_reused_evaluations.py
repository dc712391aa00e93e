"""The evaluator with and without reuse of what is upstream: the same answers, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from qsearch.assignment import BitAssignment
from qsearch.evaluate.ptq import PostTraining
from qsearch.quantize.reuse import MOST, default_memory
from qsearch.quantize.trace import examine
from qsearch.sensitivity.one_at_a_time import OneAtATime
from qsearch.sensitivity.pairwise import Pairwise
from qsearch.sites import build_space


class Deep:
    """Drawn weights and data; four layers."""

    name, metric = "deep", "accuracy"

    def model(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            convolutions = [
                nn.Conv2d(1, 4, 3),
                nn.BatchNorm2d(4),
                nn.ReLU(inplace=True),
                nn.Conv2d(4, 4, 3, bias=False),
            ]
            head = [
                nn.BatchNorm2d(4),
                nn.ReLU(inplace=True),
                nn.Flatten(),
                nn.Linear(64, 8),
                nn.ReLU(),
                nn.Linear(8, 3),
            ]
            return nn.Sequential(*convolutions, *head).eval()

    def calibration(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self._drawn(0, 24)

    def validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self._drawn(1, 40)

    def test(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self._drawn(2, 8)

    def train(self) -> None:
        return None

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output, target)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        return (output.argmax(-1) == target).float()

    def _drawn(self, seed: int, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        yield torch.randn(count, 1, 8, 8, generator=generator), torch.randint(0, 3, (count,), generator=generator)


LAYERS = examine(Deep().model(), torch.zeros(2, 1, 8, 8)).layers
SPACE = build_space(LAYERS, weight_bits=[2, 4, 8], activation_bits=[2, 4, 8])


def evaluator(**options: object) -> PostTraining:
    return PostTraining(Deep(), LAYERS, PostTraining.Options(batch_size=10, **options))


def reused(found: PostTraining) -> int:
    return 0 if found.network.reuse is None else found.network.reuse.reused


def test_tables_are_the_same_to_the_last_bit() -> None:
    for kind in (OneAtATime, Pairwise):
        with_it, without = evaluator(), evaluator(reuse=0)
        found, expected = (kind(kind.Options()).table(SPACE, each) for each in (with_it, without))
        assert found.samples == expected.samples
        for name, damage in expected.damage.items():
            np.testing.assert_array_equal(found.damage[name], damage)
        for pair, interaction in expected.interactions.items():
            np.testing.assert_array_equal(found.interactions[pair], interaction)
        assert reused(with_it) > 0
        assert reused(without) == 0


def test_qualities_of_a_local_search_are_the_same_to_the_last_bit() -> None:
    with_it, without = evaluator(), evaluator(reuse=0)
    now = dict.fromkeys((site.name for site in SPACE.sites), 8)
    for site in [*now, *now]:
        for bits in (2, 4):
            tried = BitAssignment({**now, site: bits})
            for fidelity in (1.0, 0.4):
                assert with_it.evaluate(tried, fidelity=fidelity) == without.evaluate(tried, fidelity=fidelity)
            assert with_it.probe(tried) == without.probe(tried)
        now[site] = 4
    assert reused(with_it) > 0


def test_memory_is_bounded_by_the_option() -> None:
    small = evaluator(reuse=1)
    OneAtATime(OneAtATime.Options()).table(SPACE, small)
    assert small.network.reuse is not None
    assert 0 < small.network.reuse.size <= 1 << 20
    assert 0 < default_memory() <= MOST
