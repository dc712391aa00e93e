"""Measures the pools that ``surrogate_samples.py`` learns from, on a target that is really run or simulated.

Layers are those of MobileNetV2 at 224 pixels and of ResNet-20, each geometry once, and linear layers of the sizes that
classifiers and transformers have. Stopped and started again, it goes on where it was.

Run ``OMP_NUM_THREADS=1 python benchmarks/measured_pool.py onnxruntime FOLDER`` (a minute), or ``zigzag FOLDER`` (some ten
minutes).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from qsearch.layers import Layer
from qsearch.measurements import Measurement, geometry
from qsearch.measuring import Bench, measure_points
from qsearch.testing.networks import mobilenet_v2, resnet20

BITS = {"onnxruntime": ((4, 8, 32), (8, 32)), "zigzag": ((2, 4, 8), (4, 8))}
"""Target → weight and activation bits that are asked for, where it runs at them."""

REPEATS = 20


def linear_layers() -> tuple[Layer, ...]:
    """Linear layers of the sizes that classifiers and transformers have, on one vector and on 32 tokens."""
    sizes = ((64, 64), (256, 256), (384, 384), (384, 1536), (1536, 384), (768, 768), (1024, 1024))
    tokens = ((), (32,))
    return tuple(Layer("", "linear", a, b, input_size=t, output_size=t) for a, b in sizes for t in tokens)


def report(found: Measurement) -> None:
    """One line for what was measured."""
    layer = found.layer
    shape = f"{layer.kind} {layer.in_channels}→{layer.out_channels} {layer.kernel} {layer.output_size}"
    latency = found.failure or f"{found.value('latency'):.4g} ± {found.spread('latency'):.2g}"
    print(
        f"{shape:<44} {found.weight_bits:>2}/{found.activation_bits:<2} {latency:<24} {found.seconds:6.1f} s",
        flush=True,
    )


def main() -> None:
    """Measure every point of the pool that is not yet measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=sorted(BITS))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    weight_bits, activation_bits = BITS[arguments.target]
    layers = dict.fromkeys(geometry(layer) for layer in (*resnet20(), *linear_layers(), *mobilenet_v2()))
    with Bench(arguments.target, {}, arguments.folder, REPEATS, timeout=300.0) as bench:
        points = [
            (layer, weight, activation)
            for layer in layers
            for weight, activation in bench.precisions(layer)
            if weight in weight_bits and activation in activation_bits
        ]
        measure_points(bench, points, report)


if __name__ == "__main__":
    main()
