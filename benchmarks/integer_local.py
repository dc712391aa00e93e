"""How many bits do states, weights and errors need to learn in whole numbers, and what memory does that take?

    OMP_NUM_THREADS=1 python benchmarks/integer_local.py              three seeds; resumable
    python benchmarks/integer_local.py --tables                       only what is there already, as Markdown

The network of ``digits-spiking`` learns from random weights by :mod:`qsearch.training.integer_local`, and is judged on the
397 test images, by which nothing was chosen. One kind of bits varies at a time: states 6–12, weights 2–8, errors 2–8; the
others stay at ``BASE``. Constants have 8 bits. Weights of few bits are stored with these, and once more with ``STORED``, and
act with few. The reference learns by the same rules in float, with the squared and with the smooth L1 error. Intervals are
95 % by Student's t over seeds. Schaefer and Joshi (ICONS 2020) have, on DVS gestures, 75.7, 80.6, 87.5, 91.0, 91.3, 90.6 and
92.0 % at 6 … 12 bits of P and Q, and 94.1 % in float: the shape, not the height, is to be compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from records import Records
from scipy.stats import t as student

from qsearch import registry
from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.evaluate.data import read
from qsearch.layers import Layer
from qsearch.quantize.trace import trace_layers

BASE = {"weights": 8, "states": 12, "errors": 8}
CONSTANTS = 8
STORED = 8
"""Bits with which weights that act with fewer are stored."""

VARIED = {"states": (6, 7, 8, 9, 10, 11, 12), "weights": (2, 3, 4, 6, 8), "errors": (2, 3, 4, 6, 8)}
PUBLISHED = {6: 75.7, 7: 80.6, 8: 87.5, 9: 91.0, 10: 91.3, 11: 90.6, 12: 92.0}
"""Accuracy in % by bits of P and Q."""


def assignment(layers: tuple[Layer, ...], weights: int, states: int) -> BitAssignment:
    """One bitwidth for all weights and one for all states; everything in float where both are so."""
    constants = FLOAT_BITS if states == FLOAT_BITS else CONSTANTS
    bits: dict[str, int] = {}
    for layer in layers:
        if layer.weighted:
            bits[layer.weight_site] = weights
        elif layer.kind == "neuron":
            bits[layer.activation_site] = states
        if layer.kind == "threshold" or (layer.kind == "neuron" and layer.constants):
            bits[layer.weight_site] = constants
    return BitAssignment(bits)


def jobs(seeds: int) -> list[dict[str, Any]]:
    """Float first, then each kind of bits."""
    floating = {"weights": FLOAT_BITS, "states": FLOAT_BITS, "errors": 8, "stored": None}
    settings: list[dict[str, Any]] = [{**floating, "loss": "sse"}, {**floating, "loss": "smooth-l1"}]
    for name, choices in VARIED.items():
        settings += [{**BASE, name: bits, "stored": None, "loss": "sse"} for bits in choices]
    settings += [
        {**BASE, "weights": bits, "stored": STORED, "loss": "sse"} for bits in VARIED["weights"] if bits < STORED
    ]
    distinct = [dict(pairs) for pairs in dict.fromkeys(tuple(setting.items()) for setting in settings)]
    return [{**setting, "seed": seed} for seed in range(seeds) for setting in distinct]


def run(records: Records, seeds: int, epochs: int) -> None:
    """Find what is missing."""
    workload = registry.create("workloads", "digits-spiking", {})
    example = read(workload.calibration(), "calibration data").head(7).inputs
    layers = trace_layers(workload.model(), example)
    kind = registry.load("evaluators", "integer-local")
    for job in jobs(seeds):
        named = {**job, "epochs": epochs}
        if named in records:
            continue
        options = kind.Options(
            epochs=epochs, error_bits=job["errors"], stored_bits=job["stored"], loss=job["loss"], threads=1
        )
        evaluator, bits = kind(workload, layers, options), assignment(layers, job["weights"], job["states"])
        quality = evaluator.evaluate(bits, seed=job["seed"])
        accuracy = evaluator.test(bits).metric
        records.add(named, {"accuracy": accuracy, "validation": quality.metric, **quality.details})
        print(job, f"{accuracy:.3f}", flush=True)


def interval(values: list[float]) -> str:
    """Mean and half the width of its interval, in points."""
    mean = 100 * float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.1f}"
    half = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return f"{mean:.1f} ± {100 * half:.1f}"


def tables(records: Records, seeds: int, epochs: int) -> None:
    """What is there, as Markdown."""
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for job in jobs(seeds):
        if (named := {**job, "epochs": epochs}) in records:
            key = tuple(job[name] for name in ("weights", "stored", "states", "errors", "loss"))
            found.setdefault(key, []).append(records[named])
    print("| weights | stored | states | errors | loss | accuracy, % | memory | published, % |\n" + "|---" * 8 + "|")
    for (weights, stored, states, errors, loss), results in found.items():
        varies = stored is None and weights == BASE["weights"] and errors == BASE["errors"]
        published = PUBLISHED.get(states, "") if varies else ""
        shown = ["float" if bits == FLOAT_BITS else str(bits) for bits in (weights, stored or weights, states)]
        shown.append("float" if states == FLOAT_BITS else str(errors))
        accuracy = interval([result["accuracy"] for result in results])
        share = results[0]["memory_share"]
        print(f"| {' | '.join(shown)} | {loss} | {accuracy} | {share:.1%} | {published} |")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="only print what is there")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--records", type=Path, default=Path("runs/integer_local.jsonl"))
    given = parser.parse_args()
    records = Records(given.records)
    if not given.tables:
        run(records, given.seeds, given.epochs)
    tables(records, given.seeds, given.epochs)


if __name__ == "__main__":
    main()
