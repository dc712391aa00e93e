"""What an agent sees of a decision before it is taken: geometry, place, sensitivity; each in [0, 1].

Notation: T, decisions of an episode;  F, features;  G, shape (T, F), their values.

Geometry is scaled to [0, 1] over the decisions of the space (minimum to 0, maximum to 1; 0 where all agree), once for all
episodes; layers of which nothing is free do not count. Columns that change within an episode (previous bits, goals) hold 0 here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from qsearch.envs.schedule import Schedule
from qsearch.errors import SpaceError
from qsearch.layers import Layer
from qsearch.protocols import SensitivityTable
from qsearch.space import Variable

Floats = NDArray[np.float64]

HAQ = (
    "depthwise",
    "in_channels",
    "out_channels",
    "stride",
    "kernel",
    "params",
    "feature_map",
    "layer",
    "previous",
    "activation",
)
"""HAQ's ten observations (Wang et al., CVPR 2019; order of its linear mode). ``activation`` is 1 while the bits of an
activation are decided, from the first decision on, or those of a state, which is to neurons what an activation is to a layer."""

AUTOQ = (
    "layer",
    "kernel_index",
    "in_channels",
    "out_channels",
    "kernel",
    "stride",
    "feature_map",
    "depthwise",
    "activation",
    "goal",
    "previous",
    "needed",
    "kernel_sensitivity",
    "layer_sensitivity",
)
"""AutoQ's eleven (Lou et al., ICLR 2020), and three more: ``needed``, the mean bits that the kernels still to come must
have to reach the goal; and how sensitive the kernel is among its layer's, and the layer among the network's: without
them, kernels of one layer differ in their number only."""


def columns(names: tuple[str, ...]) -> Mapping[str, int]:
    """Feature → column."""
    return {name: position for position, name in enumerate(names)}


def geometry(layer: Layer) -> dict[str, float]:
    """A layer in numbers, as HAQ has them: 0 for the stride of a linear layer, 1 for its kernel.

    ``params`` of a product of two activations are the numbers of its other operand.
    """
    return {
        "depthwise": float(layer.depthwise),
        "in_channels": float(layer.in_channels),
        "out_channels": float(layer.out_channels),
        "stride": float(layer.stride[0]) if layer.stride else 0.0,
        "kernel": float(layer.kernel[0]) if layer.kernel else 1.0,
        "params": float(layer.params),
        "feature_map": float(math.prod(layer.input_size)),
    }


def static_features(
    names: tuple[str, ...],
    schedule: Schedule,
    layers: tuple[Layer, ...],
    sensitivity: SensitivityTable | None = None,
) -> NDArray[np.float32]:
    """G, shape (T, F), for the features ``names``.

    Raises:
        SpaceError: a decision that is not of bits, as of an overlay.
    """
    by_site = {name: layer for layer in layers for name in (layer.weight_site, layer.activation_site)}
    for decision in schedule.decisions:
        if decision.variable.name not in by_site:
            raise SpaceError(
                "an environment decides on bits only",
                got=f"site {decision.variable.name!r}",
                fix="use the searcher optuna, gp, random or grid",
            )
    order = {layer.name: number for number, layer in enumerate(layers)}
    rows = []
    for decision in schedule.decisions:
        variable, layer = decision.variable, by_site[decision.variable.name]
        rows.append(
            {
                **geometry(layer),
                "layer": float(order[layer.name]),
                "kernel_index": decision.kernel / max(variable.length - 1, 1),
                "activation": float(schedule.space.site(variable.name).role in _READ),
            }
        )
    found = np.zeros((len(rows), len(names)), dtype=np.float32)
    for column, name in enumerate(names):
        if name in rows[0]:
            found[:, column] = _scaled(np.asarray([row[name] for row in rows]), whole=name in ("layer", *_GEOMETRY))
    place = columns(names)
    if "kernel_sensitivity" in place:
        kernel, level = sensitivity_features(schedule, sensitivity)
        found[:, place["kernel_sensitivity"]], found[:, place["layer_sensitivity"]] = kernel, level
    return found


_READ = ("activation", "state")
"""Roles of what a layer reads and writes, beside what it keeps."""

_GEOMETRY = ("in_channels", "out_channels", "stride", "kernel", "params", "feature_map")


def _scaled(values: Floats, whole: bool) -> Floats:
    """Minimum to 0, maximum to 1; shares and flags (not ``whole``) stay as they are."""
    low, high = values.min(), values.max()
    if not whole:
        return values
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def sensitivity_features(schedule: Schedule, table: SensitivityTable | None) -> tuple[Floats, Floats]:
    """Sensitivity of each decision among its layer's kernels, and of its variable among all, shapes (T,) and (T,).

    With s the damage at the fewest bits, both are ½·log2(s / geometric mean), the difference in bits that equal marginal
    damage asks for (reverse water-filling), as a share of the range of bits, around 0.5. Without a table: 0.5.
    """
    if table is None:
        return np.full(len(schedule), 0.5), np.full(len(schedule), 0.5)
    logs = {variable.name: _log_damage(variable, table) for variable in schedule.space.variables}
    means = np.asarray([value.mean() for value in logs.values()])
    level = dict(zip(logs, means - means.mean(), strict=True))
    kernel = [
        (logs[d.variable.name][d.kernel] - logs[d.variable.name].mean()) / _range(d.variable)
        if d.stop - d.start == 1
        else 0.0
        for d in schedule.decisions
    ]
    layer = [level[d.variable.name] / _range(d.variable) for d in schedule.decisions]
    return np.clip(0.5 + np.asarray(kernel), 0, 1), np.clip(0.5 + np.asarray(layer), 0, 1)


def _log_damage(variable: Variable, table: SensitivityTable) -> Floats:
    """½·log2 of the damage of each kernel at the fewest bits, shape (K,); damage of 0 counts as a millionth of the most."""
    damage = np.asarray(table.damage[variable.name], dtype=np.float64)[:, 0]
    return np.asarray(0.5 * np.log2(np.maximum(damage, max(1e-6 * float(damage.max()), 1e-30))))


def _range(variable: Variable) -> float:
    return float(max(variable.choices[-1] - variable.choices[0], 1))
