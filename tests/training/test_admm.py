"""ADMM on problems with known answers, the weight that it prunes and quantises, and a small network under it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.nn import functional

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import EvaluationError
from qsearch.quantize.grid import TINY
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.trace import trace_layers
from qsearch.training.admm import AdmmOptions, Weights, iterate, residual
from qsearch.training.compression import Compression
from qsearch.training.families import family
from qsearch.training.finetuning import FineTuning
from qsearch.training.lessons import Batch, Lessons
from qsearch.training.options import TrainingOptions
from qsearch.training.projections import largest, largest_kernels, quantised
from qsearch.training.sparse import Sparse, SparseWeight


class LeastSquares:
    """f(W) = ½‖A·W − y‖², whose first step is exact: (AᵀA + ρ)·W = Aᵀy + ρ·target."""

    def __init__(self, seed: int, samples: int = 60, shape: tuple[int, ...] = (12,)) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.a = torch.randn(samples, int(np.prod(shape)), generator=generator, dtype=torch.float64)
        self.y = torch.randn(samples, generator=generator, dtype=torch.float64)
        self.shape = shape
        self.targets: list[Tensor] = []

    def minimise(self, targets: Weights, rho: float) -> Weights:
        target = targets["w"].flatten()
        self.targets.append(target.clone())
        left = self.a.T @ self.a + rho * torch.eye(len(target), dtype=torch.float64)
        return {"w": torch.linalg.solve(left, self.a.T @ self.y + rho * target).view(self.shape)}

    @property
    def start(self) -> Weights:
        return self.minimise({"w": torch.zeros(self.shape, dtype=torch.float64)}, 0.0)


def nonnegative(w: Tensor) -> Tensor:
    return w.clamp_min(0)


@pytest.mark.parametrize("growth", [1.0, 2.0])
def test_a_convex_problem_is_solved(growth: float) -> None:
    """Least squares without negative weights, against SciPy's own method; also where ρ grows on the way."""
    problem = LeastSquares(3)
    options = AdmmOptions(rho=5, growth=growth, every=40, iterations=400, tolerance=1e-10)
    *_, last = iterate(problem.start, {"w": nonnegative}, problem.minimise, options)
    expected, _ = nnls(problem.a.numpy(), problem.y.numpy())
    np.testing.assert_allclose(last.projected["w"].numpy(), expected, atol=1e-6)
    assert (expected == 0).any()


@pytest.mark.parametrize(
    ("shape", "project"),
    [
        ((12,), partial(largest, keep=4)),
        ((6, 2), partial(largest_kernels, keep=2)),
        ((12,), partial(quantised, kept=torch.ones(12, dtype=torch.bool), bits=2)),
        ((12,), partial(quantised, kept=torch.arange(12) < 5, bits=3)),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_the_primal_residual_of_least_squares_vanishes(seed: int, shape: tuple[int, ...], project: Any) -> None:
    problem = LeastSquares(seed, shape=shape)
    options = AdmmOptions(rho=1e-1, growth=10, every=4, iterations=40)
    steps = list(iterate(problem.start, {"w": project}, problem.minimise, options))
    assert steps[-1].residual < 1e-3
    assert len(steps) < 40, "it must stop by its residual"
    assert steps[0].residual > 1e-2
    torch.testing.assert_close(project(steps[-1].projected["w"]), steps[-1].projected["w"], rtol=1e-6, atol=1e-9)


def test_pruning_by_admm_beats_pruning_the_solution() -> None:
    """The support is chosen with the others' answers in view: on most problems the loss is lower."""
    better = 0
    for seed in range(20):
        problem = LeastSquares(seed, samples=20)
        options = AdmmOptions(rho=0.5, growth=1.3, every=2, iterations=100)
        *_, last = iterate(problem.start, {"w": partial(largest, keep=4)}, problem.minimise, options)
        found, oneshot = (solved(problem, w != 0) for w in (last.projected["w"], largest(problem.start["w"], 4)))
        better += found < oneshot - 1e-9
        better -= found > oneshot + 1e-9
    assert better > 0


def solved(problem: LeastSquares, kept: Tensor) -> float:
    """The least loss on a support."""
    a = problem.a[:, kept]
    w = torch.linalg.lstsq(a, problem.y).solution
    return float((a @ w - problem.y).square().sum())


def test_the_target_moves_by_the_scaled_dual() -> None:
    """Z − U of each iteration, worked out by hand; U shrinks where ρ grows, so that ρ·U stays."""
    problem = LeastSquares(0)
    start, project = problem.start["w"], partial(largest, keep=4)
    problem.targets.clear()
    options = AdmmOptions(rho=0.1, growth=10, every=2, iterations=4, tolerance=0)
    steps = list(iterate({"w": start}, {"w": project}, problem.minimise, options))
    assert [step.rho for step in steps] == pytest.approx([0.1, 0.1, 1.0, 1.0])
    z, u = project(start), torch.zeros_like(start)
    for number, step in enumerate(steps):
        u = u / 10 if number == 2 else u
        torch.testing.assert_close(problem.targets[number], z - u)
        z = project(step.weights["w"] + u)
        u = u + step.weights["w"] - z


def test_the_residual_is_over_all_weights() -> None:
    ones = {"a": torch.ones(3), "b": torch.ones(1)}
    assert residual(ones, {"a": torch.ones(3), "b": torch.zeros(1)}) == pytest.approx(0.5)
    assert residual({"a": torch.zeros(3)}, {"a": torch.zeros(3)}) == 0
    assert residual({"a": torch.zeros(3)}, {"a": torch.ones(3)}) == np.inf


def test_weights_of_zero_are_iterated_on() -> None:
    """They and their levels differ for good, so that all iterations are made."""
    zeros, project = torch.zeros(4), partial(quantised, kept=torch.ones(4, dtype=torch.bool), bits=3)
    steps = list(iterate({"w": zeros}, {"w": project}, lambda targets, rho: {"w": zeros}, AdmmOptions(iterations=2)))
    assert [step.residual for step in steps] == [np.inf] * 2


def sparse(bits: list[int], w: Tensor) -> SparseWeight:
    return SparseWeight(np.asarray(bits), w)


def test_a_weight_is_pulled_then_pruned_then_on_levels() -> None:
    w = nn.Parameter(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)))
    found = sparse([0, 2, 3, FLOAT_BITS], w.detach())
    expected = w.detach().clone()
    expected[0] = 0
    assert torch.equal(found(w), expected)
    target = torch.zeros(4, 6)
    found.pull(target, 0.5)
    penalty = found.penalty()
    assert penalty is not None
    assert float(penalty.detach()) == pytest.approx(0.25 * float(expected.square().sum()))
    mask = found.pruning(w.detach(), 5)
    assert mask.sum(1).tolist()[::3] == [0, 6]
    assert int(mask[1:3].sum()) == 5
    found.prune(mask)
    assert found.penalty() is None
    assert torch.equal(found(w), w * mask)
    found.quantise(w.detach())
    output = found(w)
    assert torch.equal(output != 0, mask)
    assert torch.equal(output[3], w[3])
    for row, bits in ((1, 2), (2, 3)):
        torch.testing.assert_close(output[row], quantised(w.detach()[row], mask[row], bits))
    output.sum().backward()
    assert w.grad is not None
    assert torch.equal(w.grad, mask.float())


def test_what_has_settled_is_what_was_trained() -> None:
    w = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    found = sparse([0, 2, 2, 5], w)
    found.prune(found.pruning(w, 9))
    found.quantise(w)
    settled = {part.bits: part for part in found.settle(w)}
    assert set(settled) == {0, 2, 5}
    for row, bits in enumerate([0, 2, 2, 5]):
        assert torch.equal(settled[bits].values[row], found(w)[row])
        codes = settled[bits].codes[row]
        torch.testing.assert_close(codes * settled[bits].scales[row], settled[bits].values[row])
        assert int(codes.abs().max()) <= 2 ** max(0, bits - 1)
    torch.testing.assert_close(settled[2].errors[1], (w - found(w))[1].double().square().sum())


def test_a_kernel_of_zeros_comes_out_next_to_zero() -> None:
    w = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    w[0] = 0
    found = sparse([2, 4, 4], w)
    settled = found.settle(w)[0]
    assert settled.bits == 2
    assert float(settled.values.abs().max()) == TINY
    assert float(settled.errors[0]) < 1e-70
    found.quantise(w)
    assert float(found(w)[0].abs().max()) == TINY


def test_exactly_so_many_are_kept_beside_zeros() -> None:
    w = torch.zeros(3, 4)
    w[0] = 1
    assert int(sparse([FLOAT_BITS, 4, 4], w).pruning(w, 3)[1:].sum()) == 3
    kernels = sparse([4, 0, 4], torch.ones(3, 4)).pruning(torch.ones(3, 4), 1, kernels=True)
    assert kernels.sum(1).tolist() == [4, 0, 0]


@cache
def trained() -> nn.Module:
    """Which of three stripes is in a noisy 6×6 picture."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    x, y = stripes(600, 99)
    for _ in range(40):
        optimiser.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model.eval()


def stripes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (count,), generator=generator)
    x = torch.randn(count, 1, 6, 6, generator=generator)
    x[torch.arange(count), 0, 2 * y] += 0.8
    return x, y


LAYERS = trace_layers(trained(), torch.zeros(1, 1, 6, 6))


def lessons() -> Lessons:
    x, y = stripes(600, 99)
    calibrated = QuantizedNetwork(trained(), LAYERS, [x[:64]])
    return Lessons(trained, LAYERS, calibrated, Batch(x, y), functional.cross_entropy, lambda inputs, _: inputs)


BITS = BitAssignment({"0.weight": 3, "0.input": 8, "3.weight": 2, "3.input": 8})


def compression(
    seed: int = 0, bits: Mapping[str, int] = BITS, admm_rate: float | None = None, **options: Any
) -> Compression:
    training = TrainingOptions(**{"epochs": 2, "batch_size": 50, "rate": 0.01, "explosion": 1000, **options})
    admm = AdmmOptions(rho=0.1, every=2, iterations=6, rate=admm_rate)
    return Compression(lessons(), BitAssignment(bits), admm, 1, training, seed)


def accuracy(network: Any) -> float:
    x, y = stripes(600, 7)
    with torch.no_grad():
        return float((network(x).argmax(1) == y).float().mean())


def test_a_network_is_compressed() -> None:
    work = compression()
    assert work.prune({"0.weight": 30, "3.weight": 40}) < 0.2
    assert {site: int(kept.sum()) for site, kept in work.kept.items()} == {"0.weight": 30, "3.weight": 40}
    work.quantise()
    settled = work.network.settled()
    for site, count, levels in (("0.weight", 30, 8), ("3.weight", 40, 4)):
        values = settled.weights[site][0].values
        assert int(values.count_nonzero()) == count
        assert len(values[values != 0].unique()) <= levels
    x, _ = stripes(64, 5)
    network = QuantizedNetwork(trained(), LAYERS, [x], correction=False, settled=settled)
    network.apply(BITS)
    assert torch.equal(network(x), work.network(x).detach())
    assert accuracy(network) > accuracy(trained()) - 0.08


def test_layers_that_are_not_named_stay_dense() -> None:
    work = compression()
    work.prune({"3.weight": 40})
    assert {site: int(kept.sum()) for site, kept in work.kept.items()} == {"0.weight": 72, "3.weight": 40}
    other = compression(bits={**BITS, "0.weight": FLOAT_BITS})
    other.prune({"3.weight": 40})
    assert set(other.kept) == {"3.weight"}


def test_the_same_seed_compresses_the_same() -> None:
    found = []
    for seed in (1, 1, 2):
        work = compression(seed)
        work.prune({"3.weight": 40})
        work.quantise()
        found.append(work.network.settled().weights["3.weight"][0].values)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_divergence_is_told() -> None:
    with pytest.raises(EvaluationError, match="training must not diverge"):
        compression(rate=1e4).prune({"3.weight": 40})


@pytest.mark.parametrize(("admm_rate", "rates"), [(None, [0.01] * 4), (0.002, [0.002, 0.01] * 2)])
def test_a_penalty_that_grows_with_rho_is_no_divergence(
    monkeypatch: pytest.MonkeyPatch, admm_rate: float | None, rates: list[float]
) -> None:
    """It is no part of what is held against the first steps; stages have chance of their own, and ADMM one rate."""
    made: list[tuple[TrainingOptions, int]] = []

    class Watched(FineTuning):
        def __init__(self, network: Any, lessons: Lessons, options: TrainingOptions, seed: int) -> None:
            made.append((options, seed))
            super().__init__(network, lessons, options, seed)

    monkeypatch.setattr("qsearch.training.compression.FineTuning", Watched)
    work = compression(seed=3, explosion=50, admm_rate=admm_rate)
    work.prune({"3.weight": 40})
    work.quantise()
    assert [options.explosion for options, _ in made] == [50] * 4
    assert [options.schedule for options, _ in made] == ["constant", "cosine"] * 2
    assert [options.rate for options, _ in made] == rates
    assert [seed for _, seed in made] == [13, 14, 15, 16]


def test_weights_stay_the_networks_own() -> None:
    """Weights decay and have the rate of weights in every stage, not that of the quantisers' parameters."""
    network = compression().network
    for _ in range(2):
        own, steps = network.parameter_groups()
        assert {id(network.float_weight(layer)) for layer in ("0", "3")} <= set(map(id, own))
        assert {parameter.dim() for parameter in steps} <= {0, 1}
        network(lessons().data.inputs[:4])


def test_inputs_are_those_of_the_family_named() -> None:
    lsq = family("lsq")
    quantizer = lessons().calibrated.activation_quantizer("3.input", 4)
    assert type(Sparse(lsq).input(quantizer)) is type(lsq.input(quantizer))
