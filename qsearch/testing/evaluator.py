"""``EvaluatorContract``: what every evaluator must hold to, as tests to subclass.

A plug-in author writes::

    from qsearch.testing.evaluator import EvaluatorContract

    class TestMyEvaluator(EvaluatorContract):
        def evaluator(self):
            return MyEvaluator(workload, layers, MyEvaluator.Options())

        def space(self):
            return build_space(layers, weight_bits=[2, 4, 8], activation_bits=[4, 8])

and runs pytest. Tests of :meth:`probe`, :meth:`progress` and :meth:`test` are skipped for evaluators that have none.
"""

from __future__ import annotations

import numpy as np
import pytest

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import QSearchError
from qsearch.protocols import CalibrationProbe, Evaluator, HeldOutEvaluator, Progressive
from qsearch.space import SearchSpace
from qsearch.trial import Quality


class EvaluatorContract:
    """Tests of one evaluator; subclass it and override :meth:`evaluator` and :meth:`space`.

    Each test builds its evaluator anew, so build small ones.
    """

    def evaluator(self) -> Evaluator:
        """A new evaluator under test."""
        raise NotImplementedError("override evaluator() and return a new evaluator")

    def space(self) -> SearchSpace:
        """A space of its network."""
        raise NotImplementedError("override space() and return a space of the evaluator's network")

    def test_quality_is_sound(self) -> None:
        """Finite numbers, at least one sample, a name, and outcomes that the metric is the mean of."""
        evaluator = self.evaluator()
        for assignment in (self.space().decode(self.space().lowest), self.space().decode(self.space().highest)):
            quality = evaluator.evaluate(assignment)
            _check(quality)

    def test_same_assignment_same_quality(self) -> None:
        """Bit for bit, with the same seed, in one evaluator and in another."""
        assignment = self._samples(1)[0]
        evaluator = self.evaluator()
        first = evaluator.evaluate(assignment)
        _same(first, evaluator.evaluate(assignment))
        _same(first, self.evaluator().evaluate(assignment))

    def test_history_does_not_matter(self) -> None:
        """A, B, A and float in between: A's quality is the same each time."""
        evaluator = self.evaluator()
        one, other = self._samples(2)
        first = evaluator.evaluate(one)
        evaluator.evaluate(other)
        _same(first, evaluator.evaluate(one))
        evaluator.evaluate(self.space().reference(FLOAT_BITS))
        _same(first, evaluator.evaluate(one))

    def test_the_choice_of_bits_matters(self) -> None:
        """The fewest bits and float do not give the same loss: the assignment reaches the network."""
        evaluator = self.evaluator()
        lowest = evaluator.evaluate(self.space().decode(self.space().lowest))
        assert lowest.loss != evaluator.evaluate(self.space().reference(FLOAT_BITS)).loss

    def test_less_fidelity_still_gives_a_quality(self) -> None:
        """At a share of the effort, from no more samples."""
        evaluator = self.evaluator()
        assignment = self._samples(1)[0]
        full = evaluator.evaluate(assignment)
        part = evaluator.evaluate(assignment, fidelity=0.5)
        _check(part)
        assert part.samples <= full.samples

    @pytest.mark.parametrize("fidelity", [0.0, -0.5, 1.5, float("nan")])
    def test_fidelity_outside_its_range_is_refused(self, fidelity: float) -> None:
        """With an error of :mod:`qsearch.errors`."""
        with pytest.raises(QSearchError):
            self.evaluator().evaluate(self._samples(1)[0], fidelity=fidelity)

    def test_unknown_sites_are_refused(self) -> None:
        """With an error of :mod:`qsearch.errors`."""
        known = dict(self.space().reference(8))
        with pytest.raises(QSearchError):
            self.evaluator().evaluate(BitAssignment({**known, "no such layer.weight": 4}))

    def test_probe(self) -> None:
        """Finite, divergence zero in float and above zero at the fewest bits, independent of history."""
        evaluator = self.evaluator()
        if not isinstance(evaluator, CalibrationProbe):
            pytest.skip("the evaluator has no probe")
        floating, lowest = self.space().reference(FLOAT_BITS), self.space().decode(self.space().lowest)
        start, first = evaluator.probe(floating), evaluator.probe(lowest)
        assert np.isfinite([start.loss, first.loss, first.divergence]).all()
        assert abs(start.divergence) <= 1e-9
        assert first.divergence > start.divergence
        assert first.samples >= 1
        evaluator.evaluate(self._samples(1)[0])
        assert evaluator.probe(lowest) == first
        assert evaluator.probe(floating) == start

    def test_progress(self) -> None:
        """Shares ascend to 1, where the quality is that of a whole evaluation."""
        evaluator, assignment = self.evaluator(), self._samples(1)[0]
        if not isinstance(evaluator, Progressive):
            pytest.skip("the evaluator's effort does not grow in steps")
        found = list(evaluator.progress(assignment))
        shares = [share for share, _ in found]
        assert shares == sorted(set(shares))
        assert 0 < shares[0] <= shares[-1] == 1
        _same(found[-1][1], self.evaluator().evaluate(assignment))

    def test_held_out_quality(self) -> None:
        """Sound, and the same when asked again."""
        evaluator = self.evaluator()
        if not isinstance(evaluator, HeldOutEvaluator):
            pytest.skip("the evaluator has no test split")
        assignment = self._samples(1)[0]
        quality = evaluator.test(assignment)
        _check(quality)
        _same(quality, evaluator.test(assignment))

    def _samples(self, count: int) -> list[BitAssignment]:
        """Assignments that differ, at random with a fixed seed."""
        space = self.space()
        drawn: dict[BitAssignment, None] = {}
        rng = np.random.default_rng(0)
        while len(drawn) < min(count, space.size):
            drawn.setdefault(space.decode(space.sample(rng, 1)[0]))
        return list(drawn)


def _check(quality: Quality) -> None:
    """A quality's parts agree."""
    assert np.isfinite([quality.metric, quality.loss, quality.standard_error]).all()
    assert quality.samples >= 1
    assert quality.standard_error >= 0
    assert quality.name, "the metric must have a name"
    if quality.outcomes is not None:
        assert quality.outcomes.shape == (quality.samples,)
        assert np.isclose(quality.outcomes.mean(dtype=np.float64), quality.metric)
        spread = quality.outcomes.std(ddof=1) if quality.samples > 1 else 0.0
        assert np.isclose(spread / quality.samples**0.5, quality.standard_error)


def _same(one: Quality, other: Quality) -> None:
    """Two qualities are equal, bit for bit, outcomes included."""
    assert one == other
    if one.outcomes is not None and other.outcomes is not None:
        assert np.array_equal(one.outcomes, other.outcomes)
