"""Quantisation error against its definition."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from float_networks import Given, Gives, perceptron
from torch import Tensor

from qsearch.errors import EvaluationError
from qsearch.layers import Layer
from qsearch.protocols import SensitivityTable
from qsearch.sensitivity.quantization_error import QuantizationError
from qsearch.sites import build_space
from qsearch.space import SearchSpace

LAYERS = (Layer("0", "linear", 3, 4), Layer("2", "linear", 4, 3))


def space(**options: object) -> SearchSpace:
    return build_space(LAYERS, **{"weight_bits": [2, 4, 32], "activation_bits": [3, 8], **options})


def table(space: SearchSpace, **options: object) -> SensitivityTable:
    return QuantizationError(QuantizationError.Options(**options)).table(space, Gives(perceptron))


def relative(x: Tensor, rest: Tensor, normalise: str) -> float:
    if normalise == "range":
        e_qe = float(rest.square().mean().sqrt() / x.abs().max())
        return e_qe**2
    return float(rest.square().sum() / x.square().sum())


@pytest.mark.parametrize("normalise", ["range", "energy"])
def test_the_definition(normalise: Literal["range", "energy"]) -> None:
    network, found = perceptron(), table(space(), normalise=normalise).damage
    w = network.model[0].weight.detach()
    x = torch.tanh(network.model[0](network.inputs)).detach()
    for position, bits in enumerate((2, 4)):
        rest = w - network.quantized_weight("0.weight", bits)
        assert found["0.weight"][0, position] == pytest.approx(relative(w, rest, normalise))
    assert found["0.weight"][0, 2] == 0
    for position, bits in enumerate((3, 8)):
        rest = x - network.quantized_input("2.input", bits, x)
        assert found["2.input"][0, position] == pytest.approx(relative(x, rest, normalise))


@pytest.mark.parametrize("normalise", ["range", "energy"])
def test_kernels_add_up_to_their_layer(normalise: str) -> None:
    layerwise, kernelwise = table(space(), normalise=normalise), table(space(granularity="kernel"), normalise=normalise)
    for name in ("0.weight", "2.weight"):
        assert kernelwise.damage[name].shape == ({"0.weight": 4, "2.weight": 3}[name], 3)
        assert kernelwise.damage[name].sum(0) == pytest.approx(layerwise.damage[name][0])


def test_one_pass_where_inputs_are_searched_and_none_elsewhere() -> None:
    assert table(space()).samples == 12
    assert table(space(), samples=5).samples == 5
    assert table(space(fixed={"activations": 8})).samples == 0


def test_a_tie_takes_the_sum_of_its_sites() -> None:
    layers = (Layer("0", "linear", 3, 4), Layer("2", "linear", 4, 3))
    tied = build_space(layers, weight_bits=[2, 4], activation_bits=[3], ties=[("0.weight", "2.weight")])
    apart = build_space(layers, weight_bits=[2, 4], activation_bits=[3])
    alone, together = table(apart).damage, table(tied).damage
    assert together["0.weight"] == pytest.approx(alone["0.weight"] + alone["2.weight"])
    assert "2.weight" not in together


def test_labels_and_gradients_are_not_asked_for() -> None:
    def make() -> Given:
        network = perceptron()
        network.model.requires_grad_(False)
        return network

    found = QuantizationError(QuantizationError.Options()).table(space(), Gives(make))
    assert found.damage["0.weight"][0, 0] > 0


def test_a_weight_of_zeros_has_no_damage() -> None:
    def make() -> Given:
        network = perceptron()
        torch.nn.init.zeros_(network.model[0].weight)
        return network

    found = QuantizationError(QuantizationError.Options()).table(space(), Gives(make))
    assert found.damage["0.weight"].tolist() == [[0.0, 0.0, 0.0]]


def test_an_input_that_is_not_finite_names_its_site() -> None:
    def make() -> Given:
        network = perceptron()
        network.inputs[3, 1] = torch.nan
        return network

    with pytest.raises(EvaluationError, match=r"sensitivity of site '0\.input' must be finite"):
        QuantizationError(QuantizationError.Options()).table(space(), Gives(make))
