"""Gymnasium environments: an episode decides the bits of a network, its last step evaluates them.

Importing this module registers ``qsearch/Layerwise-v0``, ``qsearch/Kernelwise-v0`` and ``qsearch/Hierarchical-v0``, as
Gymnasium asks of packages with environments::

    import gymnasium, qsearch.envs
    env = gymnasium.make("qsearch/Layerwise-v0", oracle=oracle)
"""

from __future__ import annotations

import gymnasium

_ENVIRONMENTS = {
    "qsearch/Layerwise-v0": "qsearch.envs.layerwise:LayerwiseEnv",
    "qsearch/Kernelwise-v0": "qsearch.envs.kernelwise:KernelwiseEnv",
    "qsearch/Hierarchical-v0": "qsearch.envs.hierarchical:HierarchicalEnv",
}

for _name, _class in _ENVIRONMENTS.items():
    if _name not in gymnasium.registry:
        gymnasium.register(_name, entry_point=_class)
