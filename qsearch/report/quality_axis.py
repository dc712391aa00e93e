"""``QualityAxis``: the range and the unit in which a plot shows a quality."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from qsearch.problem import Objective
from qsearch.report import facts
from qsearch.run import Run
from qsearch.trial import Trial

_REACH = 5
"""How far below the best an axis goes, in distances between the best and the float network."""


class QualityAxis:
    """The good end of a quality, where choices are made, in per cent for a share of correct samples; all of a cost.

    Args:
        run: gives the float network's quality, which is always in range.
        objective: what is shown, and which way is better.
        trials: what should be in range, as far as it is near the best.
    """

    def __init__(self, run: Run, objective: Objective, trials: Sequence[Trial]) -> None:
        self.objective = objective
        self.percent = facts.percent(run, objective.metric)
        self.scale = 100.0 if self.percent else 1.0
        reference = run.float_quality.values.get(objective.metric, float("nan"))
        values = [reference, *(trial.value(objective.metric) for trial in trials)]
        known = self.scale * np.asarray([value for value in values if np.isfinite(value)] or [0.0])
        if objective.metric not in run.info.units:
            known = self._in_sight(known)
        least = 1.0 if self.percent else 0.02 * float(np.abs(known).max())
        self._span = max(float(np.ptp(known)), least) or 1.0
        low, high = float(known.min()), float(known.max())
        self.low = low - self._span * (0.6 if self.upwards else 0.12)
        self.high = high + self._span * (0.12 if self.upwards else 0.6)
        if self.percent:
            self.low, self.high = max(-2.0, self.low), min(max(100.0, high) + 0.04 * self._span, self.high)

    @property
    def upwards(self) -> bool:
        """Whether more is better."""
        return self.objective.sign < 0

    def _in_sight(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values near the good end; a front's far end would press that end flat."""
        gain = -self.objective.sign * values
        gap = abs(float(gain[0] - gain[1:].max())) if len(gain) > 1 else 0.0
        reach = max(_REACH * gap, 12.0 if self.percent else 0.4 * float(np.ptp(values)))
        return np.asarray(values[gain >= gain.max() - reach])

    def reach(self, values: NDArray[np.float64]) -> None:
        """Widen the range to show ``values``, already scaled."""
        margin = 0.25 * float(np.ptp(values))
        if self.upwards:
            self.low = min(self.low, float(values.min()) - margin)
        else:
            self.high = max(self.high, float(values.max()) + margin)

    def outside(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which values, already scaled, lie beyond the worse end of the range."""
        return np.asarray(values < self.low if self.upwards else values > self.high)

    def apply(self, axes: Axes) -> None:
        """Set the range and the label."""
        axes.set_ylim(self.low, self.high)
        axes.set_ylabel(f"{self.objective.metric} (%)" if self.percent else self.objective.metric)
