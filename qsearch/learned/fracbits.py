"""``fracbits``: real-valued bits by interpolation between two quantisers (Yang and Jin, AAAI 2021).

Notation

=====  ===========================================================================
λ      real-valued bits of a variable, or of each of its kernels
c_j    choices; c_j ≤ λ ≤ c_{j+1} next to it, t = (λ − c_j) / (c_{j+1} − c_j)
Q_c    the quantiser at c bits, with steps of its own that learn
=====  ===========================================================================

::

    Q_λ(v) = (1 − t)·Q_{c_j}(v) + t·Q_{c_{j+1}}(v)

of weights and of inputs; the cost is interpolated in the same way (:mod:`qsearch.learned.penalty`). λ starts anywhere,
goes where loss and penalty drive it, and is rounded to choices for the last part of the training: from then on one
quantiser is used and the other is not run.

Here the quantisers are those of quantisation-aware training, started from the calibrated scales of each bitwidth, a step per
kernel; the paper's are DoReFa and PACT. Its code sets the λ of activations to rounded values and then overwrites them
with real ones; here rounding goes through one place for weights and inputs, and a test holds that a rounded λ uses a single
quantiser. It has a choice at every integer; here the space says which there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qsearch.assignment import FLOAT_BITS
from qsearch.learned.interpolation import neighbours, shares
from qsearch.learned.learning import LearnedOptions
from qsearch.learned.schemes import LearnedBits, Scheme, across, as_parameter
from qsearch.learned.searcher import LearnedSearcher
from qsearch.learned.settling import nearest_choices
from qsearch.space import SearchSpace, Variable
from qsearch.training.families import family
from qsearch.training.lessons import Lessons
from qsearch.training.network import calibrated_scales
from qsearch.training.quantizers import Learner


class FractionalBits(LearnedBits):
    """λ as it is."""

    choices: Tensor

    def __init__(self, variable: Variable, start: float) -> None:
        super().__init__(variable)
        self.value = as_parameter(start, variable.length)
        self.register_buffer("choices", torch.tensor(variable.choices, dtype=torch.float32), persistent=False)
        self.constrain()

    def forward(self) -> Tensor:
        """See :class:`LearnedBits`."""
        return self.value

    def real(self) -> Tensor:
        """See :class:`LearnedBits`."""
        return self.value.detach()

    def shares(self) -> Tensor:
        """Of each choice, shape (length, C), differentiable."""
        return shares(self.value, self.choices)

    @torch.no_grad()
    def used(self) -> list[int]:
        """Columns with a share that is not 0; where λ learns, both next to it, of whose difference its gradient is made."""
        used = (self.shares() > 0).any(0)
        if self.value.requires_grad and len(self.choices) > 1:
            below, _ = neighbours(self.value, self.choices)
            used[below] = used[below + 1] = True
        return torch.nonzero(used).flatten().tolist()

    @torch.no_grad()
    def set_to(self, bits: Tensor) -> None:
        """See :class:`LearnedBits`."""
        self.value.copy_(bits)

    @torch.no_grad()
    def constrain(self) -> None:
        """See :class:`LearnedBits`."""
        self.value.clamp_(float(self.choices[0]), float(self.choices[-1]))


class FractionalQuantizer(Learner):
    """Q_λ of a weight or of an input.

    Args:
        bits: λ.
        quantizers: Q_c of each choice; at float bits what passes values through.
    """

    def __init__(self, bits: FractionalBits, quantizers: Sequence[nn.Module]) -> None:
        super().__init__()
        self._bits = bits
        self.quantizers = nn.ModuleList(quantizers)

    def forward(self, v: Tensor) -> Tensor:
        """Q_λ(v), of the shape of ``v``."""
        found = self._bits.shares()
        parts = [
            across(found[:, column], v.dim()).to(v.dtype) * self.quantizers[column](v) for column in self._bits.used()
        ]
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)

    def constrain(self) -> None:
        """Of all quantisers."""
        for quantizer in self._learners():
            quantizer.constrain()

    def penalty(self) -> Tensor | None:
        """Of each quantiser by its share: what no value passes through has no loss to stand against its penalty."""
        weights = self._bits.shares().detach().mean(0)
        found = [
            weights[column] * penalty
            for column in self._bits.used()
            if isinstance(quantizer := self.quantizers[column], Learner)
            and (penalty := quantizer.penalty()) is not None
        ]
        return torch.stack(found).sum() if found else None

    def _learners(self) -> list[Learner]:
        return [quantizer for quantizer in self.quantizers if isinstance(quantizer, Learner)]


class Fractional(Scheme):
    """The scheme.

    Args:
        lessons: the calibrated grids.
        quantizer: name of the family of quantisers.
    """

    def __init__(self, lessons: Lessons, quantizer: str) -> None:
        self._calibrated, self._family = lessons.calibrated, family(quantizer)

    def bits(self, variable: Variable, start: float) -> FractionalBits:
        """See :class:`Scheme`."""
        return FractionalBits(variable, start)

    def weight(self, bits: LearnedBits, site: str, weight: Tensor) -> FractionalQuantizer:
        """See :class:`Scheme`."""
        assert isinstance(bits, FractionalBits)
        return FractionalQuantizer(bits, [self._weight(site, weight, choice) for choice in bits.variable.choices])

    def input(self, bits: LearnedBits, site: str) -> FractionalQuantizer:
        """See :class:`Scheme`."""
        assert isinstance(bits, FractionalBits)
        return FractionalQuantizer(bits, [self._input(site, choice) for choice in bits.variable.choices])

    def choices(self, space: SearchSpace, bits: NDArray[np.float64]) -> NDArray[np.int64]:
        """The nearest ones."""
        return nearest_choices(space, bits)

    def _weight(self, site: str, weight: Tensor, choice: int) -> nn.Module:
        if choice == FLOAT_BITS:
            return nn.Identity()
        bits = np.full(len(weight), choice, dtype=np.int64)
        return self._family.weight(weight, bits, calibrated_scales(self._calibrated, site, bits))

    def _input(self, site: str, choice: int) -> nn.Module:
        if choice == FLOAT_BITS:
            return nn.Identity()
        return self._family.input(self._calibrated.activation_quantizer(site, choice))


class FracBits(LearnedSearcher):
    """Learns real-valued bits that stand for a mixture of the two quantisers next to them."""

    class Options(LearnedOptions):
        """See :class:`LearnedOptions`; ``quantizer`` also names the quantisers that are mixed."""

    def scheme(self, lessons: Lessons) -> Fractional:
        """See :class:`LearnedSearcher`."""
        return Fractional(lessons, self.options.quantizer)
