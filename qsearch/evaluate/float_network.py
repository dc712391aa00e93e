"""The float network of an evaluator, for sensitivities that differentiate its loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from qsearch.evaluate.data import Split
from qsearch.protocols import Correction, FloatNetwork, Workload
from qsearch.quantize.modules import QUANTISABLE, Inputs
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.unfolding import unfold


class CalibratedFloatNetwork(FloatNetwork):
    """See :class:`qsearch.protocols.FloatNetwork`; weights and inputs are quantised as an evaluation quantises them.

    Args:
        workload: the network and its loss.
        names: names of its layers.
        quantized: the network that evaluations use; it is only asked for its grids.
        data: the calibration data.
        batch_size: samples in a batch.
    """

    def __init__(
        self, workload: Workload, names: tuple[str, ...], quantized: QuantizedNetwork, data: Split, batch_size: int
    ) -> None:
        first = next(data.batches(batch_size)).inputs
        self.model = unfold(workload.model(), first).network.requires_grad_(True)
        modules = dict(self.model.named_modules())
        self.layers: Mapping[str, nn.Module] = {name: modules[name] for name in names}
        for module in self.layers.values():  # a weight that layers share is quantised by each of them on its own
            if isinstance(module, QUANTISABLE):
                module.weight = nn.Parameter(module.weight.detach().clone())
        self._workload, self._quantized, self._data, self._batch_size = workload, quantized, data, batch_size

    def batches(self) -> Iterator[tuple[Inputs, Tensor]]:
        """See :class:`qsearch.protocols.FloatNetwork`."""
        for batch in self._data.batches(self._batch_size):
            yield batch.inputs, batch.targets

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The workload's loss."""
        return torch.as_tensor(self._workload.loss(output, target))

    def quantized_weight(self, site: str, bits: int) -> Tensor:
        """See :class:`qsearch.protocols.FloatNetwork`."""
        return self._quantized.quantized_weight(site, bits).values.detach().clone()

    def quantized_input(self, site: str, bits: int, x: Tensor) -> Tensor:
        """See :class:`qsearch.protocols.FloatNetwork`."""
        return self._quantized.activation_quantizer(site, bits)(x)

    def step(self, site: str, bits: int) -> Tensor:
        """See :class:`qsearch.protocols.FloatNetwork`."""
        if not self._quantized.is_weight(site):
            quantizer = self._quantized.activation_quantizer(site, bits)
            return quantizer.scale.abs() * (2 if quantizer.grid is None else 1)
        weight = self.layers[site.removesuffix(".weight")].weight
        assert isinstance(weight, Tensor)
        power = weight.detach().flatten(1).square().mean(-1)
        if bits == 0:
            return (12 * power).sqrt()
        scales = self._quantized.quantized_weight(site, bits).scales.abs() * (2 if bits == 1 else 1)
        return scales * (power > 0)  # a kernel that is zero stays so at any bits

    def correction(self, layer: str) -> Correction:
        """See :class:`qsearch.protocols.FloatNetwork`."""
        return self._quantized.corrections.get(layer, "none")
