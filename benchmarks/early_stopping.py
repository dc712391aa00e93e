"""What ending evaluations by their first samples saves, and what it changes: campaigns with and without ``sequential``.

    python benchmarks/early_stopping.py --seeds 20                           mnist-cnn, `auto` and `ddpg`, both kinds of problem
    python benchmarks/early_stopping.py --workload digits-resnet --seeds 5

Each campaign begins with the same seed with and without. Whole evaluations are kept in memory for all campaigns, so that many
seeds cost little; whoever asks for the samples of an assignment gets the outcomes of its whole evaluation, and the loss of these
samples. The accuracy of what was found is that on all samples. Two kinds of problem: the highest accuracy within a share of
the latency that 8 bits take on ``bismo``, and the least latency at a share of the float network's accuracy.

``ddpg-verdict`` is the agent with the reward ``verdict``, whose course depends on nothing that is not decided; it and ``auto``
are what the target is about: at most a third of the samples, and the same result for 95 of 100 seeds.

The share of samples is over all evaluations of a campaign; "same course" is how many trials two campaigns begin with alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qsearch import registry
from qsearch.assignment import BitAssignment
from qsearch.costs import NetworkCost
from qsearch.errors import BudgetExhausted
from qsearch.evaluate.ptq import PostTraining
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Constraint, Objective, Problem, resolve
from qsearch.protocols import Probe, SensitivityTable
from qsearch.pruners.sequential import Sequential
from qsearch.quantize.modules import Inputs
from qsearch.setting import layers_of
from qsearch.sites import build_space
from qsearch.trial import Quality, Trial

BITS = {"all": (range(2, 9), range(2, 9)), "few": ((2, 4, 8), (4, 8))}
"""Choices of weights and activations: ``few`` makes spaces that a search can come to the end of."""


@dataclass(frozen=True)
class Way:
    """A searcher with its options, the evaluations of its campaign, and the options that its stopper has unless others are given."""

    searcher: str
    evaluations: int
    options: Mapping[str, Any] = field(default_factory=dict)
    stopper: Mapping[str, Any] = field(default_factory=dict)
    costs_only: bool = False


WAYS = {
    "auto": Way("auto", 40),
    "ddpg": Way("ddpg", 60),
    "ddpg-verdict": Way(
        "ddpg",
        60,
        {"reward": "qsearch.envs.verdict:VerdictReward"},
        {"doubt": 0.2, "growth": 1.1, "hard": 0.05, "least": 0.05},
        costs_only=True,
    ),
}


class Remembered:
    """An evaluator that evaluates every assignment once, whole, and answers from that."""

    def __init__(self, inner: PostTraining) -> None:
        self._inner = inner
        self._whole: dict[BitAssignment, Quality] = {}
        self._outputs: dict[BitAssignment, Tensor] = {}
        self._difficulty = inner.difficulty()

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        """The whole evaluation."""
        if assignment not in self._whole:
            with torch.inference_mode():
                run = self._inner._executor.take_on(assignment)
            outputs: list[Tensor] = []

            def kept(inputs: Inputs) -> Tensor:
                outputs.append(run(inputs).clone())
                return outputs[-1]

            self._whole[assignment] = self._inner.scoring.quality(kept, self._inner.validation)
            self._outputs[assignment] = torch.cat(outputs)
        return self._whole[assignment]

    def difficulty(self) -> NDArray[np.float64]:
        """See :class:`qsearch.pruning.Sampling`."""
        return self._difficulty

    def sampled(
        self, assignment: BitAssignment, parts: Sequence[NDArray[np.intp]], *, seed: int = 0
    ) -> Generator[Quality]:
        """See :class:`qsearch.pruning.Sampling`."""
        whole = self.evaluate(assignment)
        assert whole.outcomes is not None
        outcomes = np.full(whole.samples, np.nan, dtype=np.float32)
        for part in parts[:-1]:
            outcomes[part] = whole.outcomes[part]
            seen = np.flatnonzero(~np.isnan(outcomes))
            loss = self._inner.scoring.loss(self._outputs[assignment][seen], self._inner.validation.targets[seen])
            yield replace(Quality.from_outcomes(outcomes[seen], loss, whole.name), outcomes=outcomes.copy())
        yield whole

    def probe(self, assignment: BitAssignment) -> Probe:
        """See :class:`qsearch.protocols.CalibrationProbe`."""
        return self._inner.probe(assignment)

    def __getattr__(self, name: str) -> Any:
        """What sensitivities ask for."""
        return getattr(self._inner, name)


@dataclass(frozen=True)
class Setting:
    """What is searched, and what sensitivities are known of it."""

    problem: Problem
    evaluator: Remembered
    tables: dict[str, SensitivityTable]

    def search(self, way: Way, seed: int, pruner: Sequential | None) -> tuple[Trial | None, list[Trial]]:
        """The best of a campaign, and its trials."""
        budget = Budget(evaluations=way.evaluations)
        oracle = CampaignOracle(
            self.problem, self.evaluator, MemoryRecord(), budget, seed, pruner=pruner, tables=self.tables
        )
        with suppress(BudgetExhausted):
            registry.create("searchers", way.searcher, dict(way.options)).search(oracle)
        return self.problem.best(oracle.trials), oracle.trials


@cache
def settings(workload: str, bits: str = "few", latency: float = 0.25, accuracy: float = 0.99) -> dict[str, Setting]:
    """Kind of problem → setting; asked for again, the same, with all that it has evaluated."""
    made = registry.create("workloads", workload, {})
    layers = layers_of(made)
    space = build_space(layers, weight_bits=BITS[bits][0], activation_bits=BITS[bits][1])
    evaluator = Remembered(registry.create("evaluators", "ptq", {"threads": 1}, made, layers))
    cost = NetworkCost(registry.create("cost_models", "bismo", {}), layers, space)
    floating = evaluator.evaluate(space.reference(32))
    kinds = {
        "accuracy:max": (Objective("accuracy", "maximize"), Constraint("latency", latency, None, "uniform-8")),
        "latency:min": (Objective("latency", "minimize"), Constraint("accuracy", None, accuracy, "float")),
    }
    return {
        kind: Setting(
            Problem(
                space,
                cost,
                (objective,),
                (resolve(constraint, cost, floating.values),),
                "accuracy",
                dict(floating.values),
                floating.outcomes,
            ),
            evaluator,
            {},
        )
        for kind, (objective, constraint) in kinds.items()
    }


@dataclass(frozen=True)
class Pair:
    """A campaign with early stopping, beside the one without.

    Attributes:
        share: of the samples.
        same: whether they end in the same assignment.
        course: trials that they begin with alike.
        difference: of the objective on all samples, more of it being better with stopping; a share for costs; NaN where one
            of the two found nothing.
    """

    share: float
    same: bool
    course: int
    difference: float


def pair(setting: Setting, way: Way, seed: int, given: Mapping[str, Any] | None = None) -> Pair:
    """Both campaigns of a seed; where only one of them found something they did not end the same.

    Args:
        given: options of the stopper that take the place of the way's.
    """
    stopper = Sequential(Sequential.Options(**{**way.stopper, **(given or {})}))
    ours, trials = setting.search(way, seed, stopper)
    theirs, others = setting.search(way, seed, None)
    used = [trial.quality.samples for trial in trials if trial.quality is not None]
    count = len(setting.evaluator.difficulty())
    alike = [one.assignment == other.assignment for one, other in zip(trials, others, strict=False)]
    course = alike.index(False) if False in alike else len(alike)
    if ours is None or theirs is None:
        same, difference = ours is theirs, float("nan")
    else:
        same, difference = ours.assignment == theirs.assignment, better_by(setting, ours, theirs)
    return Pair(sum(used) / (count * max(1, len(used))), same, course, difference)


def better_by(setting: Setting, ours: Trial, theirs: Trial) -> float:
    """How much better the first is, on all samples: a difference of accuracies, or the share of a cost that it saves."""
    (objective,) = setting.problem.objectives
    if objective.metric in setting.problem.cost.units:
        return 1 - ours.value(objective.metric) / theirs.value(objective.metric)
    whole = setting.evaluator.evaluate
    return whole(ours.assignment).metric - whole(theirs.assignment).metric


def shares(workload: str, searcher: str, kind: str, seeds: int) -> tuple[NDArray[np.float64], int]:
    """Share of the samples that campaigns with few choices take, one of each seed, and how many end as without stopping.

    Args:
        searcher: one of :data:`WAYS`.
        kind: "accuracy:max" or "latency:min".
    """
    setting = settings(workload)[kind]
    found = [pair(setting, WAYS[searcher], seed) for seed in range(seeds)]
    return np.asarray([one.share for one in found]), sum(one.same for one in found)


def row(searcher: str, kind: str, found: Sequence[Pair]) -> list[str]:
    """One line: medians with quartiles; means of the differences with their standard errors."""
    shares = np.quantile([one.share for one in found], [0.5, 0.25, 0.75])
    differences = 100 * np.asarray([one.difference for one in found if np.isfinite(one.difference)])
    many = len(differences)
    mean = float(np.mean(differences)) if many else float("nan")
    error = float(np.std(differences, ddof=1)) / many**0.5 if many > 1 else float("nan")
    better, worse = int(np.sum(differences > 0)), int(np.sum(differences < 0))
    return [
        "{:.1f} % ({:.1f}–{:.1f})".format(*100 * shares),
        f"{sum(one.same for one in found)} of {len(found)}",
        f"{np.median([one.course for one in found]):.0f} of {WAYS[searcher].evaluations}",
        f"{mean:+.3f} ± {error:.3f} {'points' if kind.startswith('accuracy') else '%'}",
        f"{better} / {worse}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", default="mnist-cnn")
    parser.add_argument("--bits", choices=BITS, default="few")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--latency", type=float, default=0.25, help="share of the latency of 8 bits")
    parser.add_argument("--accuracy", type=float, default=0.99, help="share of the float network's")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--kinds", nargs="+", default=["accuracy:max", "latency:min"])
    parser.add_argument("--least", type=float, help="share of the samples evaluated in any case")
    parser.add_argument("--doubt", type=float, help="probability of a wrong verdict on what cannot become the best")
    given = parser.parse_args()
    torch.set_num_threads(1)
    options = {name: value for name in ("least", "doubt") if (value := getattr(given, name)) is not None}
    print(f"{given.workload}, {given.bits} choices of bits, {given.seeds} seeds")
    print("problem, searcher: samples | same result | same course | better by | better / worse")
    made = settings(given.workload, given.bits, given.latency, given.accuracy)
    for kind, searcher in product(given.kinds, given.ways):
        way = WAYS[searcher]
        if way.costs_only and kind != "latency:min":
            continue
        found = [pair(made[kind], way, seed, options) for seed in range(given.seeds)]
        print(f"{kind}, {searcher}:", " | ".join(row(searcher, kind, found)), flush=True)


if __name__ == "__main__":
    main()
