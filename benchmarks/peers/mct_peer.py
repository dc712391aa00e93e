"""Sony's model-compression-toolkit: its mixed precision of weights, with or without its gradient-based rounding.

The target is its own IMX500 description with other bits of weights: symmetric scales per channel, by squared error;
activations at 8 bits with power-of-two scales; batch-norms folded, biases corrected. What differs: weights are not padded to
the accelerator's vectors, or its memory would not be the number of weights times their bits.

It imports layers for object detection from ``edgemdt_cl``, which will not load without torchvision. None of them is used
here, so empty classes stand in for them: nothing else of torchvision is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
from exchange import Given
from torch import Tensor, nn
from worker import Quantized, main

DETECTION = "edgemdt_cl.pytorch"

WEIGHTED = (nn.Conv2d, nn.Linear)
"""Layers whose weights are quantised."""


def stand_in() -> ModuleType:
    """A module with the names that the toolkit imports from :data:`DETECTION`."""
    module = ModuleType(DETECTION)
    for name in ("CustomLayer", "MulticlassNMS", "MulticlassNMSWithIndices", "MulticlassNMSOBB"):
        setattr(module, name, type(name, (nn.Module,), {}))
    return module


sys.modules.setdefault(DETECTION, stand_in())

import model_compression_toolkit as mct  # type: ignore[import-not-found]  # noqa: E402  # only in its own environment
from mct_quantizers import PytorchQuantizationWrapper  # type: ignore[import-not-found]  # noqa: E402
from model_compression_toolkit.target_platform_capabilities.constants import (  # type: ignore[import-not-found]  # noqa: E402
    KERNEL_ATTR,
    WEIGHTS_N_BITS,
)
from model_compression_toolkit.target_platform_capabilities.tpc_models.imx500_tpc.v1_0 import (  # type: ignore[import-not-found]  # noqa: E402
    tpc,
)


def quantize(given: Given, budget: float, options: dict[str, Any]) -> Quantized:
    """Options: ``uniform`` (else searched), ``bits`` to choose from, ``epochs`` of gradient-based rounding."""
    network = given.network()
    chosen = [int(budget)] if options["uniform"] else sorted(options["bits"], reverse=True)
    limit = None if options["uniform"] else mct.core.ResourceUtilization(weights_memory=budget * weights(network) / 8)
    mixed = None if options["uniform"] else mct.core.MixedPrecisionQuantizationConfig()
    settings = {
        "target_resource_utilization": limit,
        "core_config": mct.core.CoreConfig(mixed_precision_config=mixed),
        "target_platform_capabilities": platform(chosen),
    }

    def images() -> Iterator[list[Tensor]]:
        for batch, _ in given.batches():
            yield [batch]

    if options["epochs"]:
        rounding = mct.gptq.get_pytorch_gptq_config(n_epochs=options["epochs"])
        found, _ = mct.gptq.pytorch_gradient_post_training_quantization(
            network, images, gptq_config=rounding, **settings
        )
    else:
        found, _ = mct.ptq.pytorch_post_training_quantization(network, images, **settings)
    return read(found.eval(), [name for name, module in network.named_modules() if isinstance(module, WEIGHTED)])


def platform(bits: Sequence[int]) -> Any:
    """The IMX500's description with these bits of weights, of which the first is the highest."""
    base, _, other = tpc.get_op_quantization_configs()
    choices = [base.clone_and_edit(attr_to_edit={KERNEL_ATTR: {WEIGHTS_N_BITS: value}}) for value in bits]
    made = tpc.generate_tpc(
        default_config=other, base_config=choices[0], mixed_precision_cfg_list=choices, name="compared"
    )
    return made.model_copy(update={"is_simd_padding": False})


def weights(network: nn.Module) -> int:
    """Weights of all layers that are quantised."""
    return sum(module.weight.numel() for module in network.modules() if isinstance(module, WEIGHTED))


def read(network: nn.Module, layers: Sequence[str]) -> Quantized:
    """Bits and values of the weights, under the names of the float network.

    The toolkit writes a name's dots as underscores, and a folded batch-norm behind it.
    """
    names = {name.replace(".", "_"): name for name in layers}
    bits, values = {}, {}
    for name, wrapper in network.named_modules():
        if isinstance(wrapper, PytorchQuantizationWrapper) and isinstance(wrapper.layer, WEIGHTED):
            layer = names[name.removesuffix("_bn")]
            ((_, weight, quantizer),) = wrapper.get_weights_vars()
            bits[layer] = quantizer.num_bits
            with torch.no_grad():
                values[layer] = quantizer(weight)
    return Quantized(network, bits, values)


if __name__ == "__main__":
    main(quantize)
