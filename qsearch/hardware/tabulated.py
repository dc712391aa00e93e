"""``Tabulated``: cost models that know what a layer costs at each pair of bits, and nothing about single kernels.

Notation

=====  =================================================================================
w, a   bits of a layer's weights and of its input
T      cost of the layer at (w, a), shape (33, 33); NaN where that is not known
=====  =================================================================================

A layer whose kernels differ runs at the highest bits among them (``kernels: highest``), or costs the mean of what it
costs at the bits of each (``kernels: mean``). A layer without weights left, all kernels pruned, costs nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import FLOAT_BITS, BitArray
from qsearch.errors import QSearchError
from qsearch.hardware.base import Costs, VectorCostModel
from qsearch.layers import Layer

KernelRule = Literal["highest", "mean"]
Table = Mapping[str, NDArray[np.float64]]
"""Metric → T, shape (33, 33), indexed by weight bits and activation bits."""


def cheapest_holding(pairs: Sequence[tuple[int, int]], costs: NDArray[np.float64]) -> NDArray[np.intp]:
    """Which of several pairs of bits a layer runs at: the cheapest of those at least as wide.

    Args:
        pairs: weight and activation bits.
        costs: at each of them, shape (n,).

    Returns:
        Index of the pair at (w, a), shape (33, 33); −1 where none is as wide.
    """
    found = np.full((FLOAT_BITS + 1, FLOAT_BITS + 1), -1, dtype=np.intp)
    for index in np.argsort(-costs, kind="stable"):  # the cheapest last: it stays where several are wide enough
        weight, activation = pairs[index]
        found[: weight + 1, : activation + 1] = index
    return found


class Tabulated(VectorCostModel):
    """A cost model from one table per layer; tables are made once per layer and kept."""

    kernels: KernelRule = "highest"

    @property
    def kernel_additive(self) -> bool:  # type: ignore[override]  # follows from an option
        """See :attr:`qsearch.protocols.CostModel.kernel_additive`."""
        return self.kernels == "mean"

    @abstractmethod
    def table(self, layer: Layer) -> Table:
        """T of each metric for one layer; T at 0 weight bits is 0 unless the model knows better.

        Raises:
            QSearchError: nothing is known of the layer.
        """

    @abstractmethod
    def refusal(self, layer: Layer, weight_bits: int, activation_bits: int) -> QSearchError:
        """Why the table has no answer at these bits, in one line."""

    @cached_property
    def _tables(self) -> dict[Layer, Table]:
        return {}

    def layer_costs(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray) -> Costs:
        """See :meth:`VectorCostModel.layer_costs`.

        Raises:
            QSearchError: :meth:`refusal` of the first pair of bits without an answer.
        """
        if layer not in self._tables:
            self._tables[layer] = self.table(layer)
        return self.looked_up(layer, self._tables[layer], weight_bits, activation_bits)

    def looked_up(self, layer: Layer, table: Table, weight_bits: BitArray, activation_bits: BitArray) -> Costs:
        """A table of the layer read at a batch of bits, by the rule for kernels; shapes as in :meth:`layer_costs`.

        Raises:
            QSearchError: as :meth:`layer_costs`.
        """
        weight = weight_bits.max(axis=1, keepdims=True) if self.kernels == "highest" else weight_bits
        none = layer.kind in ("embedding", "threshold")  # no activation site
        activation = np.full_like(activation_bits, FLOAT_BITS) if none else activation_bits
        # places within T, row after row; bits may come in 8-bit integers, which would overflow
        places = weight.astype(np.intp, copy=False) * (FLOAT_BITS + 1) + activation[:, None].astype(np.intp, copy=False)
        costs: dict[str, NDArray[np.float64]] = {}
        for metric, values in table.items():
            costs[metric] = values.take(places).mean(axis=1)
            unknown = np.flatnonzero(np.isnan(costs[metric]))
            if unknown.size:
                row = int(unknown[0])
                column = int(np.argmax(np.isnan(values.take(places[row]))))
                raise self.refusal(layer, int(weight[row, column]), int(activation[row]))
        return costs
