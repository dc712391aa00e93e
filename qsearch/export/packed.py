"""``safetensors``: integer codes packed to the bit, with scales: the file whose size a search has paid for.

Three tensors per weight, K kernels of p weights each, kernel k at b_k bits (see :mod:`qsearch.hardware.size`):

==============  ========  ===========================================================================================
tensor          type      content
==============  ========  ===========================================================================================
``SITE.bits``   U8        b_k in 6 bits each, as a stream of bits
``SITE.scales`` I16, F32  scale of each kernel that is stored as codes, in order; of a 16-bit one c the sign is that of c,
                          the magnitude 2^(low + step·(|c| − 1)), and none where c = 0
``SITE.codes``  U8        the kernels' codes, b_k bits each, as one stream of bits; a kernel with b_k·p + (bits of a
                          scale) > 32·p is stored as p float32, like those at 32 bits; one at 0 bits not at all
==============  ========  ===========================================================================================

All streams have the lowest bit first (see :mod:`qsearch.export.bits`): codes are two's complement, and at 1 bit a set
bit is −1, else +1. Biases, batch-norm statistics and whatever else the network keeps are float tensors under their own names.
The metadata are JSON: ``format`` (1), ``weights`` (site → shape, low, step), ``inputs`` (activation site → bits, scale,
low, high; no low and high for the two levels ±scale; a site in float is not among them).

To read a weight needs no qsearch::

    bits = np.unpackbits(t[site + ".bits"], bitorder="little")[: 6 * K].reshape(K, 6) @ (1 << np.arange(6))
    c = t[site + ".scales"]
    scales = iter(np.sign(c) * 2.0 ** (low + step * (abs(c.astype(float)) - 1)) if c.itemsize == 2 else c)
    stream, at = np.unpackbits(t[site + ".codes"], bitorder="little"), 0
    for k, b in enumerate(bits):
        whole = b == 32 or b * p + 8 * c.itemsize > 32 * p
        width = 32 if whole else b
        u = stream[at : at + width * p].reshape(p, width) @ (1 << np.arange(width))
        q = u if b == 0 else 1 - 2 * u if b == 1 else u - ((u >> (b - 1)) << b)
        w[k] = u.astype(np.uint32).view(np.float32) if whole else q * next(scales) if b else 0
        at += width * p

Scales of 16 bits are what the cost models promise by default. They are logarithms, spaced evenly between the least and the
greatest of a weight: where those are a factor of 16 apart they are off by 4·10⁻⁵ at most, a sixth of float16's rounding.
Where a batch norm follows it takes the difference out (see :mod:`qsearch.quantize.folding`): the floats in the file are
those of the network that it is. Where the network's predictions change even so, scales are stored in 32 bits.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from qsearch import registry
from qsearch.assignment import FLOAT_BITS
from qsearch.export.bits import pack, signed, unpack
from qsearch.export.deployment import Deployment, IntegerWeight, layer_of
from qsearch.export.formats import Runtime, in_torch
from qsearch.export.modules import QuantizedInput, quantise_operands
from qsearch.export.told_quantizers import described, quantizer_of
from qsearch.protocols import CostModel
from qsearch.quantize.folding import absorb, norms_behind

VERSION = "1"
"""Of the format, for readers to tell later ones by."""

FIELD_BITS = 6
"""Bits that tell a kernel's bitwidth."""

FILLED = 2
"""Bytes per weight below which its two streams of bits are filled up to whole ones."""


@dataclass(frozen=True)
class Spacing:
    """Where the scales of 16 bits of one weight lie: see the module.

    Attributes:
        low: log₂ of the least magnitude.
        step: between neighbours, in octaves.
    """

    low: float
    step: float

    @classmethod
    def of(cls, scales: NDArray[np.float32]) -> Spacing:
        """Evenly over the magnitudes of the scales that are not zero."""
        octaves = np.log2(np.abs(scales[scales != 0].astype(np.float64)))
        if not len(octaves):
            return cls(0.0, 0.0)
        return cls(float(octaves.min()), float(np.ptp(octaves)) / (np.iinfo(np.int16).max - 1))

    def encode(self, scales: NDArray[np.float32]) -> NDArray[np.int16]:
        """The nearest of the scales that can be stored, as integers; 0 for 0."""
        octaves = np.log2(np.abs(np.where(scales == 0, np.float32(1), scales)).astype(np.float64)) - self.low
        magnitude = 1 + np.rint(octaves / self.step) if self.step else np.ones(len(scales))
        return (np.sign(scales) * magnitude).astype(np.int16)

    def decode(self, stored: NDArray[np.int16]) -> NDArray[np.float64]:
        """The scales that integers stand for."""
        found: NDArray[np.float64] = np.sign(stored) * 2.0 ** (
            self.low + self.step * (np.abs(stored.astype(float)) - 1)
        )
        return found


class Packed:
    """Writes and loads ``.safetensors`` files.

    Args:
        scale_bits: of the scale of each kernel.
    """

    suffix = ".safetensors"
    runtime = "codes unpacked, in torch"

    def __init__(self, scale_bits: Literal[16, 32]) -> None:
        self.scale_bits = scale_bits
        self.told = f"scales of {scale_bits} bits"

    def write(self, deployment: Deployment, path: Path) -> list[str]:
        """See :class:`qsearch.export.formats.Format`."""
        tensors: dict[str, Tensor] = {}
        weights: dict[str, Any] = {}
        skeleton = copy.deepcopy(deployment.skeleton)
        norms = self._norms(deployment)
        for site, stored in deployment.weights.items():
            packed, spacing = pack_weight(stored, self.scale_bits)
            if layer_of(site) in norms:
                absorb(skeleton, layer_of(site), norms[layer_of(site)], rounding(stored, packed["scales"], spacing))
            tensors |= {f"{site}.{part}": torch.from_numpy(array) for part, array in packed.items()}
            weights[site] = {"shape": list(stored.codes.shape), **asdict(spacing)}
        taken = sum(tensor.nbytes for tensor in tensors.values())
        rest = {
            name: value.clone().contiguous()
            for name, value in skeleton.state_dict().items()
            if name not in deployment.weights
        }
        metadata = {
            "format": VERSION,
            "weights": json.dumps(weights),
            "inputs": json.dumps({site: described(quantizer) for site, quantizer in deployment.inputs.items()}),
        }
        content = save(tensors | rest, metadata)
        path.write_bytes(content)
        beside = sum(value.nbytes for value in rest.values())
        return [
            f"weights, {self.told} and bit-width fields take {taken:,} bytes; {self._kept(deployment, taken)}",
            f"biases, norms and other floats take {beside:,} bytes; header {len(content) - taken - beside:,} bytes",
            *([f"batch norms take out what {len(norms)} layers' scales are rounded by"] if norms else []),
        ]

    def load(self, path: Path, deployment: Deployment) -> Runtime:
        """The network in torch with every number taken from the file."""
        return in_torch(read_network(path, deployment.skeleton))

    def _norms(self, deployment: Deployment) -> dict[str, str]:
        """Layer → batch norm behind it, where scales are rounded."""
        if self.scale_bits == 32:
            return {}
        return norms_behind(deployment.skeleton, deployment.example, tuple(map(layer_of, deployment.weights)))

    def _kept(self, deployment: Deployment, taken: int) -> str:
        """The bytes that were promised, and by how much and why the weights take more."""
        by, promised = "the run's cost model", deployment.promised
        if promised is None:
            model: CostModel = registry.create("cost_models", "size", {})
            by = "the cost model 'size'"
            promised = model.estimate(deployment.layers, deployment.assignment).totals["size"]
        over = taken - promised
        if over <= 0:
            return f"{by} promised {promised:,.1f}"
        if over < FILLED * len(deployment.weights):
            why = "as streams of bits end on whole bytes"
        elif self.scale_bits == 32:
            why = "as scales of 16 bits do not agree with the evaluated network"
        else:
            why = "as it counts the weights in another way"
        share = f" ({over / promised:.1%})" if promised else ""
        return f"{by} promised {promised:,.1f}: {over:,.1f} more{share}, {why}"


def pack_weight(stored: IntegerWeight, scale_bits: int) -> tuple[dict[str, NDArray[Any]], Spacing]:
    """The three tensors of a weight, and how its scales are spaced."""
    codes = stored.codes.numpy().astype(np.int64).reshape(len(stored.bits), -1)
    floats = stored.values.numpy().astype(np.float32).reshape(codes.shape).view(np.uint32).astype(np.int64)
    whole = stored_whole(stored.bits, codes.shape[1], scale_bits)
    scales = np.where(codes.any(1), stored.scales.numpy(), np.float32(0))[~whole & (stored.bits > 0)]
    spacing = Spacing.of(scales)
    rows = [
        (floats[k], FLOAT_BITS) if whole[k] else ((codes[k] < 0).astype(np.int64) if b == 1 else codes[k], int(b))
        for k, b in enumerate(stored.bits)
        if b
    ]
    packed = {
        "bits": pack([(stored.bits.astype(np.int64), FIELD_BITS)]),
        "scales": spacing.encode(scales) if scale_bits == 16 else scales,
        "codes": pack(rows),
    }
    return packed, spacing


def rounding(stored: IntegerWeight, scales: NDArray[np.int16], spacing: Spacing) -> Tensor:
    """s′/s of each kernel, shape (K,): the scale of 16 bits over its own; 1 where none is stored, or a 0."""
    whole = stored_whole(stored.bits, stored.codes[0].numel(), 16)
    ratio = np.ones(len(stored.bits))
    with_scale = np.flatnonzero(~whole & (stored.bits > 0))
    used = scales != 0
    ratio[with_scale[used]] = spacing.decode(scales)[used] / stored.scales.numpy()[with_scale[used]]
    return torch.from_numpy(ratio).to(stored.values.dtype)


def unpack_weight(packed: Mapping[str, NDArray[Any]], shape: tuple[int, ...], spacing: Spacing) -> NDArray[np.float32]:
    """ŵ from the three tensors of a weight, of the given shape."""
    kernels, size = shape[0], int(np.prod(shape[1:]))
    bits = unpack(packed["bits"], [(kernels, FIELD_BITS)])[0]
    stored = packed["scales"]
    whole = stored_whole(bits, size, 8 * stored.itemsize)
    widths = [FLOAT_BITS if floats else int(b) for b, floats in zip(bits, whole, strict=True)]
    rows = unpack(packed["codes"], [(size, width) for width in widths])
    scales = iter(spacing.decode(stored) if stored.itemsize == 2 else stored)
    values = np.zeros((kernels, size), np.float32)
    for k, b in enumerate(bits):
        if whole[k]:
            values[k] = rows[k].astype(np.uint32).view(np.float32)
        elif b:
            values[k] = signed(rows[k], int(b)) * np.float64(next(scales))
    return values.reshape(shape)


def stored_whole(bits: NDArray[np.int_], size: int, scale_bits: int) -> NDArray[np.bool_]:
    """Which kernels of ``size`` weights are stored as floats: codes and scale would take more, or they are floats."""
    found: NDArray[np.bool_] = (bits == FLOAT_BITS) | ((bits > 0) & (bits * size + scale_bits > FLOAT_BITS * size))
    return found


def read_network(path: Path, skeleton: nn.Module) -> nn.Module:
    """A network with weights, other tensors and grids of a file.

    Args:
        skeleton: the same network; its numbers are not used.
    """
    network = copy.deepcopy(skeleton)
    with safe_open(path, "pt") as file:
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    for site, weight in metadata["weights"].items():
        packed = {part: state.pop(f"{site}.{part}").numpy() for part in ("bits", "scales", "codes")}
        spacing = Spacing(weight["low"], weight["step"])
        state[site] = torch.from_numpy(unpack_weight(packed, tuple(weight["shape"]), spacing))
    network.load_state_dict(state)
    modules = dict(network.named_modules())
    for name in dict.fromkeys(map(layer_of, metadata["inputs"])):
        modules[name].register_forward_pre_hook(quantise_operands, with_kwargs=True)
    for site, told in metadata["inputs"].items():
        quantize = QuantizedInput(site, quantizer_of(told))
        modules[layer_of(site)].add_module(f"quantize_{site.rpartition('.')[2]}", quantize)
    return network.eval()


FORMATS = (Packed(16), Packed(32))
"""Scales of 16 bits, unless predictions change by them."""
