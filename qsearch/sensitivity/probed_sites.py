"""What neurons keep, in tables of sensitivities that look at tensors: their states, leaks and thresholds are probed.

Notation

==========  ==========================================================================================
w           variables of weights and of layers' inputs, whose damages P(w, c) a table has
v, c        a variable of states, leaks or thresholds, and one of its choices
m           a measure on calibration data: the divergence from the float outputs, or the loss
r           what one unit of m is in the table's unit
==========  ==========================================================================================

A state in fixed point saturates, and its error comes back in every step: that of the tensor alone says little of what
becomes of the spikes. So each choice is tried, with all else in float, and

    D(v, c) = r · max(0, m(v at c) − m(float)),        r = Σ_w P(w, c_w) / (m(all w at c_w) − m(float))

with c_w the middle choice of w, the lower of two. A table that measures m itself has r = 1. One that predicts has a unit of its
own, of a softened divergence or of none, and where spikes are differentiated it depends on the surrogate's size, which is a
matter of taste: one probe more says what its numbers are worth. r is 1 too where either side of it is not above 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import FLOAT_BITS
from qsearch.protocols import Evaluator, SensitivityTable
from qsearch.sensitivity.floating import tensor_variables
from qsearch.sensitivity.probing import CalibrationMeter, Measure, single_damages
from qsearch.space import SearchSpace, Variable

Floats = NDArray[np.float64]


def completed(
    table: SensitivityTable, space: SearchSpace, evaluator: Evaluator, name: str, *, measures: Measure | None = None
) -> SensitivityTable:
    """A table with the damages of what neurons keep beside those that it has; itself where they keep nothing searched.

    Args:
        table: damages of weights and of layers' inputs.
        space: all that is searched.
        evaluator: is asked about calibration data.
        name: the sensitivity, for messages.
        measures: m, where the table has measured it; None where it predicts.

    Raises:
        PluginError: the evaluator cannot be asked about calibration data.
        EvaluationError: a damage that is not finite; it names the site.
    """
    known = tensor_variables(space)
    probed = [variable for variable in space.variables if variable not in known]
    if not probed:
        return table
    meter = CalibrationMeter(evaluator, space, measures or "kl", name)
    rate = 1.0 if measures else _rate(meter, table.damage, known)
    found = {v.name: rate * np.maximum(single_damages(meter, v), 0.0)[None] for v in probed}
    both = {**table.damage, **found}
    damage = {variable.name: both[variable.name] for variable in space.variables}
    return SensitivityTable(damage, table.samples + meter.samples, table.interactions)


def _rate(meter: CalibrationMeter, damage: Mapping[str, Floats], known: Sequence[Variable]) -> float:
    """r."""
    middle = [(variable, variable.choices[(len(variable.choices) - 1) // 2]) for variable in known]
    middle = [(variable, bits) for variable, bits in middle if bits != FLOAT_BITS]
    predicted = sum(float(damage[v.name][:, v.choices.index(bits)].sum()) for v, bits in middle)
    measured = meter.damage(*middle) if middle else 0.0
    return predicted / measured if predicted > 0 and measured > 0 else 1.0
