"""The contract holds for every built-in cost model, and catches models that break it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch

from qsearch.errors import QSearchError
from qsearch.hardware.bismo import Bismo
from qsearch.hardware.bitfusion import BitFusion
from qsearch.hardware.roofline import Roofline
from qsearch.hardware.size import Size
from qsearch.layers import Layer
from qsearch.protocols import CostModel
from qsearch.registry import create
from qsearch.testing.cost_model import CostModelContract, contract_of
from qsearch.trial import Cost


class TestSize(CostModelContract):
    def model(self):
        return create("cost_models", "size")


class TestSizeWithWideScales(CostModelContract):
    def model(self):
        return Size(Size.Options(scale_bits=32, field_bits=0))


class TestMemory(CostModelContract):
    def model(self):
        return create("cost_models", "memory")


class TestBops(CostModelContract):
    def model(self):
        return create("cost_models", "bops")


class TestBismo(CostModelContract):
    def model(self):
        return create("cost_models", "bismo")


class TestBismoServer(CostModelContract):
    def model(self):
        return Bismo(Bismo.Options(platform="vu9p", batch=16))


class TestBitFusion(CostModelContract):
    def model(self):
        return create("cost_models", "bitfusion")


class TestBitFusionSmallArray(CostModelContract):
    """Few rows and columns, so that steps in the tiles show on small layers; ample bandwidth, so that compute shows."""

    def model(self):
        return BitFusion(BitFusion.Options(platform="server", batch=3, rows=2, columns=4, bandwidth=1e15))


class TestRoofline(CostModelContract):
    def model(self):
        return create("cost_models", "roofline")


class TestRooflineComputeBound(CostModelContract):
    def model(self):
        options = {"rows": 2, "columns": 4, "bandwidth": 1e15, "peaks": {3: 7.0e9, 5: 3.1e9, 7: 1.3e9}}
        return Roofline(Roofline.Options(**options))


class TestRooflineTinySram(CostModelContract):
    def model(self):
        return Roofline(Roofline.Options(platform="t4", sram=100))


class PerLayer(CostModel):
    """What a user writes: units and layer_cost, no more."""

    units: Mapping[str, str] = {"latency": "s"}

    def layer_cost(self, layer, weight_bits, activation_bits):
        return {"latency": 1e-9 * layer.macs * float(np.mean(weight_bits)) * int(activation_bits) + 1e-6}


class TestPerLayer(CostModelContract):
    def model(self):
        return PerLayer()


class LongestLayer(CostModel):
    """Not additive: a pipeline is as slow as its slowest layer."""

    units: Mapping[str, str] = {"latency": "s"}
    additive = False

    def layer_cost(self, layer, weight_bits, activation_bits):
        return {"latency": layer.macs * float(np.max(weight_bits)) * int(activation_bits)}

    def estimate(self, layers, assignment):
        parts = super().estimate(layers, assignment).layers
        return Cost({"latency": max(part["latency"] for part in parts.values()) + 1.0}, self.units, parts)


class TestLongestLayer(CostModelContract):
    def model(self):
        return LongestLayer()


class Negative(PerLayer):
    def layer_cost(self, layer, weight_bits, activation_bits):
        return {"latency": float(activation_bits) - 2.0}


class ForgetsAUnit(PerLayer):
    def layer_cost(self, layer, weight_bits, activation_bits):
        return {**super().layer_cost(layer, weight_bits, activation_bits), "energy": 1.0}


class ForgetsAMetric(PerLayer):
    units: Mapping[str, str] = {"latency": "s", "energy": "J"}


class CheaperAtEight(PerLayer):
    def layer_cost(self, layer, weight_bits, activation_bits):
        cost = super().layer_cost(layer, weight_bits, activation_bits)["latency"]
        return {"latency": cost / 2 if np.all(np.asarray(weight_bits) == 8) else cost}


class GroupsOfEqualBits(PerLayer):
    """Monotone in uniform bits; but two half-filled tiles that come to agree merge into one."""

    def layer_cost(self, layer, weight_bits, activation_bits):
        bits, counts = np.unique(np.asarray(weight_bits), return_counts=True)
        return {"latency": 1.0 + float(np.sum(bits.astype(float) * np.ceil(counts / 8))) * int(activation_bits)}


class PrunedIsDear(PerLayer):
    def layer_cost(self, layer, weight_bits, activation_bits):
        cost = super().layer_cost(layer, weight_bits, activation_bits)["latency"]
        return {"latency": cost + 1e6 * np.count_nonzero(np.asarray(weight_bits) == 0)}


class WrongSum(PerLayer):
    def estimate(self, layers, assignment):
        cost = super().estimate(layers, assignment)
        return Cost({"latency": 2 * cost.totals["latency"]}, cost.units, cost.layers)


class WrongBatch(PerLayer):
    def estimate_many(self, layers, bits):
        totals = super().estimate_many(layers, bits)
        return {"latency": totals["latency"][::-1]}


class WrongScale(PerLayer):
    def estimate_many(self, layers, bits):
        totals = super().estimate_many(layers, bits)
        return {"latency": 2 * totals["latency"]}


class OverflowsInt8(PerLayer):
    def layer_cost(self, layer, weight_bits, activation_bits):
        bits = np.asarray(weight_bits)
        return {"latency": float(np.mean(bits * bits.dtype.type(20))) + 1.0 + int(activation_bits)}


class Remembers(PerLayer):
    calls = 0

    def layer_cost(self, layer, weight_bits, activation_bits):
        self.calls += 1
        return {"latency": float(self.calls)}


class AnswersWithAList(PerLayer):
    def layer_cost(self, layer, weight_bits, activation_bits):
        return [1e-6]


class DefinesWithoutWords(PerLayer):
    definitions: Mapping[str, str] = {"latency": ""}


BROKEN = [
    (DefinesWithoutWords, "test_definitions_say_what_metrics_count"),
    (AnswersWithAList, "test_answers_are_numbers_by_metric"),
    (Negative, "test_costs_are_finite_and_not_negative"),
    (ForgetsAUnit, "test_units_name_every_metric"),
    (ForgetsAMetric, "test_units_name_every_metric"),
    (CheaperAtEight, "test_costs_rise_with_uniform_bits"),
    (GroupsOfEqualBits, "test_costs_rise_with_the_bits_of_each_kernel"),
    (PrunedIsDear, "test_a_pruned_kernel_is_not_dearer"),
    (WrongSum, "test_an_additive_network_costs_the_sum_of_its_layers"),
    (WrongBatch, "test_a_batch_costs_what_each_of_its_assignments_costs"),
    (WrongScale, "test_uniform_8_normalises_to_1"),
    (OverflowsInt8, "test_any_integer_type_will_do"),
    (Remembers, "test_the_same_question_has_the_same_answer"),
]


@pytest.mark.parametrize(("model", "test"), BROKEN, ids=[model.__name__ for model, _ in BROKEN])
def test_the_contract_catches(model, test):
    contract, instance = CostModelContract(), model()
    contract.model = lambda: instance
    with pytest.raises((AssertionError, QSearchError)):
        getattr(contract, test)()


def test_the_contract_asks_for_a_model():
    with pytest.raises(NotImplementedError, match="override model"):
        CostModelContract().test_units_name_every_metric()


def test_every_test_of_the_contract_has_a_model_that_it_catches():
    tests = {name for name in vars(CostModelContract) if name.startswith("test_")}
    assert tests == {test for _, test in BROKEN}


ANSWERS = {
    "None": None,
    "list": [1.0],
    "str": {"latency": "1 ms"},
    "ndarray": {"latency": np.arange(3)},
    "Tensor": {"latency": torch.tensor(1.0)},
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_the_contract_says_what_was_returned_instead_of_a_number(kind):
    class Odd(PerLayer):
        def layer_cost(self, layer, weight_bits, activation_bits):
            return ANSWERS[kind]

    with pytest.raises(AssertionError, match=f"must (be a number|return a mapping .*), got {kind}"):
        contract_of(Odd()).test_answers_are_numbers_by_metric()


def test_a_model_that_prices_whole_networks_need_not_price_layers():
    class Whole(CostModel):
        units: Mapping[str, str] = {"latency": "s"}
        additive = False

        def estimate(self, layers, assignment):
            bits = sum(float(np.mean(assignment.vector(layer.weight_site, layer.kernels))) for layer in layers)
            return Cost({"latency": 1.0 + bits}, self.units)

    contract = contract_of(Whole())
    for name in (name for name in dir(contract) if name.startswith("test_")):
        getattr(contract, name)()


def test_a_particular_model_is_checked_on_its_own_domain():
    class Particular(PerLayer):
        def domain(self):
            return [Layer("only", "linear", 4, 4)], [4, 8], [8]

        def layer_cost(self, layer, weight_bits, activation_bits):
            assert layer.name == "only"
            assert set(np.asarray(weight_bits).tolist()) <= {0, 4, 8}
            assert activation_bits == 8
            return super().layer_cost(layer, weight_bits, activation_bits)

    contract = contract_of(Particular())
    for name in (name for name in dir(contract) if name.startswith("test_")):
        getattr(contract, name)()


@pytest.mark.parametrize(
    ("definitions", "words"),
    [
        (None, "must be a mapping .*, got None"),
        ([("latency", "s")], "must be a mapping .*, got list"),
        ({"energy": "board"}, "'energy' has a definition but no unit"),
        ({"latency": 3}, "must be words, got int 3"),
    ],
)
def test_the_contract_says_what_is_wrong_with_definitions(definitions, words):
    model = PerLayer()
    model.definitions = definitions
    with pytest.raises(AssertionError, match=words):
        contract_of(model).test_definitions_say_what_metrics_count()


def test_every_rule_is_told_in_a_sentence_with_a_fix():
    for name in (name for name in vars(CostModelContract) if name.startswith("test_")):
        text = inspect.cleandoc(getattr(CostModelContract, name).__doc__)
        assert re.match(r"[^\n]{10,100}\.\n\n", text), name
        assert "Fix: " in text, name


def test_every_installed_built_in_is_under_contract():
    """By name of the class, or of the entry point, in a file with a subclass of the contract."""
    folders = (Path(__file__).parent, Path(__file__).parents[1] / "surrogates")
    sources = [path.read_text(encoding="utf-8") for folder in folders for path in sorted(folder.glob("test_*.py"))]
    tested = "\n".join(source for source in sources if re.search(r"^class \w+\(.*CostModelContract\):", source, re.M))
    built_in = {e.name: e.attr for e in entry_points(group="qsearch.cost_models") if e.module.startswith("qsearch.")}
    assert {"size", "bops", "roofline", "bitfusion", "bismo", "lut"} <= set(built_in)
    missing = {
        name
        for name, kind in built_in.items()
        if not re.search(rf"\b{kind}\(|create\(\s*\"cost_models\",\s*\"{name}\"", tested)
    }
    assert not missing
