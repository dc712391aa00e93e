"""Behaviour cloning: a lower level that begins as reverse water-filling, before the first evaluation.

Notation: n, examples;  μ, the actor.   Loss: mean of (μ(s) − a)², over kernels under random goals.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from qsearch.agents.haq import HaqDDPG
from qsearch.envs.actions import to_actions
from qsearch.envs.hierarchical import HierarchicalEnv
from qsearch.protocols import SensitivityTable
from qsearch.search.filling import fill

GOALS, STEPS, BATCH, RATE = 64, 1500, 256, 1e-3
"""Random goals for all layers; steps, batch and learning rate of the regression."""


def examples(
    env: HierarchicalEnv, table: SensitivityTable, chosen: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What water-filling does under random goals: observations, shape (n, 14), and actions in [0, 1], shape (n,).

    Args:
        chosen: decisions that are kernels'.
    """
    kernels, counts = env.kernels, env.kernels.schedule.counts
    seen, taken = [], []
    for _ in range(GOALS):
        kernels.reset()
        x = kernels.x
        for step in env.steps:
            if step.weight is not None:
                choices = step.weight.choices
                goal = np.random.uniform(choices[0], choices[-1])  # the agent's stream
                kernels.set_goal(step.weight, goal)
                damage = np.maximum(np.asarray(table.damage[step.weight.name])[:, 0], 0.0)
                x[step.weight.slice] = fill(damage, goal, choices)
        seen.append(kernels.observations(x)[chosen])
        taken.append(to_actions(x, counts)[chosen])
    return np.concatenate(seen), np.concatenate(taken)


def clone(model: HaqDDPG, seen: NDArray[np.float32], taken: NDArray[np.float32]) -> float:
    """Fit the actor to examples; the root mean squared error of its last steps, in actions."""
    observations, actions = torch.as_tensor(seen), torch.as_tensor(2 * taken - 1)[:, None]
    optimiser = torch.optim.Adam(model.actor.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    losses = []
    for _ in range(STEPS):
        batch = torch.randint(len(observations), (BATCH,))
        loss = torch.nn.functional.mse_loss(model.actor(observations[batch]), actions[batch])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    model.actor_target.load_state_dict(model.actor.state_dict())
    return float(np.sqrt(np.mean(losses[-100:]))) / 2
