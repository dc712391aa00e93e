"""NVIDIA's ModelOpt: uniform bits, or ``auto_quantize`` by gradients; no recovery follows.

Formats differ from its INT8 preset in the bits of the weights only: weights per channel, inputs per tensor at 8 bits,
batch-norms in float. Its search allows layers that are not quantised, at the price of 16 bits.
"""

from __future__ import annotations

from typing import Any

import modelopt.torch.quantization as mtq  # type: ignore[import-not-found]  # only in its own environment
import torch
from exchange import Given
from torch import nn
from worker import Quantized, main

INPUT_BITS = 8


def quantize(given: Given, budget: float, options: dict[str, Any]) -> Quantized:
    """Options: ``uniform`` (else searched), ``bits`` to choose from, ``ranges`` ("max" or "mse")."""
    network, ranges = given.network(), options["ranges"]
    batches = list(given.batches())
    if options["uniform"]:
        found = mtq.quantize(network, layer_format(int(budget), ranges), lambda model: run(model, given))
    else:
        found, _ = mtq.auto_quantize(
            network,
            constraints={"effective_bits": budget},
            quantization_formats=[layer_format(bits, ranges) for bits in options["bits"]],
            data_loader=batches,
            forward_step=lambda model, batch: model(batch[0]),
            loss_func=lambda output, batch: nn.functional.cross_entropy(output, batch[1]),
            num_calib_steps=len(batches),
            num_score_steps=len(batches),
        )
    return read(found.eval())


def layer_format(bits: int, ranges: str) -> dict[str, Any]:
    """A quantisation format: weights at ``bits`` per channel, inputs at 8."""
    return {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": bits, "axis": 0}},
            {"quantizer_name": "*input_quantizer", "cfg": {"num_bits": INPUT_BITS, "axis": None}},
            *({"quantizer_name": "*", "parent_class": f"nn.BatchNorm{n}d", "enable": False} for n in (1, 2, 3)),
        ],
        "algorithm": ranges,
    }


def run(model: nn.Module, given: Given) -> None:
    """Pass the calibration images."""
    for images, _ in given.batches():
        model(images)


def read(network: nn.Module) -> Quantized:
    """Bits and values of the weights; a layer that was left in float counts for 32 bits."""
    layers: dict[str, Any] = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and hasattr(module, "weight_quantizer")
    }
    bits, weights = {}, {}
    for name, layer in layers.items():
        quantizer = layer.weight_quantizer
        bits[name] = quantizer.num_bits if quantizer.is_enabled else 32
        with torch.no_grad():
            weights[name] = quantizer(layer.weight)
    return Quantized(network, bits, weights)


if __name__ == "__main__":
    main(quantize)
