"""Random numbers: an agent's are its own, and nobody else's depend on it."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from agent_runs import AGENTS, agent, run

from qsearch.agents.randomness import Generators, Streams
from qsearch.oracle import MemoryRecord
from qsearch.testing.problems import QuadraticEvaluator, coupled, kernels


def draw():
    """A number from each global generator."""
    return random.random(), float(np.random.random()), float(torch.rand(()))


def state():
    """The global generators, comparable."""
    found = Generators.capture()
    return found.python, found.numpy[1].tolist(), found.numpy[2], found.torch.tolist()


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@dataclass
class Drawing(QuadraticEvaluator):
    """Draws from the global generators, and answers as if it did not."""

    draws: int = 0

    def evaluate(self, assignment, *, fidelity=1.0, seed=0):
        self._draw()
        return super().evaluate(assignment, fidelity=fidelity, seed=seed)

    def probe(self, assignment):
        self._draw()
        return super().probe(assignment)

    def _draw(self):
        self.draws += 1
        draw()


PROBLEMS = {"layers": lambda: coupled(5), "kernels": lambda: kernels((5, 3), choices=range(5), mean=2.0)}


def problem_with_draws(kind):
    problem, quiet = PROBLEMS[kind]()
    return problem, Drawing(
        quiet.space, quiet.curvature, quiet.interaction, variances=quiet.variances, steepness=quiet.steepness
    )


class TestStreams:
    def test_a_seed_gives_a_stream(self):
        with Streams(3):
            first = draw()
        seed_all(99)
        with Streams(3):
            assert draw() == first
        with Streams(4):
            assert draw() != first

    def test_the_others_go_on_as_if_the_agent_were_not_there(self):
        seed_all(0)
        alone = [draw() for _ in range(4)]
        seed_all(0)
        found = [draw()]
        with Streams(5) as streams:
            mine = [draw()]
            with streams.others():
                found.append(draw())
            mine.append(draw())
            with streams.others():
                found.append(draw())
            mine.append(draw())
        found.append(draw())
        assert found == alone
        with Streams(5):
            assert [draw() for _ in range(3)] == mine

    def test_an_error_leaves_everything_in_place(self):
        seed_all(0)
        alone = [draw() for _ in range(2)]
        seed_all(0)
        with pytest.raises(ZeroDivisionError), Streams(5) as streams:  # noqa: PT012
            draw()
            with streams.others():
                assert draw() == alone[0]
                raise ZeroDivisionError
        assert draw() == alone[1]


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("name", AGENTS)
class TestAgents:
    def test_what_evaluations_draw_does_not_matter(self, name, kind):
        quiet = run(agent(name), *PROBLEMS[kind](), 10, seed=1)
        drawing = run(agent(name), *problem_with_draws(kind), 10, seed=1)
        assert drawing.evaluator.draws >= 10
        assert drawing.trials == quiet.trials

    def test_global_generators_are_as_without_the_agent(self, name, kind):
        seed_all(7)
        problem, evaluator = problem_with_draws(kind)
        run(agent(name), problem, evaluator, 10)
        after = state()
        seed_all(7)
        for _ in range(evaluator.draws):
            draw()
        assert state() == after

    def test_what_was_drawn_before_does_not_matter(self, name, kind):
        first = run(agent(name), *problem_with_draws(kind), 8)
        seed_all(1234)
        assert run(agent(name), *problem_with_draws(kind), 8).trials == first.trials

    @pytest.mark.parametrize("killed_after", [1, 5])
    def test_a_killed_run_with_drawing_evaluations_is_resumed(self, name, kind, killed_after):
        whole = run(agent(name), *problem_with_draws(kind), 10, seed=2).trials
        record = MemoryRecord()
        for trial in whole[:killed_after]:
            record.append(trial)
        problem, evaluator = problem_with_draws(kind)
        resumed = run(agent(name), problem, evaluator, 10, seed=2, record=record)
        assert resumed.trials == whole
        assert evaluator.calls == sum(trial.evaluated for trial in whole[killed_after:])


def test_a_seed_beyond_what_numpy_takes():
    with Streams(2**40 + 3):
        first = np.random.random_sample(3)
    with Streams(3):
        assert np.array_equal(first, np.random.random_sample(3))
