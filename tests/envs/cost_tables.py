"""Cost models of random monotone integer tables: exact sums, so that masks can be held against brute force to the bit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qsearch.protocols import CostModel
from qsearch.trial import Cost

METRICS = ("latency", "energy")
BITS = 9


class Tables(CostModel):
    """Kinds of layers, all monotone:

    - "alike": Σ over tiles of two kernels, sorted by bits, of the table at the tile's highest bits (BISMO's way);
    - "placed": the same with kernels in the order they come: moving one matters;
    - "summed": the mean of the table over the kernels, which is declared.
    """

    units: Mapping[str, str] = dict.fromkeys(METRICS, "s")

    def __init__(self, layers, kind="alike", seed=0):
        rng = np.random.default_rng(seed)
        steps = {layer.name: rng.integers(0, 4, size=(len(METRICS), BITS, BITS)) for layer in layers}
        self.tables = {name: step.cumsum(axis=1).cumsum(axis=2) for name, step in steps.items()}
        self.kind, self.kernel_additive = kind, kind == "summed"

    def layer_cost(self, layer, weight_bits, activation_bits):
        bits = np.asarray(weight_bits)
        if self.kind != "summed":
            bits = np.sort(bits)[::-1] if self.kind == "alike" else bits
            bits = np.asarray([bits[start : start + 2].max() for start in range(0, len(bits), 2)])
        values = self.tables[layer.name][:, bits, activation_bits].sum(axis=1)
        scale = 1.0 if self.kind != "summed" else 12.0 / layer.kernels
        return dict(zip(METRICS, (values * scale).tolist(), strict=True))


class Peak(Tables):
    """The dearest layer counts, plus a tenth of the others: no sum over layers."""

    additive = False

    def estimate(self, layers, assignment):
        parts = super().estimate(layers, assignment).layers
        values = {metric: [part[metric] for part in parts.values()] for metric in METRICS}
        totals = {metric: 9.0 * max(found) + sum(found) for metric, found in values.items()}
        return Cost(totals, self.units, parts)
