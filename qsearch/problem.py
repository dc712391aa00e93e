"""``Objective``, ``Constraint`` and ``Problem``: what a search is asked for.

A constraint that a user writes may be relative ("latency at most 0.4 × uniform-8"); ``Bound`` is the same
constraint as a number. A violation is relative to the limit, ≤ 0 where the bound is met (Optuna's sign).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import FLOAT_BITS
from qsearch.costs import NetworkCost
from qsearch.errors import ConfigError, InfeasibleError, nearest
from qsearch.layers import Layer
from qsearch.pareto import Points, non_dominated
from qsearch.space import SearchSpace
from qsearch.trial import Cost, Quality, Trial

Direction = Literal["maximize", "minimize"]
_REFERENCE = r"auto|float|uniform-([1-9]|[12]\d|3[0-2])"
_CONSTRAINT = r"\s*(?P<metric>[\w-]+)\s*(?P<sign><=|>=|≤|≥)\s*(?P<limit>[\d.]+(?:e[+-]?\d+)?)\s*(?:[x×*]\s*(?P<reference>[\w-]+)|(?P<unit>[A-Za-z][\w-]*))?\s*"


@dataclass(frozen=True)
class Objective:
    """A metric to maximise or minimise: of quality ("accuracy", "loss") or of cost ("latency")."""

    metric: str
    direction: Direction

    @property
    def sign(self) -> float:
        """+1 to minimise, −1 to maximise: the factor that turns every objective into minimisation."""
        return 1.0 if self.direction == "minimize" else -1.0


@dataclass(frozen=True)
class Constraint:
    """A limit on a metric, as a user writes it.

    Attributes:
        metric: of quality or of cost.
        at_most, at_least: the limit; exactly one is given.
        relative_to: None for a number in the metric's unit; "uniform-B" (all sites at B bits) or "float";
            "auto" is uniform-8 for a cost and None for a quality.
        unit: of an absolute limit, if it was written down; checked against the cost model's.
    """

    metric: str
    at_most: float | None = None
    at_least: float | None = None
    relative_to: str | None = None
    unit: str | None = None

    def __post_init__(self) -> None:
        if (self.at_most is None) == (self.at_least is None):
            raise ConfigError(f"a constraint on {self.metric!r} needs exactly one of at_most and at_least", got=self)
        if not np.isfinite(self.factor):
            raise ConfigError(f"the limit on {self.metric!r} must be finite", got=self.factor)
        if self.relative_to is not None and not re.fullmatch(_REFERENCE, self.relative_to):
            raise ConfigError(
                "relative_to must be 'float' or 'uniform-B' with B in 1..32", got=self.relative_to, fix="e.g. uniform-8"
            )

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """A constraint in one line.

        ``latency<=0.6`` is 0.6 of uniform-8, ``latency<=0.6*uniform-4`` names its reference, ``latency<=0.002s``
        is absolute; ``accuracy>=0.97`` is absolute, ``accuracy>=0.99*float`` refers to the float network.

        Raises:
            ConfigError: the text is not of this form.
        """
        match = re.fullmatch(_CONSTRAINT, text, flags=re.IGNORECASE)
        if match is None:
            raise ConfigError(
                "a constraint is METRIC<=NUMBER, with *REFERENCE or a unit behind it if need be",
                got=text,
                fix="e.g. latency<=0.6, accuracy>=0.99*float",
            )
        found = match.groupdict()
        try:
            limit = float(found["limit"])
        except ValueError:
            raise ConfigError("the limit of a constraint must be a number", got=found["limit"]) from None
        side: dict[str, float] = {"at_most" if found["sign"] in "<=≤" else "at_least": limit}
        relative_to = None if found["unit"] else found["reference"] or "auto"
        return cls(found["metric"], **side, relative_to=relative_to, unit=found["unit"])

    @property
    def factor(self) -> float:
        """The limit as written."""
        return float(self.at_most if self.at_most is not None else self.at_least)  # type: ignore[arg-type]  # one is set

    @property
    def reference_bits(self) -> int | None:
        """Bits of the uniform assignment the limit refers to; None for an absolute limit."""
        if self.relative_to in (None, "auto"):
            return None
        assert self.relative_to is not None
        return FLOAT_BITS if self.relative_to == "float" else int(self.relative_to.removeprefix("uniform-"))

    def __str__(self) -> str:
        sign = "<=" if self.at_most is not None else ">="
        behind = f" x {self.relative_to}" if self.relative_to else f" {self.unit}" if self.unit else ""
        return f"{self.metric} {sign} {self.factor:g}{behind}"


@dataclass(frozen=True)
class Bound:
    """A constraint as a number: ``metric`` ≤ ``limit``, or ≥ when ``at_least``."""

    metric: str
    limit: float
    at_least: bool
    label: str

    def violation(self, value: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Signed violation relative to the limit; ≤ 0 where the bound is met."""
        difference = np.asarray(value, dtype=np.float64) - self.limit
        return (-difference if self.at_least else difference) / (abs(self.limit) or 1.0)


@dataclass(frozen=True)
class Problem:
    """What a search is asked for, on one network and one piece of hardware.

    Attributes:
        space: the assignments to choose from.
        cost: the cost model, bound to the network.
        objectives: one or several.
        bounds: limits; those on cost metrics are known before an evaluation is spent.
        quality_name: name of the workload's metric ("accuracy").
        float_quality: metric → value of the float network, where it is known; rewards are relative to it.
        float_outcomes: its score on each validation sample, shape (n,), where known: what paired tests compare with.
    """

    space: SearchSpace
    cost: NetworkCost
    objectives: tuple[Objective, ...]
    bounds: tuple[Bound, ...] = ()
    quality_name: str = "accuracy"
    float_quality: Mapping[str, float] = field(default_factory=dict)
    float_outcomes: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.objectives:
            raise ConfigError(
                "a problem needs at least one objective", fix="e.g. {metric: accuracy, direction: maximize}"
            )
        for metric in [item.metric for item in self.objectives] + [item.metric for item in self.bounds]:
            if metric not in self.metrics:
                raise ConfigError(f"unknown metric {metric!r}", fix=nearest(metric, self.metrics))

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of the network."""
        return self.cost.layers

    @property
    def metrics(self) -> Mapping[str, str]:
        """Every metric an objective or a constraint may name, with its unit ("" for quality)."""
        return {self.quality_name: "", "loss": "", **self.cost.units}

    @property
    def cost_bounds(self) -> tuple[Bound, ...]:
        """Bounds on cost metrics."""
        return tuple(bound for bound in self.bounds if bound.metric in self.cost.units)

    def check_floor(self) -> None:
        """Raise unless each bound on a cost can be met by itself.

        Raises:
            InfeasibleError: with the floor of an upper bound, or the ceiling of a lower one, and by how much it misses.
        """
        for bound in self.cost_bounds:
            name, side = ("ceiling", "below") if bound.at_least else ("floor", "above")
            extreme = self.cost.ceiling(bound.metric) if bound.at_least else self.cost.floor(bound.metric)
            if extreme < bound.limit if bound.at_least else extreme > bound.limit:
                unit = self.cost.units[bound.metric]
                raise InfeasibleError(
                    f"no assignment meets {bound.label} ({bound.limit:.4g} {unit})",
                    got=f"a {name} of {extreme:.4g} {unit}, {100 * abs(extreme / bound.limit - 1) if bound.limit else 100:.1f} % {side} it",
                    fix="lower the limit, or allow more bits"
                    if bound.at_least
                    else "raise the limit, or allow fewer bits",
                )

    def cost_violations(self, x: NDArray[np.int64]) -> NDArray[np.float64]:
        """Largest violation of a cost bound for each index vector, shape (A, D) → (A,); −inf without bounds."""
        return self._worst(self.cost_bounds, x)

    def overruns(self, x: NDArray[np.int64]) -> NDArray[np.float64]:
        """The same of upper bounds only: what fewer bits can mend."""
        return self._worst([bound for bound in self.cost_bounds if not bound.at_least], x)

    def excess(self, totals: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """:meth:`overruns` of costs that are known, metric → shape (A,); there must be such bounds."""
        over = [bound.violation(totals[bound.metric]) for bound in self.cost_bounds if not bound.at_least]
        found: NDArray[np.float64] = np.max(over, axis=0)
        return found

    def _worst(self, bounds: Sequence[Bound], x: NDArray[np.int64]) -> NDArray[np.float64]:
        worst = np.full(len(x), -np.inf)
        if bounds:
            totals = self.cost.estimate_many(x)
            for bound in bounds:
                worst = np.maximum(worst, bound.violation(totals[bound.metric]))
        return worst

    def violations(self, cost: Cost, quality: Quality | None) -> dict[str, float]:
        """Violation of each bound whose metric is known: bound label → value."""
        known = {**cost.totals, **(quality.values if quality is not None else {})}
        return {
            bound.label: float(bound.violation(known[bound.metric])) for bound in self.bounds if bound.metric in known
        }

    def minimised(self, trial: Trial) -> Points:
        """See :func:`minimised`."""
        return minimised(self.objectives, trial)

    def front(self, trials: Sequence[Trial]) -> list[Trial]:
        """See :func:`front`."""
        return front(self.objectives, trials)

    def best(self, trials: Sequence[Trial]) -> Trial | None:
        """See :func:`best`."""
        return best(self.objectives, trials)


def minimised(objectives: Sequence[Objective], trial: Trial) -> Points:
    """Objective values of a trial, each turned into minimisation, shape (M,); NaN where unknown."""
    return np.asarray([objective.sign * trial.value(objective.metric) for objective in objectives])


def front(objectives: Sequence[Objective], trials: Sequence[Trial]) -> list[Trial]:
    """Feasible trials that no other feasible trial dominates, best first objective first."""
    feasible = [trial for trial in trials if trial.feasible]
    if not feasible:
        return []
    points = np.stack([minimised(objectives, trial) for trial in feasible])
    keep = [trial for trial, kept in zip(feasible, non_dominated(points), strict=True) if kept]
    tightness = {trial.number: max(trial.violations.values(), default=0.0) for trial in keep}
    return sorted(keep, key=lambda trial: (*minimised(objectives, trial), tightness[trial.number], trial.number))


def best(objectives: Sequence[Objective], trials: Sequence[Trial]) -> Trial | None:
    """The feasible trial with the best first objective.

    Ties go to the better next objective, then to the trial that leaves more of its tightest limit, then to the earlier.
    """
    found = front(objectives, trials)
    return found[0] if found else None


def resolve(constraint: Constraint, cost: NetworkCost, float_quality: Mapping[str, float]) -> Bound:
    """A constraint as a number.

    Args:
        float_quality: metrics of the float network, for constraints relative to "float".

    Raises:
        ConfigError: an unknown metric, or a reference the metric does not have.
    """
    known = {**float_quality, **cost.units}
    if constraint.metric not in known:
        raise ConfigError(
            f"unknown metric {constraint.metric!r} in a constraint", fix=nearest(constraint.metric, known)
        )
    if constraint.relative_to == "auto":
        reference = "uniform-8" if constraint.metric in cost.units else None
        constraint = replace(constraint, relative_to=reference)
    if constraint.unit not in (None, cost.units.get(constraint.metric)):
        unit = cost.units.get(constraint.metric, "no unit")
        raise ConfigError(f"{constraint.metric!r} is measured in {unit}", got=constraint.unit, fix="convert the limit")
    limit = constraint.factor
    bits = constraint.reference_bits
    if bits is not None and constraint.metric in cost.units:
        limit *= cost.estimate(cost.space.reference(bits)).totals[constraint.metric]
    elif bits == FLOAT_BITS:
        limit *= float_quality[constraint.metric]
    elif bits is not None:
        raise ConfigError(f"a limit on {constraint.metric!r} can only be relative to float", got=constraint.relative_to)
    return Bound(constraint.metric, limit, constraint.at_least is not None, str(constraint))
