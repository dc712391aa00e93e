"""What the data of a run can and cannot certify about its limits on quality.

Notation

======  ==============================================================================
n       samples
θ       true difference of the best assignment to the float network, or its true metric
l       limit on θ: −0.01 allows a drop of one point
======  ==============================================================================

A limit is certified by samples if all of the 95 % interval of θ keeps it, refuted if none of it does, and neither if the
interval lies across it. Intervals of differences are those of the paired test that the searchers use
(:mod:`qsearch.search.paired`); a limit that is not relative to float is held against Wilson's interval of the metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from qsearch.problem import Bound
from qsearch.report import facts, wording
from qsearch.report.document import Block, Paragraph, Table
from qsearch.report.statistics import LEVEL, Interval, is_share, quality_interval
from qsearch.run import Run
from qsearch.search.paired import certifiable_drop, difference_interval, samples_to_certify
from qsearch.trial import Quality

Verdict = Literal["certified", "refuted", "neither"]


@dataclass(frozen=True)
class Certificate:
    """What one set of samples says about one limit.

    Attributes:
        label: the limit as it was asked for.
        data: "test" or "validation".
        relative: whether the limit is on the difference to the float network, or on the metric itself.
        limit: l.
        observed: estimate of θ and its 95 % interval, where there is one.
        samples: n.
        least: the smallest drop that n samples can certify, should not one differ; for a limit on the metric itself the
            smallest distance from 1. None for scores other than 0 and 1.
        needed: the fewest samples that can certify the limit, should not one differ; None where no number can.
    """

    label: str
    data: str
    relative: bool
    limit: float
    observed: Interval
    samples: int
    least: float | None
    needed: int | None

    @property
    def verdict(self) -> Verdict:
        """Neither, where there is no interval."""
        low, high = self.observed.low, self.observed.high
        if low is not None and low >= self.limit:
            return "certified"
        if high is not None and high < self.limit:
            return "refuted"
        return "neither"

    @property
    def room(self) -> float:
        """Drop that the limit allows, from float or from 1."""
        return -self.limit if self.relative else 1 - self.limit


def certificates(run: Run) -> list[Certificate]:
    """Every lower limit on the metric against the validation data and, where it was read, the test data."""
    best = run.best
    if best is None or best.quality is None:
        return []
    splits = [("validation", best.quality, run.float_quality)]
    tested = facts.tested(run)
    if tested is not None:
        splits.insert(0, ("test", tested.found, tested.float_network))
    bounds = [bound for bound in run.info.bounds if bound.metric == run.info.quality_name and bound.at_least]
    return [_certificate(run, bound, *split) for bound in bounds for split in splits]


def _certificate(run: Run, bound: Bound, data: str, found: Quality, reference: Quality) -> Certificate:
    factor = _factor(run, bound)
    relative = factor is not None
    limit = bound.limit if factor is None else (factor - 1) * reference.metric
    observed = _difference(found, reference) if relative else quality_interval(found)
    shares = is_share(found) and is_share(reference)
    needed = samples_to_certify(-limit if relative else 1 - limit, LEVEL) if shares else None
    least = certifiable_drop(found.samples, LEVEL) if shares else None
    return Certificate(bound.label, data, relative, limit, observed, found.samples, least, needed)


def _factor(run: Run, bound: Bound) -> float | None:
    """The multiple of the float network's metric that a limit asks for; None if it is not relative to float."""
    asked = [constraint.build() for constraint in run.config.constraints]
    return next((c.factor for c in asked if c.relative_to == "float" and str(c) == bound.label), None)


def _difference(found: Quality, reference: Quality) -> Interval:
    """Difference to the float network; its interval where both have the scores of the same samples."""
    mean = found.metric - reference.metric
    if found.outcomes is None or reference.outcomes is None or found.outcomes.shape != reference.outcomes.shape:
        return Interval(mean)
    return Interval(mean, *(difference_interval(found.outcomes, reference.outcomes, LEVEL) or (None, None)))


def blocks(run: Run) -> list[Block]:
    """A table of the limits on quality, and a sentence for each that so many samples cannot certify."""
    found = certificates(run)
    if not found:
        return []
    shown = facts.percent(run)
    header = ("limit on quality", "data", "verdict", "allowed", "observed", "least certifiable", "samples")
    rows = tuple(
        (
            one.label,
            one.data,
            _VERDICTS[one.verdict],
            _allowed(one, shown),
            _observed(one, shown),
            _least(one, shown),
            f"{one.samples:,}",
        )
        for one in found
    )
    return [Table(header, rows, text_columns=3, note=_note(found)), *(Paragraph(text) for text in _out_of_reach(found))]


def sentences(run: Run) -> list[str]:
    """The same in a line for each limit and each set of samples."""
    shown = facts.percent(run)
    return [
        f"{one.label}: {_VERDICTS[one.verdict]} by {one.samples:,} {one.data} samples, "
        f"{_observed(one, shown)}, allowed {_allowed(one, shown)}"
        for one in certificates(run)
    ]


_VERDICTS = {"certified": "certified", "refuted": "refuted", "neither": "neither certified nor refuted"}


def _allowed(one: Certificate, percent: bool) -> str:
    if not one.relative:
        return f"≥ {wording.quality(one.limit, percent, 2)}"
    return f"≥ {wording.difference(Interval(one.limit), percent, 2)}"


def _observed(one: Certificate, percent: bool) -> str:
    if not one.relative:
        return wording.quality_range(one.observed, percent, 2)
    return wording.difference(one.observed, percent, 2)


def _least(one: Certificate, percent: bool) -> str:
    if one.least is None:
        return "–"
    if not one.relative:
        return f"≥ {wording.quality(1 - one.least, percent, 2)}"
    return f"≥ {wording.difference(Interval(-one.least), percent, 2)}"


def _note(found: Sequence[Certificate]) -> str:
    parts = [
        "Certified: all of the 95 % interval keeps the limit; refuted: none of it does. Differences to float are paired, "
        "sample by sample (Tango's score interval for right and wrong)."
    ]
    if any(one.least is not None for one in found):
        parts.append("Least certifiable: what so many samples certify if not one differs from float, or all are right.")
    if any(one.data == "validation" for one in found):
        parts.append("The search chose on the validation data, so what they say is optimistic.")
    return " ".join(parts)


def _out_of_reach(found: Sequence[Certificate]) -> list[str]:
    """A sentence for each limit that is too fine for some set of samples."""
    texts = []
    for label in dict.fromkeys(one.label for one in found):
        short = [one for one in found if one.label == label and one.verdict != "certified" and _too_fine(one)]
        if short:
            sizes = " or ".join(f"{one.samples:,} {one.data} samples" for one in short)
            case = "not one of them differs from float" if short[0].relative else "all of them are right"
            needed = max((one.needed for one in short if one.needed is not None), default=None)
            takes = "no number of samples is enough" if needed is None else f"it takes at least {needed:,}"
            texts.append(f"“{label}” is finer than {sizes} can certify, even if {case}: {takes}.")
    return texts


def _too_fine(one: Certificate) -> bool:
    return one.least is not None and one.least > one.room
