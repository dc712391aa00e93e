"""Agents on disk: what a new search begins with, and what cannot begin one."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from agent_runs import AGENTS, agent, guarded, oracle_of, run
from campaigns import call, ledger_facts, settings, write

from qsearch.agents import store
from qsearch.agents.levels import Agent
from qsearch.agents.session import environment
from qsearch.errors import ConfigError, StorageError
from qsearch.oracle import Budget, MemoryRecord
from qsearch.testing.problems import kernels, separable

PARTS = {"ddpg": ("agent",), "ppo": ("agent",), "hierarchical-ddpg": ("goals", "kernels")}


def small(size=4, **changes):
    return kernels((size, 3), choices=range(5), **{"mean": 2.0, **changes})


@pytest.fixture(scope="module", params=AGENTS)
def trained(request, tmp_path_factory):
    """An agent's name and the folder of a run of it."""
    folder = tmp_path_factory.mktemp(request.param)
    run(agent(request.param), *small(), 12, folder=folder, seed=4)
    return request.param, folder


def models(searcher, oracle):
    """The learners of an agent as they are when it begins, and what it decides with."""
    if hasattr(searcher, "_model"):
        made = environment(oracle, searcher.options)
        model = searcher._model(oracle, made) if searcher.__class__.__name__ == "Ddpg" else searcher._model(oracle)
        return {"agent": model}
    both = Agent(oracle, searcher.options)
    return {"goals": both.high, "kernels": both.low}


def parameters(model):
    return {key: value.clone() for key, value in model.policy.state_dict().items()}


def differ(one, other):
    return any(not torch.equal(value, other[key]) for key, value in one.items())


def test_everything_is_written(trained):
    name, folder = trained
    files = {path.name for path in (folder / "agent").iterdir()}
    replays = {f"{part}.npz" for part in PARTS[name]} if name != "ppo" else set()
    assert files == {f"{part}.zip" for part in PARTS[name]} | replays | {"horizon"}


def test_the_agent_begins_with_what_was_learnt(trained):
    name, folder = trained
    problem, evaluator = small(mean=3.0)  # another budget
    with guarded(oracle_of(problem, evaluator)) as oracle:
        fresh = models(agent(name), oracle)
        loaded = models(agent(name, init=str(folder)), oracle)
        for part in PARTS[name]:
            saved = type(loaded[part]).load(folder / "agent" / f"{part}.zip", device="cpu")
            assert not differ(parameters(saved), parameters(loaded[part]))
            assert differ(parameters(fresh[part]), parameters(loaded[part]))


def test_optimisers_go_on_as_well(trained):
    name, folder = trained
    with guarded(oracle_of(*small())) as oracle:
        loaded = models(agent(name, init=str(folder)), oracle)[PARTS[name][0]]
        optimiser = loaded.policy.optimizer if name == "ppo" else loaded.actor.optimizer
        assert optimiser.state_dict()["state"]


def test_replay_and_baseline_are_read_back(trained):
    name, folder = trained
    if name == "ppo":
        pytest.skip("proximal policy optimisation has no replay")
    with guarded(oracle_of(*small())) as oracle:
        loaded = models(agent(name, init=str(folder)), oracle)
    for part in PARTS[name]:
        buffer = loaded[part].replay_buffer
        with np.load(folder / "agent" / f"{part}.npz") as saved:
            assert buffer.size() == len(saved["rewards"]) > 0
            for key, value in buffer.state().items():
                assert np.array_equal(value, saved[key], equal_nan=True), key
            assert buffer.baseline == float(saved["baseline"])


def greedy(model, env):
    """The assignment that a policy decides without exploration."""
    observation, _ = env.reset()
    while not env.done:
        observation = env.decide(model.predict(observation, deterministic=True)[0])
    return env.proposal()


def test_it_proposes_with_the_loaded_policy(tmp_path):
    """With next to no exploration the first proposal is the policy's own, whatever the seed."""
    run(agent("ddpg", noise_decay=0.97, updates=8, actor_rate=3e-3), *small(), 40, folder=tmp_path, seed=4)
    searcher = agent("ddpg", warmup_episodes=0, noise=1e-6, init=str(tmp_path))
    with guarded(oracle_of(*small())) as oracle:
        env = environment(oracle, searcher.options)
        known, untrained = greedy(searcher._model(oracle, env), env), greedy(agent("ddpg")._model(oracle, env), env)
    assert known != untrained
    for seed in range(3):
        assert run(searcher, *small(), 1, seed=seed).trials[0].assignment == known


def test_it_fits_another_network(trained):
    name, folder = trained
    problem, evaluator = small(9, mean=1.5)
    oracle = run(agent(name, init=str(folder)), problem, evaluator, 6)
    assert oracle.spent == 6


def test_a_resumed_search_with_init_is_the_same(trained):
    name, folder = trained
    first, again = (run(agent(name, init=str(folder)), *small(), 6, seed=3).trials for _ in range(2))
    assert first == again


def test_a_run_keeps_what_it_began_with(trained, tmp_path):
    name, folder = trained
    source = tmp_path / "source"
    shutil.copytree(folder, source)
    whole = run(agent(name, init=str(source)), *small(), 6, seed=3, folder=tmp_path / "whole").trials
    run(agent(name), *small(), 9, seed=9, folder=source)  # the source goes on, and then is gone
    again = run(agent(name, init=str(source)), *small(), 6, seed=3, folder=tmp_path / "whole").trials
    shutil.rmtree(source)
    assert run(agent(name, init=str(source)), *small(), 6, seed=3, folder=tmp_path / "whole").trials == whole == again


@pytest.mark.parametrize("name", AGENTS)
def test_a_budget_that_is_raised_goes_on_from_what_is_recorded(name, tmp_path):
    record = MemoryRecord()
    first = run(agent(name), *small(9), 12, seed=3, folder=tmp_path, record=record).trials
    more = run(agent(name), *small(9), 20, seed=3, folder=tmp_path, record=record)
    assert more.trials[:12] == first
    assert len(record.trials()) == len(more.trials) == more.spent == 20


class TestWrong:
    def refused(self, searcher, match, problem=None):
        problem, evaluator = problem or small()
        oracle = oracle_of(problem, evaluator)
        with pytest.raises(ConfigError, match=match) as caught:
            searcher.search(oracle)
        assert oracle.trials == []
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600
        return str(caught.value)

    @pytest.mark.parametrize("name", AGENTS)
    def test_no_such_run(self, name, tmp_path):
        path = tmp_path / "nothing"
        assert str(path) in self.refused(agent(name, init=str(path)), "must name a run with a trained agent")

    def test_another_kind_of_agent(self, trained):
        name, folder = trained
        for other in AGENTS:
            if other != name:
                self.refused(agent(other, init=str(folder)), "option 'init' must")

    def test_other_hidden_sizes(self, trained):
        name, folder = trained
        self.refused(agent(name, init=str(folder), hidden=(24, 16)), "of the same kind")
        self.refused(agent(name, init=str(folder), hidden=(16,)), "of the same kind")

    def test_other_observations(self, trained):
        name, folder = trained
        if name != "hierarchical-ddpg":  # layer by layer there are ten, kernel by kernel fourteen
            self.refused(agent(name, init=str(folder)), "of the same kind", separable(3))

    @pytest.mark.parametrize("damage", ["zip", "npz", "no npz"])
    def test_damaged_files(self, damage, tmp_path):
        run(agent("ddpg"), *small(), 4, folder=tmp_path)
        path = tmp_path / "agent" / f"agent.{damage.split()[-1]}"
        if damage == "no npz":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:200])
        self.refused(agent("ddpg", init=str(tmp_path)), "of the same kind")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "agent").write_text("a file is in the way")
    with pytest.raises(StorageError, match="must be writable"):
        run(agent("ddpg"), *small(), 4, folder=tmp_path)


def test_nothing_is_kept_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(agent("ddpg"), *small(), 4)
    assert list(tmp_path.iterdir()) == []


def test_no_folder_is_left_among_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in AGENTS:
        run(agent(name), *small(), 4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", AGENTS)
def test_minutes_alone(name):
    problem, evaluator = small()
    oracle = run(agent(name), problem, evaluator, budget=Budget(minutes=0.01))
    assert 1 <= oracle.spent == evaluator.calls
    assert oracle.elapsed < 30


class TestCampaign:
    def campaign(self, capfd, folder, name, searcher, **options):
        chosen = {"name": searcher, "options": {**AGENTS[searcher], "hidden": [16, 16], **options}}
        path = write(folder / f"{name}.yaml", settings(name=name, searcher=chosen))
        return call(capfd, "run", path, "--runs", folder / "runs")

    @pytest.mark.parametrize("name", AGENTS)
    def test_a_trained_agent_starts_another_campaign(self, name, capfd, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert self.campaign(capfd, tmp_path, "first", name).code == 0
        second = self.campaign(capfd, tmp_path, "second", name, init=str(tmp_path / "runs" / "first"))
        assert second.code == 0, second.err
        assert len(ledger_facts(tmp_path / "runs" / "second")) >= 1

    def test_a_run_without_an_agent_is_one_line(self, capfd, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        answer = self.campaign(capfd, tmp_path, "second", "ddpg", init="runs/nothing")
        assert answer.code == 2
        assert "must name a run with a trained agent" in answer.line


def test_the_folder_of_agents_is_named_once():
    assert store.FOLDER == "agent"
