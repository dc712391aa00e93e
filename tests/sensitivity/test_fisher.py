"""Fisher sensitivity against the divergence itself, exact second moments, and gradients taken one by one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import EvaluationError, PluginError
from qsearch.evaluate.ptq import PostTraining, divergence
from qsearch.protocols import SensitivityTable
from qsearch.quantize.trace import trace_layers
from qsearch.sensitivity.fisher import Fisher, square_root_of_fisher
from qsearch.sites import build_space
from qsearch.space import SearchSpace
from qsearch.testing.problems import separable

SAMPLES = 48


class Random:
    """A random network on random pictures, with labels of its own."""

    name = "random"
    metric = "accuracy"

    def __init__(self, network: nn.Module, shape: tuple[int, ...] = (2, 6, 6)) -> None:
        generator = torch.Generator().manual_seed(3)
        self.network = network.eval()
        self.x = torch.randn(SAMPLES, *shape, generator=generator)
        with torch.no_grad():
            self.y = network(self.x).argmax(-1) if network(self.x).dim() == 2 else self.x[:, 0]

    def model(self) -> nn.Module:
        return self.network

    def train(self) -> None:
        return None

    def calibration(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.x.split(16), self.y.split(16), strict=True)

    validation = test = calibration

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output, target)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        return (output.argmax(-1) == target).float()


def network(seed: int = 0, *, norm: bool = True) -> nn.Sequential:
    torch.manual_seed(seed)
    conv = nn.Conv2d(2, 6, 3, bias=not norm)
    middle: list[nn.Module] = [nn.BatchNorm2d(6)] if norm else []
    found = nn.Sequential(conv, *middle, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(96, 4))
    for module in found:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.3, 2.0)
            nn.init.normal_(module.running_mean)
    return found


def setting(model: nn.Module, *, correction: bool, **space: object) -> tuple[SearchSpace, PostTraining]:
    workload = Random(model)
    layers = trace_layers(model, workload.x)
    evaluator = PostTraining(workload, layers, PostTraining.Options(correction=correction, batch_size=20))
    return build_space(layers, **{"weight_bits": (6, 8), "activation_bits": (6, 8), **space}), evaluator


def table(space: SearchSpace, evaluator: PostTraining, **options: object) -> SensitivityTable:
    return Fisher(Fisher.Options(**{"temperature": 1.0, **options})).table(space, evaluator)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_second_moment_of_the_directions_is_the_fisher_matrix(seed: int) -> None:
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)).double()
    every = torch.tensor(list(product([-1.0, 1.0], repeat=4))).double()
    directions = torch.stack([square_root_of_fisher(logits, signs.expand(3, 4)) for signs in every])
    p = logits.softmax(1)
    expected = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    assert torch.allclose(torch.einsum("tni,tnj->nij", directions, directions) / len(every), expected)


def test_outputs_that_are_no_logits_have_the_mean_square() -> None:
    """½·E[(sᵀΔ)²], averaged over samples, is the mean of Δ² over everything."""
    outputs = torch.zeros(2, 2, 2)
    change = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(0))
    every = torch.tensor(list(product([-1.0, 1.0], repeat=8))).reshape(-1, 2, 2, 2)
    squares = [((square_root_of_fisher(outputs, signs) * change).sum((1, 2)) ** 2).mean() for signs in every]
    assert 0.5 * torch.stack(squares).mean() == pytest.approx(float(change.square().mean()))


@pytest.mark.parametrize(("norm", "correction"), [(False, False), (True, False), (True, True), (False, True)])
def test_small_damages_are_the_divergence_itself(norm: bool, correction: bool) -> None:
    """What the evaluation corrects is left out, what it does not is not: measured, site by site."""
    space, evaluator = setting(network(norm=norm), correction=correction)
    found = table(space, evaluator, draws=100)
    for variable in space.variables:
        for position, bits in enumerate(variable.choices):
            measured = evaluator.probe(BitAssignment({variable.name: bits})).divergence
            assert found.damage[variable.name][0, position] == pytest.approx(measured, rel=0.2), variable.name


def test_kernels_are_the_divergence_of_each_kernel() -> None:
    space, evaluator = setting(network(), correction=True, granularity="kernel")
    found = table(space, evaluator, draws=100)
    for kernel in range(6):
        bits = tuple(6 if k == kernel else FLOAT_BITS for k in range(6))
        measured = evaluator.probe(BitAssignment({"0.weight": bits})).divergence
        assert found.damage["0.weight"][kernel, 0] == pytest.approx(measured, rel=0.25, abs=1e-8), kernel


def test_a_tie_is_the_sum_of_its_sites_and_their_interaction() -> None:
    pair = ("0.weight", "4.weight")
    apart, evaluator = setting(network(), correction=True)
    tied, _ = setting(network(), correction=True, ties=[pair])
    single = table(apart, evaluator, interactions=True)
    together = table(tied, evaluator).damage["0.weight"][0]
    interaction = np.diag(single.interactions[pair])
    assert together == pytest.approx(single.damage[pair[0]][0] + single.damage[pair[1]][0] + interaction)
    assert list(single.interactions) == [
        (one.name, other.name) for i, one in enumerate(apart.variables) for other in apart.variables[i + 1 :]
    ]


def test_the_empirical_fisher_matrix_is_that_of_gradients_taken_one_by_one() -> None:
    space, evaluator = setting(network(norm=False), correction=False)
    found = table(space, evaluator, gradient="loss")
    model, workload = network(norm=False).eval(), Random(network(norm=False))
    for site, position in (("0.weight", 0), ("3.weight", 3)):
        weight = model[position].weight
        for column, bits in enumerate((6, 8)):
            change = evaluator.float_network().quantized_weight(site, bits) - weight.detach()
            squares = []
            for x, y in zip(workload.x, workload.y, strict=True):
                gradient = torch.autograd.grad(workload.loss(model(x[None]), y[None]), [weight])[0]
                squares.append(float((gradient * change).sum()) ** 2)
            assert found.damage[site][0, column] == pytest.approx(0.5 * np.mean(squares), rel=1e-3)


def test_passes_are_counted() -> None:
    """24 samples; 1 forward, 2 for each backward pass, and on average 4 choices for the sites of a layer."""
    space, evaluator = setting(network(), correction=True)
    assert table(space, evaluator, samples=24).samples == 24 * (1 + 2 + 4)
    assert table(space, evaluator, samples=24, draws=3).samples == 24 * (1 + 6 + 4)
    assert table(space, evaluator).samples == SAMPLES * (1 + 2 + 4)


def test_the_same_seed_gives_the_same_table_and_another_does_not() -> None:
    space, evaluator = setting(network(), correction=True)
    first, again, other = (table(space, evaluator, seed=seed).damage["0.weight"] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_float_does_no_damage_and_pruning_the_most() -> None:
    space, evaluator = setting(network(), correction=True, weight_bits=(0, 4, 32), activation_bits=(4, 32))
    found = table(space, evaluator).damage
    assert found["0.weight"][0, 2] == 0
    assert found["0.input"][0, 1] == 0
    assert found["0.weight"][0, 0] > found["0.weight"][0, 1] > 0


class Twice(nn.Module):
    """A layer that runs twice, one on folded samples, and one that changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shared, self.folded, self.idle = nn.Linear(36, 36), nn.Linear(6, 6), nn.Linear(4, 4)
        self.head = nn.Linear(72, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.shared(self.shared(x.reshape(-1, 2, 36)).relu())
        h = self.folded(h.reshape(-1, 6)).reshape(len(x), -1)
        logits: Tensor = self.head(h)
        return logits + 0 * self.idle(logits.detach())


def test_layers_that_run_twice_or_on_folded_samples_or_for_nothing() -> None:
    space, evaluator = setting(Twice(), correction=False)
    found = table(space, evaluator, draws=100)
    for name in ("shared.weight", "folded.weight", "folded.input", "head.weight"):
        measured = evaluator.probe(BitAssignment({name: 6})).divergence
        assert found.damage[name][0, 0] == pytest.approx(measured, rel=0.25), name
    assert not found.damage["idle.weight"].any()


def test_an_evaluator_without_a_network_is_told() -> None:
    problem, evaluator = separable()
    with pytest.raises(PluginError, match="float_network"):
        Fisher(Fisher.Options()).table(problem.space, evaluator)


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(72, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.head(x.flatten(1))
        return logits


def test_a_network_without_gradients_is_told_what_still_works() -> None:
    space, evaluator = setting(Detached(), correction=False)
    with pytest.raises(EvaluationError, match="one-at-a-time"):
        table(space, evaluator)


def test_a_loss_without_gradients_is_told_what_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Random, "loss", lambda self, output, target: (output.argmax(1) != target).float().mean())
    space, evaluator = setting(network(), correction=False)
    with pytest.raises(EvaluationError, match="gradient: model"):
        table(space, evaluator, gradient="loss")


def test_a_damage_that_is_not_finite_names_its_site(monkeypatch: pytest.MonkeyPatch) -> None:
    space, evaluator = setting(network(), correction=False, fixed={"0.weight": 8, "activations": 8})
    found = evaluator.float_network()
    monkeypatch.setattr(found, "quantized_weight", lambda site, bits: torch.full((4, 96), torch.inf))
    monkeypatch.setattr(evaluator, "float_network", lambda: found)
    with pytest.raises(EvaluationError, match=r"4\.weight"):
        table(space, evaluator)


def test_softened_outputs_have_the_divergence_of_softened_outputs() -> None:
    """At the default temperature D is KL(softmax(z / T) ‖ softmax(z′ / T)), measured."""
    space, evaluator = setting(network(), correction=True)
    options = Fisher.Options(draws=100)
    found = Fisher(options).table(space, evaluator)
    start = evaluator.network
    start.apply(BitAssignment({}))
    floating = start.calibration_output() / options.temperature
    for name in ("0.weight", "0.input", "4.weight"):
        start.apply(BitAssignment({name: 6}))
        measured = divergence(floating, start.calibration_output() / options.temperature)
        assert found.damage[name][0, 0] == pytest.approx(measured, rel=0.2), name


class Step(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x > 0).float()


def test_a_layer_that_no_gradient_reaches_is_not_taken_for_harmless() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 12), Step(), nn.Linear(12, 4))
    space, evaluator = setting(model, correction=False, weight_bits=(2, 8))
    assert evaluator.probe(BitAssignment({"1.weight": 2})).divergence > 1e-3
    with pytest.raises(EvaluationError, match=r"none at '1\.(weight|input)'.*one-at-a-time, noise"):
        table(space, evaluator)


def test_what_it_takes_to_know_a_layer_for_idle_is_counted() -> None:
    space, evaluator = setting(Twice(), correction=False)
    choices = sum(len(site.choices) for site in space.sites) / 4
    probes = 2 * SAMPLES  # of idle.weight and idle.input
    assert table(space, evaluator).samples == SAMPLES * (1 + 2 + choices) + probes
