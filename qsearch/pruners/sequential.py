"""``sequential``: ends an evaluation when its first samples decide it: it breaks a bound, or cannot become the best.

Notation

=======  =============================================================================================
N        samples of the validation split, each of which scores 0 or 1
T        how many of them score 1: unknown, and the metric is T/N
L, U     bounds on T that hold at all looks together with a probability of 1 − ε (:mod:`qsearch.search.finite`)
rival    a feasible trial, evaluated whole, that is no worse than this one in any objective even if T is U
=======  =============================================================================================

After each look at more of the samples, an evaluation

- is pruned if it breaks a bound on quality even with T = U;
- is pruned if it has a rival, which stays before it in a tie: it cannot become the best. Where costs are the only objectives they say
  so beforehand, whatever T is; and if all bounds on quality are kept even with T = L, it is complete, though not whole;
- goes on otherwise. So what is the best so far has been evaluated whole, and so has the best of a run.

With a ``doubt``, what has a rival goes on until its bounds are decided, but for that probability. Its trial then violates
them or not as the whole evaluation would have: a search that goes by verdicts, such as an agent with the reward
``verdict``, stays on the course that it takes without this pruner.

The share ``hard`` of the samples that are hardest for the float network comes first; the others follow in random order, drawn
anew for each assignment, so that no search can adapt to the samples that happen to come first. Nearly all that quantisation
breaks is among the hard ones, and what they have lost nothing makes good: U falls below what is needed long before a mean of
as many random samples tells anything. L rises slower, as the others may hide anything until they are seen. Strata of samples are those that are hard or
not, that the float network has right or wrong, and the best rival: so bounds are paired. Once the hard samples are all
seen their count is known, and bounds on the others begin; where a look comes before that, both sequences share ε.

Searchers see the metric that is likeliest for the whole split, the mean of each stratum weighted by its size, and so the loss and
the spikes, of the strata hard and not: the samples seen alone have far more loss than all. For the sake of these no evaluation
ends before the share ``least`` of its samples.

A searcher that is content with what samples do not refute (``greedy`` with a confidence below one half) takes no step to what is
pruned for a bound, as that breaks it on these samples.

A loss has no bounds, so that nothing is ever decided on it. Where one is an objective nothing has a rival; where one is
bounded nothing is complete before it is whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qsearch.assignment import BitAssignment
from qsearch.errors import ConfigError
from qsearch.problem import Problem
from qsearch.pruning import Ending, Stopper
from qsearch.registry import PluginOptions
from qsearch.search.finite import Stratum, count_bounds, likeliest_count, spread_of_count
from qsearch.trial import SPIKES, Quality, Trial

Outcomes = NDArray[np.float32]
Floats = NDArray[np.float64]


class Sequential(Stopper):
    """Ends an evaluation when the samples seen decide that it breaks a bound, or cannot become the best."""

    class Options(PluginOptions):
        """How sure to be, and how often to look."""

        error: float = Field(default=0.01, gt=0.0, lt=1.0, allow_inf_nan=False)
        """ε: probability that the bounds on an evaluation are ever wrong, over all its looks."""
        hard: float = Field(default=0.1, ge=0.0, le=1.0, allow_inf_nan=False)
        """Share of the samples, those of the highest loss in the float network, that come first."""
        least: float = Field(default=0.15, gt=0.0, le=1.0, allow_inf_nan=False)
        """Share of the samples that are evaluated in any case: the first look."""
        doubt: float | None = Field(default=None, gt=0.0, lt=1.0, allow_inf_nan=False)
        """Probability that what cannot become the best is ever taken to keep or to break a bound wrongly, over all its looks.

        null: its evaluation ends without knowing, at the first look where costs are the only objectives."""
        growth: float = Field(default=1.2, gt=1.0, allow_inf_nan=False)
        """Samples at a look, as a multiple of those at the one before."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()
        self._read: list[Trial] = []
        self._whole: list[Trial] = []
        self._on_hard: Quality | None = None

    def verdict(self, trial: Trial, earlier: Sequence[Trial], problem: Problem) -> str:
        """Nothing against it: efforts that grow in steps are none of its business."""
        return ""

    def check(self, problem: Problem) -> None:
        """See :class:`qsearch.pruning.Stopper`."""
        name, outcomes = problem.quality_name, problem.float_outcomes
        if outcomes is None or not _binary(outcomes):
            got, rule = f"other {name} of single samples", "needs samples that score 0 or 1: others have no bounds"
        elif any(bound.metric == name and not bound.at_least for bound in problem.bounds):
            got, rule = "an upper bound of it", f"takes more {name} to be better"
        elif any(bound.metric == "loss" and bound.at_least for bound in problem.bounds):
            got, rule = "a lower bound of it", "takes less loss to be better"
        elif any(goal.metric == "loss" and goal.direction == "maximize" for goal in problem.objectives):
            got, rule = "an objective that maximises it", "takes less loss to be better"
        elif name not in [goal.metric for goal in problem.objectives] + [bound.metric for bound in problem.bounds]:
            got, rule = "neither an objective nor a bound of it", f"decides on {name}"
        else:
            return
        raise ConfigError(f"pruner 'sequential' {rule}", got=got, fix="pruner: none")

    def parts(self, assignment: BitAssignment, difficulty: Floats, seed: int) -> list[NDArray[np.intp]]:
        """See :class:`qsearch.pruning.Stopper`: the hard samples first, then the others in random order."""
        digest = hashlib.sha256(json.dumps(assignment.to_json(), sort_keys=True).encode()).digest()
        order = np.random.default_rng([seed, *digest]).permutation(len(difficulty))
        order = order[np.argsort(~_hard(difficulty, self.options.hard)[order], kind="stable")]
        looks, seen = {self._border(len(order))} - {0, len(order)}, self._first(len(order))
        while seen < len(order):
            looks.add(seen)
            seen = int(np.ceil(seen * self.options.growth))
        return np.split(order, sorted(looks))

    def ending(self, trial: Trial, difficulty: Floats, earlier: Sequence[Trial], problem: Problem) -> Ending | None:
        """See :class:`qsearch.pruning.Stopper`."""
        quality, count = trial.quality, len(difficulty)
        assert quality is not None
        assert quality.outcomes is not None
        if quality.samples == self._border(count):
            self._on_hard = quality
        if quality.samples < self._first(count) or not _binary(quality.outcomes[~np.isnan(quality.outcomes)]):
            return None
        before = _no_dearer(self._feasible(earlier, count), trial, problem)
        strata, guesses = self._strata(quality.outcomes, difficulty, before, problem)
        low, high = count_bounds(strata, self.options.error / self._sequences)
        at_best = _supposed(trial, problem, high / count, -np.inf)
        quality = self._on_all(quality, count, problem)
        seen = f"after {quality.samples:,} of {count:,} samples: {quality.name}"
        estimate = _estimate(quality, strata, guesses, (low, high))
        if broken := _broken(at_best, problem):
            reason = f"pruned {seen} at most {high / count:.4g}, which breaks {', '.join(broken)}"
            return Ending("pruned", estimate, reason)
        rival = next((other for other in before if _outdoes(other, at_best, problem)), None)
        if rival is None:
            return None
        if self.options.doubt is not None:
            few, many = likely = count_bounds(strata, max(self.options.doubt, self.options.error) / self._sequences)
            if _keeps(trial, problem, few / count, np.inf) != _keeps(trial, problem, many / count, -np.inf):
                return None
            estimate = _estimate(quality, strata, guesses, likely)
        if _costs_only(problem) and _keeps(trial, problem, low / count, np.inf):
            reason = f"ended {seen} at least {low / count:.4g}, and trial {rival.number} costs no more"
            return Ending("complete", estimate, reason)
        why = (
            f"and trial {rival.number} costs no more"
            if _costs_only(problem)
            else f"no better than trial {rival.number}"
        )
        return Ending("pruned", estimate, f"pruned {seen} at most {high / count:.4g}, {why}")

    def _first(self, count: int) -> int:
        """Samples at the first look."""
        return max(1, round(self.options.least * count))

    def _border(self, count: int) -> int:
        """Hard samples: a part ends there, so that their loss is known apart from that of the others."""
        return round(self.options.hard * count)

    def _on_all(self, quality: Quality, count: int, problem: Problem) -> Quality:
        """With the loss and the spikes that are likeliest on all samples: what no stratum bounds, weighted by hard and not.

        Where none of the others is seen, they are taken to have the float network's loss on all samples, and the spikes of these.
        """
        border, seen = self._border(count), quality.samples
        if seen <= border:
            others = problem.float_quality.get("loss", quality.loss)
            return replace(quality, loss=(border * quality.loss + (count - border) * others) / count)
        if border == 0:
            return quality
        hard = self._on_hard
        assert hard is not None

        def on_all(on_hard: float, so_far: float) -> float:
            others = (seen * so_far - border * on_hard) / (seen - border)
            return (border * on_hard + (count - border) * others) / count

        details = dict(quality.details)
        if SPIKES in details:
            details[SPIKES] = on_all(float(hard.details[SPIKES]), float(details[SPIKES]))
        return replace(quality, loss=on_all(hard.loss, quality.loss), details=details)

    @property
    def _sequences(self) -> int:
        """Of bounds: one on the hard samples, if there is a look at part of them, and one on what follows."""
        return 1 if self.options.least >= self.options.hard else 2

    def _feasible(self, earlier: Sequence[Trial], count: int) -> list[Trial]:
        """The feasible ones of the earlier trials that were evaluated whole; those read before are remembered."""
        known = len(self._read)
        if len(earlier) < known or any(earlier[at] is not self._read[at] for at in {0, known - 1} if known):
            self._read, self._whole, known = [], [], 0
        more = earlier[known:]
        self._read += more
        self._whole += [
            other for other in more if other.feasible and other.quality is not None and other.quality.samples == count
        ]
        return self._whole

    def _strata(
        self, outcomes: Outcomes, difficulty: Floats, before: Sequence[Trial], problem: Problem
    ) -> tuple[list[Stratum], list[float]]:
        """Samples that are alike in all that is known of them beforehand, and the float network's score on each kind.

        Args:
            outcomes: shape (N,), NaN where not seen.
            before: trials with which to pair, the best first.
        """
        assert problem.float_outcomes is not None
        hard = _hard(difficulty, self.options.hard)
        known: list[NDArray[np.generic]] = [problem.float_outcomes, hard]
        if before and before[0].quality is not None and not _costs_only(problem):
            known += [] if before[0].quality.outcomes is None else [before[0].quality.outcomes]
        kind = np.zeros(len(outcomes), dtype=np.int64)
        for place, part in enumerate(known):
            kind += part.astype(np.int64) << place
        seen, kinds = ~np.isnan(outcomes), 2 ** len(known)
        sizes, counts = np.bincount(kind, minlength=kinds), np.bincount(kind[seen], minlength=kinds)
        ones = np.bincount(kind[seen], weights=outcomes[seen], minlength=kinds)
        settled = [bool(number & 2 and seen[hard].all()) for number in range(kinds)]
        strata = [Stratum(int(n), int(k), round(x), s) for n, k, x, s in zip(sizes, counts, ones, settled, strict=True)]
        return strata, [float(number & 1) for number in range(kinds)]


def _hard(difficulty: Floats, share: float) -> NDArray[np.bool_]:
    """Whether a sample is among the most difficult, shape (N,)."""
    found = np.zeros(len(difficulty), dtype=bool)
    found[np.argsort(-difficulty, kind="stable")[: round(share * len(difficulty))]] = True
    return found


def _no_dearer(others: Sequence[Trial], trial: Trial, problem: Problem) -> list[Trial]:
    """Those that cost no more than a trial in any objective; the highest metric first."""
    costs = [objective for objective in problem.objectives if objective.metric in problem.cost.units]
    limits = [(item.metric, item.sign, item.sign * trial.value(item.metric)) for item in costs]
    found = [other for other in others if all(sign * other.value(name) <= limit for name, sign, limit in limits)]
    return sorted(found, key=lambda other: -other.value(problem.quality_name))


def _supposed(trial: Trial, problem: Problem, metric: float, loss: float) -> Trial:
    """The trial as it would be with another metric and loss."""
    assert trial.quality is not None
    assert trial.cost is not None
    quality = replace(trial.quality, metric=metric, loss=loss)
    return replace(trial, quality=quality, violations=problem.violations(trial.cost, quality))


def _keeps(trial: Trial, problem: Problem, metric: float, loss: float) -> bool:
    """Whether the trial would keep all bounds on quality with another metric and loss."""
    return not _broken(_supposed(trial, problem, metric, loss), problem)


def _broken(trial: Trial, problem: Problem) -> list[str]:
    """Bounds on quality that a trial breaks; those on costs no sample decides."""
    labels = [bound.label for bound in problem.bounds if bound.metric not in problem.cost.units]
    return [label for label in labels if trial.violations.get(label, 0.0) > 0]


def _outdoes(rival: Trial, trial: Trial, problem: Problem) -> bool:
    """Whether an earlier trial is no worse in any objective and stays before the other in a tie."""
    ours, theirs = problem.minimised(rival), problem.minimised(trial)
    if not np.all(ours <= theirs):
        return False
    return bool(np.any(ours < theirs)) or _tightest(rival) <= _tightest(trial)


def _tightest(trial: Trial) -> float:
    """What decides between equals, see :func:`qsearch.problem.best`."""
    return max(trial.violations.values(), default=0.0)


def _estimate(
    quality: Quality, strata: Sequence[Stratum], guesses: Sequence[float], bounds: tuple[int, int]
) -> Quality:
    """The likeliest quality on all samples, from those of some.

    The standard error is that of N samples, and what the unseen ones add to it.
    """
    count = sum(stratum.size for stratum in strata)
    metric = float(np.clip(likeliest_count(strata, guesses), *bounds)) / count
    variance = metric * (1 - metric) / max(1, count - 1) + (spread_of_count(strata) / count) ** 2
    return replace(quality, metric=metric, standard_error=float(variance**0.5), outcomes=None)


def _binary(scores: Outcomes) -> bool:
    return bool(np.all((scores == 0) | (scores == 1)))


def _costs_only(problem: Problem) -> bool:
    return all(objective.metric in problem.cost.units for objective in problem.objectives)
