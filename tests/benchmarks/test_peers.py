"""Known answers for what the comparison rests on: the meter, the count of levels, the files, the toolkit's names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from entries import entries
from exchange import Answer, Given, Price
from judging import check_levels, levels
from metering import Meter, operations, processor_seconds
from torch import nn

from qsearch.models.resnet_digits import DigitsNetwork

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A convolution without a bias and a linear layer: 1×3×3×4 × 64 and 256×10 multiply-accumulates an image."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)).eval()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_forward_pass_makes_two_operations_per_multiply_accumulate(network: nn.Module, mode: type) -> None:
    with mode():
        found = operations(lambda: network(torch.rand(5, 1, 8, 8)))
    assert found == 2 * 5 * (9 * 4 * 64 + 256 * 10)


def test_a_backward_pass_counts_twice_where_inputs_need_gradients(network: nn.Module) -> None:
    images = torch.rand(5, 1, 8, 8, requires_grad=True)
    with Meter(network, images[:1].detach()) as meter:
        network(images).sum().backward()
    assert meter.price.passes == pytest.approx(5 * 3)


def test_seconds_are_of_the_processor() -> None:
    before = processor_seconds()
    torch.rand(500, 500).matrix_power(200)
    spent = processor_seconds() - before
    assert 0 < spent < 60


def test_a_price_has_the_memory_that_was_held() -> None:
    network = nn.Linear(4, 4)
    with Meter(network, torch.rand(1, 4)) as meter:
        held = torch.ones(64 << 20, dtype=torch.uint8)
    assert 64 < meter.price.mebibytes < 1 << 20
    assert len(held) == 64 << 20


def test_levels_are_counted_per_kernel() -> None:
    weights = np.asarray([[0.5, 0.5, -0.5], [1, 2, 3], [0, 0, 0]], dtype=np.float32)
    assert levels(weights).tolist() == [2, 3, 1]
    check_levels({"a": weights}, {"a": 2})
    check_levels({"a": weights}, {"a": [1, 2, 0]})


@pytest.mark.parametrize("claimed", [1, [1, 1, 0], [0, 2, 0]])
def test_weights_with_more_levels_than_claimed_are_refused(claimed: int | list[int]) -> None:
    weights = np.asarray([[0.5, 0.5, -0.5], [1, 2, 3], [0, 0, 0]], dtype=np.float32)
    with pytest.raises(ValueError, match="levels"):
        check_levels({"a": weights}, {"a": claimed})


def test_a_layer_without_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="no weights of b"):
        check_levels({}, {"b": 2})


def test_what_is_given_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, images = DigitsNetwork().eval(), torch.rand(3, 1, 8, 8)
    given = Given(tmp_path)
    given.write(network, {}, inputs=images.numpy(), targets=np.arange(3), judged=images.numpy())
    with torch.no_grad():
        assert torch.equal(Given(tmp_path).network()(given.judged), network(images))
    assert [(len(batch), target.tolist()) for batch, target in given.batches()] == [(3, [0, 1, 2])]
    assert "judged_targets" not in np.load(tmp_path / "data.npz")


def test_an_answer_comes_back(tmp_path: Path) -> None:
    weights = np.ones((2, 3), dtype=np.float32)
    answer = Answer({"a.b": 2, "c": [1, 2]}, {"a.b": weights}, weights, Price(1.5, 2.5, 3.5))
    answer.write(tmp_path)
    found = Answer.read(tmp_path)
    assert (found.bits, found.price) == (answer.bits, answer.price)
    assert np.array_equal(found.weights["a.b"], weights)
    assert np.array_equal(found.logits, weights)


def test_rows_have_labels_and_folders_of_their_own() -> None:
    rows = [*entries(50), *entries(5)]
    labels = {row.label for row in rows}
    assert len({row.folder for row in rows}) == len(labels) == len(entries(50)) + 3
    assert all((PEERS / f"{row.tool}_peer.py").is_file() for row in rows)
