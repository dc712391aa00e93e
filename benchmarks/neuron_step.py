"""Time of neurons beside the convolution in front of them: 100 samples, 30 steps, 16 maps of 16 × 16, on one thread.

The convolution is one of 16 → 16 maps with 3 × 3 kernels, in float32, on the same samples and steps. Both run one after the
other in every repeat; the ratio is of the least time of either, as other work on the machine only adds to it. Forward
passes are without gradients; for those with a backward pass, on a fifth of the samples, gradients of inputs and parameters
are asked for.

Run ``OMP_NUM_THREADS=1 python benchmarks/neuron_step.py``; it prints a table in markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from qsearch.spiking.fixed_point import StateGrid, leak_grid, threshold_grid
from qsearch.spiking.neurons import Grids, Integrator, Neuron

SHAPE = (100, 30, 16, 16, 16)
LEAK = 0.9


def in_registers(state: int, leak: int, threshold: int = 4) -> Neuron:
    """A leaky neuron with registers of so many bits, whose state reaches to ±4."""
    neuron = Neuron(1.0, LEAK)
    neuron.grids = Grids(StateGrid(state, 3 - state), leak_grid(leak), threshold_grid(threshold, 1.0))
    return neuron


def neurons() -> Mapping[str, Integrator]:
    """What is timed, by name."""
    return {
        "integrate and fire": Neuron(1.0),
        "leaky": Neuron(1.0, LEAK),
        "leaky, reset to zero": Neuron(1.0, LEAK, reset="zero"),
        "leaky, several spikes": Neuron(1.0, LEAK, several=True),
        "integrator": Integrator(LEAK),
        "state 8 bits, leak 4": in_registers(8, 4),
        "state 16 bits, leak 8": in_registers(16, 8),
        "state 24 bits, leak 8 (float64)": in_registers(24, 8),
    }


def seconds(work: Callable[[], object]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio(work: Callable[[], object], beside: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Least time of the one, and that over the other's."""
    pairs = [(seconds(work), seconds(beside)) for _ in range(repeats)]
    least, other = (min(times) for times in zip(*pairs, strict=True))
    return least, least / other


def backward(module: nn.Module, inputs: Tensor) -> Callable[[], None]:
    """A pass and its gradients."""

    def run() -> None:
        with torch.enable_grad():
            module(inputs).sum().backward()

    return run


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    torch.manual_seed(0)
    torch.set_num_threads(1)
    currents = torch.randn(SHAPE) * 0.5 + 0.2
    convolution = nn.Conv2d(SHAPE[2], SHAPE[2], 3, padding=1)
    part = currents[: SHAPE[0] // 5].clone().requires_grad_()
    print("| neurons | forward, ms | beside the convolution | with gradients, ms | beside the convolution |")
    print("|---|---:|---:|---:|---:|")
    for name, module in neurons().items():
        forward = ratio(lambda: module(currents), lambda: convolution(currents.flatten(0, 1)), repeats)  # noqa: B023
        trained = ratio(backward(module, part), backward(nn.Sequential(nn.Flatten(0, 1), convolution), part), repeats)
        print(f"| {name} | {forward[0] * 1e3:.0f} | {forward[1]:.2f} | {trained[0] * 1e3:.0f} | {trained[1]:.2f} |")


if __name__ == "__main__":
    main()
