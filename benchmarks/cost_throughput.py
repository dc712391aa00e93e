"""Assignments of a CIFAR-10 ResNet-20 that each cost model prices a second, on one thread, layer- and kernel-wise.

Every installed cost model that is additive and can be made without options is asked for batches of random assignments,
and ``lut`` with a table of bit operations: of 20 weight and 20 input bitwidths, and of 698 kernels and 20 inputs. Priced
alone, bits are arrays already; with decoding, the search space makes them from index vectors, as a searcher asks. Each
figure is the median over repeats. Batches of a few thousand stay in the caches; beyond, memory sets the pace.

Run ``OMP_NUM_THREADS=1 python benchmarks/cost_throughput.py``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from qsearch.costs import NetworkCost
from qsearch.errors import QSearchError
from qsearch.protocols import CostModel
from qsearch.registry import create, names
from qsearch.sites import build_space
from qsearch.space import Granularity
from qsearch.testing.networks import resnet20

BITS = range(2, 9)
GRANULARITIES: tuple[Granularity, ...] = ("layer", "kernel")


def table(folder: Path) -> Mapping[str, object]:
    """Options of ``lut``, with a table of bit operations that it makes in ``folder``."""
    products = np.multiply.outer(BITS, BITS)
    path = folder / "table.npy"
    np.save(path, np.multiply.outer([float(layer.macs) for layer in resnet20()], products))
    layers = [layer.name for layer in resnet20()]
    bits = {"weight_bits": list(BITS), "activation_bits": list(BITS)}
    return {"path": str(path), "metric": "latency", "unit": "cycle", "layers": layers, **bits}


def models(folder: Path) -> Iterator[tuple[str, CostModel]]:
    """Installed additive cost models; others that need options are named and passed over."""
    for name in names("cost_models"):
        try:
            model: CostModel = create("cost_models", name, table(folder) if name == "lut" else {})
        except QSearchError as error:
            print(f"{name:14s} passed over: {error}")
            continue
        if model.additive:
            yield name, model


def rate(work: Callable[[], object], assignments: int, repeats: int) -> float:
    """Assignments a second, the median over repeats, after one call that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return assignments / float(np.median(times))


def show(priced: Sequence[tuple[str, CostModel]], granularity: Granularity, batch: int, repeats: int) -> None:
    """One table: each model alone, and through :meth:`NetworkCost.estimate_many`, which decodes and checks."""
    layers = resnet20()
    space = build_space(layers, weight_bits=BITS, activation_bits=BITS, granularity=granularity)
    x = space.sample(np.random.default_rng(0), batch)
    bits = space.bits(x)
    print(f"\n{granularity}-wise, {space.dimension} decisions, batches of {batch}: assignments a second")
    print(f"{'decoding':14s} {rate(partial(space.bits, x), batch, repeats):12,.0f}")
    for name, model in priced:
        alone = rate(partial(model.estimate_many, layers, bits), batch, repeats)
        decoded = rate(partial(NetworkCost(model, layers, space).estimate_many, x), batch, repeats)
        print(f"{name:14s} {alone:12,.0f}   with decoding {decoded:12,.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=2_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        priced = list(models(Path(folder)))
        for granularity in GRANULARITIES:
            show(priced, granularity, arguments.batch, arguments.repeats)


if __name__ == "__main__":
    main()
