"""``GoalReplay``: the upper level's replay, with what the lower level made of each goal."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsearch.agents.relabel import DRAWS, LayerRecord, Policy, candidates, relabelled
from qsearch.agents.replay import EpisodeReplay, Floats
from qsearch.envs.actions import bits_at, position_of
from qsearch.envs.features import AUTOQ, columns

_GOAL = columns(AUTOQ)["goal"]


class GoalReplay(EpisodeReplay):
    """An :class:`EpisodeReplay` whose first action is a goal, which can be relabelled; one read from a file cannot."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.records: list[LayerRecord | None] = [None] * self.buffer_size

    def extend_with_records(
        self, seen: Floats, taken: Floats, rewards: Floats, ends: Floats, records: list[LayerRecord | None]
    ) -> None:
        """As :meth:`EpisodeReplay.extend`; a record for each layer whose kernels the lower level decided."""
        for t, record in enumerate(records):
            self.records[(self.pos + t) % self.buffer_size] = record
        self.extend(seen, taken, rewards, ends)

    def relabel(self, policy: Policy, count: int) -> None:
        """Relabel the goals of ``count`` transitions, drawn at random."""
        for position in np.random.randint(0, self.size(), size=count).tolist():  # see randomness.py
            record = self.records[position]
            if record is not None:
                self._relabel(position, policy, record)

    def _relabel(self, position: int, policy: Policy, record: LayerRecord) -> None:
        old = bits_at((float(self.actions[position, 0, 0]) + 1) / 2, record.choices)
        normal: NDArray[np.float64] = np.random.standard_normal(DRAWS)
        goal = relabelled(policy, candidates(old, record, normal), record)
        if goal == old:
            return
        action = position_of(goal, record.choices)
        self.actions[position, 0, 0] = 2 * action - 1
        self.next_observations[position, 0, _GOAL] = action
        after = (position + 1) % self.buffer_size
        if not self.dones[position, 0] and after != self.pos:
            self.observations[after, 0, _GOAL] = action
