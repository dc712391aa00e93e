"""What the process of every tool does: read what is given, quantise under the meter, predict, answer.

A tool's script defines ``quantize`` and hands it to :func:`main`. Imports and files are read before the meter runs, the judged
images pass after it has stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from exchange import Answer, Bits, Given, in_batches
from metering import Meter
from torch import Tensor


@dataclass(frozen=True)
class Quantized:
    """A quantised network.

    Attributes:
        predict: images → logits, with everything fake-quantised.
        bits: layer → bits of its weights.
        weights: layer → its quantised weights, kernels first.
    """

    predict: Callable[[Tensor], Tensor]
    bits: Mapping[str, Bits]
    weights: Mapping[str, Tensor]


Quantize: TypeAlias = Callable[[Given, float, dict[str, Any]], Quantized]
"""What is given, mean bits of the weights at most, options of the row → the quantised network."""


def main(quantize: Quantize) -> None:
    """Answer the command line's question."""
    parser = argparse.ArgumentParser()
    parser.add_argument("given", type=Path)
    parser.add_argument("answer", type=Path)
    parser.add_argument("--budget", type=float, required=True)
    parser.add_argument("--options", type=json.loads, default={})
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    given = Given(asked.given)
    with Meter(given.network(), given.inputs[:1]) as meter:
        found = quantize(given, asked.budget, asked.options)
    with torch.no_grad():
        logits = torch.cat([found.predict(batch) for batch in in_batches(given.judged)])
        weights = {name: value.detach().numpy() for name, value in found.weights.items()}
    Answer(found.bits, weights, logits.numpy(), meter.price).write(asked.answer)
