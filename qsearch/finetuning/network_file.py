"""``network.safetensors``: what training has settled on, to be evaluated and exported without training again.

===========================  ====================================================================================
tensor                       content
===========================  ====================================================================================
``state/NAME``               a parameter or buffer of the unfolded network in float
``weight/SITE/b/codes``      integers of the weight at b bits, of its shape; likewise ``scales``, ``values``, ``errors``
``overlay/SITE/b/k/p/mask``  of the weight overlaid with k kept at b bits in pattern p; likewise ``ternary``,
                             ``ternary_scales``, ``codes``, ``scales``, ``values``, ``errors``
``input/SITE/scale``         step of an input
``register/SITE``            bits and exponent of the register of a state; of that of a leak or threshold, its lowest code
                             too. Leaks and thresholds themselves are in the state
===========================  ====================================================================================

The metadata ``inputs`` is JSON: site → bits, and low and high of its grid; without those for the two levels ±scale. It is
the only entry, as the order of several would differ from file to file.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from qsearch.errors import SpaceError, StorageError
from qsearch.evaluate.data import read
from qsearch.files import write_atomically
from qsearch.finetuned import NETWORK, RESULT
from qsearch.quantize.activations import ActivationQuantizer
from qsearch.quantize.grid import Grid
from qsearch.quantize.network import QuantizedNetwork, Settled
from qsearch.quantize.neurons import Register
from qsearch.quantize.overlay import OverlaidWeight
from qsearch.quantize.weights import QuantizedWeight
from qsearch.setting import Setting
from qsearch.spiking.fixed_point import ConstantGrid, StateGrid

_PARTS = ("codes", "scales", "values", "errors")
_OVERLAID_PARTS = ("ternary", "ternary_scales", "mask", *_PARTS)


def write_settled(settled: Settled, folder: Path) -> None:
    """Put what was settled on into a folder, whole or not at all.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    tensors = {f"state/{name}": value for name, value in settled.state.items()}
    for site, found in settled.weights.items():
        for weight in found:
            tensors |= {f"weight/{site}/{weight.bits}/{part}": getattr(weight, part) for part in _PARTS}
    for site, overlaid in settled.overlays.items():
        chosen = f"{overlaid.bits}/{overlaid.kept}/{overlaid.pattern}"
        tensors |= {f"overlay/{site}/{chosen}/{part}": getattr(overlaid, part) for part in _OVERLAID_PARTS}
    tensors |= {f"input/{site}/scale": quantizer.scale for site, quantizer in settled.inputs.items()}
    registers = {site: list(asdict(register).values()) for site, register in settled.registers.items()}
    tensors |= {f"register/{site}": torch.tensor(numbers) for site, numbers in registers.items()}
    inputs = {site: _described(quantizer) for site, quantizer in settled.inputs.items()}
    whole = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    write_atomically(folder / NETWORK, save(whole, {"inputs": json.dumps(inputs, sort_keys=True)}))


def read_settled(folder: Path) -> Settled:
    """What :func:`write_settled` has put there.

    Raises:
        StorageError: it is missing or damaged.
    """
    path = folder / NETWORK
    try:
        with safe_open(path, "pt") as file:
            inputs = json.loads(file.metadata()["inputs"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        return _settled(tensors, inputs)
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, SpaceError) as error:
        raise StorageError(
            "a fine-tuned network must be readable",
            got=f"{path}: {type(error).__name__}: {error}",
            fix=f"remove {folder / RESULT}; the same qsearch finetune makes it again",
        ) from error


def settled_network(setting: Setting, settled: Settled) -> QuantizedNetwork:
    """The network that training has settled on, ready for its assignment; nothing in it is corrected."""
    workload = setting.workload
    first = read(islice(workload.calibration(), 1), f"calibration loader of workload {workload.name!r}")
    return QuantizedNetwork(workload.model(), setting.problem.layers, [first.inputs], correction=False, settled=settled)


def _settled(tensors: Mapping[str, Tensor], inputs: Mapping[str, Any]) -> Settled:
    state: dict[str, Tensor] = {}
    weights: dict[str, dict[int, dict[str, Tensor]]] = defaultdict(lambda: defaultdict(dict))
    overlays: dict[tuple[str, int, int, int], dict[str, Tensor]] = defaultdict(dict)
    scales: dict[str, Tensor] = {}
    registers: dict[str, Register] = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "state":
            state[rest] = value
        elif kind == "weight":
            site, bits, part = rest.rsplit("/", 2)
            weights[site][int(bits)][part] = value
        elif kind == "overlay":
            site, bits, kept, pattern, part = rest.rsplit("/", 4)
            overlays[site, int(bits), int(kept), int(pattern)][part] = value
        elif kind == "register":
            registers[rest] = _register(value)
        else:
            scales[rest.removesuffix("/scale")] = value
    return Settled(
        state,
        {site: [QuantizedWeight(b, **parts) for b, parts in sorted(found.items())] for site, found in weights.items()},
        {site: _quantizer(scales[site], described) for site, described in inputs.items()},
        {site: OverlaidWeight(b, kept, p, **parts) for (site, b, kept, p), parts in overlays.items()},
        registers,
    )


def _register(numbers: Tensor) -> Register:
    bits, exponent, *fewest = numbers.tolist()
    return ConstantGrid(bits, exponent, *fewest) if fewest else StateGrid(bits, exponent)


def _described(quantizer: ActivationQuantizer) -> dict[str, int]:
    ends = {} if quantizer.grid is None else {"low": quantizer.grid.low, "high": quantizer.grid.high}
    return {"bits": quantizer.bits, **ends}


def _quantizer(scale: Tensor, described: Mapping[str, int]) -> ActivationQuantizer:
    grid = Grid(described["low"], described["high"]) if "low" in described else None
    return ActivationQuantizer(described["bits"], scale, grid)
