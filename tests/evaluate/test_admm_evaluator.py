"""The evaluator that prunes and quantises by ADMM: its contract, what it keeps, what stays dense, what it says of sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qat_workload import Stripes, layers, space, untrained

from qsearch import registry
from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import ConfigError, DataError, EvaluationError
from qsearch.evaluate.admm import JointCompression
from qsearch.evaluate.keeping import kept_by_compression, kept_by_share, worth_pruning
from qsearch.hardware.size import Size
from qsearch.hardware.sparsity import layer_break_even, weight_storage
from qsearch.protocols import (
    CalibrationProbe,
    CostModel,
    Differentiable,
    Fingerprinted,
    HeldOutEvaluator,
    Remembering,
    Teaching,
)
from qsearch.space import SearchSpace
from qsearch.testing.evaluator import EvaluatorContract
from qsearch.trial import Cost, Trial

FIRST, LAST, HEAD = layers()
SIZE = {"name": "size", "options": {"scale_bits": 0, "field_bits": 0}, "metric": "size"}


def evaluator(workload: Stripes | None = None, **options: Any) -> JointCompression:
    given = {"epochs": 1, "admm": {"rho": 0.1, "every": 1, "iterations": 2}, "threads": 1, "batch_size": 60, **options}
    return JointCompression(workload or Stripes(), layers(), JointCompression.Options(**given))


def bits(first: Any, last: Any, inputs: int = 8) -> BitAssignment:
    """The head stays in float."""
    sites = {FIRST.weight_site: first, LAST.weight_site: last, HEAD.weight_site: FLOAT_BITS}
    return BitAssignment(sites | {layer.activation_site: inputs for layer in layers()})


def kept_in(found: JointCompression, assignment: BitAssignment) -> dict[str, np.ndarray]:
    """Weights that are not zero, of each kernel."""
    model = found.compressed(assignment).network.model
    weights = {layer.weight_site: dict(model.named_modules())[layer.name].weight for layer in layers()}
    return {site: np.count_nonzero(weight.flatten(1).numpy(), axis=1) for site, weight in weights.items()}


class TestContract(EvaluatorContract):
    def evaluator(self) -> JointCompression:
        return evaluator(keep=0.5)

    def space(self) -> SearchSpace:
        return space()


class TestContractOfWholeKernels(EvaluatorContract):
    def evaluator(self) -> JointCompression:
        return evaluator(keep=0.6, kernels=True, samples=40)

    def space(self) -> SearchSpace:
        return space(weight_bits=[0, 2, 4], activation_bits=[3, 8], granularity="kernel")


def test_it_is_found_by_name_and_fits_its_seams() -> None:
    found = registry.create("evaluators", "admm", {"epochs": 1}, Stripes(), layers())
    for seam in (CalibrationProbe, Differentiable, Fingerprinted, HeldOutEvaluator, Remembering, Teaching):
        assert isinstance(found, seam), seam


def test_float_is_not_trained() -> None:
    found, floating = evaluator(keep=0.1), bits(FLOAT_BITS, FLOAT_BITS, FLOAT_BITS)
    assert found.evaluate(floating) == untrained().evaluate(floating)
    assert found.test(floating) == untrained().test(floating)


def test_shares_are_kept_exactly_and_told_with_the_sizes() -> None:
    found, assignment = evaluator(keep={FIRST.name: 0.5, LAST.name: 0.1}), bits(3, 2)
    quality = found.evaluate(assignment)
    kept = kept_in(found, assignment)
    counts = [round(0.5 * FIRST.params), round(0.1 * LAST.params)]
    assert [int(part.sum()) for part in kept.values()] == [*counts, HEAD.params]
    total = sum(layer.params for layer in layers())
    data = 3 * counts[0] + 2 * counts[1] + 32 * HEAD.params
    stored = sum(
        weight_storage(layer.kernel_params, kept[layer.weight_site], np.full(layer.kernels, b)) + 32
        for layer, b in ((FIRST, 3), (LAST, 2))
    ) + float(32 * HEAD.params)
    details = quality.details
    assert details["kept"] == pytest.approx((sum(counts) + HEAD.params) / total)
    assert details["compression"] == pytest.approx(32 * total / data)
    assert details["compression_with_indices"] == pytest.approx(32 * total / stored)
    assert 0 < details["levels_residual"] < 1
    assert details["seed"] == 0
    assert found.test(assignment).details == details


def test_layers_below_break_even_stay_dense() -> None:
    """The published rule: 50 % of sparsity is not worth its indices, 90 % is."""
    found, assignment = evaluator(keep={FIRST.name: 0.5, LAST.name: 0.1}, break_even=0.55), bits(3, 2)
    assert found.kept(assignment) == {LAST.weight_site: round(0.1 * LAST.params)}
    kept = kept_in(found, assignment)
    assert int(kept[FIRST.weight_site].sum()) == FIRST.params
    assert int(kept[LAST.weight_site].sum()) == round(0.1 * LAST.params)


def test_the_cost_model_says_from_which_sparsity_a_layer_is_pruned() -> None:
    model = Size(Size.Options(scale_bits=0, field_bits=0))
    least = layer_break_even(model, "size", LAST, (4, 8))
    assert 0.1 < least < 0.9
    for sparsity, pruned in ((least - 0.02, False), (least + 0.02, True)):
        found = evaluator(keep={LAST.name: 1 - sparsity}, hardware=SIZE)
        assert (LAST.weight_site in found.kept(bits(8, 4))) is pruned
    heavy = evaluator(keep={LAST.name: 1 - least - 0.02}, hardware={**SIZE, "overhead": 3.0})
    assert heavy.kept(bits(8, 4)) == {}
    both = evaluator(keep={LAST.name: 1 - least - 0.02}, hardware=SIZE, break_even=0.99)
    assert both.kept(bits(8, 4)) == {}


def test_kernels_at_zero_bits_are_pruned_and_those_at_32_stay() -> None:
    first = [0, FLOAT_BITS] + [3] * (FIRST.kernels - 2)
    found, assignment = evaluator(keep={FIRST.name: 0.25}), bits(first, 4)
    kept = kept_in(found, assignment)[FIRST.weight_site]
    assert kept[:2].tolist() == [0, FIRST.kernel_params]
    assert int(kept[2:].sum()) == round(0.25 * FIRST.kernel_params * (FIRST.kernels - 2))


def test_whole_kernels_are_pruned() -> None:
    found = evaluator(keep={FIRST.name: 0.5}, kernels=True)
    kept = kept_in(found, bits(3, 4))[FIRST.weight_site]
    assert sorted(kept.tolist()) == [0] * (FIRST.kernels // 2) + [FIRST.kernel_params] * (FIRST.kernels // 2)


def test_an_assignment_that_prunes_a_layer_leaves_the_others_to_be_pruned() -> None:
    found = evaluator(compression=4)
    assert set(found.kept(bits(0, 4))) == {LAST.weight_site}
    assert sum(found.kept(bits(3, 4)).values()) == pytest.approx((FIRST.params + LAST.params) / 4, abs=1)


def test_the_seed_and_the_effort_matter() -> None:
    found, assignment = evaluator(keep=0.3, epochs=4), bits(2, 2)
    full = found.evaluate(assignment)
    assert found.evaluate(assignment, seed=1).loss != full.loss
    assert found.evaluate(assignment, fidelity=0.25).loss != full.loss


def test_retraining_recovers_what_pruning_loses() -> None:
    """More than 9 of 10 weights at 2 bits: little is left of the untrained network, and most of the retrained one."""
    admm = {"rho": 0.1, "every": 1, "iterations": 3}
    found = evaluator(keep=0.15, epochs=6, admm=admm).evaluate(bits(3, 3))
    floating = untrained().evaluate(bits(FLOAT_BITS, FLOAT_BITS, FLOAT_BITS))
    assert found.metric > floating.metric - 0.1


@given(
    st.dictionaries(st.sampled_from("abcd"), st.lists(st.floats(0, 100), min_size=1, max_size=30), min_size=1),
    st.floats(1, 50),
)
def test_compression_is_spread_by_the_rule(weights: dict[str, list[float]], compression: float) -> None:
    """Beside one threshold on all scores, worked out weight by weight."""
    squares = {name: np.array(found) for name, found in weights.items()}
    kept = kept_by_compression(squares, compression)
    wanted = round(sum(map(len, weights.values())) / compression)
    assert all(1 <= kept[name] <= len(found) for name, found in weights.items())
    assert max(wanted, len(weights)) <= sum(kept.values()) <= wanted + len(weights)
    scores = {name: [scored_alone(found, rank) for rank in range(len(found))] for name, found in weights.items()}
    left = [scores[name][count - 1] for name, count in kept.items() if count > 1]
    out = [scores[name][count] for name, count in kept.items() if count < len(scores[name])]
    assert not left or not out or min(left) >= max(out) * (1 - 1e-9)


def scored_alone(squares: list[float], rank: int) -> float:
    """The score of the weight of a rank, from its definition."""
    larger = sorted(squares, reverse=True)[: rank + 1]
    return larger[-1] / sum(larger) if sum(larger) else 0.0


def test_the_scale_of_a_layer_does_not_matter() -> None:
    generator = np.random.default_rng(0)
    squares = {name: generator.random(size) for name, size in {"a": 400, "b": 50}.items()}
    found = kept_by_compression(squares, 10)
    assert sum(found.values()) == 45
    assert kept_by_compression({**squares, "a": 1e4 * squares["a"]}, 10) == found


def test_shares_and_break_even_by_hand() -> None:
    counts = {"a": 100, "b": 10, "c": 0}
    assert kept_by_share(counts, {"a": 0.25, "b": 0.01, "c": 0.5}) == {"a": 25, "b": 1}
    assert worth_pruning(counts, {"a": 25, "b": 5}, {"a": 0.75, "b": 0.51}) == {"a": 25}
    # scores: of a 1, 4/8, 1/9; of b 1, 1/2, 1/3; of c 1
    squares = {"a": np.array([4.0, 1.0, 4.0]), "b": np.ones(3), "c": np.array([9.0]), "d": np.array([])}
    assert kept_by_compression(squares, 7 / 6) == {"a": 2, "b": 3, "c": 1}
    assert kept_by_compression(squares, 7) == {"a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0.5, "compression": 10}, "by keep or by compression"),
        ({"keep": 0.0}, r"within \(0, 1\]"),
        ({"keep": {"0": 1.5}}, r"within \(0, 1\]"),
        ({"kernels": True, "break_even": 0.5}, "no break-even"),
        ({"kernels": True, "compression": 4}, "say keep by layer"),
        ({"hardware": {**SIZE, "metric": "sise"}}, "no metric 'sise'; did you mean 'size'"),
        ({"hardware": {**SIZE, "format": "coo"}}, "hardware.format"),
        ({"keep": {"conv7": 0.5}}, "unknown layer 'conv7' in option 'keep'"),
        ({"hardware": {"name": "sise", "metric": "size"}}, "unknown cost model 'sise'"),
        ({"quantizer": "lqs"}, "unknown quantizer 'lqs'"),
        ({"admm": {"rho": 0}}, "admm.rho"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, registry.PluginError), match=message):
        registry.create("evaluators", "admm", options, Stripes(), layers())


def test_a_cost_model_must_price_single_layers() -> None:
    with pytest.raises(ConfigError, match="layers add up"):
        evaluator(hardware={"name": f"{__name__}:WholeNetwork", "metric": "latency"})


class WholeNetwork(CostModel):
    """Its layers share what it costs."""

    units: ClassVar[Mapping[str, str]] = {"latency": "s"}
    additive = False

    def estimate(self, layers: Any, assignment: BitAssignment) -> Cost:
        return Cost({"latency": 1.0}, dict(self.units), {})


def test_files_of_the_cost_model_are_named_by_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative one would be another file, or none, where the run is resumed from another folder."""
    name = tmp_path / "table.csv"
    rows = [f"{layer.name},{b},8,1.0" for layer in layers() for b in (2, 3, 4)]
    name.write_text("\n".join(["layer,weight_bits,activation_bits,latency [ms]", *rows]) + "\n")
    monkeypatch.chdir(tmp_path)
    for path in ("table.csv", Path("table.csv")):
        with pytest.raises(ConfigError, match=r"'hardware.options.path' must be an absolute path; got table.csv"):
            evaluator(hardware={"name": "lut", "options": {"path": path}, "metric": "latency"})
    found = evaluator(keep=0.5, hardware={"name": "lut", "options": {"path": str(name)}, "metric": "latency"})
    assert set(found.kept(bits(3, 3))) == {FIRST.weight_site, LAST.weight_site}


def test_a_workload_without_training_data_is_told() -> None:
    class Untaught(Stripes):
        def train(self) -> Any:
            return None

    with pytest.raises(DataError, match="must have training data"):
        evaluator(Untaught())


def test_divergence_is_told() -> None:
    with pytest.raises(EvaluationError, match="must not diverge"):
        evaluator(keep=0.5, rate=1e6, epochs=3).evaluate(bits(2, 2))


def test_the_test_split_is_judged_by_the_network_of_the_recorded_seed() -> None:
    options = {"keep": 0.3}
    found, assignment = evaluator(**options), bits(2, 2)
    quality = found.evaluate(assignment, seed=5)
    repeated = [(0, quality), (1, found.evaluate(assignment, seed=6))]
    expected = found.test(assignment)
    assert expected.details["seed"] == 5
    again = evaluator(**options)
    again.remember(None, [Trial(0, assignment, "complete", None, quality)])
    assert again.test(assignment) == expected
    again.remember(None, [Trial(number, assignment, "complete", None, quality) for number, quality in repeated])
    assert again.test(assignment) == expected, "the first"
    assert evaluator(**options).test(assignment) != expected


def test_a_test_is_of_full_fidelity() -> None:
    found, assignment = evaluator(keep=0.3, epochs=4), bits(2, 2)
    found.evaluate(assignment, fidelity=0.25, seed=7)
    expected = evaluator(keep=0.3, epochs=4).test(assignment)
    assert expected.details["seed"] == 0
    assert found.test(assignment) == expected
