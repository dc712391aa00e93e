"""All sensitivities on one small network through the post-training evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_workload import evaluator, space

from qsearch.protocols import Differentiable, Fingerprinted, SensitivityTable
from qsearch.sensitivity.hessian import Hessian
from qsearch.sensitivity.noise import Noise
from qsearch.sensitivity.one_at_a_time import OneAtATime
from qsearch.sensitivity.pairwise import Pairwise
from qsearch.sensitivity.quantization_error import QuantizationError

PLUGINS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "hessian": (Hessian, {"samples": 32, "standard_error": 10.0, "max_probes": 8}),
    "noise": (Noise, {"samples": 32}),
    "gaussian noise": (Noise, {"samples": 32, "kind": "gaussian"}),
    "quantization-error": (QuantizationError, {}),
    "one-at-a-time": (OneAtATime, {}),
    "pairwise": (Pairwise, {}),
}


def table(name: str, **options: Any) -> SensitivityTable:
    plugin, given = PLUGINS[name]
    return plugin(plugin.Options(**given)).table(space(**options), evaluator())


@pytest.mark.parametrize("name", PLUGINS)
@pytest.mark.parametrize("granularity", ["layer", "kernel"])
def test_shapes_and_orders(name: str, granularity: str) -> None:
    """Finite numbers of the right shapes, for every bitwidth from pruned to float; float does no damage."""
    given = {"weight_bits": [0, 1, 2, 8, 32], "activation_bits": [1, 4, 32], "granularity": granularity}
    found = table(name, **given)
    assert found.samples > 0
    assert list(found.damage) == [variable.name for variable in space(**given).variables]
    for variable in space(**given).variables:
        damage = found.damage[variable.name]
        assert damage.shape == (variable.length, len(variable.choices))
        assert np.isfinite(damage).all()
        assert (damage[:, -1] == 0).all()
        assert damage.sum(0)[0] > damage.sum(0)[-2]


@pytest.mark.parametrize("name", PLUGINS)
def test_ties_and_fixed_sites(name: str) -> None:
    found = table(name, ties=[("0.input", "4.input")], fixed={"0.weight": 8})
    assert list(found.damage) == ["0.input", "4.weight"]


@pytest.mark.parametrize("name", PLUGINS)
def test_nothing_to_find(name: str) -> None:
    found = table(name, fixed={"weights": 8, "activations": 8})
    assert found.damage == {}


@pytest.mark.parametrize("name", PLUGINS)
def test_an_evaluator_answers_the_same_afterwards(name: str) -> None:
    plugin, given = PLUGINS[name]
    used = evaluator()
    before = used.probe(space().uniform(4))
    plugin(plugin.Options(**given)).table(space(), used)
    assert used.probe(space().uniform(4)) == before


def test_the_post_training_evaluator_fits_the_seams() -> None:
    assert isinstance(evaluator(), Differentiable)
    assert isinstance(evaluator(), Fingerprinted)
