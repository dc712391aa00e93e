"""Overlaid weights trained as an evaluation: what is judged is what was trained, and starts fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from qat_workload import Stripes, layers, stripes

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import ConfigError
from qsearch.evaluate.admm import JointCompression
from qsearch.evaluate.ptq import PostTraining
from qsearch.evaluate.qat import QuantizationAware
from qsearch.evaluate.warm_start import begin_from, state_of
from qsearch.overlay import ALL, PATTERNS, Overlay
from qsearch.sites import build_space, overlaid
from qsearch.training.batch_norm import fold
from qsearch.training.families import FAMILIES, family
from qsearch.training.network import TrainableNetwork
from qsearch.training.overlay import OverlaidLearner

OVERLAY = Overlay(8, (0, 1, 2, 4, 8), PATTERNS)
SPACE = build_space(layers(), weight_bits=[2, 4, 8], activation_bits=[4, 8], overlay=OVERLAY)
MARKED = overlaid(layers(), SPACE, OVERLAY)
CHANNELS = PATTERNS.index("channels")


def evaluator(**options: Any) -> QuantizationAware:
    chosen = {"epochs": 2, "batch_size": 40, "threads": 1, **options}
    return QuantizationAware(Stripes(), MARKED, QuantizationAware.Options(**chosen))


def untrained(period: int = 8) -> PostTraining:
    marked = overlaid(layers(), SPACE, Overlay(period, (0,)))
    return PostTraining(Stripes(), marked, PostTraining.Options(threads=1))


def choose(kept: int, bits: int = 4, pattern: int = CHANNELS, activations: int = 8) -> BitAssignment:
    roles = {"weight": bits, "activation": activations, "overlay": kept, "pattern": pattern}
    return BitAssignment({site.name: roles[site.role] for site in SPACE.sites})


MIXED = choose(2).replace({"0.overlay": 0, "4.overlay": 1, "4.pattern": 0, "7.overlay": ALL})
"""All ternary, a few in blocks, and plain."""


@pytest.mark.parametrize("batch_norm", ["late", "frozen", "folded"])
@pytest.mark.parametrize("quantizer", list(FAMILIES))
def test_the_network_that_is_judged_gives_what_the_trained_one_gives_to_the_last_bit(
    quantizer: str, batch_norm: str
) -> None:
    found = evaluator(quantizer=quantizer, batch_norm=batch_norm)
    course = found._course(MIXED, 0, 2)
    training = found._begin(course)
    found._train(training, 2)
    settled = found._settle(course, training.network)
    x, _ = stripes("validation")
    with torch.inference_mode():
        assert torch.equal(settled(x), training.network(x))
    for site, learner in training.network.weights.items():
        if isinstance(learner, OverlaidLearner):
            kept, pattern = MIXED.highest(f"{site[0]}.overlay"), MIXED.highest(f"{site[0]}.pattern")
            table = settled.overlaid_weight(site, 4, kept, pattern)
            assert torch.equal(table.mask, learner.mask)
            assert not torch.equal(
                table.values, found.lessons().calibrated.overlaid_weight(site, 4, kept, pattern).values
            )
    assert {site for site, it in training.network.weights.items() if isinstance(it, OverlaidLearner)} == {
        "0.weight",
        "4.weight",
    }


def test_kept_weights_may_be_floats() -> None:
    found, chosen = evaluator(), choose(2, bits=FLOAT_BITS)
    network = found.trained(chosen)
    for layer in MARKED:
        table = network.overlaid_weight(layer.weight_site, FLOAT_BITS, 2, CHANNELS)
        assert not table.codes.any()
        assert len(table.values[table.mask].unique()) == int(table.mask.sum())
        assert (table.ternary[table.mask] == 0).all()


def test_folded_batch_norms_scale_both_parts() -> None:
    """Before any step: the ternary scales and those of the kept weights, by γ/σ; codes but for their signs stay."""
    lessons = evaluator().lessons()
    plain, folded = (TrainableNetwork(lessons, choose(2), family("lsq")) for _ in range(2))
    assert fold(folded, lessons) == ("0",)
    one, other = (network.settled().overlays["0.weight"] for network in (plain, folded))
    norm = lessons.model()[1]
    ratio = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    torch.testing.assert_close(other.values, one.values * ratio.view(-1, 1, 1, 1))
    torch.testing.assert_close(other.ternary_scales, one.ternary_scales * ratio.abs())
    assert torch.equal(other.ternary, one.ternary * ratio.sign().view(-1, 1, 1, 1).to(torch.int8))
    assert torch.equal(other.codes, one.codes)


def test_training_helps_where_most_weights_are_ternary() -> None:
    trained = evaluator(epochs=8).evaluate(choose(0))
    assert trained.loss < 0.8 * untrained().evaluate(choose(0)).loss


def test_float_is_not_trained_whatever_the_patterns_of_plain_weights_are() -> None:
    floating = SPACE.reference(FLOAT_BITS)
    assert set(floating.values()) == {FLOAT_BITS, 0}
    quality = evaluator().evaluate(floating)
    assert "epochs" not in quality.details
    assert quality.loss == untrained().evaluate(floating).loss
    assert "epochs" in evaluator().evaluate(choose(2, bits=FLOAT_BITS, activations=FLOAT_BITS)).details


def test_progress_ends_with_what_is_evaluated_and_testing_trains_the_same_again() -> None:
    found = evaluator(epochs=3)
    reports = [quality for _, quality in found.progress(MIXED, seed=5)]
    again = evaluator(epochs=3).evaluate(MIXED, seed=5)
    assert reports[-1].loss == again.loss
    assert np.array_equal(reports[-1].outcomes, again.outcomes)


@pytest.mark.parametrize(("then", "agree"), [(choose(2), True), (choose(4), False), (choose(2, pattern=0), False)])
def test_a_start_gives_its_quantisers_to_the_same_overlays_only(then: BitAssignment, agree: bool) -> None:
    lessons = evaluator().lessons()
    network = TrainableNetwork(lessons, choose(2), family("lsq"))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.25
    other, fresh = (TrainableNetwork(lessons, then, family("lsq")) for _ in range(2))
    begin_from(other, then, state_of(network), choose(2))
    expected = (network if agree else fresh).weights["4.weight"].state_dict()
    assert expected
    assert all(torch.equal(expected[name], value) for name, value in other.weights["4.weight"].state_dict().items())
    assert torch.equal(other.float_weight("4"), network.float_weight("4"))


def test_a_plain_weight_starts_from_an_overlaid_one_and_the_reverse() -> None:
    found = evaluator(epochs=1, warm_start=True)
    plain, kept = choose(ALL), choose(2)
    assert found.evaluate(plain).details["start"] == "float"
    assert found.evaluate(kept).details["start"] == plain.digest
    assert found.evaluate(kept.replace({"0.overlay": ALL})).details["start"] == kept.digest


def test_sensitivities_are_kept_apart_by_their_periods() -> None:
    found = {untrained(period).fingerprint() for period in (4, 8)}
    plain = PostTraining(Stripes(), layers(), PostTraining.Options(threads=1)).fingerprint()
    assert len({*found, plain}) == 3
    assert untrained(4).fingerprint() in found


def test_joint_pruning_refuses_overlays() -> None:
    with pytest.raises(ConfigError, match="decides itself which weights are kept; got a space with overlays"):
        JointCompression(Stripes(), MARKED, JointCompression.Options())
