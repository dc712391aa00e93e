"""``OneAtATime``: damage of each choice, measured with everything else in float.

Notation

==========  ==========================================================================================
v, c        a variable of the space, and one of its choices
D(v, c)     damage: m(v at c, the rest float) − m(all float), m a measure on calibration data
k           kernel of a kernel-wise variable
e_k(c)      squared quantisation error of kernel k at choice c
D_k(v, c)   share of kernel k: D(v, c) · e_k(c) / Σ_k e_k(c)
==========  ==========================================================================================

The sites of a tie take their bits together; fixed sites stay at their fixed bits throughout. Damages are taken to
add up, which is what an integer program needs. A kernel-wise variable is measured with all its kernels at c, so D(v, c)
is the sum over kernels of D_k(v, c).
"""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import EvaluationError, PluginError
from qsearch.protocols import CalibrationProbe, Evaluator, Probe, SensitivityTable
from qsearch.registry import PluginOptions
from qsearch.space import SearchSpace, Variable


@runtime_checkable
class WeightErrors(Protocol):
    """An evaluator that knows the quantisation error of each kernel."""

    def weight_errors(self, site: str, bits: int) -> NDArray[np.float64]:
        """Squared quantisation error of each kernel of a weight site at one bitwidth, shape (kernels,)."""
        ...


class OneAtATime:
    """One-site-at-a-time sensitivity; see the notation above."""

    class Options(PluginOptions):
        """Options of the sensitivity.

        Attributes:
            measure: m; "kl" is the divergence from the float outputs, which needs no labels and varies less with the
                choice of calibration samples; "loss" is the workload's loss.
        """

        measure: Literal["kl", "loss"] = "kl"

    def __init__(self, options: Options) -> None:
        self._measure = options.measure

    def table(self, space: SearchSpace, evaluator: Evaluator) -> SensitivityTable:
        """Damage of every choice of every variable: one probe each, and one of the float network.

        Raises:
            PluginError: the evaluator cannot be asked about calibration data.
            EvaluationError: a damage that is not finite; it names the site.
        """
        if not isinstance(evaluator, CalibrationProbe):
            raise PluginError(
                "one-at-a-time sensitivity needs an evaluator that answers on calibration data",
                got=f"{type(evaluator).__name__} without a method probe(assignment)",
                fix="use the evaluator ptq, or give yours a probe",
            )
        base = space.reference(FLOAT_BITS).replace(dict(space.fixed or {}))
        start = _probe(evaluator, base, "the float network")
        samples, damage = start.samples, {}
        for variable in space.variables:
            measured = np.zeros(len(variable.choices))
            for position, bits in enumerate(variable.choices):
                if bits == FLOAT_BITS:
                    continue
                changed = base.replace(dict.fromkeys(variable.sites, bits))
                probe = _probe(evaluator, changed, f"site {variable.name!r} at {bits} bits")
                measured[position] = self._value(probe) - self._value(start)
                samples += probe.samples
            damage[variable.name] = measured * _shares(variable, evaluator)
        return SensitivityTable(damage, samples)

    def _value(self, probe: Probe) -> float:
        return probe.divergence if self._measure == "kl" else probe.loss


def _probe(evaluator: CalibrationProbe, assignment: BitAssignment, where: str) -> Probe:
    """A probe with finite numbers."""
    try:
        probe = evaluator.probe(assignment)
    except EvaluationError as error:
        raise EvaluationError(f"the sensitivity of {where} cannot be measured: {error}") from error
    if not np.isfinite([probe.loss, probe.divergence]).all():
        raise EvaluationError(
            f"the sensitivity of {where} must be finite", got=f"loss {probe.loss}, divergence {probe.divergence}"
        )
    return probe


def _shares(variable: Variable, evaluator: object) -> NDArray[np.float64]:
    """e_k(c) / Σ_k e_k(c), shape (kernels, choices); equal shares where errors vanish or are not known."""
    errors = np.zeros((variable.length, len(variable.choices)))
    if variable.length == 1:
        return np.ones_like(errors)
    if isinstance(evaluator, WeightErrors):
        for position, bits in enumerate(variable.choices):
            errors[:, position] = sum(evaluator.weight_errors(site, bits) for site in variable.sites)
    total = errors.sum(0)
    errors[:, total == 0] = 1.0
    shares: NDArray[np.float64] = errors / errors.sum(0)
    return shares
