"""Problems with a known optimum, without a network: a quality in closed form, and costs that are sums.

Notation

=====  =================================================================================
n      sites that are searched
b      bits, shape (n,)
h      curvatures, shape (n,): how much a site minds being quantised
e      quantisation error of a site, 2^(−b)
J      interactions, shape (n, n), symmetric, zero diagonal; 0 in the separable problem
K      kernels of a site with bits of their own, b_k
σ²     variances of the kernels of a site, shape (K,)
κ      steepness of the accuracy, 1 but for bits per kernel
=====  =================================================================================

    loss = Σ_i h_i e_i² + Σ_{i<j} J_ij e_i e_j,          accuracy = exp(−κ·loss)

    e_i² = Σ_k σ_k²·4^(−b_k) / Σ_k σ_k²                  for a site with bits per kernel

The separable problem is the one that rate allocation solves; the coupled one is positive semi-definite, with
interactions of both signs, so that damages measured one at a time mislead. The problem of bits per kernel is separable
too, and its optimum is known by dynamic programming for any number of kernels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import BitArray, BitAssignment
from qsearch.costs import NetworkCost
from qsearch.errors import EvaluationError
from qsearch.hardware.base import Costs, VectorCostModel
from qsearch.layers import Layer
from qsearch.problem import Bound, Objective, Problem
from qsearch.protocols import CostModel, Evaluator, Probe
from qsearch.sites import build_space
from qsearch.space import SearchSpace, SiteBits, Variable
from qsearch.trial import Quality

ACCURACY = (Objective("accuracy", "maximize"),)
ACCURACY_AND_SIZE = (Objective("accuracy", "maximize"), Objective("size", "minimize"))

Floats = NDArray[np.float64]


class WeightSize(VectorCostModel):
    """Size of the weights in bits: additive over layers, and over kernels."""

    units: Mapping[str, str] = {"size": "bit"}
    kernel_additive = True

    def layer_costs(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray) -> Costs:
        """See :meth:`VectorCostModel.layer_costs`."""
        bits = np.sum(weight_bits, axis=1) * (layer.kernels // weight_bits.shape[1])
        return {"size": bits.astype(np.float64) * layer.kernel_params}

    def estimate_many(self, layers: Sequence[Layer], bits: SiteBits) -> Mapping[str, Floats]:
        """Totals of a batch; a loop over ``estimate`` in a subclass that has one of its own."""
        loops = type(self).estimate is not VectorCostModel.estimate
        return CostModel.estimate_many(self, layers, bits) if loops else super().estimate_many(layers, bits)


class SizeAndBops(WeightSize):
    """Also the bit operations: MACs × weight bits × activation bits, which depend on both bits of a layer."""

    units: Mapping[str, str] = {"size": "bit", "bops": "bit operations"}

    def layer_costs(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray) -> Costs:
        """See :meth:`VectorCostModel.layer_costs`."""
        size = super().layer_costs(layer, weight_bits, activation_bits)
        return {**size, "bops": layer.macs * np.mean(weight_bits, axis=1) * activation_bits}


@dataclass
class QuadraticEvaluator(Evaluator):
    """Quality in closed form; counts its calls.

    Attributes:
        space: the sites it was made for; what is fixed does no damage.
        curvature: h, shape (n,), one per variable of the space.
        interaction: J, shape (n, n); None for none.
        fails_at: numbers of the calls that raise, from 0.
        variances: variable → σ², shape (K,); kernels of a variable that is not in it are alike.
        steepness: κ.
    """

    space: SearchSpace
    curvature: Floats
    interaction: Floats | None = None
    fails_at: frozenset[int] = frozenset()
    variances: Mapping[str, Floats] = field(default_factory=dict)
    steepness: float = 1.0
    calls: int = field(default=0, init=False)

    def losses(self, x: NDArray[np.int64]) -> Floats:
        """Loss of a batch of index vectors, shape (A, D) → (A,)."""
        bits = self.space.bits(x)
        return self._loss(np.stack([self._squared(v, bits[v.name]) for v in self.space.variables], axis=1))

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        """Quality of an assignment, of a made-up thousand samples.

        Raises:
            EvaluationError: when it is this call's turn to fail.
        """
        self.calls += 1
        if self.calls - 1 in self.fails_at:
            raise EvaluationError("made to fail", got=f"call {self.calls - 1}")
        loss = self._assignment_loss(assignment)
        accuracy = float(np.exp(-self.steepness * loss))
        return Quality(accuracy, loss, 1000, (accuracy * (1 - accuracy) / 1000) ** 0.5)

    def probe(self, assignment: BitAssignment) -> Probe:
        """The same loss, as if on calibration data; its divergence from float is the loss itself."""
        loss = self._assignment_loss(assignment)
        return Probe(loss, max(loss, 0.0), 1000)

    def weight_errors(self, site: str, bits: int) -> Floats:
        """σ²·4^(−b) of each kernel of a site, shape (K,); one-at-a-time sensitivity shares damage by them."""
        variable = next(v for v in self.space.variables if site in v.sites)
        return self._variances(variable) * 4.0**-bits

    def _assignment_loss(self, assignment: BitAssignment) -> float:
        squared = [self._squared(v, assignment.vector(v.name, v.length)[None])[0] for v in self.space.variables]
        return float(self._loss(np.asarray([squared]))[0])

    def _variances(self, variable: Variable) -> Floats:
        return np.asarray(self.variances.get(variable.name, np.ones(variable.length)), dtype=np.float64)

    def _squared(self, variable: Variable, bits: BitArray) -> Floats:
        """e² of a variable from its bits, shape (A, K) → (A,)."""
        return np.average(4.0 ** -bits.astype(float), axis=1, weights=self._variances(variable))

    def _loss(self, squared: Floats) -> Floats:
        """Loss from the squared errors e², shape (A, n) → (A,)."""
        errors = np.sqrt(squared)
        loss = squared @ self.curvature
        if self.interaction is not None:
            loss = loss + 0.5 * np.einsum("ai,ij,aj->a", errors, self.interaction, errors)
        return np.asarray(loss, dtype=np.float64)


def separable(
    layers: int = 4,
    *,
    choices: Sequence[int] = (2, 4, 6, 8),
    budget: float | None = 0.5,
    objectives: tuple[Objective, ...] = ACCURACY,
    seed: int = 0,
) -> tuple[Problem, QuadraticEvaluator]:
    """Weights of linear layers under a size of at most ``budget`` × that of the highest choice everywhere."""
    return _problem(layers, choices, budget, objectives, seed, coupling=0.0)


def coupled(
    layers: int = 4,
    *,
    choices: Sequence[int] = (2, 4, 6, 8),
    budget: float | None = 0.5,
    objectives: tuple[Objective, ...] = ACCURACY,
    seed: int = 0,
) -> tuple[Problem, QuadraticEvaluator]:
    """The same with interactions between all pairs of sites."""
    return _problem(layers, choices, budget, objectives, seed, coupling=1.0)


def kernels(
    count: int | Sequence[int] = 64,
    *,
    choices: Sequence[int] = range(9),
    mean: float = 4.0,
    seed: int = 0,
) -> tuple[Problem, QuadraticEvaluator]:
    """Bits per kernel of one linear layer or several, under a size of at most ``mean`` bits per weight.

    The loss is Σ_k σ_k²·4^(−b_k) / Σ_k σ_k² over the kernels of all layers: 1 at 0 bits everywhere. log2 σ of a kernel
    is normal with deviation 1.5, so that optimal bits differ by several; layers of more than one also have scales of
    their own, with deviation 1. The accuracy is exp(−κ·loss) with κ = 4^mean: 1/e for ``mean`` bits everywhere,
    nearly 0 at 0 bits, and higher the better the bits are shared out. Activations are fixed at 8 bits.

    Args:
        count: kernels of the layer, or of each layer; all kernels have 8 weights.

    The optimum is :func:`optimal_loss`.
    """
    rng = np.random.default_rng(seed)
    sizes = [count] if isinstance(count, int) else list(count)
    network = linear_layers(sizes)
    space = build_space(
        network, weight_bits=choices, activation_bits=[8], granularity="kernel", fixed={"activations": 8}
    )
    scales = rng.normal(0.0, 1.0, size=len(sizes)) if len(sizes) > 1 else np.zeros(1)
    variances = {
        layer.weight_site: 4.0 ** (scale + rng.normal(0.0, 1.5, size=layer.kernels))
        for layer, scale in zip(network, scales, strict=True)
    }
    totals = np.asarray([variance.sum() for variance in variances.values()])
    limit = mean * sum(layer.params for layer in network)
    bounds = (Bound("size", limit, False, f"size <= {mean:g} bits per weight"),)
    problem = Problem(space, NetworkCost(WeightSize(), network, space), ACCURACY, bounds)
    return problem, QuadraticEvaluator(space, totals / totals.sum(), variances=variances, steepness=4.0**mean)


def optimal_loss(problem: Problem, evaluator: QuadraticEvaluator) -> float:
    """The least loss within the size bounds of a problem without interactions, such as :func:`kernels`.

    Exact for any choices and any sizes of kernels, by dynamic programming over the weights' bits; infinite where
    nothing is within the bounds.

    Raises:
        ValueError: there are interactions.
    """
    if evaluator.interaction is not None:
        raise ValueError("the least loss is known only where there are no interactions")
    sites = {layer.weight_site: layer for layer in problem.layers}
    weights = {v.name: sites[v.name].params // v.length for v in problem.space.variables}
    highest = sum(v.choices[-1] * weights[v.name] * v.length for v in problem.space.variables)
    limit = min([highest, *(bound.limit for bound in problem.bounds if bound.metric == "size")])
    unit = math.gcd(*weights.values())
    least = np.zeros(int(limit / unit * (1 + 1e-12)) + 1)  # at most so many units of size → the least loss so far
    for variable, curvature in zip(problem.space.variables, evaluator.curvature, strict=True):
        shares = evaluator.weight_errors(variable.name, 0)
        for share in curvature * shares / shares.sum():
            spent = np.full((len(variable.choices), len(least)), np.inf)
            for row, bits in enumerate(variable.choices):
                used = bits * weights[variable.name] // unit
                spent[row, used:] = least[: max(0, len(least) - used)] + share * 4.0**-bits
            least = spent.min(axis=0)
    return float(least[-1])


def linear_layers(sizes: Sequence[int]) -> tuple[Layer, ...]:
    """Linear layers with 8 inputs and the given numbers of outputs."""
    return tuple(Layer(f"layer{i}", "linear", 8, size) for i, size in enumerate(sizes))


@dataclass(frozen=True)
class Known:
    """Every assignment of a problem, evaluated.

    Attributes:
        x: index vectors, shape (A, D).
        loss: shape (A,).
        costs: metric → shape (A,).
        feasible: within the cost bounds, shape (A,).
    """

    x: NDArray[np.int64]
    loss: Floats
    costs: Mapping[str, Floats]
    feasible: NDArray[np.bool_]

    @property
    def best_loss(self) -> float:
        """The least loss within the cost bounds."""
        return float(self.loss[self.feasible].min())


def exhaust(problem: Problem, evaluator: QuadraticEvaluator) -> Known:
    """Evaluate every assignment: the optimum by brute force. For spaces of up to some 10^5."""
    x = np.asarray(list(np.ndindex(*problem.space.choice_counts.tolist())), dtype=np.int64)
    x = x.reshape(problem.space.size, problem.space.dimension)
    costs = problem.cost.estimate_many(x)
    return Known(x, evaluator.losses(x), costs, problem.cost_violations(x) <= 0)


def _problem(
    layers: int,
    choices: Sequence[int],
    budget: float | None,
    objectives: tuple[Objective, ...],
    seed: int,
    coupling: float,
) -> tuple[Problem, QuadraticEvaluator]:
    rng = np.random.default_rng(seed)
    network = linear_layers(rng.integers(4, 64, size=layers).tolist())
    space = build_space(network, weight_bits=choices, activation_bits=[8], fixed={"activations": 8})
    cost = NetworkCost(WeightSize(), network, space)
    bounds: tuple[Bound, ...] = ()
    if budget is not None:
        top = float(cost.estimate_many(space.highest[None])["size"][0])
        bounds = (Bound("size", budget * top, False, f"size <= {budget:g} x highest"),)
    curvature = np.exp(rng.normal(0.0, 1.0, size=layers))
    factor = rng.normal(size=(layers, layers)) * np.sqrt(curvature / layers)[:, None]
    hessian = factor @ factor.T
    interaction = coupling * 2 * (hessian - np.diag(np.diag(hessian))) if coupling else None
    diagonal = np.diag(hessian).copy() if coupling else curvature
    return Problem(space, cost, objectives, bounds), QuadraticEvaluator(space, diagonal, interaction)
