"""Active learning: what it asks for, when it stops, and what it is worth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from synthetic_costs import points, roofline

from qsearch.errors import ConfigError, DataError
from qsearch.surrogates.acquire import RULES, State, variance
from qsearch.surrogates.design import latin_hypercube
from qsearch.surrogates.judging import HeldOut, judged, relative_errors
from qsearch.surrogates.learner import Costs, Learned, Learner, Plan
from qsearch.surrogates.model import Batch, LogCost
from qsearch.surrogates.process import Process

POOL = points()
COSTS = np.asarray([roofline(point) for point in POOL])
BATCH = Batch.of(POOL)


def measure(row: int) -> Costs:
    return {"latency": float(COSTS[row])}


def error(learned: Learned) -> float:
    """Median relative error on everything not learned from."""
    rest = np.setdiff1d(np.arange(len(POOL)), learned.rows)
    return float(np.median(relative_errors(learned.models["latency"], BATCH[rest], COSTS[rest])))


def learn(plan: Plan, answer: Callable[[int], Costs | None] = measure, **rest: object) -> Learned:
    return Learner(POOL, ("latency",), answer, plan).learn(**rest)  # type: ignore[arg-type]


@pytest.mark.parametrize("acquire", ["variance", "ei", "random"])
def test_samples_are_spent_on_different_points(acquire: str) -> None:
    learned = learn(Plan(16, acquire))
    assert len(learned.rows) == len(set(learned.rows)) == 16
    assert learned.costs["latency"].tolist() == COSTS[list(learned.rows)].tolist()


@pytest.mark.parametrize("acquire", sorted(RULES))
def test_the_same_seed_asks_for_the_same_points(acquire: str) -> None:
    def two(row: int) -> Costs:
        return {"latency": float(COSTS[row]), "energy": 1.0 / float(COSTS[row])}

    runs = [Learner(POOL, ("latency", "energy"), two, Plan(14, acquire, seed=4)).learn().rows for _ in range(2)]
    assert runs[0] == runs[1]


def test_it_stops_at_the_error_asked_for() -> None:
    judged_at: list[tuple[int, float]] = []

    def judge(learned: Learned) -> float:
        judged_at.append((len(learned.rows), error(learned)))
        return judged_at[-1][1]

    learned = learn(Plan(100, error=0.1), judge=judge)
    assert judged_at[-1][1] <= 0.1
    assert all(before > 0.1 for _, before in judged_at[:-1])
    assert len(learned.rows) == judged_at[-1][0] < 100


def test_failed_points_are_asked_once_and_are_no_samples() -> None:
    asked: list[int] = []

    def sometimes(row: int) -> Costs | None:
        asked.append(row)
        return None if row % 3 == 0 else measure(row)

    learned = learn(Plan(20), sometimes)
    assert len(asked) == len(set(asked))
    assert len(learned.rows) == 20
    assert sorted(learned.failed) == sorted(row for row in asked if row % 3 == 0)
    assert learned.failed


def test_a_pool_that_runs_dry_ends_it() -> None:
    learned = learn(Plan(len(POOL), start=150), lambda row: measure(row) if row < 152 else None)
    assert sorted(learned.rows) == list(range(152))


def test_too_few_successes_are_an_error() -> None:
    rows = iter([{"latency": 1.0}, {"latency": 2.0}])
    with pytest.raises(
        DataError, match="at least 3 measurements must succeed to learn from, with costs greater than 0; got 2 of 10"
    ):
        learn(Plan(20), lambda row: next(rows, None))


def test_progress_is_told() -> None:
    told: list[tuple[int, float | None]] = []
    learn(Plan(12), judge=error, on_sample=lambda count, reached: told.append((count, reached)))
    assert [count for count, _ in told] == [*range(1, 11), 10, 11, 12]
    assert all(reached is None for _, reached in told[:10])
    assert all(reached is not None for _, reached in told[10:])


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(10, "variacne"), "unknown acquisition 'variacne'; did you mean 'variance'?"),
        (Plan(10, "ehvi"), "ehvi needs at least two metrics; got latency"),
        (Plan(1000), "as many points as samples are asked for, 1000; got 294 points"),
        (Plan(6, per_kind=True), "a model for each of 3 kinds of layers needs at least 9 samples; got 6"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(plan: Plan, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        learn(plan)
    assert message in str(caught.value)


def test_variance_is_what_measuring_takes_out() -> None:
    """Against posteriors with the point added, whose variance does not depend on what is found there."""
    rows = np.asarray(latin_hypercube(BATCH.x, 12, 0))
    process = Process.fit(BATCH.x[rows], np.log(COSTS[rows]), seed=0)
    pool = BATCH[np.arange(0, len(POOL), 7)]
    free = np.asarray([3, 11, 20, 33])
    state = State(
        pool, free, {"latency": LogCost({"all": process})}, np.log(COSTS[rows])[:, None], np.random.default_rng(0)
    )
    before = np.sqrt(process.predict(pool.x)[1]).sum()
    for worth, row in zip(variance(state), free, strict=True):
        cross, at = process.cross(pool.x, pool.x[[row]])[:, 0], process.predict(pool.x[[row]])[1][0]
        after = process.predict(pool.x)[1] - cross**2 / (at + process.noise)
        assert worth == pytest.approx(1 - np.sqrt(np.maximum(after, 0)).sum() / before)
        assert worth > 0


def test_active_learning_needs_fewer_samples_than_random() -> None:
    needed = {}
    for acquire in ("variance", "random"):
        plans = [Plan(120, acquire, error=0.05, seed=seed) for seed in range(5)]
        needed[acquire] = np.median([len(learn(plan, judge=error).rows) for plan in plans])
    assert needed["variance"] < 0.9 * needed["random"]


def test_expected_improvement_finds_the_cheapest_point() -> None:
    """Of 294; with random points the chance to have it among 20 is 7 %."""
    for seed in range(3):
        assert learn(Plan(20, "ei", seed=seed)).costs["latency"].min() == COSTS.min()


def test_ehvi_widens_the_front() -> None:
    """Latency, and an energy that is least elsewhere: more hypervolume than random points find."""
    from qsearch.pareto import hypervolume

    energy = np.exp(0.3 * (np.log(COSTS.max()) - np.log(COSTS))) * (1 + np.asarray([point[1] for point in POOL]))
    logs = np.log(np.stack([COSTS, energy], axis=1))
    grown = {}
    for acquire in ("ehvi", "random"):
        volumes = []
        for seed in range(2):
            learner = Learner(
                POOL,
                ("latency", "energy"),
                lambda row: {"latency": float(COSTS[row]), "energy": float(energy[row])},
                Plan(20, acquire, seed=seed),
            )
            volumes.append(hypervolume(logs[list(learner.learn().rows)], logs.max(axis=0) + 0.1))
        grown[acquire] = float(np.mean(volumes))
    assert grown["ehvi"] > grown["random"]


def test_per_kind_starts_with_every_kind() -> None:
    learned = learn(Plan(12, per_kind=True))
    assert set(learned.models["latency"].parts) == {"conv", "depthwise", "linear"}


def test_a_latin_hypercube_takes_each_stratum_once() -> None:
    """On a full grid, moving to the nearest point changes no stratum."""
    grid = np.stack(np.meshgrid(np.arange(8.0), np.arange(8.0), indexing="ij"), axis=-1).reshape(-1, 2)
    for seed in range(5):
        chosen = grid[latin_hypercube(grid, 8, seed)]
        for axis in (0, 1):
            assert sorted(chosen[:, axis].tolist()) == list(range(8))


def test_a_latin_hypercube_among_some_rows() -> None:
    among = list(range(5, 40, 3))
    chosen = latin_hypercube(BATCH.x, 6, 0, among)
    assert len(set(chosen)) == 6
    assert set(chosen) <= set(among)


def test_judgement_against_a_process_with_known_errors() -> None:
    """The posterior's own draws: coverage is what it says, and the median's interval holds the median."""
    rows = np.asarray(latin_hypercube(BATCH.x, 30, 0))
    model = LogCost.fit(BATCH[rows], np.log(COSTS[rows]), seed=0)
    mean, spread = model.predict(BATCH)
    deviation = np.sqrt(spread + model.noise(BATCH))
    draws = np.exp(mean + deviation * np.random.default_rng(0).standard_normal(len(mean)))
    found = judged(model, BATCH, draws, seed=0)
    assert found.coverage == pytest.approx(0.9, abs=0.05)
    assert found.interval[0] <= found.median <= found.interval[1]
    assert found.median < found.ninetieth


def test_held_out_points_answer_for_the_worst_metric() -> None:
    held = HeldOut.of([(POOL[row], {"latency": float(COSTS[row]), "energy": 1.0}) for row in range(0, 40, 2)])
    rows = np.asarray(latin_hypercube(BATCH.x, 30, 0))
    good = LogCost.fit(BATCH[rows], np.log(COSTS[rows]), seed=0)
    learned = Learned({"latency": good, "energy": good}, tuple(rows.tolist()), {})
    each = held.judgements(learned, 0)
    assert held.error(learned) == each["energy"].median > each["latency"].median


def test_ehvi_takes_the_best_of_a_front_longer_than_it_draws_for() -> None:
    """Costs that trade off exactly, so that every point is on the front: brute force over all of them, by the bound."""
    from qsearch.pareto import hypervolume
    from qsearch.surrogates.acquire import MARGIN, SAMPLED, ehvi

    count = 120
    x = np.linspace(0.0, 1.0, count)[:, None]
    seen = np.asarray([*range(0, 24, 2), count - 1])
    both = np.stack([x[:, 0], 1.0 - x[:, 0]], axis=1)
    pool = Batch(x, np.full(count, "conv"))
    models = {
        metric: LogCost({"all": Process.fit(x[seen], both[seen, column], seed=0)})
        for column, metric in enumerate(("latency", "energy"))
    }
    free = np.setdiff1d(np.arange(count), seen)
    y = both[seen]
    best = int(np.argmax(ehvi(State(pool, free, models, y, np.random.default_rng(0)))))
    mean = np.stack([model.predict(pool[free])[0] for model in models.values()], axis=1)
    reference = y.max(axis=0) + MARGIN * np.ptp(y, axis=0)
    grown = np.asarray([hypervolume(np.vstack([y, point]), reference) for point in mean])
    assert best > SAMPLED
    assert grown[best] == pytest.approx(grown.max(), rel=0.01)  # neighbours differ by less than the draws do
