"""``Quality``, ``Cost`` and ``Trial``: what is known about one assignment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import BitAssignment
from qsearch.errors import EvaluationError

TrialState = Literal["complete", "infeasible", "failed", "pruned"]

SPIKES = "spikes"
"""What :attr:`Quality.details` calls the mean number of spikes per sample, of all neurons in all steps."""

Report = tuple[float, float]
"""Share of an evaluation's full effort that is spent, in (0, 1], and the quality's metric there."""


@dataclass(frozen=True)
class Quality:
    """How good the network is under an assignment, on one set of samples.

    Attributes:
        metric: mean score, higher is better (accuracy in 0..1 for classifiers).
        loss: mean loss.
        samples: number of samples n.
        standard_error: of ``metric``: s/√n with s the sample standard deviation of the scores; of an estimate, the root of
            its own variance plus that of the samples it stands for.
        name: what the metric is called ("accuracy").
        outcomes: score of each sample in data order, shape (n,); None where the evaluator has none, or the metric is an
            estimate of what more than n samples would give.
        details: how it was found, for people and for replay: {"epochs": 3, "start": digest of an assignment}.
    """

    metric: float
    loss: float
    samples: int
    standard_error: float
    name: str = "accuracy"
    outcomes: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    details: Mapping[str, float | int | str] = field(default_factory=dict, compare=False)

    @classmethod
    def from_outcomes(cls, outcomes: NDArray[np.float32], loss: float, name: str = "accuracy") -> Quality:
        """Quality of per-sample scores, shape (n,).

        Raises:
            EvaluationError: no samples, or scores or loss that are not finite.
        """
        if outcomes.size == 0:
            raise EvaluationError("an evaluation needs at least one sample", got="an empty data set")
        if not np.isfinite(loss) or not np.all(np.isfinite(outcomes)):
            raise EvaluationError("loss and scores must be finite", got=f"loss {loss}")
        count = outcomes.size
        spread = float(np.std(outcomes, ddof=1)) if count > 1 else 0.0
        return cls(float(np.mean(outcomes, dtype=np.float64)), loss, count, spread / count**0.5, name, outcomes)

    @property
    def values(self) -> dict[str, float]:
        """The metrics that objectives and constraints may name."""
        return {self.name: self.metric, "loss": self.loss}


@dataclass(frozen=True)
class Cost:
    """What an assignment costs on one piece of hardware.

    Attributes:
        totals: metric → cost of the network.
        units: metric → unit.
        layers: layer name → metric → cost; empty where a cost model gives totals only.
        deviations: metric → standard deviation of its total, where the cost model says how sure it is.
    """

    totals: Mapping[str, float]
    units: Mapping[str, str]
    layers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    deviations: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One row of the ledger.

    Attributes:
        number: position in the ledger, from 0.
        assignment: what was tried.
        state: "complete"; "infeasible" (a cost constraint is violated, quality not evaluated); "failed"; "pruned"
            (its evaluation was ended before its full effort or its last sample, as hopeless).
        cost: from the cost model; None if that failed.
        quality: None unless evaluated; of a pruned trial what it was when it ended: pessimistic where effort was
            saved, estimated where samples were; ``samples`` says how many it took.
        violations: constraint → signed violation as Optuna defines it: ≤ 0 is met.
        reason: why a trial failed, was pruned, is infeasible or complete before its last sample; empty otherwise.
        seconds: campaign time this trial took, the searcher's thinking before it included.
        reports: the metric as the effort grew, where the evaluation was watched; empty otherwise.
    """

    number: int
    assignment: BitAssignment
    state: TrialState
    cost: Cost | None = None
    quality: Quality | None = None
    violations: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    seconds: float = field(default=0.0, compare=False)
    reports: tuple[Report, ...] = ()

    @property
    def feasible(self) -> bool:
        """Evaluated, and every constraint met."""
        return self.state == "complete" and all(value <= 0 for value in self.violations.values())

    @property
    def evaluated(self) -> bool:
        """An evaluation was spent on it, or a part of one."""
        return self.state == "failed" or self.quality is not None

    @property
    def effort(self) -> float:
        """Share of an evaluation that was spent on it: 0 or 1 unless it was watched and ended early.

        One that ended before its last sample counts as a whole.
        A failure counts up to its last report, as nobody knows how far it came after it; without any, as a whole.
        """
        if not self.evaluated:
            return 0
        return self.reports[-1][0] if self.reports and self.reports[-1][0] < 1 else 1

    def value(self, metric: str) -> float:
        """A metric by name, of quality or cost; NaN where it is not known."""
        if self.quality is not None and metric in self.quality.values:
            return self.quality.values[metric]
        return float(self.cost.totals.get(metric, float("nan"))) if self.cost is not None else float("nan")
