"""HAQ's published policy for MobileNetV2 on HAQ's own latency table, relative to 8 bits everywhere.

Run: ``python benchmarks/haq_policy.py``. The table (hw/haq_qmobilenetv2_latency.npy) is looked for in the folder that
QSEARCH_DATA names, or in ../shared/data. The policy is the one for 0.6 × the latency in the reference's README.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from qsearch.assignment import BitAssignment
from qsearch.layers import Layer
from qsearch.protocols import CostModel
from qsearch.registry import create
from qsearch.testing.networks import mobilenet_v2

DATA = Path(os.environ.get("QSEARCH_DATA", Path(__file__).parents[2] / "shared" / "data"))
TABLE = DATA / "hw" / "haq_qmobilenetv2_latency.npy"

Policy = Sequence[tuple[int, int]]
"""Bits of weights and of the input of each layer, in the order in which they run."""

# fmt: off
PUBLISHED: Policy = (
    (8, -1), (7, 7), (5, 6), (4, 6), (5, 6), (5, 7), (5, 6), (7, 4), (4, 6), (4, 6), (7, 7), (5, 6), (4, 6), (7, 3),
    (5, 7), (4, 7), (7, 3), (5, 7), (4, 7), (7, 7), (4, 7), (4, 7), (6, 4), (6, 7), (4, 7), (7, 4), (6, 7), (5, 7),
    (7, 4), (6, 7), (5, 7), (7, 4), (6, 7), (6, 7), (6, 4), (5, 7), (6, 7), (6, 4), (5, 7), (6, 7), (7, 7), (4, 7),
    (7, 7), (7, 7), (4, 7), (7, 7), (7, 7), (4, 7), (7, 7), (7, 7), (4, 7), (7, 7), (8, 8),
)
# fmt: on
"""As published; −1 stands for the image, whose pixels have 8 bits."""


def with_image(policy: Policy, bits: int) -> Policy:
    """The policy with the bits of the image said."""
    return tuple((weight, bits if activation == -1 else activation) for weight, activation in policy)


def cost_model() -> CostModel:
    """The table as a cost model of :func:`mobilenet_v2`."""
    layers = [layer.name for layer in mobilenet_v2()]
    found: CostModel = create(
        "cost_models", "lut", {"path": TABLE, "metric": "latency", "unit": "unstated", "layers": layers}
    )
    return found


def latency(model: CostModel, layers: Sequence[Layer], policy: Policy) -> float:
    """Latency of the network under a policy, in the table's unit."""
    pairs = list(zip(layers, policy, strict=True))
    bits = {layer.weight_site: weight for layer, (weight, _) in pairs}
    bits |= {layer.activation_site: activation for layer, (_, activation) in pairs}
    return model.estimate(layers, BitAssignment(bits)).totals["latency"]


def ratios() -> dict[str, float]:
    """What is compared → its latency over that of 8 bits everywhere."""
    model, layers = cost_model(), mobilenet_v2()
    policies = {
        "published policy": with_image(PUBLISHED, 8),
        "published policy, −1 read as the last column but one (the reference)": with_image(PUBLISHED, 7),
        **{f"uniform {bits}/{bits}": [(bits, bits)] * len(layers) for bits in (2, 4, 6)},
        "weights 4, inputs 8": [(4, 8)] * len(layers),
        "weights 8, inputs 4": [(8, 4)] * len(layers),
    }
    reference = latency(model, layers, [(8, 8)] * len(layers))
    return {name: latency(model, layers, policy) / reference for name, policy in policies.items()}


if __name__ == "__main__":
    for name, ratio in ratios().items():
        print(f"{ratio:.4f}  {name}")
