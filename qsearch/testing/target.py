"""``TargetContract``: what every target must hold to, as tests to subclass.

A plug-in author writes::

    from qsearch.testing.target import TargetContract

    class TestMyBoard(TargetContract):
        def target(self):
            return MyBoard()

and runs pytest. Override :meth:`~TargetContract.layers` to test on other geometries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from numbers import Real

from qsearch.assignment import FLOAT_BITS
from qsearch.layers import Layer
from qsearch.protocols import Target
from qsearch.units import check_columns

_PAIRS = 3
"""Pairs of bits of each layer that are measured: simulators take seconds."""


class TargetContract:
    """Tests of one target; subclass it and override :meth:`target`."""

    def target(self) -> Target:
        """The target under test."""
        raise NotImplementedError("override target() and return the target under test")

    def layers(self) -> tuple[Layer, ...]:
        """Small layers of every kind; a target need not run them all."""
        return (
            Layer("embed", "embedding", 50, 8, input_size=(6,), output_size=(6,)),
            Layer("conv1d", "conv", 4, 8, (3,), (1,), input_size=(10,), output_size=(10,), bias=True),
            Layer("stem", "conv", 3, 16, (3, 3), (1, 1), input_size=(9, 9), output_size=(9, 9)),
            Layer("depthwise", "conv", 16, 16, (3, 3), (2, 2), 16, (9, 9), (5, 5)),
            Layer("conv3d", "conv", 2, 6, (3, 3, 3), (1, 1, 1), 1, (4, 5, 5), (4, 5, 5)),
            Layer("tokens", "linear", 40, 24, input_size=(7,), output_size=(7,)),
            Layer("scores", "matmul", 12, 7, input_size=(7,), output_size=(7,), uses=2),
            Layer("head", "linear", 64, 10),
        )

    def test_units_name_every_metric(self) -> None:
        """``units`` maps metric to unit, ``definitions`` some of the metrics to what is counted: all words.

        A table can hold them: units are those that the cost model ``lut`` reads.
        """
        target = self.target()
        assert target.units, "a target has at least one metric"
        for name, said in (("units", target.units), ("definitions", target.definitions)):
            assert isinstance(said, Mapping), f"{name} must be a mapping {{metric: words}}, got {said!r}"
        for what, found in (("unit", target.units), ("definition", target.definitions)):
            for metric, text in found.items():
                assert isinstance(metric, str), f"a metric must be a word, got {metric!r}"
                assert isinstance(text, str), f"the {what} of {metric!r} must be a word, got {text!r}"
                assert text, f"metric {metric!r} must have a {what}"
        others = set(target.definitions) - set(target.units)
        assert not others, f"definitions of metrics without a unit: {sorted(others)}"
        check_columns(target.units, "units of a target")

    def test_maxima_are_metrics(self) -> None:
        """``maxima`` holds metrics that have units."""
        target = self.target()
        maxima = getattr(target, "maxima", ())  # a target of its own base class may leave it out
        assert not isinstance(maxima, str), f"maxima must be a set of metrics, got {maxima!r}"
        others = set(maxima) - set(target.units)
        assert not others, f"maxima without a unit: {sorted(others)}"

    def test_it_is_deterministic_or_not(self) -> None:
        """``deterministic`` is a truth value."""
        assert isinstance(self.target().deterministic, bool)

    def test_versions_are_words(self) -> None:
        """``versions`` maps words to words, the same each time."""
        versions = self.target().versions()
        assert isinstance(versions, Mapping), f"versions must be a mapping, got {versions!r}"
        for name, text in versions.items():
            assert isinstance(name, str), f"the name of a version must be a word, got {name!r}"
            assert isinstance(text, str), f"version of {name!r} must be a word, got {text!r}"
        assert dict(self.target().versions()) == dict(versions)

    def test_precisions_are_pairs_of_bits(self) -> None:
        """Each once, within 1..32, the same for layers of one geometry; some layer is run at 8 bits or at float."""
        target, known = self.target(), set()
        for layer in self.layers():
            pairs = list(target.precisions(layer))
            for pair in pairs:
                assert isinstance(pair, tuple), f"precisions of {layer.name} must be pairs of bits, got {pair!r}"
                assert len(pair) == 2, f"precisions of {layer.name} must be pairs of bits, got {pair!r}"
                for bits in pair:
                    assert isinstance(bits, int), f"bits of {layer.name} must be integers, got {bits!r}"
                    assert 1 <= bits <= FLOAT_BITS, f"bits of {layer.name} must be within 1..{FLOAT_BITS}, got {bits}"
            assert len(set(pairs)) == len(pairs), f"precisions of {layer.name} must differ, got {pairs}"
            assert list(target.precisions(replace(layer, name="other", alive=9))) == pairs
            known |= set(pairs)
        common = {(8, 8), (FLOAT_BITS, FLOAT_BITS)}
        assert known & common, f"a target must run some layer at 8 bits or in float, got {sorted(known)}"

    def test_readings_are_finite_and_not_negative(self) -> None:
        """At the narrowest, a middle and the widest pair of every layer that the target runs."""
        target = self.target()
        for layer, weight, activation in self._points(target):
            where = f"{layer.name} at W{weight}A{activation}"
            reading = target.measure(layer, weight, activation)
            assert isinstance(reading, Mapping), f"a reading of {where} must be a mapping, got {reading!r}"
            assert set(reading) == set(target.units), f"{where}: metrics {sorted(reading)}, units {dict(target.units)}"
            for metric, value in reading.items():
                assert isinstance(value, Real), f"{metric} of {where} must be a number, got {value!r}"
                assert math.isfinite(value), f"{metric} of {where} must be finite, got {value}"
                assert value >= 0, f"{metric} of {where} must be at least 0, got {value}"

    def test_a_deterministic_target_repeats_itself(self) -> None:
        """The same point gives the same reading, whatever was measured between."""
        target = self.target()
        if not target.deterministic:
            return
        points = list(self._points(target))
        first = dict(target.measure(*points[0]))
        target.measure(*points[-1])
        assert dict(target.measure(*points[0])) == first
        assert dict(self.target().measure(*points[0])) == first

    def _points(self, target: Target) -> Iterator[tuple[Layer, int, int]]:
        for layer in self.layers():
            pairs = sorted(target.precisions(layer))
            step = max(1, (len(pairs) - 1) // (_PAIRS - 1))
            for weight, activation in pairs[::step]:
                yield layer, weight, activation
