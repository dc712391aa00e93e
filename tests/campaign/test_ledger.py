"""The ledger: every kind of trial comes back as it went in, and Optuna's own tools can read it."""

from __future__ import annotations

import itertools
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from campaigns import same
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from qsearch.assignment import BitAssignment
from qsearch.errors import StorageError
from qsearch.ledger import Ledger, exists, open_storage
from qsearch.problem import Objective
from qsearch.serialise import cost_from_json, cost_to_json, quality_from_json, quality_to_json
from qsearch.sites import build_space
from qsearch.space import SearchSpace
from qsearch.testing.problems import ACCURACY, ACCURACY_AND_SIZE, linear_layers
from qsearch.trial import Cost, Quality, Trial

LAYERS = linear_layers([4, 6])
SPACE = build_space(LAYERS, weight_bits=[2, 3, 4], activation_bits=[2, 4, 8], fixed={"layer1.input": 8})
finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(min_size=1, max_size=20)


@st.composite
def qualities(draw: st.DrawFn) -> Quality:
    count = draw(st.integers(1, 40))
    kinds = st.sampled_from([0.0, 1.0]) | st.floats(width=32, allow_nan=False, allow_infinity=False)
    outcomes = draw(st.none() | st.lists(kinds, min_size=count, max_size=count))
    return Quality(
        draw(finite),
        draw(finite),
        count,
        draw(finite),
        "accuracy",
        None if outcomes is None else np.asarray(outcomes, np.float32),
    )


costs = st.builds(
    lambda size, layers, deviations: Cost({"size": size}, {"size": "bit"}, layers, deviations),
    finite,
    st.dictionaries(names, st.fixed_dictionaries({"size": finite}), max_size=3),
    st.fixed_dictionaries({}, optional={"size": finite}),
)


@st.composite
def trials(draw: st.DrawFn, space: SearchSpace = SPACE) -> Trial:
    state = draw(st.sampled_from(["complete", "infeasible", "failed"]))
    index = [draw(st.integers(0, int(count) - 1)) for count in space.choice_counts]
    return Trial(
        number=0,
        assignment=space.decode(index),
        state=state,
        cost=draw(costs if state != "failed" else st.none() | costs),
        quality=draw(qualities()) if state == "complete" else None,
        violations=draw(st.dictionaries(names, finite, max_size=3)),
        reason="" if state == "complete" else draw(st.text()),
        seconds=draw(st.floats(0, 1e6)),
    )


def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


def trial(number: int = 0, state: Any = "complete", space: SearchSpace = SPACE, **changes: Any) -> Trial:
    """A trial of a space, its choices those of its number in lexicographic order."""
    assignment = next(itertools.islice(space.enumerate(), number, None))
    quality = Quality.from_outcomes(np.asarray([1, 0, 1, 1], np.float32), 0.3) if state == "complete" else None
    cost = Cost({"size": 10.0}, {"size": "bit"}, {"layer0": {"size": 10.0}})
    found = {"cost": cost, "quality": quality, "violations": {"size <= 0.5": -0.1, "bops <= 1": 0.2}, **changes}
    return Trial(number, assignment, state, reason="" if state == "complete" else "why", seconds=0.5, **found)


class TestRoundTrip:
    @given(qualities())
    def test_of_a_quality(self, quality: Quality) -> None:
        again = quality_from_json(json.loads(json.dumps(quality_to_json(quality))))
        assert again == quality
        np.testing.assert_array_equal(again.outcomes, quality.outcomes)

    def test_of_outcomes_of_a_bit_each(self) -> None:
        for count in range(1, 18):
            outcomes = np.random.default_rng(count).integers(0, 2, count).astype(np.float32)
            value = quality_to_json(Quality.from_outcomes(outcomes, 0.0))
            assert len(value["outcomes"]) <= 1 + 4 * math.ceil(count / 24)
            np.testing.assert_array_equal(quality_from_json(value).outcomes, outcomes)

    @given(costs)
    def test_of_a_cost(self, cost: Cost) -> None:
        assert cost_from_json(json.loads(json.dumps(cost_to_json(cost)))) == cost

    def test_of_costs_that_are_numpy_numbers(self) -> None:
        cost = Cost({"size": np.float64(3)}, {"size": "bit"}, {"a": {"size": np.float32(3)}})
        assert json.loads(json.dumps(cost_to_json(cost)))["layers"] == {"a": {"size": 3.0}}

    @hypothesis_settings(max_examples=25, deadline=None)
    @given(found=st.lists(trials(), min_size=1, max_size=3))
    def test_of_any_trial_through_a_journal(self, tmp_path_factory: pytest.TempPathFactory, found: list[Trial]) -> None:
        url = f"journal:{tmp_path_factory.mktemp('ledger') / 'study.log'}"
        check_round_trip(url, found)

    @hypothesis_settings(max_examples=5, deadline=None)
    @given(found=st.lists(trials(), min_size=1, max_size=3))
    def test_of_any_trial_through_a_database(
        self, tmp_path_factory: pytest.TempPathFactory, found: list[Trial]
    ) -> None:
        check_round_trip(sqlite(tmp_path_factory.mktemp("ledger")), found)

    def test_of_kernel_wise_bits(self, tmp_path: Path) -> None:
        space = build_space(LAYERS, weight_bits=[0, 2, 8], activation_bits=[8], granularity="kernel")
        items = space.sample(np.random.default_rng(0), 3)
        found = [replace(trial(), number=number, assignment=space.decode(x)) for number, x in enumerate(items)]
        check_round_trip(sqlite(tmp_path), found, space)
        for recorded, given_ in zip(study(sqlite(tmp_path)).trials, found, strict=True):
            assert recorded.distributions["layer0.weight"] == FloatDistribution(0, 8)
            assert recorded.params["layer0.weight"] == pytest.approx(np.mean(given_.assignment["layer0.weight"]))


def check_round_trip(url: str, found: list[Trial], space: SearchSpace = SPACE) -> None:
    ledger = Ledger(url, "name/of-it", ACCURACY, space)
    for item in found:
        ledger.append(item)
    for again in (ledger.trials(), Ledger(url, "name/of-it", ACCURACY).trials()):
        assert [item.number for item in again] == list(range(len(found)))
        for number, (left, right) in enumerate(zip(again, found, strict=True)):
            assert same(left, replace(right, number=number))
            assert left.seconds == right.seconds


def study(url: str, name: str = "name/of-it") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=open_storage(url))


@pytest.fixture
def recorded(tmp_path: Path) -> optuna.Study:
    """One trial of each state, as Optuna reads them."""
    ledger = Ledger(sqlite(tmp_path), "name/of-it", ACCURACY, SPACE)
    for number, state in enumerate(["complete", "infeasible", "failed"]):
        ledger.append(trial(number, state))
    return study(sqlite(tmp_path))


class TestWhatOptunaSees:
    def test_states(self, recorded: optuna.Study) -> None:
        assert [item.state for item in recorded.trials] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]

    def test_parameters_by_the_names_of_their_sites(self, recorded: optuna.Study) -> None:
        first = recorded.trials[0]
        assert first.params == {"layer0.weight": 2, "layer0.input": 2, "layer1.weight": 2}
        assert first.distributions == {
            "layer0.weight": IntDistribution(2, 4),
            "layer0.input": CategoricalDistribution((2, 4, 8)),
            "layer1.weight": IntDistribution(2, 4),
        }
        assert recorded.trials[1].params["layer1.weight"] == 3

    def test_values(self, recorded: optuna.Study) -> None:
        assert recorded.trials[0].values == [0.75]
        assert recorded.trials[1].values is None

    def test_constraints_by_name_and_for_the_dashboard(self, recorded: optuna.Study) -> None:
        for item in recorded.trials:
            assert item.constraints.items() >= {"size <= 0.5": -0.1, "bops <= 1": 0.2}.items()
            stored = recorded._storage.get_trial_system_attrs(item._trial_id)
            assert stored["constraints"] == [-0.1, 0.2]

    def test_numbers_to_plot_and_the_reason(self, recorded: optuna.Study) -> None:
        shown = recorded.trials[0].user_attrs
        assert {key: shown[key] for key in ("size", "accuracy", "loss", "reason")} == {
            "size": 10.0,
            "accuracy": 0.75,
            "loss": 0.3,
            "reason": "",
        }
        assert [item.user_attrs["reason"] for item in recorded.trials[1:]] == ["why", "why"]

    def test_metric_names_and_directions(self, tmp_path: Path) -> None:
        ledger = Ledger(sqlite(tmp_path), "two", ACCURACY_AND_SIZE, SPACE)
        ledger.append(trial())
        again = study(sqlite(tmp_path), "two")
        assert again.metric_names == ["accuracy", "size"]
        assert [direction.name for direction in again.directions] == ["MAXIMIZE", "MINIMIZE"]
        assert again.trials[0].values == [0.75, 10.0]

    def test_importances_can_be_computed(self, tmp_path: Path) -> None:
        ledger = Ledger(sqlite(tmp_path), "many", (Objective("loss", "minimize"),), SPACE)
        for number in range(SPACE.size):
            item = trial(number)
            loss = 2.0 ** -float(item.assignment["layer0.weight"])  # type: ignore[arg-type]  # one number per site
            ledger.append(trial(number, quality=Quality(0.5, loss, 4, 0.1)))
        found = optuna.importance.get_param_importances(
            study(sqlite(tmp_path), "many"), evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
        )
        assert next(iter(found)) == "layer0.weight"
        assert found["layer0.weight"] > 0.9

    def test_a_trial_without_costs_or_violations(self, tmp_path: Path) -> None:
        ledger = Ledger(sqlite(tmp_path), "bare", ACCURACY, SPACE)
        ledger.append(trial(0, "failed", cost=None, violations={}))
        item = study(sqlite(tmp_path), "bare").trials[0]
        assert "constraints" not in item.system_attrs
        assert ledger.trials()[0].violations == {}


class TestStudies:
    def test_attributes_of_the_study(self, tmp_path: Path) -> None:
        ledger = Ledger(sqlite(tmp_path), "name", ACCURACY)
        assert ledger.attributes == {}
        ledger.annotate({"a": {"b": [1, None, "ü"]}, "long": "x" * 100_000})
        ledger.annotate({"a": 3})
        assert Ledger(sqlite(tmp_path), "name", ACCURACY).attributes == {"a": 3, "long": "x" * 100_000}

    def test_several_in_one_storage(self, tmp_path: Path) -> None:
        one, two = (Ledger(sqlite(tmp_path), name, ACCURACY, SPACE) for name in ("one", "two"))
        one.append(trial(0))
        two.append(trial(1))
        one.append(trial(2))
        assert [item.assignment for item in one.trials()] == [trial(0).assignment, trial(2).assignment]
        assert [item.number for item in one.trials()] == [0, 1]
        assert [item.assignment for item in two.trials()] == [trial(1).assignment]

    @pytest.mark.parametrize("objectives", [(Objective("accuracy", "minimize"),), ACCURACY_AND_SIZE])
    def test_other_directions(self, tmp_path: Path, objectives: tuple[Objective, ...]) -> None:
        Ledger(sqlite(tmp_path), "name", ACCURACY, SPACE).append(trial())
        with pytest.raises(StorageError, match=r"study 'name' in .* has other objectives; choose another name"):
            Ledger(sqlite(tmp_path), "name", objectives)
        assert len(Ledger(sqlite(tmp_path), "name", ACCURACY).trials()) == 1

    def test_one_that_somebody_else_wrote(self, tmp_path: Path) -> None:
        url = sqlite(tmp_path)
        other = optuna.create_study(study_name="name", storage=open_storage(url), direction="maximize")
        other.add_trial(optuna.create_trial(value=0.5))
        with pytest.raises(StorageError, match="trial 0 was not written by qsearch; use a study of its own"):
            Ledger(url, "name", ACCURACY)
        left = study(url, "name")
        assert (left.metric_names, left.user_attrs, len(left.trials)) == (None, {}, 1)

    def test_nothing_is_printed(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        before = optuna.logging.get_verbosity()
        Ledger(sqlite(tmp_path), "name", ACCURACY, SPACE).append(trial())
        assert capfd.readouterr() == ("", "")
        assert optuna.logging.get_verbosity() == before

    def test_each_trial_is_on_disk_before_append_returns(self, tmp_path: Path) -> None:
        ledger = Ledger(sqlite(tmp_path), "name", ACCURACY, SPACE)
        for number in range(3):
            ledger.append(trial(number))
            assert len(study(sqlite(tmp_path), "name").trials) == number + 1


class TestStorages:
    @pytest.mark.parametrize("scheme", ["sqlite:///", "journal:"])
    def test_folders_are_made(self, tmp_path: Path, scheme: str) -> None:
        Ledger(f"{scheme}{tmp_path / 'a' / 'b' / 'study'}", "name", ACCURACY)
        assert (tmp_path / "a" / "b" / "study").is_file()

    @pytest.mark.parametrize(
        ("url", "reason"),
        [
            ("nonsense", "Could not parse"),
            ("postgresql://localhost:1/x", "localhost:1/x"),
            ("sqlite:////proc/nothing/study.db", "/proc/nothing"),
        ],
    )
    def test_that_cannot_be_opened(self, url: str, reason: str) -> None:
        with pytest.raises(StorageError, match="must be readable and writable") as caught:
            open_storage(url)
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("scheme", ["sqlite:///", "journal:"])
    def test_looking_for_a_study_makes_none(self, tmp_path: Path, scheme: str) -> None:
        url = f"{scheme}{tmp_path / 'study'}"
        assert not exists(url, "name")
        assert not (tmp_path / "study").exists()
        Ledger(url, "other", ACCURACY)
        assert not exists(url, "name")
        assert exists(url, "other")
        assert [item.study_name for item in open_storage(url).get_all_studies()] == ["other"]

    def test_an_error_without_words(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ledger = Ledger(sqlite(tmp_path), "name", ACCURACY, SPACE)

        def fails(*_: Any) -> None:
            raise MemoryError

        monkeypatch.setattr(ledger._trials, "add", fails)
        with pytest.raises(StorageError, match="got MemoryError"):
            ledger.append(trial())

    @pytest.mark.parametrize("keep", [1, 50, -1])
    def test_a_journal_that_ends_in_half_a_line(
        self, tmp_path: Path, keep: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "study.log"
        ledger = Ledger(f"journal:{path}", "name", ACCURACY, SPACE)
        ledger.append(trial(0))
        whole = path.stat().st_size
        ledger.append(trial(1))
        os.truncate(path, whole + keep if keep > 0 else path.stat().st_size + keep)
        again = Ledger(f"journal:{path}", "name", ACCURACY, SPACE)
        assert "half a line" in caplog.text
        assert [item.assignment for item in again.trials()] == [trial(0).assignment]
        again.append(trial(2))
        last = Ledger(f"journal:{path}", "name", ACCURACY, SPACE).trials()
        assert [item.assignment for item in last] == [trial(0).assignment, trial(2).assignment]

    def test_half_a_line_of_another_campaign_that_was_killed_is_not_gone_on_with(self, tmp_path: Path) -> None:
        path = tmp_path / "study.log"
        ledger, other = (Ledger(f"journal:{path}", name, ACCURACY, SPACE) for name in ("name", "other"))
        ledger.append(trial(0))
        other.append(trial(0))
        for number in (1, 2):
            with path.open("a") as file:
                file.write('{"op_code": 4, "study_id": 1, "sta')
            ledger.append(trial(number))
        other.append(trial(1))
        for found, name, count in ((ledger, "name", 3), (other, "other", 2)):
            assert [item.number for item in found.trials()] == list(range(count))
            again = Ledger(f"journal:{path}", name, ACCURACY, SPACE).trials()
            assert [item.assignment for item in again] == [trial(number).assignment for number in range(count)]
        assert all(isinstance(json.loads(line), dict) for line in path.read_text().splitlines())

    def test_a_whole_journal_is_left_alone(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = tmp_path / "study.log"
        Ledger(f"journal:{path}", "name", ACCURACY, SPACE).append(trial(0))
        before = path.read_bytes()
        assert len(Ledger(f"journal:{path}", "name", ACCURACY, SPACE).trials()) == 1
        assert path.read_bytes()[: len(before)] == before
        assert not caplog.records


def test_an_assignment_of_another_process_hashes_the_same(tmp_path: Path) -> None:
    ledger = Ledger(sqlite(tmp_path), "name", ACCURACY, SPACE)
    ledger.append(trial(4))
    known = {item.assignment: item for item in ledger.trials()}
    assert known[BitAssignment(dict(trial(4).assignment))].number == 0
