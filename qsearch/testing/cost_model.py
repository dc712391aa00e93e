"""``CostModelContract``: what every cost model must hold to, as tests to subclass.

A plug-in author writes::

    from qsearch.testing.cost_model import CostModelContract

    class TestMyChip(CostModelContract):
        def model(self):
            return MyChip()

and runs pytest. Override :meth:`~CostModelContract.layers` or the bits to test on other geometries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import BitAssignment
from qsearch.costs import NetworkCost
from qsearch.layers import Layer
from qsearch.protocols import CostModel
from qsearch.space import Granularity, SearchSpace, build_space

RELATIVE_ROUNDING = 1e-12
"""Room for floating-point sums taken in another order."""


class CostModelContract:
    """Tests of one cost model; subclass it and override :meth:`model`."""

    weight_bits: Sequence[int] = (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32)
    activation_bits: Sequence[int] = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32)

    def model(self) -> CostModel:
        """The cost model under test."""
        raise NotImplementedError("override model() and return the cost model under test")

    def layers(self) -> tuple[Layer, ...]:
        """Layers of every kind: a network that is small enough to try many assignments of."""
        return (
            Layer("embed", "embedding", 50, 8, input_size=(6,), output_size=(6,)),
            Layer("conv1d", "conv", 4, 8, (3,), (1,), input_size=(10,), output_size=(10,), bias=True),
            Layer("stem", "conv", 3, 20, (3, 3), (1, 1), input_size=(9, 9), output_size=(9, 9)),
            Layer("depthwise", "conv", 20, 20, (3, 3), (2, 2), 20, (9, 9), (5, 5)),
            Layer("grouped", "conv", 20, 12, (3, 3), (1, 1), 4, (5, 5), (5, 5)),
            Layer("pointwise", "conv", 12, 40, (1, 1), (1, 1), 1, (5, 5), (5, 5), uses=2),
            Layer("conv3d", "conv", 2, 6, (3, 3, 3), (1, 1, 1), 1, (4, 5, 5), (4, 5, 5)),
            Layer("tokens", "linear", 40, 24, input_size=(7,), output_size=(7,)),
            Layer("head", "linear", 300, 10),
        )

    def test_units_name_every_metric(self) -> None:
        """``units`` maps metric to unit, both words; costs come in exactly these metrics."""
        units = self.model().units
        assert units, "a cost model has at least one metric"
        for metric, unit in units.items():
            assert isinstance(metric, str), f"a metric must be a word, got {metric!r}"
            assert isinstance(unit, str), f"the unit of {metric!r} must be a word, got {unit!r}"
            assert unit, f"metric {metric!r} must have a unit"
        cost = self.model().estimate(self.layers(), self._space("layer").reference(8))
        assert set(cost.totals) == set(units), f"costs in {sorted(cost.totals)}, units for {sorted(units)}"
        assert dict(cost.units) == dict(units)

    def test_costs_are_finite_and_not_negative(self) -> None:
        """At every pair of bits, and the network check of :class:`NetworkCost` passes."""
        for layer, weight, activation in self._uniform_bits():
            for metric, value in self._cost(layer, weight, activation).items():
                where = f"{metric} of {layer.name} at {weight}/{activation} bits"
                assert np.isfinite(value), f"{where} must be finite, got {value}"
                assert value >= 0, f"{where} must be at least 0, got {value}"
        space = self._space("kernel")
        cost = NetworkCost(self.model(), self.layers(), space)
        for x in self._samples(space, 3):
            cost.estimate(space.decode(x))

    def test_costs_rise_with_uniform_bits(self) -> None:
        """More bits for all weights of a layer, or for its input, are never cheaper."""
        for layer in self.layers():
            table = {
                (weight, activation): self._cost(layer, weight, activation)
                for weight in self.weight_bits
                for activation in self.activation_bits
            }
            for weight, activation in table:
                here = f"{layer.name} at {weight}/{activation} bits"
                for other in self.weight_bits:
                    if other > weight:
                        self._not_cheaper(table[other, activation], table[weight, activation], here)
                for other in self.activation_bits:
                    if other > activation:
                        self._not_cheaper(table[weight, other], table[weight, activation], here)

    def test_costs_rise_with_the_bits_of_each_kernel(self) -> None:
        """Raising one kernel of a layer whose kernels differ is never cheaper."""
        rng = np.random.default_rng(0)
        for layer in self.layers():
            for _ in range(20):
                low = rng.choice(self.weight_bits, size=layer.kernels)
                high = low.copy()
                kernel = int(rng.integers(layer.kernels))
                high[kernel] = rng.choice([bits for bits in self.weight_bits if bits >= low[kernel]])
                activation = int(rng.choice(self.activation_bits))
                where = (
                    f"{layer.name}, kernel {kernel} raised from {low[kernel]} to {high[kernel]} among {low.tolist()}"
                )
                self._not_cheaper(
                    self._cost(layer, high, activation), self._cost(layer, low, activation), where, "raised"
                )

    def test_a_pruned_kernel_is_not_dearer(self) -> None:
        """A kernel of 0 bits costs no more than the same kernel at any other bits."""
        for layer in self.layers():
            for bits in self.weight_bits:
                kept = np.full(layer.kernels, bits)
                pruned = kept.copy()
                pruned[0] = 0
                self._not_cheaper(
                    self._cost(layer, kept, 8), self._cost(layer, pruned, 8), f"{layer.name} at {bits} bits"
                )

    def test_an_additive_network_costs_the_sum_of_its_layers(self) -> None:
        """``estimate`` is the sum of ``layer_cost``, of ``maxima`` the greatest, unless ``additive`` is False."""
        model, space = self.model(), self._space("kernel")
        if not model.additive:
            return
        for x in self._samples(space, 3):
            assignment = space.decode(x)
            expected = dict.fromkeys(model.units, 0.0)
            for layer in self.layers():
                weight = assignment.vector(layer.weight_site, layer.kernels)
                activation = assignment.get(layer.activation_site, 32)
                assert isinstance(activation, int)
                for metric, value in model.layer_cost(layer, weight, activation).items():
                    so_far = expected[metric]
                    peak = metric in getattr(model, "maxima", ())
                    expected[metric] = max(so_far, value) if peak else so_far + value
            self._same(model.estimate(self.layers(), assignment).totals, expected, "estimate against layer_cost")

    def test_a_batch_costs_what_each_of_its_assignments_costs(self) -> None:
        """``estimate_many`` is ``estimate`` in a loop, for layer- and kernel-wise bits and with fixed sites."""
        model = self.model()
        for space in (self._space("layer"), self._space("kernel"), self._space("kernel", {"first": 8, "last": 8})):
            x = self._samples(space, 5)
            totals = model.estimate_many(self.layers(), space.bits(x))
            assert set(totals) == set(model.units), f"estimate_many returned {sorted(totals)}"
            for row, one in enumerate(x):
                alone = model.estimate(self.layers(), space.decode(one)).totals
                self._same({metric: float(totals[metric][row]) for metric in totals}, alone, f"row {row} of a batch")

    def test_uniform_8_normalises_to_1(self) -> None:
        """The batched cost of 8 bits everywhere is not above the scalar one, which relative budgets refer to."""
        model = self.model()
        space = build_space(self.layers(), weight_bits=(2, 8), activation_bits=(2, 8))
        reference = model.estimate(self.layers(), space.reference(8)).totals
        batch = model.estimate_many(self.layers(), space.bits(space.highest[None]))
        for metric, value in reference.items():
            assert value > 0, f"{metric} of a network of 8 bits must be greater than 0, or no budget can refer to it"
            ratio = float(batch[metric][0]) / value
            assert abs(ratio - 1) <= RELATIVE_ROUNDING, f"{metric} at uniform 8 bits is {ratio} of itself"

    def test_any_integer_type_will_do(self) -> None:
        """Bits come as NumPy integers of any width; arrays may be read-only and are left as they are."""
        model = self.model()
        for layer in self.layers():
            expected = model.layer_cost(layer, np.full(layer.kernels, 8, dtype=np.int64), 8)
            for kind in (np.int8, np.uint8, np.int32, np.uint64):
                weight = np.full(layer.kernels, 8, dtype=kind)
                weight.flags.writeable = False
                found = model.layer_cost(layer, weight, kind(8))  # type: ignore[arg-type]  # what NumPy code hands over
                self._same(found, expected, f"{layer.name} with bits as {np.dtype(kind)}")

    def test_the_same_question_has_the_same_answer(self) -> None:
        """No state is kept from one estimate to the next."""
        model, space = self.model(), self._space("kernel")
        first, second = (space.decode(x) for x in self._samples(space, 2))
        before = dict(model.estimate(self.layers(), first).totals)
        model.estimate(self.layers(), second)
        assert dict(model.estimate(self.layers(), first).totals) == before

    def _space(self, granularity: Granularity, fixed: Mapping[str, int] | None = None) -> SearchSpace:
        return build_space(
            self.layers(),
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
            granularity=granularity,
            fixed=fixed,
        )

    def _samples(self, space: SearchSpace, count: int) -> NDArray[np.int64]:
        return space.sample(np.random.default_rng(0), count)

    def _uniform_bits(self) -> Iterator[tuple[Layer, int, int]]:
        for layer in self.layers():
            for weight in self.weight_bits:
                for activation in self.activation_bits:
                    yield layer, weight, activation

    def _cost(self, layer: Layer, weight_bits: int | NDArray[np.int64], activation_bits: int) -> Mapping[str, float]:
        """Cost of a network of one layer: it means the same whether the model is additive or not."""
        weight = np.broadcast_to(weight_bits, (layer.kernels,))
        bits = {layer.weight_site: weight.astype(np.int64)}
        if layer.kind != "embedding":
            bits[layer.activation_site] = np.asarray([activation_bits])
        return self.model().estimate((layer,), BitAssignment(bits)).totals

    def _not_cheaper(
        self, more: Mapping[str, float], less: Mapping[str, float], where: str, what: str = "more bits"
    ) -> None:
        for metric, value in less.items():
            slack = RELATIVE_ROUNDING * abs(value)
            assert more[metric] >= value - slack, f"{metric} of {where}: {what} cost {more[metric]}, fewer {value}"

    def _same(self, found: Mapping[str, float], expected: Mapping[str, float], where: str) -> None:
        assert set(found) == set(expected), f"{where}: metrics {sorted(found)}, expected {sorted(expected)}"
        for metric, value in expected.items():
            slack = RELATIVE_ROUNDING * abs(value)
            assert abs(found[metric] - value) <= slack, f"{where}: {metric} is {found[metric]}, expected {value}"
