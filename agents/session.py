"""What every agent does around its learning: an oracle of its own, an end, something to show.

Notation: T, decisions of an episode;  horizon, episodes over which schedules run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsearch.agents.options import AgentOptions, FlatOptions
from qsearch.agents.randomness import Streams
from qsearch.assignment import BitAssignment
from qsearch.envs.base import BitwidthEnv
from qsearch.envs.kernelwise import KernelwiseEnv
from qsearch.envs.layerwise import LayerwiseEnv
from qsearch.errors import StorageError
from qsearch.files import write_atomically
from qsearch.protocols import Oracle, SensitivityTable
from qsearch.trial import Trial

if TYPE_CHECKING:
    from qsearch.training.lessons import Lessons

FOLDER = "agent"
"""Of a run: what its agent has learnt."""

HAQ_EPISODES = 600
"""HAQ's number of episodes; schedules are as long, or as long as the budget if that is shorter."""


class Guarded:
    """An oracle that hands the random generators back around each answer.

    ``at_start`` is what remained when the agent began: under a budget of minutes, ``remaining`` depends on the time that
    sensitivities took, and schedules must not, or a resumed search would go another way.
    """

    def __init__(self, oracle: Oracle, streams: Streams) -> None:
        self._oracle, self._streams = oracle, streams
        self.problem, self.seed, self.folder = oracle.problem, oracle.seed, oracle.folder
        self.at_start = oracle.remaining

    @property
    def trials(self) -> Sequence[Trial]:
        """See :attr:`Oracle.trials`."""
        return self._oracle.trials

    @property
    def remaining(self) -> int:
        """See :attr:`Oracle.remaining`."""
        return self._oracle.remaining

    def evaluate(self, assignment: BitAssignment) -> Trial:
        """See :meth:`Oracle.evaluate`."""
        with self._streams.others():
            return self._oracle.evaluate(assignment)

    def evaluate_many(self, assignments: Sequence[BitAssignment]) -> list[Trial]:
        """See :meth:`Oracle.evaluate_many`."""
        with self._streams.others():
            return self._oracle.evaluate_many(assignments)

    def sensitivity(self, name: str, options: Mapping[str, Any] | None = None) -> SensitivityTable:
        """See :meth:`Oracle.sensitivity`."""
        with self._streams.others():
            return self._oracle.sensitivity(name, options)

    def lessons(self) -> Lessons:
        """See :meth:`Oracle.lessons`."""
        with self._streams.others():
            return self._oracle.lessons()

    def trained(self, samples: int, seconds: float) -> None:
        """See :meth:`Oracle.trained`."""
        self._oracle.trained(samples, seconds)

    def note(self, **values: float) -> None:
        """See :meth:`Oracle.note`."""
        self._oracle.note(**values)


class Episodes:
    """Counts episodes, and says when there is no use in another one.

    An episode whose assignment is known costs no evaluation, so an agent that has settled would go on for ever:
    ``patience`` episodes in a row without a new trial end the search; ``idle`` counts them.
    """

    def __init__(self, oracle: Oracle, patience: int) -> None:
        self._oracle, self._patience = oracle, patience
        self._trials = 0
        self.count = self.idle = 0

    @property
    def over(self) -> bool:
        """The budget is spent, or nothing new is found."""
        return self._oracle.remaining == 0 or self.idle >= self._patience

    def ended(self, *rewards: float) -> None:
        """An episode has ended, or several side by side."""
        known = len(self._oracle.trials)
        self.idle = self.idle + len(rewards) if known == self._trials else 0
        self._trials = known
        for reward in rewards:
            self.count += 1
            self._oracle.note(episode=self.count, reward=reward)


def horizon(oracle: Guarded, episodes: int | None) -> int:
    """Episodes over which an agent's schedules run: as given, or as many as the budget has, up to HAQ's 600.

    The number is kept beside the agent, so that a run whose budget is raised later goes on from what it has recorded.
    """
    if episodes is not None:
        return episodes
    folder = agent_folder(oracle)
    kept = folder / "horizon" if folder is not None else None
    if kept is not None and kept.is_file():
        return int(kept.read_text(encoding="utf-8"))
    found = max(1, min(oracle.at_start, HAQ_EPISODES))
    if kept is not None:
        try:
            write_atomically(kept, f"{found}\n".encode())
        except OSError as error:
            raise StorageError("the agent's folder must be writable", got=f"{kept.parent}: {error}") from error
    return found


def nothing_to_decide(oracle: Oracle) -> bool:
    """Evaluate the only assignment of a space without free sites; whether it was one."""
    if oracle.problem.space.dimension:
        return False
    oracle.evaluate(oracle.problem.space.decode([]))
    return True


def agent_folder(oracle: Oracle) -> Path | None:
    """Where the trained agent is kept: ``agent`` in the run's folder."""
    return None if oracle.folder is None else oracle.folder / FOLDER


def settings(options: AgentOptions) -> dict[str, Any]:
    """What an environment is told of the agent's options."""
    return {"budget": options.budget, "reward": options.reward, "reward_options": options.reward_options}


def environment(oracle: Oracle, options: FlatOptions, *, discrete: bool = False) -> BitwidthEnv:
    """The environment that an agent's options ask for."""
    made = {**settings(options), "discrete": discrete}
    by_kernel = any(variable.length > 1 for variable in oracle.problem.space.variables)
    if options.decisions == "layer" or (options.decisions == "auto" and not by_kernel):
        return LayerwiseEnv(oracle, **made)
    table = oracle.sensitivity(options.sensitivity, options.sensitivity_options) if options.sensitivity else None
    return KernelwiseEnv(oracle, sensitivity=table, **made)
