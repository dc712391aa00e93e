"""``qsearch/Layerwise-v0``: one decision per site in network order, as in HAQ (Wang et al., CVPR 2019)."""

from __future__ import annotations

from typing import Any

from qsearch.envs.base import BitwidthEnv
from qsearch.envs.features import HAQ, static_features
from qsearch.envs.schedule import Schedule
from qsearch.protocols import Oracle


class LayerwiseEnv(BitwidthEnv):
    """HAQ's ten observations, one decision per free site or tie; all kernels of a weight get the same bits.

    Observations ``Box(0, 1, (10,))`` (:data:`qsearch.envs.features.HAQ`), actions ``Box(0, 1, (1,))`` or, with
    ``discrete=True``, ``Discrete(C)``. In a space with bits per kernel, the projection onto a budget may still end
    between two bitwidths within a layer.

    Args:
        oracle: where assignments are evaluated.
        settings: ``budget``, ``reward``, ``reward_options``, ``discrete``, ``render_mode``: see :class:`BitwidthEnv`.
    """

    def __init__(self, oracle: Oracle, **settings: Any) -> None:
        schedule = Schedule.by_layer(oracle.problem.space)
        static = static_features(HAQ, schedule, oracle.problem.layers)
        super().__init__(oracle, schedule, static, HAQ, **settings)
