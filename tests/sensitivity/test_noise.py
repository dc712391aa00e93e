"""Noise sensitivity: on a quadratic loss its mean is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from float_networks import Given, Gives, half_square, perceptron, quadratic
from torch import Tensor, nn

from qsearch.assignment import BitAssignment
from qsearch.errors import EvaluationError, PluginError
from qsearch.layers import Layer
from qsearch.protocols import SensitivityTable
from qsearch.sensitivity.noise import Noise
from qsearch.sites import build_space
from qsearch.space import SearchSpace
from qsearch.trial import Quality

LAYERS = (Layer("0", "linear", 3, 4), Layer("2", "linear", 4, 3))


def hessian(size: int = 6) -> Tensor:
    drawn = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return drawn @ drawn.T + 0.1 * torch.eye(size, dtype=torch.float64)


def space(**options: object) -> SearchSpace:
    return build_space(LAYERS, **{"weight_bits": [2, 4, 32], "activation_bits": [3, 8], **options})


def table(space: SearchSpace, **options: object) -> SensitivityTable:
    return Noise(Noise.Options(**options)).table(space, Gives(perceptron))


def test_uniform_noise_on_a_quadratic_weight() -> None:
    """G9: the mean rise is Δ²·tr(H)/24, and one bit less is four times as much."""
    h = hessian()
    one = build_space([Layer("0", "linear", 6, 1)], weight_bits=[1, 2], activation_bits=[8], fixed={"activations": 8})
    weight = torch.linspace(-1, 1, 6, dtype=torch.float64)
    found = Noise(Noise.Options(draws=3000)).table(one, Gives(lambda: quadratic(h, weight))).damage["0.weight"][0]
    spread = 0.5 * float(h.square().sum()) ** 0.5 / 12 * 2  # of one draw at Δ = 1, generously
    for value, step in zip(found, (0.5, 0.25), strict=True):
        expected = step**2 * float(h.trace()) / 24
        assert value == pytest.approx(expected, abs=4 * spread * step**2 / 3000**0.5)
    assert found[0] / found[1] == pytest.approx(4)


def test_gaussian_noise_on_a_quadratic_weight() -> None:
    """½·σ²·tr(H) with σ = 2^(−b)/√3 · max|w|."""
    h, weight = hessian(), torch.linspace(-1, 2, 6, dtype=torch.float64)
    one = build_space([Layer("0", "linear", 6, 1)], weight_bits=[3], activation_bits=[8], fixed={"activations": 8})
    options = Noise.Options(kind="gaussian", draws=4000)
    found = float(Noise(options).table(one, Gives(lambda: quadratic(h, weight))).damage["0.weight"][0, 0])
    assert found == pytest.approx(0.5 * (2**-3 / 3**0.5 * 2) ** 2 * float(h.trace()), rel=0.08)


def test_uniform_noise_on_an_input() -> None:
    """Loss ½·mean (Wx)²: the rise is Δ²/24 · ‖W‖²_F / outputs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4, bias=False)).double()
    inputs, power = torch.randn(40, 5, dtype=torch.float64), float(model[0].weight.detach().square().sum())
    one = build_space([Layer("0", "linear", 5, 4)], weight_bits=[8], activation_bits=[1, 2], fixed={"weights": 8})
    gives = Gives(lambda: Given(model, inputs, torch.zeros(40), half_square))
    found = Noise(Noise.Options(draws=400)).table(one, gives).damage["0.input"][0]
    for value, step in zip(found, (0.5, 0.25), strict=True):
        assert value == pytest.approx(step**2 / 24 * power / 4, rel=0.05)


@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
def test_mirrored_draws_take_out_the_gradient(kind: str) -> None:
    """On a linear loss there is no damage, whatever the draws."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4)).double()
    inputs = torch.randn(8, 3, dtype=torch.float64)
    one = build_space(LAYERS[:1], weight_bits=[2], activation_bits=[2])
    gives = Gives(lambda: Given(model, inputs, torch.zeros(8), lambda output, target: output.mean()))
    damage = Noise(Noise.Options(draws=1, kind=kind)).table(one, gives).damage
    assert np.concatenate([value.ravel() for value in damage.values()]) == pytest.approx(0, abs=1e-12)


def test_the_network_is_as_it_was_and_float_does_no_damage() -> None:
    network = perceptron()
    before = {name: value.clone() for name, value in network.model.state_dict().items()}
    found = Noise(Noise.Options(draws=1)).table(space(), Gives(lambda: network))
    assert all(torch.equal(value, before[name]) for name, value in network.model.state_dict().items())
    assert not network.model[0]._forward_pre_hooks
    assert found.damage["0.weight"].shape == (1, 3)
    assert found.damage["0.weight"][0, 2] == 0
    assert (found.damage["0.weight"][0, :2] != 0).all()


def test_passes_are_counted() -> None:
    """Two passes that look, and two for each draw of each choice that is not float."""
    assert table(space(), draws=3, samples=12).samples == 12 * (2 + 2 * 3 * (2 + 2 + 2 + 2))
    assert table(space(fixed={"activations": 8}), draws=3, samples=7).samples == 7 * (1 + 2 * 3 * 4)


def test_it_is_deterministic() -> None:
    first, again, other = table(space()), table(space()), table(space(), seed=1)
    assert all((value == again.damage[name]).all() for name, value in first.damage.items())
    assert any((value != other.damage[name]).any() for name, value in first.damage.items())


def test_kernels_share_the_damage_of_their_layer_by_their_squared_steps() -> None:
    class Uneven(Given):
        def step(self, site: str, bits: int) -> Tensor:
            return super().step(site, bits) * (1 if site.endswith(".input") else torch.tensor([1.0, 2.0, 1.0, 0.0])[:4])

    def make() -> Given:
        small = perceptron()
        return Uneven(small.model, small.inputs, small.targets)

    one = build_space(
        LAYERS[:1], weight_bits=[2, 4], activation_bits=[8], granularity="kernel", fixed={"activations": 8}
    )
    damage = Noise(Noise.Options(draws=1)).table(one, Gives(make)).damage["0.weight"]
    assert damage.shape == (4, 2)
    assert damage / damage.sum(0) == pytest.approx(np.tile([[1 / 6], [4 / 6], [1 / 6], [0.0]], (1, 2)))


def test_damage_that_is_not_finite_names_its_site() -> None:
    def make() -> Given:
        network = perceptron()
        highest = network.model(network.inputs).detach().max() + 1e-6
        network.criterion = lambda output, target: torch.where(output > highest, torch.inf, output).mean()
        return network

    fixed = space(fixed={"activations": 8}, weight_bits=[0, 8])
    with pytest.raises(EvaluationError, match=r"sensitivity of site '\d\.weight' at 0 bits must be finite"):
        Noise(Noise.Options(draws=20)).table(fixed, Gives(make))


def test_a_loss_without_derivatives_serves() -> None:
    def make() -> Given:
        network = perceptron()
        network.criterion = lambda output, target: (output.argmax(1) != target).double().mean()
        return network

    found = Noise(Noise.Options()).table(space(), Gives(make))
    assert all(np.isfinite(value).all() for value in found.damage.values())


def test_an_evaluator_without_a_float_network_is_told() -> None:
    class Blind:
        def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
            raise AssertionError

    with pytest.raises(PluginError, match=r"noise sensitivity.*float_network.*one-at-a-time"):
        Noise(Noise.Options()).table(space(), Blind())
