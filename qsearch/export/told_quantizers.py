"""Quantisers of activations as JSON, for formats that carry them in metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from qsearch.quantize.activations import ActivationQuantizer
from qsearch.quantize.grid import Grid


def described(quantizer: ActivationQuantizer) -> dict[str, float]:
    """Bits, scale, and the ends of the grid where it has some."""
    ends = {} if quantizer.grid is None else {"low": quantizer.grid.low, "high": quantizer.grid.high}
    return {"bits": quantizer.bits, "scale": float(quantizer.scale), **ends}


def quantizer_of(told: Mapping[str, Any]) -> ActivationQuantizer:
    """The quantiser that :func:`described` tells of."""
    grid = Grid(told["low"], told["high"]) if "low" in told else None
    return ActivationQuantizer(told["bits"], torch.tensor(told["scale"]), grid)
