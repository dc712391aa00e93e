"""Evaluations of some samples at a time: the same outcomes as of all together, in data order."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch.nn import functional

from qsearch import registry
from qsearch.assignment import BitAssignment
from qsearch.evaluate.ptq import PostTraining
from qsearch.pruning import Sampling
from qsearch.setting import layers_of
from qsearch.sites import build_space
from qsearch.trial import SPIKES


@cache
def evaluator(name: str = "digits-resnet", samples: int = 200) -> PostTraining:
    workload = registry.create("workloads", name, {})
    options = {"samples": samples, "calibration_samples": 64, "threads": 1}
    found: PostTraining = registry.create("evaluators", "ptq", options, workload, layers_of(workload))
    return found


def uniform(name: str, bits: int) -> BitAssignment:
    layers = layers_of(registry.create("workloads", name, {}))
    return build_space(layers, weight_bits=range(2, 9), activation_bits=range(2, 9)).uniform(bits)


def parts(samples: int, count: int = 4) -> list[np.ndarray]:
    return np.array_split(np.random.default_rng(0).permutation(samples), count)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_after_all_samples_it_is_the_evaluation(bits: int) -> None:
    assignment = uniform("digits-resnet", bits)
    whole = evaluator().evaluate(assignment)
    *_, last = evaluator().sampled(assignment, parts(200))
    assert whole.outcomes is not None
    assert last.outcomes is not None
    assert last.outcomes.tolist() == whole.outcomes.tolist()
    assert (last.metric, last.samples, last.standard_error) == (whole.metric, whole.samples, whole.standard_error)
    assert last.loss == pytest.approx(whole.loss, rel=1e-5)


def test_on_the_way_outcomes_are_those_of_the_samples_seen() -> None:
    assignment = uniform("digits-resnet", 2)
    whole, order = evaluator().evaluate(assignment).outcomes, parts(200)
    assert whole is not None
    for count, quality in enumerate(evaluator().sampled(assignment, order), 1):
        seen = np.concatenate(order[:count])
        assert quality.outcomes is not None
        assert quality.outcomes[seen].tolist() == whole[seen].tolist()
        assert np.flatnonzero(~np.isnan(quality.outcomes)).tolist() == sorted(seen)
        assert quality.samples == len(seen)
        assert quality.metric == np.mean(whole[seen], dtype=np.float64)


def test_data_order_in_parts_is_the_evaluation_to_the_last_bit() -> None:
    """Batches of the evaluator's own size, in its own order."""
    assignment = uniform("digits-resnet", 3)
    *_, last = evaluator().sampled(assignment, np.split(np.arange(200), [64, 128, 192]))
    assert last == evaluator().evaluate(assignment)


def test_what_is_closed_goes_no_further_and_leaves_nothing_behind() -> None:
    assignment = uniform("digits-resnet", 2)
    expected = evaluator().evaluate(uniform("digits-resnet", 8))
    found = evaluator().sampled(assignment, parts(200))
    next(found)
    found.close()
    assert list(found) == []
    assert evaluator().evaluate(uniform("digits-resnet", 8)) == expected
    assert not torch.is_inference_mode_enabled()


def test_difficulty_is_the_loss_of_the_float_network() -> None:
    data = evaluator().validation
    with torch.inference_mode():
        model = registry.create("workloads", "digits-resnet", {}).model()
        expected = functional.cross_entropy(model(data.inputs), data.targets, reduction="none")
    assert isinstance(evaluator(), Sampling)
    assert evaluator().difficulty() == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_spikes_are_counted_over_the_samples_seen() -> None:
    assignment = uniform("digits-spiking", 4)
    whole = evaluator("digits-spiking", 32).evaluate(assignment)
    *_, last = evaluator("digits-spiking", 32).sampled(assignment, parts(32, 2))
    assert whole.details[SPIKES] == pytest.approx(last.details[SPIKES])
