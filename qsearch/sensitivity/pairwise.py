"""``Pairwise``: damages one at a time, and what pairs do beyond their sum.

Notation

==========  ==========================================================================================
i, j        variables of the space, i before j
c, c'       choices of i and of j
L(…)        a measure on calibration data, the variables in brackets quantised and the rest in float
d_i(c)      damage alone: L(i at c) − L(0)
I_ij        L(i at c, j at c') − L(i at c) − L(j at c') + L(0), shape (choices, choices')
==========  ==========================================================================================

For a quadratic loss I_ij is ΔW_iᵀ H_ij ΔW_j exactly, H_ij the block of the Hessian that couples them: the mixed difference
takes out gradient and diagonal blocks. These are the terms of CLADO's quadratic program (Deng et al., arXiv 2307.05657),
and the inter-layer information that Schaefer et al. (arXiv 2306.04879) found Hessians of single layers to lack.

A probe per pair and pair of choices would be N²·C²/2 of them. So pairs are measured at their lowest choices, where they
matter most, and carried over to the others by

    I_ij(c, c') = I_ij(l, l') · √(d_i(c) / d_i(l)) · √(d_j(c') / d_j(l'))

with l the nearest measured choice. This is exact for a quadratic loss where a tensor's error keeps its direction and
changes its size only; a choice that does no damage alone gets no interaction. ``window`` and ``evaluations`` leave out
pairs: those far apart, and those whose damages at the lowest choices have the smallest products.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qsearch.assignment import FLOAT_BITS
from qsearch.protocols import Evaluator, SensitivityTable
from qsearch.registry import PluginOptions
from qsearch.sensitivity.probing import QUANTITIES, CalibrationMeter, Measure, error_shares, single_damages
from qsearch.space import SearchSpace, Variable

Floats = NDArray[np.float64]


class Pairwise:
    """Pairwise interactions of layer-wise variables; kernel-wise ones have damages only."""

    class Options(PluginOptions):
        """What is measured, and of which pairs."""

        measure: Measure = "kl"
        """L: "kl" is the divergence from the float outputs, "loss" the workload's loss."""
        window: int | None = Field(default=None, ge=1)
        """Pairs of variables at most this far apart in network order; all without it."""
        evaluations: int | None = Field(default=None, ge=0)
        """Probes that pairs may take, besides those of single variables; as many as there are without it."""
        levels: int | None = Field(default=1, ge=1)
        """Lowest choices of each variable at which pairs are measured; the others are scaled. None measures all."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.quantity = QUANTITIES[options.measure]

    def table(self, space: SearchSpace, evaluator: Evaluator) -> SensitivityTable:
        """Damages of single variables, and interactions of the pairs that are within window and budget.

        Raises:
            PluginError: the evaluator cannot be asked about calibration data.
            EvaluationError: a damage that is not finite; it names the sites.
        """
        meter = CalibrationMeter(evaluator, space, self.options.measure, "pairwise")
        single = {variable.name: single_damages(meter, variable) for variable in space.variables}
        interactions = {
            (first.name, second.name): self._interaction(meter, (first, second), single)
            for first, second in self._pairs(space, single)
        }
        damage = {v.name: single[v.name] * error_shares(v, evaluator) for v in space.variables}
        return SensitivityTable(damage, meter.samples, interactions)

    def _pairs(self, space: SearchSpace, single: dict[str, Floats]) -> list[tuple[Variable, Variable]]:
        """The pairs to measure, in the order of the space; of a budget, those that promise most."""
        window, budget = self.options.window, self.options.evaluations
        found = [
            (first, second)
            for (i, first), (j, second) in combinations(enumerate(space.variables), 2)
            if first.length == second.length == 1 and (window is None or j - i <= window)
            if self._measured(first) and self._measured(second)
        ]
        if budget is None:
            return found
        promise = [-abs(single[first.name][0] * single[second.name][0]) for first, second in found]
        kept = []
        for position in np.argsort(promise, kind="stable").tolist():
            price = self._measured(found[position][0]) * self._measured(found[position][1])
            if price <= budget:
                budget -= price
                kept.append(position)
        return [found[position] for position in sorted(kept)]

    def _measured(self, variable: Variable) -> int:
        """Number of choices at which a variable is measured in pairs; float interacts with nothing."""
        quantized = sum(bits != FLOAT_BITS for bits in variable.choices)
        return quantized if self.options.levels is None else min(self.options.levels, quantized)

    def _interaction(
        self, meter: CalibrationMeter, pair: tuple[Variable, Variable], single: dict[str, Floats]
    ) -> Floats:
        """I_ij, shape (choices, choices')."""
        first, second = pair
        alone, beside = single[first.name], single[second.name]
        measured = np.zeros((self._measured(first), self._measured(second)))
        for row, column in np.ndindex(*measured.shape):
            both = meter.damage((first, first.choices[row]), (second, second.choices[column]))
            measured[row, column] = both - alone[row] - beside[column]
        rows, row_factors = _carried(alone, len(measured))
        columns, column_factors = _carried(beside, measured.shape[1])
        found: Floats = measured[np.ix_(rows, columns)] * np.outer(row_factors, column_factors)
        return found


def _carried(damage: Floats, measured: int) -> tuple[NDArray[np.int64], Floats]:
    """For each choice the nearest measured one l, and √(d(c) / d(l)); (choices,) each."""
    nearest = np.minimum(np.arange(len(damage)), measured - 1)
    known, wanted = np.maximum(damage[nearest], 0.0), np.maximum(damage, 0.0)
    shares = np.divide(wanted, known, out=np.zeros(len(damage)), where=known > 0)
    factors = np.sqrt(np.minimum(shares, 1.0))  # more bits that do more damage are noise, which must not be blown up
    factors[:measured] = 1.0
    return nearest, factors
