"""``CostModelContract``: what every cost model must hold to, as tests to subclass.

A plug-in author writes::

    from qsearch.testing.cost_model import CostModelContract

    class TestMyChip(CostModelContract):
        def model(self):
            return MyChip()

and runs pytest, or ``qsearch hardware check my_chip.py:MyChip``, which needs no pytest. Override
:meth:`~CostModelContract.layers` or the bits to test on other geometries. The docstring of each test is its rule in words;
what stands behind "Fix:" is shown where it fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import BitAssignment
from qsearch.costs import NetworkCost
from qsearch.layers import Layer, LayerKind
from qsearch.protocols import CostModel
from qsearch.sites import build_space
from qsearch.space import Granularity, SearchSpace

RELATIVE_ROUNDING = 1e-12
"""Room for floating-point sums taken in another order."""


@runtime_checkable
class Particular(Protocol):
    """A cost model that answers for certain layers and bits only, such as a table."""

    def domain(self) -> tuple[Sequence[Layer], Sequence[int], Sequence[int]]:
        """Layers, weight bits and activation bits that it answers for, in any combination."""
        ...


def contract_of(model: CostModel) -> CostModelContract:
    """The contract of one model, on its own layers and bits where it is :class:`Particular`."""
    contract = CostModelContract()
    contract.model = lambda: model  # type: ignore[method-assign]  # the one method that there is to override
    if isinstance(model, Particular):
        layers, contract.weight_bits, contract.activation_bits = model.domain()
        contract.layers = lambda: tuple(layers)  # type: ignore[method-assign]
    return contract


class CostModelContract:
    """Tests of one cost model; subclass it and override :meth:`model`."""

    weight_bits: Sequence[int] = (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32)
    activation_bits: Sequence[int] = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32)

    def model(self) -> CostModel:
        """The cost model under test."""
        raise NotImplementedError("override model() and return the cost model under test")

    def layers(self) -> tuple[Layer, ...]:
        """Layers of every kind, products of activations and neurons among them: a network to try many assignments of."""
        return (
            Layer("embed", "embedding", 50, 8, input_size=(6,), output_size=(6,)),
            Layer("conv1d", "conv", 4, 8, (3,), (1,), input_size=(10,), output_size=(10,), bias=True),
            Layer("stem", "conv", 3, 20, (3, 3), (1, 1), input_size=(9, 9), output_size=(9, 9)),
            Layer("depthwise", "conv", 20, 20, (3, 3), (2, 2), 20, (9, 9), (5, 5)),
            Layer("grouped", "conv", 20, 12, (3, 3), (1, 1), 4, (5, 5), (5, 5)),
            Layer("pointwise", "conv", 12, 40, (1, 1), (1, 1), 1, (5, 5), (5, 5), uses=2),
            Layer("conv3d", "conv", 2, 6, (3, 3, 3), (1, 1, 1), 1, (4, 5, 5), (4, 5, 5)),
            Layer("tokens", "linear", 40, 24, input_size=(7,), output_size=(7,)),
            Layer("scores", "matmul", 12, 7, input_size=(7,), output_size=(7,), uses=2),
            Layer("head", "linear", 300, 10),
            *_spiking_layers(steps=5),
        )

    def test_answers_are_numbers_by_metric(self) -> None:
        """``layer_cost`` answers {metric: number}, each number a plain float.

        Fix: return a dictionary such as {"latency": float(seconds)}; float() turns what NumPy or torch computed into one.
        """
        model = self.model()
        if not _prices_layers(model):
            return
        for layer in self.layers():
            weight = np.full(layer.kernels, 8, dtype=np.int64)
            found: object = model.layer_cost(layer, weight, 8)
            assert isinstance(found, Mapping), (
                f"layer_cost must return a mapping {{metric: number}}, got {_kind(found)} for layer {layer.name!r}"
            )
            for metric, value in found.items():
                assert isinstance(value, Real), f"{metric} of layer {layer.name!r} must be a number, got {_kind(value)}"

    def test_units_name_every_metric(self) -> None:
        """``units`` gives every metric a unit, and costs come in exactly these metrics.

        Fix: write one entry of ``units`` for each metric that is returned: {"latency": "s", "energy": "J"}.
        """
        units: object = self.model().units
        assert isinstance(units, Mapping), f"units must be a mapping {{metric: unit}}, got {_kind(units)}"
        assert units, "units must name at least one metric, got none"
        for metric, unit in units.items():
            assert isinstance(metric, str), f"a metric must be a word, got {metric!r}"
            assert isinstance(unit, str), f"the unit of {metric!r} must be a word, got {unit!r}"
            assert unit, f"metric {metric!r} must have a unit, got an empty word"
        cost = self.model().estimate(self.layers(), self._space("layer").reference(8))
        assert set(cost.totals) == set(units), (
            f"costs and units must have the same metrics, got costs of {_words(cost.totals)}, units of {_words(units)}"
        )
        assert dict(cost.units) == dict(units), f"estimate must pass units on, got {dict(cost.units)} for {dict(units)}"

    def test_definitions_say_what_metrics_count(self) -> None:
        """``definitions`` maps metrics that have units to words.

        Fix: write {"energy": "the whole board, wall plug"}, or leave ``definitions`` out where nothing is to be said.
        """
        model = self.model()
        definitions: object = getattr(model, "definitions", {})
        assert isinstance(definitions, Mapping), (
            f"definitions must be a mapping {{metric: words}}, got {_kind(definitions)}"
        )
        for metric, text in definitions.items():
            assert metric in model.units, f"{metric!r} has a definition but no unit"
            assert isinstance(text, str), f"the definition of {metric!r} must be words, got {_kind(text)}"
            assert text.strip(), f"the definition of {metric!r} must say something, got an empty word"

    def test_costs_are_finite_and_not_negative(self) -> None:
        """Costs are finite and not negative, at every pair of bits.

        Fix: look for a division by zero at 0 or 32 bits, and for differences that may fall below zero.
        """
        for layer, weight, activation in self._uniform_bits():
            for metric, value in self._cost(layer, weight, activation).items():
                where = f"{metric} of layer {layer.name!r} at {weight}/{activation} bits"
                assert np.isfinite(value), f"{where} must be finite, got {value}"
                assert value >= 0, f"{where} must be at least 0, got {value}"
        space = self._space("kernel")
        cost = NetworkCost(self.model(), self.layers(), space)
        for x in self._samples(space, 3):
            cost.estimate(space.decode(x))

    def test_costs_rise_with_uniform_bits(self) -> None:
        """More bits for all weights of a layer, or for its input, are never cheaper.

        Fix: hardware without a cheaper mode runs at the next wider one: charge the least cost of these bits or more.
        """
        for layer in self.layers():
            weights = self._weight_bits(layer)
            table = {
                (weight, activation): self._cost(layer, weight, activation)
                for weight in weights
                for activation in self.activation_bits
            }
            for weight, activation in table:
                where = f"layer {layer.name!r} from {weight}/{activation}"
                for other in weights:
                    if other > weight:
                        here = f"{where} to {other}/{activation} bits"
                        self._not_cheaper(table[other, activation], table[weight, activation], here)
                for other in self.activation_bits:
                    if other > activation:
                        here = f"{where} to {weight}/{other} bits"
                        self._not_cheaper(table[weight, other], table[weight, activation], here)

    def test_costs_rise_with_the_bits_of_each_kernel(self) -> None:
        """Raising one kernel of a layer whose kernels differ is never cheaper.

        Fix: charge kernels one by one, by their mean, or by the highest bits among those that run together.
        """
        rng = np.random.default_rng(0)
        for layer in self._with_kernels():
            for _ in range(20):
                low = rng.choice(self.weight_bits, size=layer.kernels)
                high = low.copy()
                kernel = int(rng.integers(layer.kernels))
                high[kernel] = rng.choice([bits for bits in self.weight_bits if bits >= low[kernel]])
                activation = int(rng.choice(self.activation_bits))
                where = (
                    f"layer {layer.name!r}, kernel {kernel} from {low[kernel]} to {high[kernel]} bits "
                    f"among kernels of {_some(low)} bits, input at {activation}"
                )
                self._not_cheaper(self._cost(layer, high, activation), self._cost(layer, low, activation), where)

    def test_a_pruned_kernel_is_not_dearer(self) -> None:
        """A pruned kernel, of 0 bits, costs no more than one of any other bits.

        Fix: 0 in ``weight_bits`` is a kernel that is not there; charge nothing for it.
        """
        for layer in self._with_kernels():
            for bits in self.weight_bits:
                kept = np.full(layer.kernels, bits)
                pruned = kept.copy()
                pruned[0] = 0
                where = f"layer {layer.name!r}, kernel 0 from 0 to {bits} bits, the others at {bits}"
                self._not_cheaper(self._cost(layer, kept, 8), self._cost(layer, pruned, 8), where)

    def test_an_additive_network_costs_the_sum_of_its_layers(self) -> None:
        """A network costs the sum of its layers, unless ``additive`` is False.

        Of metrics in ``maxima`` it has the greatest of its layers'.

        Fix: leave ``estimate`` as it is inherited, or set ``additive = False``: integer programming then stays away.
        """
        model, space = self.model(), self._space("kernel")
        if not getattr(model, "additive", True):
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
        """``estimate_many`` of a batch is ``estimate`` of each of its assignments.

        Fix: leave ``estimate_many`` as it is inherited, or inherit from VectorCostModel and write ``layer_costs``.
        """
        model = self.model()
        for space in (self._space("layer"), self._space("kernel"), self._space("kernel", {"first": 8, "last": 8})):
            x = self._samples(space, 5)
            totals = model.estimate_many(self.layers(), space.bits(x))
            assert set(totals) == set(model.units), f"estimate_many returned {sorted(totals)}"
            for row, one in enumerate(x):
                alone = model.estimate(self.layers(), space.decode(one)).totals
                self._same({metric: float(totals[metric][row]) for metric in totals}, alone, f"row {row} of a batch")

    def test_uniform_8_normalises_to_1(self) -> None:
        """At 8 bits everywhere a network costs something, the same alone as in a batch.

        Relative budgets refer to it.

        Fix: answer at 8 bits for weights and inputs, with more than 0, and by the same arithmetic in both methods.
        """
        model = self.model()
        bits = (2, 8)
        space = build_space(
            self.layers(),
            weight_bits=bits,
            activation_bits=bits,
            state_bits=bits,
            leak_bits=bits,
            threshold_bits=bits,
        )
        reference = model.estimate(self.layers(), space.decode(space.highest)).totals
        batch = model.estimate_many(self.layers(), space.bits(space.highest[None]))
        for metric, value in reference.items():
            assert value > 0, f"{metric} of a network of 8 bits must be greater than 0, or no budget can refer to it"
            ratio = float(batch[metric][0]) / value
            assert abs(ratio - 1) <= RELATIVE_ROUNDING, f"{metric} at uniform 8 bits is {ratio} of itself"

    def test_any_integer_type_will_do(self) -> None:
        """Bits may be NumPy integers of any width, in arrays that are read-only.

        Fix: begin with ``bits = np.asarray(weight_bits, dtype=float)``: products of small integers overflow.
        """
        model = self.model()
        if not _prices_layers(model):
            return
        for layer in self.layers():
            expected = model.layer_cost(layer, np.full(layer.kernels, 8, dtype=np.int64), 8)
            for kind in (np.int8, np.uint8, np.int32, np.uint64):
                weight = np.full(layer.kernels, 8, dtype=kind)
                weight.flags.writeable = False
                found = model.layer_cost(layer, weight, kind(8))  # type: ignore[arg-type]  # what NumPy code hands over
                self._same(found, expected, f"layer {layer.name!r} with bits as {np.dtype(kind)}")

    def test_the_same_question_has_the_same_answer(self) -> None:
        """The same question has the same answer, whatever was asked in between.

        Fix: compute from the arguments and the options alone; draw no random numbers, count no calls.
        """
        model, space = self.model(), self._space("kernel")
        first, second = (space.decode(x) for x in self._samples(space, 2))
        before = dict(model.estimate(self.layers(), first).totals)
        model.estimate(self.layers(), second)
        after = dict(model.estimate(self.layers(), first).totals)
        assert after == before, f"one assignment must keep its cost, got {before} first and {after} later"

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
            for weight in self._weight_bits(layer):
                for activation in self.activation_bits:
                    yield layer, weight, activation

    def _weight_bits(self, layer: Layer) -> Sequence[int]:
        """Bits of a layer's weights; as of an activation where something else has their place, and cannot be pruned."""
        return self.weight_bits if layer.weighted else self.activation_bits

    def _with_kernels(self) -> tuple[Layer, ...]:
        """Layers whose kernels may differ in bits: those with weights."""
        return tuple(layer for layer in self.layers() if layer.weighted)

    def _cost(self, layer: Layer, weight_bits: int | NDArray[np.int64], activation_bits: int) -> Mapping[str, float]:
        """Cost of a network of one layer: it means the same whether the model is additive or not."""
        weight = np.broadcast_to(weight_bits, (layer.kernels,))
        bits = {layer.weight_site: weight.astype(np.int64)}
        if layer.kind not in ("embedding", "threshold"):
            bits[layer.activation_site] = np.asarray([activation_bits])
        return self.model().estimate((layer,), BitAssignment(bits)).totals

    def _not_cheaper(self, more: Mapping[str, float], less: Mapping[str, float], where: str) -> None:
        for metric, value in less.items():
            slack = RELATIVE_ROUNDING * abs(value)
            assert more[metric] >= value - slack, (
                f"{metric} must not fall with more bits, got {value:.6g} then {more[metric]:.6g}: {where}"
            )

    def _same(self, found: Mapping[str, float], expected: Mapping[str, float], where: str) -> None:
        assert set(found) == set(expected), f"{where}: metrics {sorted(found)}, expected {sorted(expected)}"
        for metric, value in expected.items():
            slack = RELATIVE_ROUNDING * abs(value)
            assert abs(found[metric] - value) <= slack, f"{where}: {metric} is {found[metric]}, expected {value}"


def _spiking_layers(steps: int) -> Iterator[Layer]:
    """Neurons that leak and that do not, their thresholds, and layers that spikes reach."""
    yield Layer("spikes", "conv", 2, 6, (3, 3), (2, 2), 1, (8, 8), (4, 4), uses=steps, events=130.5)
    yield from _neurons("fire", 6, (4, 4), steps, leaks=0, thresholds=1)
    yield Layer("silent", "linear", 96, 12, uses=steps, events=0.0)
    yield from _neurons("leaky", 12, (), steps, leaks=12, thresholds=12)
    yield Layer("voltage", "neuron", 12, 12, uses=steps, constants=1)


def _neurons(
    name: str, channels: int, extents: tuple[int, ...], steps: int, leaks: int, thresholds: int
) -> Iterator[Layer]:
    """Neurons that spike now and then."""
    parts: tuple[tuple[str, LayerKind, int], ...] = (
        (name, "neuron", leaks),
        (f"{name}.threshold", "threshold", thresholds),
    )
    for place, kind, kept in parts:
        yield Layer(
            place,
            kind,
            channels,
            channels,
            input_size=extents,
            output_size=extents,
            uses=steps,
            constants=kept,
            events=17.25,
        )


def _prices_layers(model: CostModel) -> bool:
    """Whether it has a ``layer_cost`` of its own; one that prices whole networks need not."""
    return getattr(type(model), "layer_cost", None) is not CostModel.layer_cost


def _kind(value: object) -> str:
    """What something is, in a few characters: ``list [1, 2]``."""
    text = " ".join(repr(value).split())
    return "None" if value is None else f"{type(value).__name__} {text if len(text) <= 40 else text[:39] + '…'}"


def _words(names: Iterable[str]) -> str:
    return ", ".join(sorted(map(str, names))) or "nothing"


def _some(values: Iterable[object]) -> str:
    """The first dozen, and whether there are more."""
    words = [str(value) for value in values]
    return ", ".join(words[:12]) + (", …" if len(words) > 12 else "")
