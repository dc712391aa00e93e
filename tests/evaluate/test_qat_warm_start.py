"""Training from what was trained before: which start, what is kept, and that interruptions change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from qat_workload import bits, evaluator, layers, space, stripes
from safetensors.torch import load_file, save_file

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import StorageError
from qsearch.evaluate.qat import QuantizationAware
from qsearch.evaluate.warm_start import FLOAT, Course, Past, begin_from, course_of, state_of
from qsearch.training.families import family
from qsearch.training.network import TrainableNetwork
from qsearch.trial import Quality, Trial

ASSIGNMENTS = [bits(8, 8), bits(2, 8), bits(4, 8), bits(2, 4), bits(FLOAT_BITS, FLOAT_BITS), bits(1, 4), bits(4, 4)]


def trial(number: int, assignment: BitAssignment, quality: Quality | None, state: Any = "complete") -> Trial:
    return Trial(number, assignment, state, quality=quality)


def warm(**options: Any) -> QuantizationAware:
    return evaluator(warm_start=True, epochs=1, **options)


def ledger(found: QuantizationAware, assignments: list[BitAssignment], begun: list[Trial] | None = None) -> list[Trial]:
    """What a campaign would record: trials so far, and those of further assignments."""
    trials = list(begun or [])
    for assignment in assignments[len(trials) :]:
        trials.append(trial(len(trials), assignment, found.evaluate(assignment)))
    return trials


def facts(trials: list[Trial]) -> list[Any]:
    return [(t.quality, t.quality.outcomes.tolist(), dict(t.quality.details)) for t in trials if t.quality]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[Trial]:
    found = warm()
    found.remember(tmp_path_factory.mktemp("whole"), [])
    return ledger(found, ASSIGNMENTS)


def starts(trials: list[Trial]) -> list[Any]:
    return [t.quality.details.get("start") for t in trials if t.quality]


def test_each_starts_from_the_nearest_before_it(uninterrupted: list[Trial]) -> None:
    names = [a.digest for a in ASSIGNMENTS]
    # 2/4 is nearer to 2/8 than to 4/8 by nothing but activations; float is never trained; 4/4 ties 4/8 with none
    assert starts(uninterrupted) == [FLOAT, names[0], names[1], names[1], None, names[3], names[3]]


def test_distance_is_of_mean_bits_weighed_by_parameters() -> None:
    """Brute force over random assignments with bits per kernel."""
    sampled = space(granularity="kernel", weight_bits=[0, 2, 4, 8])
    drawn = [sampled.decode(x) for x in sampled.sample(np.random.default_rng(3), 12)]
    past = Past(layers(), keep=20)
    for assignment in drawn[1:]:
        past.add(Course(assignment, 0, 1, 1, FLOAT))

    def distance(other: BitAssignment) -> float:
        total = 0.0
        for layer in layers():
            for site in (layer.weight_site, layer.activation_site):
                one, two = (np.mean(a.vector(site, layer.kernels)) for a in (drawn[0], other))
                total += layer.params * abs(one - two)
        return total

    assert past.nearest(drawn[0]) == min(drawn[1:], key=distance).digest


def test_of_equally_near_ones_the_first_is_the_start() -> None:
    past = Past(layers(), keep=20)
    for assignment in (bits(8, 4), bits(4, 8), bits(8, 4), bits(4, 4)):
        past.add(Course(assignment, 0, 1, 1, FLOAT))
    assert past.nearest(bits(8, 8)) == bits(8, 4).digest
    assert past.nearest(BitAssignment({})) == bits(8, 4).digest


def test_only_the_last_are_started_from_and_kept(tmp_path: Path) -> None:
    found = warm(keep=2)
    found.remember(tmp_path, [])
    trials = ledger(found, [bits(8, 8), bits(2, 8), bits(4, 8), bits(8, 4)])
    names = [t.assignment.digest for t in trials]
    assert starts(trials) == [FLOAT, names[0], names[1], names[2]]  # and not 8/8, which is nearer to 8/4
    assert {path.stem for path in (tmp_path / "trained").iterdir()} == set(names[2:])


@pytest.mark.parametrize(
    "kept",
    [
        "states",
        "no states",
        *(pytest.param(kept, marks=pytest.mark.slow) for kept in ("states of others", "broken states", "some states")),
    ],
)
def test_killed_after_any_trial_and_resumed_it_ends_with_the_same_ledger(
    tmp_path: Path, uninterrupted: list[Trial], kept: str
) -> None:
    for count in range(len(ASSIGNMENTS)):
        folder = tmp_path / str(count)
        first = warm()
        first.remember(folder, [])
        begun = ledger(first, ASSIGNMENTS[: count + 1])[:count]  # the last was trained, and never recorded
        damage(folder / "trained", kept)
        second = warm()
        second.remember(folder, begun)
        assert facts(ledger(second, ASSIGNMENTS, begun)) == facts(uninterrupted)


def damage(folder: Path, kept: str) -> None:
    paths = sorted(folder.glob("*.safetensors"))
    for number, path in enumerate(paths):
        if kept == "no states" or (kept == "some states" and number % 2):
            path.unlink()
        elif kept == "broken states":
            path.write_bytes(path.read_bytes()[:-20])
        elif kept == "states of others":
            save_file({name: value + 1 for name, value in load_file(path).items()}, path, metadata={"course": "x"})


def test_where_nothing_may_be_kept_it_is_in_memory(uninterrupted: list[Trial]) -> None:
    found = warm()
    assert facts(ledger(found, ASSIGNMENTS)) == facts(uninterrupted)
    found.remember(None, [])
    assert facts(ledger(found, ASSIGNMENTS)) == facts(uninterrupted)


def test_an_assignment_asked_for_again_has_the_start_that_it_had(uninterrupted: list[Trial]) -> None:
    found = warm()
    ledger(found, ASSIGNMENTS)
    again = [trial(t.number, t.assignment, found.evaluate(t.assignment)) for t in uninterrupted]
    assert facts(again) == facts(uninterrupted)
    _, y = stripes("test")
    assert found.test(ASSIGNMENTS[3]).samples == len(y)
    resumed = warm()
    resumed.remember(None, uninterrupted)
    assert resumed.test(ASSIGNMENTS[3]) == found.test(ASSIGNMENTS[3])


def test_a_pruned_training_is_a_start_as_far_as_it_came(tmp_path: Path) -> None:
    def run(folder: Path | None, trials: list[Trial]) -> Quality:
        found = evaluator(warm_start=True, epochs=3)
        found.remember(folder, trials)
        return found.evaluate(bits(2, 4))

    first = evaluator(warm_start=True, epochs=3)
    first.remember(tmp_path, [])
    reports = first.progress(bits(2, 8))
    _, so_far = next(reports)
    reports.close()
    recorded = [trial(0, bits(2, 8), so_far, "pruned")]
    assert so_far.details["epochs"] == 1
    expected = first.evaluate(bits(2, 4))
    assert expected.details["start"] == bits(2, 8).digest
    assert expected == run(tmp_path, recorded)
    assert expected == run(tmp_path / "elsewhere", recorded)
    assert expected != evaluator(epochs=3).evaluate(bits(2, 4))


def test_failed_and_unfinished_trainings_are_no_starts(tmp_path: Path) -> None:
    found = warm(rate=1e6)
    found.remember(tmp_path, [])
    with pytest.raises(Exception, match="diverge"):
        found.evaluate(bits(2, 8))
    assert found._past.nearest(bits(2, 8)) == FLOAT
    assert course_of(trial(0, bits(2, 8), None, "failed")) is None
    part = warm()
    part.evaluate(bits(2, 8), fidelity=0.5)
    assert part.evaluate(bits(2, 8)).details["start"] == FLOAT


def test_a_ledger_without_the_start_of_a_trial_is_told() -> None:
    found = warm()
    quality = warm().evaluate(bits(8, 8))
    orphan = Quality(0.5, 1.0, 1, 0.0, details={**quality.details, "start": "0123456789ab"})
    found.remember(None, [trial(0, bits(2, 8), orphan)])
    with pytest.raises(StorageError, match="assignment 0123456789ab; restore the ledger"):
        found.evaluate(bits(2, 4))


def test_a_state_brings_back_the_network_and_the_quantisers_whose_bits_agree() -> None:
    lessons = evaluator().lessons()
    mixed = bits(4, 8).replace({"0.weight": 2, "4.input": 4})
    one, other = (TrainableNetwork(lessons, a, family("lsq")) for a in (bits(4, 8), mixed))
    fresh = TrainableNetwork(lessons, mixed, family("lsq"))
    with torch.no_grad():
        for parameter in one.parameters():
            parameter += 0.25
    begin_from(other, mixed, state_of(one), bits(4, 8))
    assert all(torch.equal(one.float_state()[name], value) for name, value in other.float_state().items())
    for site, learner in {**other.weights, **other.inputs}.items():
        agrees = site not in ("0.weight", "4.input")
        source = one if agrees else fresh
        expected = {**source.weights, **source.inputs}[site].state_dict()
        assert all(torch.equal(expected[name], value) for name, value in learner.state_dict().items()), site


def test_without_warm_starts_nothing_is_kept_and_the_order_does_not_matter(tmp_path: Path) -> None:
    found = evaluator(epochs=1)
    found.remember(tmp_path, [])
    forwards = {a: found.evaluate(a) for a in ASSIGNMENTS}
    assert {quality.details.get("start", FLOAT) for quality in forwards.values()} == {FLOAT}
    assert not list(tmp_path.iterdir())
    assert forwards == {a: evaluator(epochs=1).evaluate(a) for a in reversed(ASSIGNMENTS)}


def test_states_that_cannot_be_written_are_trained_again(
    tmp_path: Path, uninterrupted: list[Trial], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "trained").write_text("a file where a folder should be")
    found = warm()
    found.remember(tmp_path, [])
    assert facts(ledger(found, ASSIGNMENTS[:3])) == facts(uninterrupted[:3])
    assert "is not kept" in caplog.text
