"""Options that the agents share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from qsearch.registry import PluginOptions


class AgentOptions(PluginOptions):
    """Where the agent begins, what it is rewarded for, when it ends, what it shows."""

    init: Path | None = None
    """Run whose agent to begin with: its folder, ``runs/NAME``. The agent is copied into the folder of this run."""
    budget: Literal["project", "mask"] = "project"
    """How cost bounds are kept, see :mod:`qsearch.envs.base`."""
    reward: str = "objective"
    """Plug-in: ``objective``, ``haq``, ``releq``, ``autoq``, ``verdict``, or ``path/to/file.py:Class``."""
    reward_options: dict[str, Any] = Field(default_factory=dict)
    episodes: int | None = Field(default=None, ge=1)
    """Episodes over which schedules run; as many as the budget has evaluations, up to 600. The number
    is kept with the run, whose budget may be raised later."""
    patience: int = Field(default=100, ge=1)
    """Episodes in a row without a new assignment that end the search."""
    tensorboard: Path | None = None
    """Folder for TensorBoard's logs."""


class KernelOptions(AgentOptions):
    """For agents that can decide kernels one by one."""

    sensitivity: str | None = "one-at-a-time"
    """Plug-in that says how much damage each kernel does: part of what a kernel-wise agent sees. null: it sees none."""
    sensitivity_options: dict[str, Any] = Field(default_factory=dict)


class FlatOptions(KernelOptions):
    """For agents with one level."""

    decisions: Literal["auto", "layer", "kernel"] = "auto"
    """``auto``: kernel by kernel where the space has bits per kernel."""
