"""Gradients scaled element by element: ``ewgs``.

The steps of :mod:`qsearch.training.lsq` with the rounding's δ = 5e-3 for weights and inputs: a value on the side of its code
that the gradient drives it away from is moved a little more, one on the other side a little less (Lee et al., "Network
Quantization with Element-wise Gradient Scaling", CVPR 2021, eq. 5). The paper works δ out from the trace of the Hessian
over the gradient, anew every few epochs, and learns both ends of the interval; here δ is fixed, to the value with which
Schaefer et al. (WACV 2024) use it, and the step is learned.
"""

from __future__ import annotations

from qsearch.training.lsq import Lsq

DELTA = 5e-3
"""δ of Schaefer et al."""


class Ewgs(Lsq):
    """The family ``ewgs``."""

    def __init__(self) -> None:
        super().__init__(DELTA)
