"""``VectorCostModel``: a cost model written once for a whole batch of assignments.

Notation

=====  =================================================================================
A      assignments in a batch
K      kernels of a layer
w      weight bits, shape (A, K), or (A, 1) where all kernels of a layer agree
a      activation bits, shape (A,)
=====  =================================================================================

The scalar and the batched answers are the same numbers, bit for bit: both run the same arithmetic and add the layers in
the same order. So an assignment that defines a relative budget is always within it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qsearch.assignment import FLOAT_BITS, BitArray, BitAssignment
from qsearch.errors import CostModelError, SpaceError
from qsearch.hardware.constants import Constant, Platform, overridden
from qsearch.layers import Layer
from qsearch.protocols import CostModel
from qsearch.registry import PluginOptions
from qsearch.space import SiteBits
from qsearch.trial import Cost

Costs = Mapping[str, NDArray[np.float64]]
"""Metric → cost of each assignment of a batch, shape (A,)."""


class PlatformOptions(PluginOptions):
    """Options of a model with named platforms; what subclasses add takes the place of the platform's number of that name."""

    platform: str
    batch: int = Field(default=1, ge=1)
    """Samples per forward pass."""

    def chosen(self, platforms: Mapping[str, Platform]) -> Platform:
        """The platform of that name, with the numbers that the options name replaced."""
        return overridden(platforms[self.platform], self.model_dump(exclude={"platform", "batch"}))


class VectorCostModel(CostModel):
    """A cost model with one vectorised method; everything else follows from it.

    Subclasses set ``units`` and write :meth:`layer_costs`. The cost of a network is the sum over its layers, or the
    greatest of theirs for metrics named in ``maxima``.
    """

    @property
    def constants(self) -> Mapping[str, Constant]:
        """Every number of hardware the model uses, with unit and source."""
        return {}

    @abstractmethod
    def layer_costs(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray) -> Costs:
        """Costs of one layer under a batch of bits.

        Args:
            layer: geometry of the layer.
            weight_bits: w, shape (A, K), or (A, 1) where one number stands for all kernels. 0 is a pruned
                kernel, 32 is float.
            activation_bits: a, shape (A,).

        Returns:
            Metric → shape (A,).
        """

    def layer_cost(self, layer: Layer, weight_bits: BitArray, activation_bits: int) -> Mapping[str, float]:
        """Cost of one layer under one assignment; see :meth:`CostModel.layer_cost`.

        Raises:
            SpaceError: bits outside 0..32, or of a length that the layer does not have.
        """
        costs = self._checked_costs(layer, np.asarray(weight_bits)[None], np.asarray([activation_bits]))
        return {metric: float(value[0]) for metric, value in costs.items()}

    def estimate(self, layers: Sequence[Layer], assignment: BitAssignment) -> Cost:
        """Cost of a network, with its breakdown by layer; bits of an assignment were checked when it was made."""
        if type(self).layer_cost is not VectorCostModel.layer_cost:  # a subclass has its own
            return super().estimate(layers, assignment)
        parts: dict[str, Mapping[str, float]] = {}
        for layer in layers:
            weight = assignment.vector(layer.weight_site, layer.kernels)[None]
            costs = self.layer_costs(layer, weight, np.asarray([assignment.highest(layer.activation_site)]))
            _check_answer(layer, costs, 1)
            parts[layer.name] = {metric: float(value[0]) for metric, value in costs.items()}
        return self.added_up(parts)

    def estimate_many(self, layers: Sequence[Layer], bits: SiteBits) -> Mapping[str, NDArray[np.float64]]:
        """Totals of a batch of A assignments: metric → shape (A,); no loop over the assignments.

        Raises:
            SpaceError: bits outside 0..32, or of a length that a layer does not have.
        """
        batch = max(len(value) for value in bits.values())
        totals = {metric: np.zeros(batch) for metric in self.units}
        for layer in layers:
            weight = np.asarray(bits[layer.weight_site])
            activation = np.asarray(bits.get(layer.activation_site, np.asarray([[FLOAT_BITS]]))).max(axis=1)
            rows = max(len(weight), len(activation))
            if len(weight) < rows:
                weight = np.broadcast_to(weight, (rows, weight.shape[1]))
            elif len(activation) < rows:
                activation = np.broadcast_to(activation, (rows,))
            costs = self._checked_costs(layer, weight, activation)
            for metric, value in costs.items():
                if metric not in totals:
                    raise CostModelError(f"every metric of a cost model must have a unit, {metric!r} has none")
                combine = np.maximum if metric in self.maxima else np.add
                combine(totals[metric], value, out=totals[metric])
        return totals

    def _checked_costs(self, layer: Layer, weight: BitArray, activation: BitArray) -> Costs:
        """:meth:`layer_costs` of bits that are known to be integers in range, as 64-bit integers."""
        if weight.ndim != 2 or weight.shape[1] not in (1, layer.kernels):
            raise SpaceError(
                f"layer {layer.name!r} has {layer.kernels} kernels", got=f"bits of shape {weight.shape[1:]}"
            )
        for array in (weight, activation):
            if array.dtype.kind not in "iu":
                raise SpaceError(f"bits of layer {layer.name!r} must be integers", got=str(array.dtype))
            unsigned = array.view(f"u{array.itemsize}")  # of which negative numbers are the greatest
            if int(unsigned.max(initial=0)) > FLOAT_BITS:
                low, high = int(array.min(initial=0)), int(array.max(initial=0))
                raise SpaceError(
                    f"bits of layer {layer.name!r} must be within 0..{FLOAT_BITS}", got=low if low < 0 else high
                )
        costs = self.layer_costs(layer, weight.astype(np.int64, copy=False), activation.astype(np.int64, copy=False))
        _check_answer(layer, costs, len(activation))
        return costs


def _check_answer(layer: Layer, costs: object, batch: int) -> None:
    """What a user's ``layer_costs`` returned.

    Raises:
        CostModelError: no mapping, or a cost that is no array of a number for each assignment.
    """
    fix = 'return {"latency": seconds} with a number for each assignment in seconds'
    if not isinstance(costs, Mapping):
        raise CostModelError("layer_costs must return a mapping {metric: array}", got=_what(costs), fix=fix)
    for metric, value in costs.items():
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu" or value.shape != (batch,):
            raise CostModelError(
                f"layer_costs must give {metric} of layer {layer.name!r} as a NumPy array of shape ({batch},)",
                got=_what(value),
                fix=fix,
            )


def _what(value: object) -> str:
    """A value as a reader would name it, not the whole of it."""
    if value is None:
        return "None"
    shape = getattr(value, "shape", None)
    kind = f"{type(value).__module__.partition('.')[0]} {type(value).__name__}".removeprefix("builtins ")
    return (
        f"{kind} {repr(value)[:40]}"
        if shape is None
        else f"{kind} of shape {tuple(shape)}, {getattr(value, 'dtype', '')}"
    )
