"""``LearningNetwork``: a network whose bits learn beside its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qsearch.assignment import BitAssignment
from qsearch.learned.limits import Limit, concerned
from qsearch.learned.penalty import Penalty
from qsearch.learned.schemes import LearnedBits, Scheme, parameters_of
from qsearch.learned.settling import evenly
from qsearch.quantize.network import input_sites
from qsearch.space import SearchSpace, Variable
from qsearch.training.lessons import Lessons
from qsearch.training.network import TrainableNetwork
from qsearch.training.quantizers import Family, Learner

LEARNABLE = ("weight", "activation")
"""Roles of sites whose bits can be learned."""

BISECTIONS = 40
"""Steps that the bits of the start are found in."""


class LearningNetwork(TrainableNetwork):
    """A network under bits that learn.

    Only variables of two choices or more that a limited cost depends on learn; the others stand at their most bits. What
    neurons keep has no gradient by its bits, and stands where all bits would if all were lowered alike to meet the limits.
    It stays there while the others train on at bits that are settled: what settling gives it beside them is not trained at.
    Sites that agree share what learns.

    Args:
        lessons: the network and its grids.
        space: its space.
        limits: what its bits may cost.
        scheme: how bits learn.
        family: what quantises sites whose bits do not learn.
        weight: of the penalty.
        fill: whether bits that do not learn use up what limits leave, as in :func:`qsearch.learned.settling.evenly`.
        start: bits that all begin with, as far as their choices reach; None for ``share`` times the target.
        share: of the limit that is exceeded most, with which learning begins if ``start`` is None.

    Attributes:
        learned: bits of the variables that learn.
    """

    def __init__(
        self,
        lessons: Lessons,
        space: SearchSpace,
        limits: Sequence[Limit],
        scheme: Scheme,
        family: Family,
        *,
        weight: float,
        start: float | None,
        share: float,
        fill: bool = True,
    ) -> None:
        learned, held = divided(space, limits, fill=fill)
        super().__init__(lessons, _assignment(space, held), family)
        self.space, self.scheme = space, scheme
        self.target = Penalty(limits, learned, held, weight)
        first = _start(self.target, learned, share) if start is None else start
        self.learned = nn.ModuleList(scheme.bits(variable, first) for variable in learned)
        self._held, self._learning = held, True
        self._quantizers: list[Learner] = []
        self._attach(lessons)

    @property
    def learners(self) -> Iterator[Learner]:
        """All quantisers."""
        yield from super().learners
        yield from self._quantizers

    @property
    def bits(self) -> list[LearnedBits]:
        """Bits of the variables that learn."""
        return list(self.learned)  # type: ignore[arg-type]  # torch does not know what a list of modules is of

    def parameter_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters of the network, and those of its quantisers without what bits are made of."""
        own, steps = super().parameter_groups()
        apart = set(map(id, parameters_of(self.bits)))
        return own, [parameter for parameter in dict.fromkeys(steps) if id(parameter) not in apart]

    def learn(self, on: bool) -> None:
        """Let bits learn in the next step, or leave them as they are."""
        self._learning = on
        for parameter in parameters_of(self.bits):
            parameter.requires_grad_(on)

    def constrain(self) -> None:
        """See :class:`TrainableNetwork`; also bits."""
        super().constrain()
        for bits in self.bits:
            bits.constrain()

    def penalty(self) -> Tensor | None:
        """What quantisers add to the loss, and, while bits learn, what their cost adds."""
        own = super().penalty()
        if not self._learning or not len(self.learned):
            return own
        cost: Tensor = self.target([bits() for bits in self.bits]).float()
        return cost if own is None else own + cost

    @torch.no_grad()
    def overrun(self) -> float:
        """The greatest cost as a share of its target; 0 where nothing learns."""
        return float(self.target.relative([bits() for bits in self.bits]).max()) if len(self.learned) else 0.0

    def real_bits(self) -> NDArray[np.float64]:
        """Real-valued bits of all decisions, shape (D,)."""
        found = np.empty(self.space.dimension)
        for variable in self.space.variables:
            found[variable.slice] = self._held.get(variable.name, 0)
        for bits in self.bits:
            found[bits.variable.slice] = bits.real().cpu().numpy()
        return found

    def freeze(self, x: NDArray[np.int64]) -> None:
        """Let bits that learned stand at the choices of an index vector, shape (D,), from now on; the others stay."""
        self.learn(False)
        for bits in self.bits:
            variable = bits.variable
            chosen = np.asarray(variable.choices, dtype=np.float32)[x[variable.slice]]
            bits.set_to(torch.from_numpy(chosen))

    def _attach(self, lessons: Lessons) -> None:
        """Put quantisers where bits learn."""
        by_site = {site: bits for bits in self.bits for site in bits.variable.sites}
        for layer in lessons.layers:
            if (bits := by_site.get(layer.weight_site)) and lessons.calibrated.is_weight(layer.weight_site):
                learner = self.scheme.weight(bits, layer.weight_site, self.float_weight(layer.name).detach())
                self._attach_weight(layer, learner)
                self._quantizers.append(learner)
            for site, (_, operand) in input_sites(layer).items():
                if bits := by_site.get(site):
                    learner = self.scheme.input(bits, site)
                    self._attach_input(layer, site, operand, learner)
                    self._quantizers.append(learner)


def divided(space: SearchSpace, limits: Sequence[Limit], *, fill: bool = True) -> tuple[list[Variable], dict[str, int]]:
    """Variables that learn, and the bits of the others; of ``fill`` see :class:`LearningNetwork`."""
    learned: list[Variable] = []
    held: dict[str, int] = {}
    even = evenly(space, limits, fill=fill)
    for variable, matters in zip(space.variables, concerned(limits, space), strict=True):
        if not all(space.site(name).role in LEARNABLE for name in variable.sites):
            held[variable.name] = variable.choices[even[variable.start]]
        elif matters and len(variable.choices) > 1:
            learned.append(variable)
        else:
            held[variable.name] = variable.choices[-1]
    return learned, held


def _assignment(space: SearchSpace, held: Mapping[str, int]) -> BitAssignment:
    """Bits of the sites that do not learn."""
    owners = space.owners
    found = dict(space.fixed or {})
    found.update({site: held[owner.name] for site, owner in owners.items() if owner.name in held})
    return BitAssignment(found)


def _start(target: Penalty, learned: Sequence[Variable], share: float) -> float:
    """Bits everywhere, as far as choices reach, that cost ``share`` times the target; costs rise with bits."""
    if not learned:
        return 0.0
    low = float(min(variable.choices[0] for variable in learned))
    high = float(max(variable.choices[-1] for variable in learned))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        bits = [torch.full((variable.length,), middle, dtype=torch.float64) for variable in learned]
        low, high = (low, middle) if float(target.relative(bits).max()) > share else (middle, high)
    return low
