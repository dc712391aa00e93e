"""The contract, on every built-in pruner."""

from __future__ import annotations

import pytest

from qsearch import registry
from qsearch.pruning import Pruner
from qsearch.testing.pruner import PrunerContract


class TestNone(PrunerContract):
    def pruner(self) -> Pruner:
        return registry.create("pruners", "none")


class TestSuccessiveHalving(PrunerContract):
    def pruner(self) -> Pruner:
        return registry.create("pruners", "successive-halving")


class TestHyperband(PrunerContract):
    def pruner(self) -> Pruner:
        return registry.create("pruners", "hyperband")


class TestMedian(PrunerContract):
    def pruner(self) -> Pruner:
        return registry.create("pruners", "median")


class TestConfidence(PrunerContract):
    def pruner(self) -> Pruner:
        return registry.create("pruners", "confidence")


def test_these_are_all() -> None:
    every = {"none", "successive-halving", "hyperband", "median", "confidence", "sequential"}
    assert set(registry.names("pruners")) == every


@pytest.mark.parametrize("name", ["successive-halving", "hyperband", "median", "confidence"])
def test_options_are_checked(name: str) -> None:
    with pytest.raises(registry.ConfigError, match="unknown option 'min_shar'"):
        registry.create("pruners", name, {"min_shar": 0.1})
