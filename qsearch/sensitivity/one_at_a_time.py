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

from qsearch.protocols import Evaluator, SensitivityTable
from qsearch.registry import PluginOptions
from qsearch.sensitivity.probing import QUANTITIES, CalibrationMeter, Measure, error_shares, single_damages
from qsearch.space import SearchSpace


class OneAtATime:
    """One-site-at-a-time sensitivity; see the notation above."""

    class Options(PluginOptions):
        """Options of the sensitivity.

        Attributes:
            measure: m; "kl" is the divergence from the float outputs, which needs no labels and varies less with the
                choice of calibration samples; "loss" is the workload's loss.
        """

        measure: Measure = "kl"

    def __init__(self, options: Options) -> None:
        self._measure = options.measure
        self.quantity = QUANTITIES[options.measure]

    def table(self, space: SearchSpace, evaluator: Evaluator) -> SensitivityTable:
        """Damage of every choice of every variable: one probe each, and one of the float network.

        Raises:
            PluginError: the evaluator cannot be asked about calibration data.
            EvaluationError: a damage that is not finite; it names the site.
        """
        meter = CalibrationMeter(evaluator, space, self._measure, "one-at-a-time")
        damage = {
            variable.name: single_damages(meter, variable) * error_shares(variable, evaluator)
            for variable in space.variables
        }
        return SensitivityTable(damage, meter.samples)
