"""Trials to JSON values and back, exactly: a replayed trial equals the one that was recorded."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsearch.trial import Cost, Quality


def quality_to_json(quality: Quality) -> dict[str, Any]:
    """A quality as JSON values; outcomes of 0 and 1 take a bit each, others four bytes."""
    return {
        "name": quality.name,
        "metric": quality.metric,
        "loss": quality.loss,
        "samples": quality.samples,
        "standard_error": quality.standard_error,
        "outcomes": None if quality.outcomes is None else _pack(quality.outcomes),
        **({"details": dict(quality.details)} if quality.details else {}),
    }


def quality_from_json(value: dict[str, Any]) -> Quality:
    """Inverse of :func:`quality_to_json`."""
    outcomes = value["outcomes"]
    return Quality(**{**value, "outcomes": None if outcomes is None else _unpack(outcomes, value["samples"])})


def cost_to_json(cost: Cost) -> dict[str, Any]:
    """A cost as JSON values."""
    return {
        "totals": dict(cost.totals),
        "units": dict(cost.units),
        "layers": {
            layer: {metric: float(value) for metric, value in found.items()} for layer, found in cost.layers.items()
        },
        **({"deviations": dict(cost.deviations)} if cost.deviations else {}),
    }


def cost_from_json(value: dict[str, Any]) -> Cost:
    """Inverse of :func:`cost_to_json`."""
    return Cost(value["totals"], value["units"], value["layers"], value.get("deviations", {}))


def _pack(outcomes: NDArray[np.float32]) -> str:
    binary = bool(np.all((outcomes == 0) | (outcomes == 1))) and not np.signbit(outcomes).any()  # −0 is not 0
    data = np.packbits(outcomes.astype(bool)).tobytes() if binary else outcomes.astype("<f4").tobytes()
    return ("b" if binary else "f") + base64.b64encode(data).decode()


def _unpack(text: str, count: int) -> NDArray[np.float32]:
    data = base64.b64decode(text[1:])
    if text[0] == "b":
        return np.unpackbits(np.frombuffer(data, np.uint8), count=count).astype(np.float32)
    return np.frombuffer(data, "<f4").astype(np.float32)
