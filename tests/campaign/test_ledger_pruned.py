"""Pruned trials in the ledger: what Optuna sees of them, and that they come back as they were."""

from __future__ import annotations

import json
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
from optuna.trial import TrialState

from qsearch.ledger import Ledger, open_storage
from qsearch.serialise import quality_from_json, quality_to_json
from qsearch.testing.problems import ACCURACY, ACCURACY_AND_SIZE, separable
from qsearch.trial import Cost, Quality, Trial

SPACE = separable(3)[0].space
COST = Cost({"size": 10.0}, {"size": "bit"}, {"layer0": {"size": 10.0}})
REPORTS = ((0.25, 0.6), (0.5, 0.75))
DETAILS = {"epochs": 3, "start": "a1b2c3", "rate": 0.05}


def quality() -> Quality:
    return replace(Quality.from_outcomes(np.asarray([1, 0, 1, 1], np.float32), 0.3), details=DETAILS)


def trial(state: Any, number: int = 0, **changes: Any) -> Trial:
    evaluated = quality() if state in ("complete", "pruned") else None
    reason = "" if state == "complete" else f"why it was {state}"
    found = Trial(number, SPACE.decode(SPACE.sample(np.random.default_rng(number), 1)[0]), state, COST, evaluated)
    return replace(found, reason=reason, violations={"size <= 0.5": -0.1}, seconds=0.5, **changes)


TRIALS = [
    trial("complete", 0, reports=(*REPORTS, (1.0, 0.75))),
    trial("pruned", 1, reports=REPORTS),
    trial("infeasible", 2),
    trial("failed", 3, reports=REPORTS[:1]),
    trial("failed", 4),
    trial("complete", 5),
]


def ledger(folder: Path, objectives: Any = ACCURACY) -> Ledger:
    found = Ledger(f"sqlite:///{folder / 'study.db'}", "name", objectives, SPACE)
    for item in TRIALS:
        found.append(item)
    return found


def study(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="name", storage=open_storage(f"sqlite:///{folder / 'study.db'}"))


def test_they_come_back_as_they_were(tmp_path: Path) -> None:
    written = ledger(tmp_path)
    for again in (written.trials(), Ledger(written.url, "name", ACCURACY).trials()):
        assert [item.state for item in again] == [item.state for item in TRIALS]
        assert all(same(left, right) for left, right in zip(again, TRIALS, strict=True))
        assert [item.effort for item in again] == [1, 0.5, 0, 0.25, 1, 1]
        assert again[1].quality is not None
        assert again[1].quality.details == DETAILS


def test_optuna_sees_learning_curves_and_two_kinds_of_pruned_trials(tmp_path: Path) -> None:
    ledger(tmp_path)
    found = study(tmp_path).trials
    assert [item.state for item in found] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.FAIL,
        TrialState.COMPLETE,
    ]
    assert [item.intermediate_values for item in found] == [
        {1: 0.6, 2: 0.75, 3: 0.75},
        {1: 0.6, 2: 0.75},
        {},
        {1: 0.6},
        {},
        {},
    ]
    assert [item.values for item in found] == [[0.75], None, None, None, None, [0.75]]
    assert study(tmp_path).best_trial.number == 0


def test_several_objectives(tmp_path: Path) -> None:
    ledger(tmp_path, ACCURACY_AND_SIZE)
    assert [item.values for item in study(tmp_path).trials[:2]] == [[0.75, 10.0], None]
    assert {item.number for item in study(tmp_path).best_trials} == {0, 5}


def test_people_read_effort_and_details(tmp_path: Path) -> None:
    ledger(tmp_path)
    complete, pruned, infeasible, *_, unwatched = (item.user_attrs for item in study(tmp_path).trials)
    assert {key: pruned[key] for key in ("effort", "reason", "accuracy", "detail epochs", "detail start")} == {
        "effort": 0.5,
        "reason": "why it was pruned",
        "accuracy": 0.75,
        "detail epochs": 3,
        "detail start": "a1b2c3",
    }
    assert complete["effort"] == 1
    assert "effort" not in infeasible
    assert "effort" not in unwatched


def test_a_record_from_before_trials_were_pruned(tmp_path: Path) -> None:
    """As the ledger wrote it then: no state, no reports, no details."""
    written = ledger(tmp_path)
    quality_then = quality_to_json(replace(quality(), details={}))
    assert set(quality_then) == {"name", "metric", "loss", "samples", "standard_error", "outcomes"}
    for state, value in ((TrialState.COMPLETE, 0.75), (TrialState.PRUNED, None), (TrialState.FAIL, None)):
        record = {
            "assignment": TRIALS[0].assignment.to_json(),
            "cost": {"totals": {"size": 10.0}, "units": {"size": "bit"}, "layers": {}},
            "quality": quality_then if value is not None else None,
            "violations": {"size <= 0.5": 0.1},
            "reason": "" if value is not None else "why",
            "seconds": 0.5,
        }
        written.study.add_trial(optuna.create_trial(state=state, value=value, system_attrs={"qsearch": record}))
    found = Ledger(written.url, "name", ACCURACY).trials()[len(TRIALS) :]
    assert [item.state for item in found] == ["complete", "infeasible", "failed"]
    assert [item.reports for item in found] == [(), (), ()]
    assert [item.effort for item in found] == [1, 0, 1]


@hypothesis_settings(max_examples=50)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=10),
        st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=10),
        max_size=4,
    )
)
def test_details_of_any_kind(details: dict[str, Any]) -> None:
    found = quality_from_json(json.loads(json.dumps(quality_to_json(replace(quality(), details=details)))))
    assert dict(found.details) == details


def test_details_are_no_part_of_what_makes_a_quality() -> None:
    assert quality() == replace(quality(), details={})


@pytest.mark.parametrize("scheme", ["sqlite:///", "journal:"])
def test_reports_keep_every_digit(tmp_path: Path, scheme: str) -> None:
    reports = ((1 / 9, 0.1 + 0.2), (1 / 3, 1 / 7), (1.0, 5e-324))
    found = Ledger(f"{scheme}{tmp_path / 'study'}", "name", ACCURACY, SPACE)
    found.append(trial("complete", reports=reports))
    assert Ledger(found.url, "name", ACCURACY).trials()[0].reports == reports
