"""``sequential``: what it decides and when, against evaluations of all samples."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qsearch import registry
from qsearch.assignment import BitAssignment
from qsearch.errors import BudgetExhausted, ConfigError, Failure
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Bound, Objective
from qsearch.pruners.sequential import Sequential
from qsearch.pruning import Sampling, Stopper
from qsearch.testing.problems import QuadraticEvaluator, coupled
from qsearch.trial import SPIKES, Quality, Trial

COUNT = 400
SIZE = (Objective("size", "minimize"),)
LIMIT = Bound("accuracy", 0.9, True, "accuracy >= 0.9")
Floats = NDArray[np.float64]


class Sampled:
    """Samples of known thresholds: one is right where the accuracy of the closed form reaches its threshold, but for noise."""

    def __init__(self, inner: QuadraticEvaluator, hardness: float = 1.0) -> None:
        rng = np.random.default_rng(7)
        self.inner, self.taken = inner, 0
        self.thresholds = rng.beta(2, 5 * hardness, COUNT)
        self.noise = rng.normal(0, 0.05, COUNT)

    def outcomes(self, assignment: BitAssignment) -> NDArray[np.float32]:
        accuracy = self.inner.evaluate(assignment).metric
        own = np.random.default_rng(int(accuracy * 1e9)).normal(0, 0.05, COUNT)
        return (accuracy - 0.3 >= self.thresholds + self.noise + own).astype(np.float32)

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        return Quality.from_outcomes(self.outcomes(assignment), 0.5)

    def difficulty(self) -> Floats:
        return self.thresholds

    def sampled(
        self, assignment: BitAssignment, parts: Sequence[NDArray[np.intp]], *, seed: int = 0
    ) -> Generator[Quality]:
        whole, found = self.outcomes(assignment), np.full(COUNT, np.nan, dtype=np.float32)
        for part in parts:
            assert np.isnan(found[part]).all()
            found[part] = whole[part]
            self.taken += len(part)
            yield replace(Quality.from_outcomes(found[~np.isnan(found)], 0.5), outcomes=found.copy())


def door(
    evaluations: int = 60,
    record: MemoryRecord | None = None,
    stopper: Any = None,
    evaluator: Any = None,
    **changes: Any,
) -> CampaignOracle:
    problem, quadratic = coupled(5, budget=None)
    evaluator = evaluator or Sampled(quadratic)
    floating = evaluator.evaluate(problem.space.reference(32))
    problem = replace(problem, float_quality=floating.values, float_outcomes=floating.outcomes, **changes)
    stopper = Sequential() if stopper is None else stopper
    return CampaignOracle(
        problem, evaluator, record or MemoryRecord(), Budget(evaluations=evaluations), pruner=stopper or None, seed=3
    )


def ask(oracle: CampaignOracle, count: int, seed: int = 0) -> list[Trial]:
    space = oracle.problem.space
    drawn = [space.decode(x) for x in space.sample(np.random.default_rng(seed), 2 * count)]
    return [oracle.evaluate(assignment) for assignment in list(dict.fromkeys(drawn))[:count]]


def samples(trials: Sequence[Trial]) -> list[int]:
    return [trial.quality.samples for trial in trials if trial.quality is not None]


def test_the_seams_fit() -> None:
    assert isinstance(Sequential(), Stopper)
    assert isinstance(door().evaluator, Sampling)


KINDS: dict[str, dict[str, Any]] = {
    "quality": {},
    "cost": {"objectives": SIZE, "bounds": (LIMIT,)},
    "bounded quality": {"bounds": (LIMIT,)},
    "front": {"objectives": (Objective("accuracy", "maximize"), Objective("size", "minimize"))},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_decides_is_what_all_samples_say(kind: str) -> None:
    """Same front and same best as without, of the same assignments; and what is pruned is of no use, or breaks a bound."""
    oracle, plain = door(**KINDS[kind]), door(stopper=False, **KINDS[kind])
    stopped, whole = ask(oracle, 60), ask(plain, 60)
    assert sum(samples(stopped)) < 0.7 * sum(samples(whole))
    assert oracle.evaluator.taken == sum(samples(stopped))
    best, expected = oracle.problem.best(stopped), plain.problem.best(whole)
    assert best is not None
    assert expected is not None
    assert best.assignment == expected.assignment
    assert best.quality == expected.quality
    points = [
        {tuple(plain.problem.minimised(trial)) for trial in plain.problem.front(part)} for part in (stopped, whole)
    ]
    assert points[0] == points[1]
    for ours, full in zip(stopped, whole, strict=True):
        if ours.state == "pruned" and "breaks" in ours.reason:
            assert not full.feasible
        if ours.state == "complete":
            assert ours.feasible == full.feasible


def test_a_stopped_evaluation_counts_as_a_whole_one() -> None:
    oracle = door()
    trials = ask(oracle, 60)
    assert {trial.state for trial in trials} == {"complete", "pruned"}
    assert (oracle.spent, oracle.remaining) == (60, 0)
    assert all(trial.effort == 1 and trial.reports == () for trial in trials)


def test_what_is_recorded_of_it() -> None:
    trial = next(trial for trial in ask(door(), 60) if trial.state == "pruned")
    quality = trial.quality
    assert quality is not None
    assert quality.outcomes is None
    assert quality.samples < COUNT
    assert trial.reason.startswith(f"pruned after {quality.samples} of 400 samples: accuracy at most 0.")
    assert 0 < quality.standard_error < 0.1


def test_what_is_surely_feasible_and_no_cheaper_is_complete_before_its_last_sample() -> None:
    trials = ask(door(objectives=SIZE, bounds=(replace(LIMIT, limit=0.3),)), 60)
    early = [trial for trial in trials if trial.state == "complete" and samples([trial])[0] < COUNT]
    assert early
    for trial in early:
        assert trial.reason.startswith(f"ended after {samples([trial])[0]} of 400 samples: accuracy at least 0.")
        assert any(other.feasible and other.value("size") <= trial.value("size") for other in trials[: trial.number])


def test_the_best_so_far_is_always_whole() -> None:
    for changes in KINDS.values():
        oracle = door(**changes)
        trials = ask(oracle, 60)
        for number in range(1, len(trials) + 1):
            assert set(samples(oracle.problem.front(trials[:number]))) <= {COUNT}


def test_estimates_are_near_the_whole() -> None:
    """Within four of their own standard errors, and without bias to speak of."""
    oracle = door()
    differences, errors = [], []
    for trial in ask(oracle, 60):
        assert trial.quality is not None
        if trial.state == "pruned":
            differences.append(trial.quality.metric - oracle.evaluator.evaluate(trial.assignment).metric)
            errors.append(trial.quality.standard_error)
    assert np.all(np.abs(differences) < 4 * np.asarray(errors))
    assert abs(np.mean(differences)) < 0.02


def test_parts_are_all_samples_the_hard_ones_first() -> None:
    oracle, stopper = door(), Sequential()
    difficulty, space = oracle.evaluator.difficulty(), oracle.problem.space
    one, other = (np.concatenate(stopper.parts(space.uniform(bits), difficulty, 0)) for bits in (4, 8))
    for order in (one, other):
        assert sorted(order) == list(range(COUNT))
        assert set(order[:40]) == set(np.argsort(-difficulty)[:40])
    assert list(one) != list(other)
    assert list(one) == list(np.concatenate(stopper.parts(space.uniform(4), difficulty, 0)))
    assert list(one) != list(np.concatenate(stopper.parts(space.uniform(4), difficulty, 1)))


def test_looks_grow_from_the_least_share() -> None:
    stopper = Sequential(Sequential.Options(least=0.5, growth=1.5))
    parts = stopper.parts(BitAssignment({}), np.arange(100.0), 0)
    assert [len(part) for part in parts] == [10, 40, 25, 25]  # cut after the hard ones, where nothing is decided yet
    whole = Sequential(Sequential.Options(least=1.0, hard=0.0)).parts(BitAssignment({}), np.arange(100.0), 0)
    assert [len(part) for part in whole] == [100]


@pytest.mark.parametrize("killed_after", [0, 1, 17, 40])
def test_a_killed_search_ends_like_one_never_killed(killed_after: int) -> None:
    whole = ask(door(), 60)
    record = MemoryRecord()
    for trial in whole[:killed_after]:
        record.append(trial)
    assert ask(door(record=record), 60) == whole


def test_a_loss_decides_nothing() -> None:
    """As an objective nothing has a rival; as a bound nothing is complete before it is whole."""
    both = (Objective("accuracy", "maximize"), Objective("loss", "minimize"))
    assert set(samples(ask(door(objectives=both), 20))) == {COUNT}
    bounds = (replace(LIMIT, limit=0.3), Bound("loss", 1.0, False, "loss <= 1"))
    trials = ask(door(objectives=SIZE, bounds=bounds), 60)
    assert {trial.state for trial in trials if samples([trial])[0] < COUNT} == {"pruned"}


class Hardest(Sampled):
    """The hardest tenth have a loss of 2 and 50 spikes, the others a loss of 0.1 and 10 spikes: 0.29 and 14 in all."""

    def of(self, quality: Quality, seen: NDArray[np.intp]) -> Quality:
        hard = np.isin(seen, np.argsort(-self.thresholds)[: COUNT // 10])
        loss, spikes = float(np.where(hard, 2.0, 0.1).mean()), float(np.where(hard, 50.0, 10.0).mean())
        return replace(quality, loss=loss, details={SPIKES: spikes, "start": "x"})

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        return self.of(super().evaluate(assignment), np.arange(COUNT))

    def sampled(
        self, assignment: BitAssignment, parts: Sequence[NDArray[np.intp]], *, seed: int = 0
    ) -> Generator[Quality]:
        for quality in super().sampled(assignment, parts, seed=seed):
            assert quality.outcomes is not None
            yield self.of(quality, np.flatnonzero(~np.isnan(quality.outcomes)))


def test_loss_and_spikes_are_those_of_all_samples_too() -> None:
    """Though the hard ones come first; bounds on the loss are kept or broken as by the whole."""
    bounds = (Bound("loss", 0.3, False, "loss <= 0.3"),)
    trials = ask(door(evaluator=Hardest(coupled(5, budget=None)[1]), bounds=bounds), 60)
    assert {trial.state for trial in trials} == {"complete", "pruned"}
    for trial in trials:
        assert trial.quality is not None
        assert trial.quality.loss == pytest.approx(0.29)
        assert trial.quality.details == {SPIKES: pytest.approx(14), "start": "x"}
        assert trial.violations["loss <= 0.3"] == pytest.approx(-0.01 / 0.3)


@pytest.mark.parametrize("hard", [0.0, 0.9])
def test_without_a_part_of_the_others_their_loss_is_the_float_networks(hard: float) -> None:
    """And without any that are hard, it is that of the samples seen."""
    evaluator = Hardest(coupled(5, budget=None)[1])
    stopper = Sequential(Sequential.Options(hard=hard, least=0.3))
    trials = ask(door(evaluator=evaluator, stopper=stopper), 60)
    early = [trial for trial in trials if samples([trial])[0] <= 0.9 * COUNT]
    assert early
    for trial in early:
        assert trial.quality is not None
        order = np.concatenate(stopper.parts(trial.assignment, evaluator.difficulty(), 3))[: trial.quality.samples]
        seen = evaluator.of(trial.quality, order).loss
        assert trial.quality.loss == pytest.approx(hard * seen + (1 - hard) * 0.29 if hard else seen)


def test_a_bound_on_costs_is_broken_by_no_sample() -> None:
    """Where what is over one is evaluated all the same."""
    oracle = door()
    space = oracle.problem.space
    x = space.sample(np.random.default_rng(1), 200)
    limit = float(np.median(oracle.problem.cost.estimate_many(x)["size"]))
    oracle = door(bounds=(replace(LIMIT, limit=0.1), Bound("size", limit, False, "size <= median")))
    oracle.evaluate_infeasible = True
    trials = ask(oracle, 40)
    over = [trial for trial in trials if trial.violations["size <= median"] > 0]
    assert over
    assert not any("breaks" in trial.reason for trial in trials)
    assert samples(over[:1]) == [COUNT]


@pytest.mark.parametrize(
    ("kind", "why"), [("cost", "and trial {} costs no more"), ("quality", "no better than trial {}")]
)
def test_why_it_cannot_become_the_best(kind: str, why: str) -> None:
    """Where costs alone are asked for, its rival may well be of lower quality."""
    trials = ask(door(**KINDS[kind]), 60)
    hopeless = [trial for trial in trials if trial.state == "pruned" and "breaks" not in trial.reason]
    assert hopeless
    for trial in hopeless:
        assert any(trial.reason.endswith(why.format(other.number)) for other in trials[: trial.number])


def test_scores_that_turn_out_to_be_others_run_to_their_end() -> None:
    class Halves(Sampled):
        def outcomes(self, assignment: BitAssignment) -> NDArray[np.float32]:
            return super().outcomes(assignment) / 2 + 0.25

    _, quadratic = coupled(5, budget=None)
    oracle = door(evaluator=Halves(quadratic))
    oracle.problem = replace(oracle.problem, float_outcomes=np.ones(COUNT, dtype=np.float32))
    assert set(samples(ask(oracle, 20))) == {COUNT}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"float_outcomes": None}, "needs samples that score 0 or 1: others have no bounds"),
        ({"float_outcomes": np.full(3, 0.5, np.float32)}, "needs samples that score 0 or 1"),
        ({"objectives": SIZE}, "decides on accuracy; got neither an objective nor a bound of it; pruner: none"),
        ({"bounds": (replace(LIMIT, at_least=False),)}, "takes more accuracy to be better; got an upper bound of it"),
        (
            {"bounds": (Bound("loss", 0.1, True, "loss >= 0.1"),)},
            "takes less loss to be better; got a lower bound of it",
        ),
        (
            {"objectives": (Objective("accuracy", "maximize"), Objective("loss", "maximize"))},
            "takes less loss to be better; got an objective that maximises it",
        ),
    ],
)
def test_what_it_cannot_decide_is_refused(changes: dict[str, Any], message: str) -> None:
    Sequential().check(door().problem)
    with pytest.raises(ConfigError, match=message):
        Sequential().check(replace(door().problem, **changes))


class Broken(Sequential):
    """Raises where it is asked."""

    def __init__(self, where: str) -> None:
        super().__init__()
        setattr(self, where, self._raise)

    def _raise(self, *_: Any) -> Any:
        raise KeyError("x")


@pytest.mark.parametrize("where", ["parts", "ending"])
def test_its_errors_are_no_failed_trial(where: str) -> None:
    oracle = door(stopper=Broken(where))
    with pytest.raises(Failure, match=r"the pruner 'Broken' raised an error; got KeyError: 'x' \(test_sequential"):
        ask(oracle, 1)
    assert oracle.trials == []


def failing(where: str) -> Callable[..., Any]:
    class Fails(Sampled):
        def difficulty(self) -> Floats:
            if where == "difficulty":
                raise RuntimeError("no loss")
            return super().difficulty()

        def sampled(self, assignment: BitAssignment, parts: Any, *, seed: int = 0) -> Generator[Quality]:
            for number, quality in enumerate(super().sampled(assignment, parts, seed=seed)):
                if where == "sampled" and number == 1:
                    raise RuntimeError("diverged")
                yield quality

    return Fails


@pytest.mark.parametrize(("where", "reason"), [("difficulty", "no loss"), ("sampled", "diverged")])
def test_what_fails_on_the_way_is_a_failed_trial(where: str, reason: str) -> None:
    oracle = door(evaluator=failing(where)(coupled(5, budget=None)[1]))
    trial = ask(oracle, 1)[0]
    assert (trial.state, trial.reason, trial.quality) == ("failed", f"RuntimeError: {reason}", None)


def test_parts_that_leave_samples_out_fail() -> None:
    class Half(Sequential):
        def parts(self, assignment: BitAssignment, difficulty: Floats, seed: int) -> list[NDArray[np.intp]]:
            return super().parts(assignment, difficulty, seed)[:1]

    oracle = door(stopper=Half())
    trial = ask(oracle, 1)[0]
    assert (trial.state, trial.reason) == ("failed", "the parts of an evaluation must be all of its samples; got fewer")


def test_an_evaluator_without_parts_is_evaluated_whole() -> None:
    problem, quadratic = coupled(5, budget=None)
    oracle = CampaignOracle(problem, quadratic, MemoryRecord(), Budget(evaluations=5), pruner=Sequential())
    assert {trial.state for trial in ask(oracle, 5)} == {"complete"}


STRICT: dict[str, Any] = {"objectives": SIZE, "bounds": (replace(LIMIT, limit=0.95),)}
VERDICT = "qsearch.envs.verdict:VerdictReward"
TOLD = Sequential.Options(doubt=0.05, least=0.05)


def keeps(trial: Trial) -> bool:
    return all(violation <= 0 for violation in trial.violations.values())


def test_with_a_doubt_every_verdict_is_that_of_all_samples() -> None:
    stopped, whole = ask(door(stopper=Sequential(TOLD), **STRICT), 60), ask(door(stopper=False, **STRICT), 60)
    assert {keeps(trial) for trial in whole} == {True, False}
    assert [keeps(trial) for trial in stopped] == [keeps(trial) for trial in whole]
    assert sum(samples(stopped)) < 0.8 * sum(samples(whole))
    hasty = ask(door(stopper=Sequential(Sequential.Options(least=0.05)), **STRICT), 60)
    assert sum(samples(hasty)) < sum(samples(stopped))
    assert [keeps(trial) for trial in hasty] != [keeps(trial) for trial in whole]


def test_a_loss_that_is_bounded_leaves_a_verdict_open() -> None:
    """Only what breaks the other bound is ended before its last sample."""
    bounds = (*STRICT["bounds"], Bound("loss", 1.0, False, "loss <= 1"))
    trials = ask(door(stopper=Sequential(TOLD), objectives=SIZE, bounds=bounds), 60)
    early = [trial for trial in trials if samples([trial])[0] < COUNT]
    assert early
    assert not any(keeps(trial) for trial in early)


def test_an_agent_rewarded_for_verdicts_stays_on_its_course() -> None:
    """The same trials, step by step, and rewards; rewarded for what is seen of a quality it goes elsewhere."""
    courses = {}
    for reward in (VERDICT, "objective"):
        for stopper in (Sequential(TOLD), False):
            oracle = door(evaluations=24, stopper=stopper, **STRICT)
            rewards: list[float] = []
            oracle.on_note = lambda notes, rewards=rewards: rewards.append(notes["reward"])
            with suppress(BudgetExhausted):
                registry.create("searchers", "ddpg", {"reward": reward}).search(oracle)
            courses[reward, bool(stopper)] = [trial.assignment for trial in oracle.trials], rewards
            assert len(oracle.trials) == 24
            assert (sum(samples(oracle.trials)) < 24 * COUNT) == bool(stopper)
    assert courses[VERDICT, True] == courses[VERDICT, False]
    assert courses["objective", True] != courses["objective", False]
