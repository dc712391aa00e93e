"""A pool of workers on one local Ray session: order, failures, deaths, and a clean end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from odd_evaluators import (
    Dies,
    Fails,
    Locked,
    NeedsMore,
    Plain,
    Together,
    TwoParts,
    Uneven,
    assignments,
)

from qsearch import registry
from qsearch.errors import EvaluationError, Failure, PluginError
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.protocols import Batching, Workers
from qsearch.testing.problems import separable
from qsearch.trial import Quality

ray = pytest.importorskip("ray")
pool_module = pytest.importorskip("qsearch.workers.pool")

pytestmark = pytest.mark.slow  # a session takes seconds to start, and so does every worker

CORES = 2
BITS = [5, 32, 17, 8, 9, 31, 2, 25, 30, 11, 6, 7] * 2


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    """One for all: it takes seconds to start. Workers take a session that is there."""
    session_of = pytest.importorskip("qsearch.workers.session").session
    with session_of(None, CORES):
        yield


def workers(**options: object) -> Workers:
    made: Workers = registry.create("workers", "ray", {"patience": 60.0, **options})
    return made


def metrics(answers: list[Quality | Exception]) -> list[float | str]:
    return [answer.metric if isinstance(answer, Quality) else str(answer) for answer in answers]


def eventually(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()


def test_answers_come_in_the_order_of_asking(tmp_path: Path) -> None:
    evaluator = Uneven(tmp_path / "log")
    with workers().start(evaluator) as pool:
        found = list(pool.evaluate_many(assignments(BITS), seed=7))
        processes = {answer.details["process"] for answer in found if isinstance(answer, Quality)}
    expected = [evaluator.evaluate(assignment, seed=7) for assignment in assignments(BITS)]
    assert found == expected
    for answer, other in zip(found, expected, strict=True):
        assert isinstance(answer, Quality)
        assert answer.outcomes is not None
        assert answer.outcomes.dtype == "float32"
        assert answer.outcomes.tolist() == other.outcomes.tolist()  # type: ignore[union-attr]
        assert answer.details["seed"] == 7
    assert len(processes) == CORES
    assert all(eventually(lambda process=process: not psutil.pid_exists(process)) for process in processes)


def test_a_batch_of_nothing_and_of_one() -> None:
    with workers().start(Plain()) as pool:
        assert list(pool.evaluate_many([])) == []
        assert metrics(list(pool.evaluate_many(assignments([8])))) == [0.25]


def test_whoever_stops_asking_gets_no_more_evaluations(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with workers(actors=1).start(Uneven(log)) as pool:
        answers = pool.evaluate_many(assignments([2] * 1000))
        next(answers)
        answers.close()
        assert metrics(list(pool.evaluate_many(assignments([5, 6])))) == [5 / 32, 6 / 32]
        begun = log.read_text().split()
    assert begun.count("5") == begun.count("6") == 1
    assert begun.count("2") <= 1 + pool_module.IN_FLIGHT


def test_an_exception_stands_in_its_place_as_itself() -> None:
    with workers().start(Fails()) as pool:
        first, second, third, fourth, fifth = pool.evaluate_many(assignments([1, 2, 3, 4, 5]))
    assert isinstance(first, EvaluationError)
    assert (first.rule, first.got, first.fix) == ("one bit is too few", 1, "take two")
    assert str(first) == "one bit is too few; got 1; take two"
    assert isinstance(second, KeyError)
    assert second.args == ("two bits",)
    assert isinstance(third, EvaluationError)
    assert str(third) == "TwoParts: three and bits"
    assert isinstance(fourth, EvaluationError)
    assert str(fourth).startswith("a lock stays at home; got ")
    assert isinstance(fifth, Quality)


def test_a_failed_trial_has_the_reason_that_it_would_have_without_workers() -> None:
    def raised(bits: int) -> Exception:
        with pytest.raises((EvaluationError, KeyError, TwoParts)) as caught:
            Fails().evaluate(*assignments([bits]))
        return caught.value

    with workers().start(Fails()) as pool:
        answers = list(pool.evaluate_many(assignments([1, 2, 3])))
    for bits, answer in zip([1, 2, 3], answers, strict=True):
        assert isinstance(answer, Exception)
        assert reason(answer) == reason(raised(bits))


def reason(error: Exception) -> str:
    """As the oracle records it."""
    return str(error) if isinstance(error, EvaluationError) else f"{type(error).__name__}: {error}"


def test_the_assignments_of_a_dead_worker_run_again(tmp_path: Path) -> None:
    with workers().start(Dies(tmp_path, 17, times=2)) as pool:
        found = list(pool.evaluate_many(assignments(BITS)))
        again = list(pool.evaluate_many(assignments(BITS)))
    assert len(list(tmp_path.iterdir())) == 2
    assert metrics(found) == metrics(again) == [bits / 32 for bits in BITS]


def test_an_assignment_that_kills_every_worker_fails_alone(tmp_path: Path) -> None:
    bits = [5, 6, 17, 8, 9, 10]
    with workers(retries=2).start(Dies(tmp_path, 17, times=1000)) as pool:
        found = list(pool.evaluate_many(assignments(bits)))
    assert len(list(tmp_path.iterdir())) in {2, 3}  # once with another behind it, if that had come
    error = found.pop(2)
    assert isinstance(error, EvaluationError)
    assert str(error) == (
        "an assignment that was alone on its worker ended it 2 times in a row; got the last was lost: ActorDiedError: "
        "The actor is dead because its worker process has died"
    )
    assert metrics(found) == [value / 32 for value in bits if value != 17]


def test_of_those_asked_for_together_only_the_deadly_one_fails(tmp_path: Path) -> None:
    bits = [5, 6, 17, 8, 9, 10]
    with workers(retries=1, together=3).start(Dies(tmp_path, 17, times=1000)) as pool:
        found = list(pool.evaluate_many(assignments(bits)))
    assert isinstance(found.pop(2), EvaluationError)
    assert metrics(found) == [value / 32 for value in bits if value != 17]


def test_a_worker_killed_from_outside_is_replaced(tmp_path: Path) -> None:
    with workers().start(Uneven(tmp_path / "log")) as pool:
        answers = pool.evaluate_many(assignments(BITS * 4))
        first = next(answers)
        assert isinstance(first, Quality)
        psutil.Process(int(first.details["process"])).kill()
        rest = list(answers)
        last = list(pool.evaluate_many(assignments(BITS)))
    assert metrics([first, *rest]) == [bits / 32 for bits in BITS * 4]
    assert len({answer.details["process"] for answer in last if isinstance(answer, Quality)}) == CORES


def test_evaluators_that_answer_several_are_asked_for_several() -> None:
    with workers(together=4, actors=1).start(Together()) as pool:
        found = list(pool.evaluate_many(assignments(BITS[:10])))
    assert metrics(found) == [bits / 32 for bits in BITS[:10]]
    counts = [answer.details.get("together", 1) for answer in found if isinstance(answer, Quality)]
    assert counts == [4] * 8 + [2] * 2


@pytest.mark.parametrize(("options", "threads"), [({}, 1), ({"threads": 2}, 2), ({"cpus": 2, "actors": 1}, 2)])
def test_workers_have_as_many_threads_as_cores_or_as_they_are_told(options: dict[str, int], threads: int) -> None:
    with workers(**options).start(Plain()) as pool:
        (answer,) = pool.evaluate_many(assignments([8]))
    assert isinstance(answer, Quality)
    assert answer.details["threads"] == threads


def test_an_evaluator_that_no_worker_can_load_is_one_line() -> None:
    with (
        pytest.raises(Failure, match=r"workers must be there.*cannot be loaded there: ImportError: .*'far_away'"),
        workers().start(NeedsMore()),
    ):
        pass


def test_an_evaluator_that_cannot_be_pickled_is_one_line() -> None:
    with pytest.raises(PluginError, match=r"must be picklable.*workers: none"), workers().start(Locked()):
        pass


def test_without_room_for_a_worker_patience_ends() -> None:
    with pytest.raises(Failure, match="none of 1; the cluster has no room"), workers(gpus=1, patience=1).start(Plain()):
        pass


def test_workers_are_found_again_after_an_error() -> None:
    """The session is whole after all that was done to it above."""
    with workers().start(Plain()) as pool:
        assert isinstance(pool, Batching)
        assert metrics(list(pool.evaluate_many(assignments(BITS)))) == [bits / 32 for bits in BITS]


def test_room_for_workers() -> None:
    room_for = pytest.importorskip("qsearch.workers.ray").room_for
    assert room_for({"CPU": 8.0}, 1, 0) == 8
    assert room_for({"CPU": 8.0}, 3, 0) == 2
    assert room_for({"CPU": 8.0, "GPU": 2.0}, 1, 1) == 2
    assert room_for({"CPU": 8.0, "GPU": 2.0}, 1, 0.25) == 8
    assert room_for({"CPU": 4.0, "GPU": 8.0}, 2, 1) == 2
    assert room_for({}, 1, 0) == 1


def test_an_oracle_with_workers_records_what_one_without_does() -> None:
    problem, evaluator = separable(6, budget=0.5)
    search = registry.create("searchers", "random", {"batch": 7})
    alone, shared = MemoryRecord(), MemoryRecord()
    search.search(CampaignOracle(problem, evaluator, alone, Budget(evaluations=40), seed=3))
    with workers().start(evaluator) as pool:
        search.search(CampaignOracle(problem, evaluator, shared, Budget(evaluations=40), seed=3, batching=pool))
    assert len(alone.trials()) == 40
    assert shared.trials() == alone.trials()
    assert evaluator.calls == 40  # none of them here for the second search
