"""Ways of execution: all give what the network gives, and a trial finds the fastest."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_ptq import Stripes  # pytest puts the folder of this file on the path
from torch import Tensor, nn

from qsearch.assignment import BitAssignment
from qsearch.errors import ConfigError, EvaluationError
from qsearch.evaluate import execution, pace
from qsearch.evaluate.data import Split
from qsearch.evaluate.execution import Execution, Executor, Plan
from qsearch.evaluate.ptq import PostTraining
from qsearch.quantize.correction import ShiftCorrection
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.trace import trace_layers
from qsearch.sites import build_space

pytestmark = pytest.mark.usefixtures("one_thread")

WORKLOAD = Stripes()
LAYERS = trace_layers(WORKLOAD.model(), WORKLOAD.data["calibration"][0][:2])
SPACE = build_space(LAYERS, weight_bits=range(1, 9), activation_bits=range(1, 9))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path))
    return tmp_path / "execution"


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A compiler that hands back what it is given; how many tensors each graph took."""
    calls: list[int] = []

    def compiler(graph: nn.Module, arguments: list[Tensor]) -> Callable[..., Any]:
        calls.append(len(arguments))
        return graph

    monkeypatch.setattr(execution, "inductor", compiler)
    return calls


def evaluator(how: Execution = "eager", **options: Any) -> PostTraining:
    return PostTraining(WORKLOAD, LAYERS, PostTraining.Options(execution=how, **options))


def assignments(count: int) -> list[BitAssignment]:
    return [SPACE.decode(x) for x in SPACE.sample(np.random.default_rng(0), count)]


def test_a_program_gives_what_the_network_gives(uncompiled: list[int]) -> None:
    """To the last bit, before a compiler changes the order of its sums; the last batch of 90 samples is smaller."""
    eager, compiled = evaluator(batch_size=16), evaluator("compiled", batch_size=16)
    assert len(uncompiled) == 1
    for assignment in assignments(10):
        ours, theirs = compiled.evaluate(assignment), eager.evaluate(assignment)
        assert ours == theirs
        assert ours.outcomes is not None
        np.testing.assert_array_equal(ours.outcomes, theirs.outcomes)
        assert compiled.test(assignment) == eager.test(assignment)


def test_batches_that_are_too_small_are_filled_up(uncompiled: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """90 = 5 · 16 + 10; and 45 test samples, fewer than the 64 of a batch."""
    compiled, large = evaluator("compiled", batch_size=16), evaluator("compiled", batch_size=500)
    assert large._executor.plan.batch_size == 90
    expected = evaluator(batch_size=500).evaluate(SPACE.uniform(4))
    monkeypatch.setattr(QuantizedNetwork, "__call__", None)
    assert compiled.evaluate(SPACE.uniform(4)).samples == 90
    assert large.test(SPACE.uniform(4)).samples == 45
    assert large.evaluate(SPACE.uniform(4)) == expected


def test_a_correction_on_few_samples_is_a_program_too(uncompiled: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, as they are one batch; a probe and a float assignment are the network's own business."""
    options = {"batch_size": 45, "correction_samples": 20}
    compiled, eager = evaluator("compiled", **options), evaluator(**options)
    assert len(uncompiled) == 2
    expected = [eager.evaluate(assignment) for assignment in assignments(8)]
    with monkeypatch.context() as patch:
        patch.setattr(ShiftCorrection, "run", None)
        assert [compiled.evaluate(assignment) for assignment in assignments(8)] == expected
    for assignment in (*assignments(3), BitAssignment({})):
        assert compiled.evaluate(assignment) == eager.evaluate(assignment)
        assert compiled.probe(assignment) == eager.probe(assignment)


def test_a_correction_on_few_samples() -> None:
    """As a network has it that is calibrated on no more, but for its ranges; and it takes so many passes."""
    few, whole = evaluator(correction_samples=20), evaluator()
    assert few.evaluate(SPACE.uniform(2)) != whole.evaluate(SPACE.uniform(2))
    assert few.evaluate(BitAssignment({})) == whole.evaluate(BitAssignment({}))
    assert few.probe(SPACE.uniform(2)).samples == 64 + 20
    assert whole.probe(SPACE.uniform(2)).samples == 64
    more = evaluator(correction_samples=64)
    assert more.evaluate(SPACE.uniform(2)) == whole.evaluate(SPACE.uniform(2))
    assert more.probe(SPACE.uniform(2)) == whole.probe(SPACE.uniform(2))
    assert len({one.fingerprint() for one in (few, whole)}) == 2


def test_bits_beyond_single_precision_are_not_compiled(uncompiled: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    compiled = evaluator("compiled", batch_size=45)
    given = QuantizedNetwork.__call__
    monkeypatch.setattr(QuantizedNetwork, "__call__", lambda self, x: (sizes.append(len(x)), given(self, x))[1])
    for bits, eager in ((24, []), (25, [45, 45])):
        sizes.clear()
        found = compiled.evaluate(SPACE.reference(bits))
        assert sizes == eager
        assert found == evaluator(batch_size=45).evaluate(SPACE.reference(bits))


def test_channels_last_agrees_to_rounding() -> None:
    ours, theirs = evaluator("channels-last"), evaluator()
    assert all(
        parameter.is_contiguous(memory_format=torch.channels_last)
        for parameter in ours.network.model.parameters()
        if parameter.dim() == 4
    )
    for assignment in (SPACE.uniform(8), BitAssignment({})):
        assert ours.evaluate(assignment).loss == pytest.approx(theirs.evaluate(assignment).loss, rel=1e-3)
    assert ours.fingerprint() != theirs.fingerprint()  # sensitivities are those of one way


@pytest.mark.slow
def test_compiled_agrees_to_rounding() -> None:
    eager, compiled = evaluator(batch_size=30), evaluator("compiled", batch_size=30)
    assert compiled.evaluate(BitAssignment({})).loss == pytest.approx(eager.evaluate(BitAssignment({})).loss, rel=1e-6)
    for assignment in assignments(20):
        ours, theirs = compiled.evaluate(assignment), eager.evaluate(assignment)
        assert ours.loss == pytest.approx(theirs.loss, rel=0.02)  # a code may fall to the other side
        assert ours.outcomes is not None
        assert theirs.outcomes is not None
        assert np.abs(ours.outcomes - theirs.outcomes).sum() <= 2


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(graph: nn.Module, arguments: list[Tensor]) -> Callable[..., Any]:
        raise RuntimeError("No working C++ compiler found\nand much more")

    monkeypatch.setattr(execution, "inductor", missing)
    with pytest.raises(ConfigError) as raised:
        evaluator("compiled")
    assert "No working C++ compiler found; install g++" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not evaluator("fastest")._executor.plan.compiled


def test_a_wrong_compiler_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "inductor", lambda graph, arguments: lambda *given: (graph(*given)[0] + 1,))
    with pytest.raises(EvaluationError, match="a compiled network must give what it gives uncompiled"):
        evaluator("compiled")


class Branches(nn.Module):
    """Which way it goes depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(x)
        return found if bool(x.sum() > -1e9) else -found


class Writes(nn.Sequential):
    """Writes into its input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sub_(0.3))


def test_a_network_that_writes_into_its_input_is_given_copies(uncompiled: list[int]) -> None:
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    model = Writes(nn.Linear(4, 3))
    network = QuantizedNetwork(model, trace_layers(model, x), [x])
    executor = Executor(network, Plan(compiled=True, batch_size=20), x)
    executor.correct_on(x)
    for assignment in (BitAssignment({}), BitAssignment(dict.fromkeys(network.sites, 3))):
        found = executor.take_on(assignment)(x)
        network.apply(assignment)
        assert torch.equal(found, network(x))
    assert torch.equal(x, before)


def test_rows_that_depend_on_their_batch_are_not_filled_up() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval()
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    network = QuantizedNetwork(model, trace_layers(model, x), [x])
    with pytest.raises(ConfigError, match="rows may not depend on their batch; got '1' normalises"):
        Executor(network, Plan(compiled=True), x)


def test_control_flow_that_depends_on_data() -> None:
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    network = QuantizedNetwork(Branches(), trace_layers(Branches(), x), [x])
    with pytest.raises(ConfigError, match="one graph for all its data") as raised:
        Executor(network, Plan(compiled=True), x)
    assert "\n" not in str(raised.value)


# the fastest


def race(monkeypatch: pytest.MonkeyPatch, gain: Callable[[Plan], float]) -> list[list[Plan]]:
    """Timings in which plans are faster by what ``gain`` says; the fields of runners."""
    fields: list[list[Plan]] = []

    def raced(work: dict[Plan, Any]) -> dict[Plan, float]:
        fields.append(list(work))
        return {plan: 10.0 - gain(plan) for plan in work}

    monkeypatch.setattr(pace, "_raced", raced)
    return fields


def test_the_fastest_is_taken_and_kept(uncompiled: list[int], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = race(monkeypatch, lambda plan: plan.channels_last + 2 * plan.compiled)
    first = evaluator("fastest")
    assert first._executor.plan == Plan(channels_last=True, compiled=True, batch_size=16)
    assert [len(field) for field in fields] == [2, 2]  # of 90 samples, no size that is tried divides; so 16 it is
    (kept,) = cache.iterdir()
    assert json.loads(kept.read_text())["plan"] == {"channels_last": True, "compiled": True, "batch_size": 16}
    again = evaluator("fastest")
    assert len(fields) == 2
    assert again._executor.plan == first._executor.plan
    assert again.network.model[0].weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[index,union-attr]


@pytest.mark.parametrize(
    "content",
    ["", "{}", '{"plan": {"speed": 3}}', '{"plan": 7}', '{"plan": {"batch_size": 0}}', '{"plan": {"compiled": 1}}'],
)
def test_a_damaged_record_is_found_anew(
    content: str, uncompiled: list[int], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    race(monkeypatch, lambda plan: plan.compiled)
    plan = evaluator("fastest")._executor.plan
    (kept,) = cache.iterdir()
    kept.write_text(content)
    assert evaluator("fastest")._executor.plan == plan


def test_a_plan_that_does_not_run_any_more_is_found_anew(
    uncompiled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler has gone since, say."""
    race(monkeypatch, lambda plan: plan.compiled)
    assert evaluator("fastest")._executor.plan.compiled

    def missing(graph: nn.Module, arguments: list[Tensor]) -> Callable[..., Any]:
        raise RuntimeError("gone")

    monkeypatch.setattr(execution, "inductor", missing)
    assert not evaluator("fastest")._executor.plan.compiled


def test_a_cache_that_cannot_be_written(
    uncompiled: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert evaluator("fastest").evaluate(SPACE.uniform(8)).samples == 90
    assert "cannot keep the fastest execution" in caplog.text


def test_timings_take_turns_and_the_least_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: clock[0])
    order: list[str] = []

    def work(name: str, durations: list[float]) -> None:
        order.append(name)
        clock[0] += durations.pop(0)

    plans = {
        Plan(batch_size=1): partial(work, "a", [9, 3, 2, 4, 3, 3]),
        Plan(batch_size=2): partial(work, "b", [1, 5, 5, 5, 5, 5]),
    }
    assert pace._raced(plans) == {Plan(batch_size=1): 2, Plan(batch_size=2): 5}
    assert order == ["a", "b"] * (pace.ROUNDS + 1)


def test_sizes_fill_whole_batches() -> None:
    split = Split(torch.zeros(128, 3), torch.zeros(128))
    assert pace._sizes(pace.SIZES, split) == pace.SIZES
    assert pace._sizes(pace.SIZES, split.head(96)) == (16, 32)
    assert pace._sizes(pace.SIZES, split.head(7)) == (7,)
    assert pace._sizes(pace.SIZES, split.head(90)) == (16,)


def test_another_network_is_timed_anew() -> None:
    split = Split(torch.zeros(20, 3), torch.zeros(20))
    keys = {
        pace._key(nn.Linear(3, 2), split),
        pace._key(nn.Linear(3, 4), split),
        pace._key(nn.Linear(3, 2), split.head(10)),
        pace._key(nn.Linear(3, 2), Split(torch.zeros(20, 3, dtype=torch.float64), torch.zeros(20))),
    }
    assert len(keys) == 4
