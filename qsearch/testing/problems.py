"""Problems with a known optimum, without a network: a quality in closed form, and costs that are sums.

Notation

=====  =================================================================================
n      sites that are searched
b      bits, shape (n,)
h      curvatures, shape (n,): how much a site minds being quantised
e      quantisation error of a site, 2^(−b)
J      interactions, shape (n, n), symmetric, zero diagonal; 0 in the separable problem
=====  =================================================================================

    loss = Σ_i h_i e_i² + Σ_{i<j} J_ij e_i e_j,          accuracy = exp(−loss)

The separable problem is the one that rate allocation solves; the coupled one is positive semi-definite, with
interactions of both signs, so that damages measured one at a time mislead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import BitArray, BitAssignment
from qsearch.costs import NetworkCost
from qsearch.errors import EvaluationError
from qsearch.layers import Layer
from qsearch.problem import Bound, Objective, Problem
from qsearch.protocols import CostModel, Evaluator, Probe
from qsearch.space import SearchSpace, build_space
from qsearch.trial import Quality

ACCURACY = (Objective("accuracy", "maximize"),)
ACCURACY_AND_SIZE = (Objective("accuracy", "maximize"), Objective("size", "minimize"))

Floats = NDArray[np.float64]


class WeightSize(CostModel):
    """Size of the weights in bits: additive over layers, and over kernels."""

    units: Mapping[str, str] = {"size": "bit"}
    kernel_additive = True

    def layer_cost(self, layer: Layer, weight_bits: BitArray, activation_bits: int) -> Mapping[str, float]:
        return {"size": float(np.sum(weight_bits)) * layer.kernel_params}


class SizeAndBops(WeightSize):
    """Also the bit operations: MACs × weight bits × activation bits, which depend on both bits of a layer."""

    units: Mapping[str, str] = {"size": "bit", "bops": "bit operations"}

    def layer_cost(self, layer: Layer, weight_bits: BitArray, activation_bits: int) -> Mapping[str, float]:
        size = super().layer_cost(layer, weight_bits, activation_bits)
        return {**size, "bops": layer.macs * float(np.mean(weight_bits)) * activation_bits}


@dataclass
class QuadraticEvaluator(Evaluator):
    """Quality in closed form; counts its calls.

    Attributes:
        space: the sites it was made for; what is fixed does no damage.
        curvature: h, shape (n,), one per variable of the space.
        interaction: J, shape (n, n); None for none.
        fails_at: numbers of the calls that raise, from 0.
    """

    space: SearchSpace
    curvature: Floats
    interaction: Floats | None = None
    fails_at: frozenset[int] = frozenset()
    calls: int = field(default=0, init=False)

    def losses(self, x: NDArray[np.int64]) -> Floats:
        """Loss of a batch of index vectors, shape (A, D) → (A,)."""
        bits = self.space.bits(x)
        return self._loss(
            np.stack([np.mean(4.0 ** -bits[v.name].astype(float), axis=1) for v in self.space.variables], 1)
        )

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        """Quality of an assignment, of a made-up thousand samples.

        Raises:
            EvaluationError: when it is this call's turn to fail.
        """
        self.calls += 1
        if self.calls - 1 in self.fails_at:
            raise EvaluationError("made to fail", got=f"call {self.calls - 1}")
        loss = self._assignment_loss(assignment)
        accuracy = float(np.exp(-loss))
        return Quality(accuracy, loss, 1000, (accuracy * (1 - accuracy) / 1000) ** 0.5)

    def probe(self, assignment: BitAssignment) -> Probe:
        """The same loss, as if on calibration data; its divergence from float is the loss itself."""
        loss = self._assignment_loss(assignment)
        return Probe(loss, max(loss, 0.0), 1000)

    def _assignment_loss(self, assignment: BitAssignment) -> float:
        bits = [assignment.vector(v.name, v.length).astype(float) for v in self.space.variables]
        return float(self._loss(np.asarray([[np.mean(4.0**-b) for b in bits]]))[0])

    def _loss(self, squared: Floats) -> Floats:
        """Loss from the squared errors e², shape (A, n) → (A,); kernels of a site count by their mean."""
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
