"""``dq``: learned step and range, from which bits follow (Uhlich et al., "Mixed Precision DNNs", ICLR 2020).

The parametrisation is in :mod:`qsearch.learned.ranges`. Ranges begin at what calibration found at the bits of the start, each
kernel at its own, and one d and q per site change them together; the paper has one range for the whole tensor. As there,
a site ends at the bits that its levels need, ⌈log2(q/d + 1)⌉, one more if signed, as far as its choices reach.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from qsearch.learned.learning import LearnedOptions
from qsearch.learned.ranges import RangeBits, RangeQuantizer, levels_at, range_choices
from qsearch.learned.schemes import LearnedBits, Scheme
from qsearch.learned.searcher import LearnedSearcher
from qsearch.space import SearchSpace, Variable
from qsearch.training.lessons import Lessons

USUAL = 8
"""Bits that say whether an input has a sign."""


class LearnedRange(Scheme):
    """The scheme.

    Args:
        lessons: the calibrated grids.
        power_of_two: round steps to the nearest powers of two.
    """

    def __init__(self, lessons: Lessons, power_of_two: bool = False) -> None:
        self._calibrated, self._power_of_two = lessons.calibrated, power_of_two

    def bits(self, variable: Variable, start: float) -> RangeBits:
        """See :class:`Scheme`."""
        return RangeBits(variable, any(map(self.signed, variable.sites)), start)

    def weight(self, bits: LearnedBits, site: str, weight: Tensor) -> RangeQuantizer:
        """See :class:`Scheme`."""
        start = _start(bits)
        scales = self._calibrated.quantized_weight(site, start).scales
        return self.quantizer(bits, scales.abs() * levels_at(start, True), True)

    def input(self, bits: LearnedBits, site: str) -> RangeQuantizer:
        """See :class:`Scheme`."""
        start, signed = _start(bits), self.signed(site)
        scale = self._calibrated.activation_quantizer(site, start).scale
        return self.quantizer(bits, scale.abs().reshape(1) * levels_at(start, signed), signed)

    def choices(self, space: SearchSpace, bits: NDArray[np.float64]) -> NDArray[np.int64]:
        """Those that hold the bits, rounded up."""
        return range_choices(space, bits)

    def quantizer(self, bits: LearnedBits, ranges: Tensor, signed: bool) -> RangeQuantizer:
        """What quantises a site of these ranges."""
        assert isinstance(bits, RangeBits)
        return RangeQuantizer(bits, ranges, signed, power_of_two=self._power_of_two)

    def signed(self, site: str) -> bool:
        """Whether a site has values of both signs."""
        if self._calibrated.is_weight(site):
            return True
        grid = self._calibrated.activation_quantizer(site, USUAL).grid
        return grid is None or grid.low < 0


class Dq(LearnedSearcher):
    """Learns step and range of each tensor; its bits are what the two need."""

    class Options(LearnedOptions):
        """See :class:`LearnedOptions`.

        Attributes:
            power_of_two: steps are powers of two, as shifts need.
        """

        power_of_two: bool = False

    def scheme(self, lessons: Lessons) -> LearnedRange:
        """See :class:`LearnedSearcher`."""
        assert isinstance(self.options, Dq.Options)
        return LearnedRange(lessons, self.options.power_of_two)


def _start(bits: LearnedBits) -> int:
    """The whole bits that learning begins with."""
    return max(2, round(float(bits.real().mean())))
