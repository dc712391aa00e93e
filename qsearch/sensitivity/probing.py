"""What sensitivities that ask an evaluator on calibration data have in common."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import EvaluationError, PluginError
from qsearch.protocols import CalibrationProbe, Evaluator, Probe
from qsearch.sensitivity.floating import WITHOUT_GRADIENTS
from qsearch.space import SearchSpace, Site, Variable

Measure: TypeAlias = Literal["kl", "loss"]
"""What is read of a probe."""

QUANTITIES: dict[Measure, str] = {
    "kl": "divergence from the float outputs on calibration data, nats",
    "loss": "increase of the loss on calibration data",
}
"""What a damage is, for readers of a table."""

IDLE = 1e-10
"""Divergence up to which outputs count as unchanged: that of rounding alone."""


@runtime_checkable
class WeightErrors(Protocol):
    """An evaluator that knows the quantisation error of each kernel."""

    def weight_errors(self, site: str, bits: int) -> NDArray[np.float64]:
        """Squared quantisation error of each kernel of a weight site at one bitwidth, shape (kernels,)."""
        ...


class CalibrationMeter:
    """Asks an evaluator for one measure, and counts what that takes.

    Args:
        evaluator: must answer on calibration data.
        space: what is fixed in it stays at its bits; all else is in float unless a question says otherwise.
        measure: what is read of each answer.
        name: the sensitivity, for messages.

    Attributes:
        samples: passed through the network so far. A pass that an evaluator begins midway, on what an earlier one has left,
            counts in full: what a table costs does not depend on what was asked before it.
        start: the measure with nothing quantised but what is fixed.

    Raises:
        PluginError: the evaluator cannot be asked about calibration data.
        EvaluationError: an answer that is not finite.
    """

    def __init__(self, evaluator: Evaluator, space: SearchSpace, measure: Measure, name: str) -> None:
        if not isinstance(evaluator, CalibrationProbe):
            raise PluginError(
                f"{name} sensitivity needs an evaluator that answers on calibration data",
                got=f"{type(evaluator).__name__} without a method probe(assignment)",
                fix="use the evaluator ptq, or give yours a probe",
            )
        self._evaluator, self._measure = evaluator, measure
        self._base = space.reference(FLOAT_BITS).replace(dict(space.fixed or {}))
        self.samples = 0
        self.start = self._ask(self._base, "the float network")

    def damage(self, *chosen: tuple[Variable, int]) -> float:
        """How far the measure rises when the given variables take the given bits, all kernels of each.

        Raises:
            EvaluationError: it cannot be measured, or is not finite; names the sites.
        """
        changed = self._base.replace({site: bits for variable, bits in chosen for site in variable.sites})
        where = " with ".join(f"site {variable.name!r} at {bits} bits" for variable, bits in chosen)
        return self._ask(changed, where) - self.start

    def _ask(self, assignment: BitAssignment, where: str) -> float:
        probe = _probe(self._evaluator, assignment, where)
        self.samples += probe.samples
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


def confirm_idle(evaluator: Evaluator, site: Site, name: str) -> int:
    """Raise unless a site whose output no gradient reaches changes nothing in what the network gives.

    An evaluator that cannot be asked about calibration data is believed.

    Args:
        name: the sensitivity that found no gradient.

    Returns:
        samples passed through the network to learn that.

    Raises:
        EvaluationError: its lowest choice changes the outputs.
    """
    lowest = min(site.choices)
    if lowest == FLOAT_BITS or not isinstance(evaluator, CalibrationProbe):
        return 0
    probe = _probe(evaluator, BitAssignment({site.name: lowest}), f"site {site.name!r} at {lowest} bits")
    if probe.divergence > IDLE:
        raise EvaluationError(
            f"{name} sensitivity needs a gradient at every site whose bits change the outputs",
            got=f"none at {site.name!r}, where {lowest} bits do a divergence of {probe.divergence:.2g}",
            fix=f"take the sensitivity {WITHOUT_GRADIENTS}",
        )
    return probe.samples


def single_damages(meter: CalibrationMeter, variable: Variable) -> NDArray[np.float64]:
    """Damage of each choice of a variable, the rest in float, shape (choices,); float itself is not asked for."""
    return np.asarray([0.0 if bits == FLOAT_BITS else meter.damage((variable, bits)) for bits in variable.choices])


def error_shares(variable: Variable, evaluator: object) -> NDArray[np.float64]:
    """e_k(c) / Σ_k e_k(c), shape (kernels, choices); equal shares where errors vanish or are not known."""
    errors = np.zeros((variable.length, len(variable.choices)))
    if variable.length > 1 and isinstance(evaluator, WeightErrors):
        for position, bits in enumerate(variable.choices):
            errors[:, position] = sum(evaluator.weight_errors(site, bits) for site in variable.sites)
    return shares(errors)


def shares(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each kernel's part of the sum of its column, (kernels, choices); equal parts where the sum is zero."""
    weights = np.where(errors.sum(0) == 0, 1.0, errors)
    found: NDArray[np.float64] = weights / weights.sum(0)
    return found
