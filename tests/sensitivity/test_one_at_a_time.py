"""One-at-a-time sensitivity, on an evaluator whose damages are known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import EvaluationError, PluginError
from qsearch.layers import Layer
from qsearch.protocols import Probe, Sensitivity
from qsearch.sensitivity.one_at_a_time import OneAtATime
from qsearch.sites import build_space
from qsearch.space import SearchSpace
from qsearch.trial import Quality

LAYERS = (
    Layer("a", "conv", 3, 4, (3, 3), (1, 1), input_size=(8, 8), output_size=(8, 8)),
    Layer("b", "conv", 4, 4, (3, 3), (1, 1), input_size=(8, 8), output_size=(8, 8)),
    Layer("c", "linear", 4, 5),
)
WORTH = {"a.weight": 8.0, "b.weight": 3.0, "c.weight": 1.0, "a.input": 0.5, "b.input": 0.25, "c.input": 2.0}


class Additive:
    """Loss 0.1 + Σ worth · 4^(−bits), averaged over kernels; the divergence is twice that, less 0.1."""

    def __init__(self) -> None:
        self.seen: list[BitAssignment] = []

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        raise AssertionError("a sensitivity must not see validation data")

    def damage(self, site: str, bits: float) -> float:
        return 0.0 if bits == FLOAT_BITS else WORTH[site] * 4.0**-bits

    def probe(self, assignment: BitAssignment) -> Probe:
        self.seen.append(assignment)
        total = sum(self.damage(site, assignment.mean_bits(site)) for site in assignment)
        return Probe(0.1 + total, 2 * total, 32)


class WithErrors(Additive):
    """Knows that kernel k's error is k + 1 times as large as the first one's."""

    def weight_errors(self, site: str, bits: int) -> NDArray[np.float64]:
        kernels = {layer.weight_site: layer.kernels for layer in LAYERS}[site]
        return np.arange(1.0, kernels + 1) * 4.0**-bits * (bits != FLOAT_BITS)


def space(**options: object) -> SearchSpace:
    return build_space(LAYERS, **{"weight_bits": [2, 4, 8], "activation_bits": [3, 8], **options})


def measured(measure: str = "loss") -> OneAtATime:
    return OneAtATime(OneAtATime.Options(measure=measure))


@pytest.mark.parametrize(("measure", "factor"), [("loss", 1.0), ("kl", 2.0)])
def test_damage_of_each_choice(measure: str, factor: float) -> None:
    found: Sensitivity = measured(measure)
    evaluator = Additive()
    table = found.table(space(), evaluator)
    assert list(table.damage) == ["a.weight", "a.input", "b.weight", "b.input", "c.weight", "c.input"]
    for variable in space().variables:
        expected = [factor * evaluator.damage(variable.name, bits) for bits in variable.choices]
        assert table.damage[variable.name].shape == (1, len(variable.choices))
        assert table.damage[variable.name][0] == pytest.approx(expected)


def test_every_pass_is_counted_and_probed_once() -> None:
    evaluator = Additive()
    table = measured().table(space(), evaluator)
    assert len(evaluator.seen) == len(set(evaluator.seen)) == 1 + 3 * 3 + 3 * 2
    assert table.samples == 32 * len(evaluator.seen)


def test_a_tie_moves_together() -> None:
    table = measured().table(space(ties=[("a.weight", "b.weight")]), Additive())
    assert "b.weight" not in table.damage
    assert table.damage["a.weight"][0] == pytest.approx([11 * 4.0**-bits for bits in (2, 4, 8)])


def test_fixed_sites_stay_at_their_bits() -> None:
    evaluator = Additive()
    table = measured().table(space(fixed={"first": 8}), evaluator)
    assert not {"a.weight", "a.input"} & set(table.damage)
    assert all(seen["a.weight"] == seen["a.input"] == 8 for seen in evaluator.seen)
    assert table.damage["b.weight"][0] == pytest.approx([3 * 4.0**-bits for bits in (2, 4, 8)])


def test_float_as_a_choice_does_no_damage_and_costs_no_pass() -> None:
    evaluator = Additive()
    table = measured().table(space(weight_bits=[4, 32], activation_bits=[32]), evaluator)
    assert len(evaluator.seen) == 1 + 3
    assert table.damage["b.input"].tolist() == [[0.0]]
    assert table.damage["b.weight"][0] == pytest.approx([3 * 4.0**-4, 0])


def test_kernels_share_the_damage_of_their_layer_by_their_errors() -> None:
    kernelwise = space(granularity="kernel")
    table = measured().table(kernelwise, WithErrors())
    damage = table.damage["b.weight"]
    assert damage.shape == (4, 3)
    assert damage.sum(0) == pytest.approx([3 * 4.0**-bits for bits in (2, 4, 8)])
    assert damage[:, 0] / damage[0, 0] == pytest.approx([1, 2, 3, 4])
    assert table.damage["b.input"].shape == (1, 2)


def test_kernels_share_equally_where_errors_are_not_known() -> None:
    class OnlyProbe(Additive):
        pass

    layers = LAYERS[:2]
    kernelwise = build_space(layers, weight_bits=[2, 4], activation_bits=[8], granularity="kernel")
    damage = measured().table(kernelwise, OnlyProbe()).damage["a.weight"]
    assert damage == pytest.approx(np.tile(8 * 4.0 ** -np.array([2.0, 4.0]) / 4, (4, 1)))


def test_an_evaluator_without_a_probe_is_told() -> None:
    class Blind:
        def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
            raise AssertionError

    with pytest.raises(PluginError, match=r"Blind without a method probe.*use the evaluator ptq"):
        measured().table(space(), Blind())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_sensitivity_that_is_not_finite_names_its_site(value: float) -> None:
    class Broken(Additive):
        def probe(self, assignment: BitAssignment) -> Probe:
            return Probe(value, 0.0, 1) if assignment["b.weight"] == 4 else super().probe(assignment)

    with pytest.raises(EvaluationError, match=r"site 'b\.weight' at 4 bits must be finite"):
        measured().table(space(), Broken())


def test_a_probe_that_fails_names_its_site() -> None:
    class Failing(Additive):
        def probe(self, assignment: BitAssignment) -> Probe:
            if assignment["c.input"] == 3:
                raise EvaluationError("outputs must be finite", got="NaN")
            return super().probe(assignment)

    with pytest.raises(EvaluationError, match=r"site 'c\.input' at 3 bits cannot be measured.*got NaN"):
        measured().table(space(), Failing())
