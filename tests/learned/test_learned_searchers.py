"""The searchers that learn bits: the contract of all searchers, known optima, resume, and campaigns."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from taught import Seen, lessons, taught
from torch import Tensor

from qsearch import run as runs
from qsearch.campaign import Campaign
from qsearch.config import dump, parse
from qsearch.costs import NetworkCost
from qsearch.errors import ConfigError, EvaluationError, StorageError, UserError
from qsearch.learned.dq import Dq
from qsearch.learned.edge import Edge
from qsearch.learned.fracbits import FracBits
from qsearch.learned.searcher import LearnedSearcher
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Bound, Objective, Problem
from qsearch.protocols import Evaluator
from qsearch.sites import build_space
from qsearch.testing.problems import ACCURACY, ACCURACY_AND_SIZE, WeightSize, coupled, linear_layers
from qsearch.testing.searcher import SearcherContract

SEARCHERS: Mapping[str, type[LearnedSearcher]] = {"dq": Dq, "fracbits": FracBits, "edge": Edge}

every_searcher = pytest.mark.parametrize("name", SEARCHERS)


pytestmark = pytest.mark.usefixtures("one_thread")


def made(name: str, **options: Any) -> LearnedSearcher:
    searcher = SEARCHERS[name]
    return searcher(searcher.Options(**{"epochs": 2, "batch_size": 16, **options}))


class LearnedContract(SearcherContract):
    """The contract, on evaluators that have a network to learn on."""

    evaluations = 5
    name = ""
    options: Mapping[str, Any] = MappingProxyType({})
    restless: Mapping[str, Any] = MappingProxyType({})
    """Options under which chance decides between bits that are about as good."""

    def searcher(self) -> LearnedSearcher:
        return made(self.name, **{"rate": 0.1, "bits_rate": 0.4, **self.options})

    def run(self, problem: Problem, evaluator: Evaluator, **settings: Any) -> CampaignOracle:
        return super().run(problem, taught(problem, evaluator), **settings)

    def test_other_seeds_change_a_stochastic_searcher_only(self) -> None:
        """On finer bits than the contract's problem has: there all seeds agree that all layers alike have 4."""
        self.options = self.restless
        runs = set()
        for seed in range(3):
            problem, evaluator = coupled(5, choices=range(2, 9), budget=0.45)
            runs.add(self.run(problem, evaluator, seed=seed, evaluations=1).trials[0].assignment)
        assert len(runs) > 1

    def test_too_many_failures_are_told(self) -> None:
        problem, evaluator = coupled(5, objectives=ACCURACY_AND_SIZE, budget=None)
        evaluator.fails_at = frozenset(range(100))
        oracle = CampaignOracle(
            problem, taught(problem, evaluator), MemoryRecord(), Budget(evaluations=20), max_failures=2
        )
        with pytest.raises(EvaluationError, match="2 evaluations failed"):
            self.searcher().search(oracle)


class TestFracBits(LearnedContract):
    name = "fracbits"
    restless = MappingProxyType({"bits_rate": 0.2, "batch_size": 4})


class TestDq(LearnedContract):
    name = "dq"


class TestEdge(LearnedContract):
    name = "edge"


def sized(sizes: list[int], mean: float, **space: Any) -> Problem:
    """Weights of linear layers under a size of ``mean`` bits; inputs at 8 bits."""
    layers = linear_layers(sizes)
    found = build_space(
        layers, **{"weight_bits": range(2, 9), "activation_bits": [8], "fixed": {"activations": 8}, **space}
    )
    most = mean * sum(layer.params for layer in layers)
    bound = Bound("size", most, False, "size")
    return Problem(found, NetworkCost(WeightSize(), layers, found), ACCURACY, (bound,))


def learned(
    searcher: LearnedSearcher, problem: Problem, importance: list[float] | None = None, **settings: Any
) -> CampaignOracle:
    seen = Seen(lessons(problem.layers, importance))
    oracle = CampaignOracle(problem, seen, MemoryRecord(), Budget(evaluations=10), **settings)
    searcher.search(oracle)
    return oracle


class TestWhatIsLearned:
    @every_searcher
    @pytest.mark.parametrize("first", [True, False])
    def test_bits_go_where_they_matter(self, name: str, first: bool) -> None:
        """Of two layers alike one has all the loss and the other none: it has the more bits, by as much as there are."""
        problem = sized([8, 8], mean=4.0)
        importance = [100.0, 0.0] if first else [0.0, 100.0]
        oracle = learned(made(name, epochs=30, batch_size=12, rate=1e-3), problem, importance)
        (trial,) = oracle.trials
        bits = [trial.assignment.highest(layer.weight_site) for layer in problem.layers]
        matters, other = bits if first else bits[::-1]
        assert matters >= other + 2, bits
        assert trial.feasible
        assert oracle.training_samples == 30 * 48

    @every_searcher
    def test_bits_go_to_the_kernels_that_matter(self, name: str) -> None:
        problem = sized([8], mean=4.0, granularity="kernel")
        given = lessons(problem.layers)
        matters = torch.tensor([1.0, 0.0] * 4) * 100

        def loss(output: Tensor, target: Tensor) -> Tensor:
            return ((output - target).square() * matters).sum(1).mean()

        oracle = CampaignOracle(problem, Seen(replace(given, loss=loss)), MemoryRecord(), Budget(evaluations=1))
        made(name, epochs=30, batch_size=12, rate=1e-3).search(oracle)
        bits = oracle.trials[0].assignment.vector("layer0.weight", 8)
        assert bits[0::2].min() > bits[1::2].max(), bits
        assert bits.mean() <= 4

    @every_searcher
    def test_ties_and_fixed_sites_are_respected(self, name: str) -> None:
        ties = [("layer0.weight", "layer1.weight"), ("layer1.input", "layer2.weight")]
        problem = sized(
            [6, 6, 6, 6], 4.0, ties=ties, activation_bits=range(2, 9), fixed={"layer3.weight": 3, "layer0.input": 8}
        )
        oracle = learned(made(name, epochs=4), problem, [50.0, 0.0, 1.0, 1.0])
        (trial,) = oracle.trials
        assert trial.assignment in problem.space
        assert trial.assignment["layer0.weight"] == trial.assignment["layer1.weight"]
        assert trial.assignment["layer3.weight"] == 3
        assert trial.assignment["layer2.input"] == 8  # no limit depends on it

    @every_searcher
    def test_choices_of_every_kind(self, name: str) -> None:
        problem = sized([6, 6], mean=3.0, weight_bits=[0, 1, 2, 4, 32])
        (trial,) = learned(made(name, epochs=4), problem).trials
        assert trial.assignment in problem.space
        assert trial.feasible

    @every_searcher
    def test_a_front_has_an_end_point_for_each_target(self, name: str) -> None:
        problem = replace(sized([8, 8, 5], mean=8.0), objectives=ACCURACY_AND_SIZE, bounds=())
        oracle = learned(made(name, epochs=4, targets=(0.75, 0.5, 0.375)), problem)
        tops = [trial.cost.totals["size"] / (21 * 8 * 8) for trial in oracle.trials if trial.cost is not None]
        assert tops == sorted(tops, reverse=True)
        assert all(cost <= target for cost, target in zip(tops, (0.75, 0.5, 0.375), strict=True))
        assert oracle.training_samples == 3 * 4 * 48

    def test_the_least_cost_that_meets_an_accuracy_is_sought_on_a_front(self) -> None:
        problem = sized([8, 8], mean=8.0)
        bound = Bound("accuracy", 0.4, True, "accuracy")
        problem = replace(problem, objectives=(Objective("size", "minimize"),), bounds=(bound,))
        assert len(learned(made("fracbits", epochs=1), problem).trials) == 5

    def test_nothing_is_learned_where_no_cost_is_limited(self) -> None:
        problem = sized([4, 4], mean=4.0, fixed={"weights": 4}, activation_bits=[2, 8])
        oracle = learned(made("fracbits"), problem)
        assert oracle.training_samples == 0
        assert oracle.trials[0].assignment.highest("layer0.input") == 8


def comparable(oracle: CampaignOracle) -> list[Any]:
    return [replace(trial, seconds=0.0) for trial in oracle.trials]


class TestResume:
    @every_searcher
    def test_end_points_are_kept_and_not_learned_again(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        problem = sized([6, 6], mean=3.0)
        whole = learned(made(name, targets=(1.0, 0.9)), problem, folder=tmp_path)
        assert len(list((tmp_path / "learned").glob("*.json"))) == 2
        monkeypatch.setattr(LearnedSearcher, "_learned", None)
        again = learned(made(name, targets=(1.0, 0.9)), problem, folder=tmp_path)
        assert comparable(again) == comparable(whole)
        assert (again.training_samples, again.training_seconds) == (whole.training_samples, whole.training_seconds)

    def test_a_search_killed_between_targets_ends_like_one_never_killed(self, tmp_path: Path) -> None:
        problem = sized([6, 6], mean=3.0)
        whole = learned(made("dq", targets=(1.0, 0.8)), problem, folder=tmp_path / "whole")
        learned(made("dq", targets=(1.0,)), problem, folder=tmp_path / "killed")
        resumed = learned(made("dq", targets=(1.0, 0.8)), problem, folder=tmp_path / "killed")
        assert comparable(resumed) == comparable(whole)
        assert resumed.training_samples == whole.training_samples

    def test_other_options_or_seeds_are_learned_anew(self, tmp_path: Path) -> None:
        problem = sized([6, 6], mean=3.0)
        learned(made("dq"), problem, folder=tmp_path)
        learned(made("dq", rate=0.02), problem, folder=tmp_path)
        learned(made("dq"), problem, folder=tmp_path, seed=1)
        learned(made("edge"), problem, folder=tmp_path)
        assert len(list((tmp_path / "learned").glob("*.json"))) == 4

    def test_a_damaged_end_point_is_told(self, tmp_path: Path) -> None:
        problem = sized([6, 6], mean=3.0)
        learned(made("dq"), problem, folder=tmp_path)
        (path,) = (tmp_path / "learned").glob("*.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), "x": [1, 2, 3]}))
        with pytest.raises(StorageError, match="end point must be whole"):
            learned(made("dq"), problem, folder=tmp_path)


class TestMinutes:
    """A budget of minutes that is shorter than one training."""

    budget = Budget(minutes=1e-4)
    """6 ms."""

    def search(self, folder: Path) -> CampaignOracle:
        problem = sized([6, 6], mean=3.0)
        oracle = CampaignOracle(problem, Seen(lessons(problem.layers)), MemoryRecord(), self.budget, folder=folder)
        made("dq", epochs=4, targets=(1.0, 0.9)).search(oracle)
        return oracle

    def test_an_end_point_that_was_begun_in_time_is_evaluated_and_none_after_it(self, tmp_path: Path) -> None:
        oracle = self.search(tmp_path)
        assert len(oracle.trials) == 1
        assert oracle.remaining == 0
        assert oracle.trials[0].seconds >= oracle.training_seconds > 60e-4

    def test_an_end_point_that_is_kept_takes_the_time_that_it_took(self, tmp_path: Path) -> None:
        """In another ledger, with nothing to train: it ends where the first did."""
        first, again = self.search(tmp_path), self.search(tmp_path)
        assert again.training_seconds == first.training_seconds
        assert [trial.assignment for trial in again.trials] == [trial.assignment for trial in first.trials]
        assert again.elapsed >= again.trials[0].seconds >= first.training_seconds

    def test_a_trial_in_the_ledger_has_its_training_in_its_own_time(self, tmp_path: Path) -> None:
        problem, folder = sized([6, 6], mean=3.0), tmp_path
        whole = learned(made("dq", epochs=4), problem, folder=folder)
        record = MemoryRecord()
        record.append(replace(whole.trials[0], seconds=1000.0))
        oracle = CampaignOracle(problem, Seen(lessons(problem.layers)), record, Budget(minutes=60), folder=folder)
        made("dq", epochs=4).search(oracle)
        assert 1000 <= oracle.elapsed < 1000 + whole.training_seconds


class TestTroubles:
    @every_searcher
    def test_divergence_for_every_target_is_one_clear_line(self, name: str) -> None:
        problem = sized([6, 6], mean=3.0)
        given = lessons(problem.layers)
        seen = Seen(replace(given, loss=lambda output, target: output.sum() * float("nan")))
        oracle = CampaignOracle(problem, seen, MemoryRecord(), Budget(evaluations=5))
        with pytest.raises(EvaluationError, match=r"must not diverge.*loss nan.*lower the options rate"):
            made(name, targets=(1.0, 0.9)).search(oracle)
        assert oracle.training_samples == 2 * 16  # the first step of each told it

    def test_a_rate_that_is_too_high_is_told(self) -> None:
        with pytest.raises(EvaluationError, match=r"must not diverge.*lower the options rate"):
            learned(made("fracbits", rate=1e8), sized([6, 6], mean=3.0))

    def test_a_target_that_diverges_is_left_out_with_a_warning(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        train: Callable[..., Any] = LearnedSearcher._train

        def diverges_once(self: LearnedSearcher, oracle: Any, learning: Any, limits: Any) -> Any:
            if limits[0].most == problem.bounds[0].limit:
                raise EvaluationError("training must not diverge", got="loss nan")
            return train(self, oracle, learning, limits)

        problem = sized([6, 6], mean=3.0)
        monkeypatch.setattr(LearnedSearcher, "_train", diverges_once)
        oracle = learned(made("dq", targets=(1.0, 0.9)), problem, folder=tmp_path)
        assert len(oracle.trials) == 1
        assert "target 1 is left out: training must not diverge" in caplog.text
        monkeypatch.setattr(LearnedSearcher, "_train", train)
        assert len(learned(made("dq", targets=(1.0, 0.9)), problem, folder=tmp_path).trials) == 2

    def test_an_evaluator_without_a_network_is_refused(self) -> None:
        problem, evaluator = coupled(3)
        oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=2))
        with pytest.raises(ConfigError, match="needs an evaluator that hands out its network"):
            made("dq").search(oracle)

    def test_a_cost_model_that_does_not_add_up_is_refused_before_anything_is_learned(self) -> None:
        class Odd(WeightSize):
            additive = False

        problem = sized([6, 6], mean=3.0)
        problem = replace(problem, cost=NetworkCost(Odd(), problem.layers, problem.space))
        with pytest.raises(UserError, match="sum, or the greatest"):
            made("edge").check(problem)

    @every_searcher
    @pytest.mark.parametrize(("limit", "at_least"), [(400.0, True), (0.0, False)])
    def test_bounds_that_no_penalty_keeps_are_refused(self, name: str, limit: float, at_least: bool) -> None:
        problem = sized([6, 6], mean=3.0)
        problem = replace(problem, bounds=(*problem.bounds, Bound("size", limit, at_least, "the odd one")))
        with pytest.raises(UserError, match="upper ones, above 0; got the odd one; the searcher 'optuna'"):
            made(name).check(problem)

    def test_bits_may_begin_far_over_their_target(self) -> None:
        """The penalty then is many times the loss of the first steps, which is no divergence."""
        options = {"epochs": 20, "rate": 1e-4, "start_bits": 8}
        searchers = [made("edge", **options), made("dq", mixed_from=0.2, **options), made("edge", penalty=200.0)]
        for searcher in searchers:
            (trial,) = learned(searcher, sized([8, 8], mean=2.5)).trials
            assert trial.feasible

    def test_the_loss_that_is_shown_is_that_of_the_task(self) -> None:
        problem = sized([8, 8], mean=2.5)
        oracle = learned(made("dq", epochs=1, start_bits=8, penalty=1e6, bits_rate=1e-9), problem)
        assert oracle.notes["loss"] < 1 < oracle.notes["cost"]

    @pytest.mark.parametrize(
        "options",
        [
            {"mixed_from": 0.9},
            {"targets": (0.5, 0.0)},
            {"precision": "float16"},
            {"batch_norm": "folded"},
            {"epochs": 0},
            {"bits_speed": 1},
        ],
    )
    def test_options_that_are_not_valid(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="validation error"):
            made("dq", **options)


def campaign(name: str, evaluator: Any, **space: Any) -> Any:
    return parse(
        {
            "name": f"learned-{name}",
            "budget": {"evaluations": 3},
            "workload": "digits-resnet",
            "hardware": "size",
            "evaluator": evaluator,
            "space": {"weight_bits": [2, 3, 4, 8], "activation_bits": [8], "fixed": {"activations": 8}, **space},
            "searcher": {"name": name, "options": {"epochs": 2, "train_samples": 300}},
            "constraints": ["size<=0.5"],
        },
        "this test",
    ).campaigns()[0]


@pytest.mark.slow
@every_searcher
@pytest.mark.parametrize("granularity", ["layer", "kernel"])
def test_a_campaign(name: str, granularity: str, tmp_path: Path) -> None:
    config = campaign(name, "ptq", granularity=granularity)
    run = Campaign(config, tmp_path).run()
    (trial,) = run.trials
    assert trial.feasible
    assert trial.quality is not None
    assert trial.quality.metric > 0.5
    assert run.info.training_samples == 600
    assert run.info.training_seconds > 0
    assert runs.load(run.folder).info == run.info
    if granularity == "kernel":
        assert any(not isinstance(bits, int) for bits in trial.assignment.values())
    again = Campaign(config, tmp_path).run()
    assert again.info.training_seconds == run.info.training_seconds
    assert np.array_equal([t.assignment for t in again.trials], [trial.assignment])


@pytest.mark.slow
def test_the_command_line_and_training_as_the_judge(tmp_path: Path) -> None:
    config = campaign("fracbits", {"name": "qat", "options": {"epochs": 1}})
    dump(config, tmp_path / "campaign.yaml")
    command = [sys.executable, "-c", "from qsearch.cli import main; main()", "run", "campaign.yaml", "--runs", "runs"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    run = runs.load(tmp_path / "runs" / config.name)
    assert run.trials[0].feasible
    assert run.info.training_samples == 600
