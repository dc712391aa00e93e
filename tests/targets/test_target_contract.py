"""The contract of targets: the example keeps it, and it sees what is wrong with those that do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from qsearch import registry
from qsearch.errors import QSearchError
from qsearch.layers import Layer
from qsearch.measuring import Bench
from qsearch.protocols import Target
from qsearch.testing.target import TargetContract

EXAMPLE = Path(__file__).parents[2] / "examples" / "my_target.py"
ODD = Path(__file__).parent / "odd_targets.py"


class TestMyBoard(TargetContract):
    def target(self) -> Target:
        return registry.create("targets", f"{EXAMPLE}:MyBoard")


class TestCounted(TargetContract):
    def target(self) -> Target:
        return registry.create("targets", f"{ODD}:Counted")


def test_the_example_is_measured_by_path(tmp_path):
    assert len(EXAMPLE.read_text().splitlines()) < 30
    with Bench(f"{EXAMPLE}:MyBoard", {}, tmp_path, repeats=3, warm_up=1) as bench:
        found = bench.measure(Layer("head", "linear", 64, 10), 32, 32)
    assert len(found.readings["latency"]) == 3
    assert found.value("latency") > 0


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("WrongType", "must be a mapping, got 1.0"),
        ("WrongMetric", "metrics"),
        ("NotANumber", "must be finite, got nan"),
        ("Negative", "must be at least 0, got -1.0"),
        ("Text", "must be a number, got 'fast'"),
        ("WrongPrecisions", "must be within 1..32, got 64"),
        ("NoUnits", "has at least one metric"),
        ("NoDefinitions", "definitions must be a mapping {metric: words}, got None"),
        ("ListedDefinitions", "definitions must be a mapping {metric: words}, got (("),
        ("OddDefinitions", "definitions of metrics without a unit: ['power']"),
        ("OddMaxima", "maxima must be a set of metrics, got 'latency'"),
        ("InFurlongs", "unknown unit of latency; got furlong"),
        ("FractionalPrecisions", "must be integers, got 8.7"),
    ],
)
def test_the_contract_sees_what_is_wrong(kind, words):
    class Contract(TargetContract):
        def target(self) -> Target:
            made: Target = registry.load("targets", f"{ODD}:{kind}")()
            return made

    checks = [getattr(Contract(), name) for name in dir(Contract) if name.startswith("test_")]
    found = []
    for check in checks:
        try:
            check()
        except (AssertionError, TypeError, QSearchError) as error:
            found.append(str(error))
    assert any(words in text for text in found), found


def test_a_simulator_that_changes_its_mind_is_seen():
    class Contract(TargetContract):
        def target(self) -> Target:
            made: Target = registry.load("targets", f"{ODD}:Simulated")()
            return made

    with pytest.raises(AssertionError):
        Contract().test_a_deterministic_target_repeats_itself()
