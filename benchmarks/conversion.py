"""A network of ReLUs as a spiking one of few steps: accuracy by how it is converted and trained, and energy.

    QSEARCH_DATA=folder python benchmarks/conversion.py                 mnist-cnn, about a quarter of an hour; resumable
    python benchmarks/conversion.py --case volumes                      3-D and 2-D convolutions, ten minutes
    python benchmarks/conversion.py --tables                            only what is there already

Five steps, direct input, after Datta et al. (2107.11979): conversion with balanced thresholds, then training by surrogate
gradients in float, then under weights of six bits (biases, states, thresholds and the input in float). Accuracies are those of
validation data, of which no step sees any; each seed trains its own network.

Energy, with E_MAC and E_AC of 45 nm, is counted as there, arithmetic alone; F^l are multiply-accumulates of layer l, and ζ^l the
spikes of one of its inputs in all steps, measured on calibration data::

    E_CNN = Σ F^l·E_MAC        E_SNN = n·F^1·E_MAC + Σ_{l≥2} ζ^l·F^l·E_AC

The first layer sees the same input at each step: n is 1 where its output is kept for all steps, which is how the network here
runs, and T where it is computed anew. Neither has states, memory or padding that a real chip pays for: the cost model
``neuromorphic`` counts those.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import Records
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from qsearch import registry
from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.hardware.constants import Constant
from qsearch.layers import Layer
from qsearch.setting import layers_of
from qsearch.sites import build_space
from qsearch.workloads.base import Samples, Splits
from qsearch.workloads.trained import TrainedOptions, TrainedWorkload
from qsearch.workloads.training import Recipe

E_MAC = Constant(3.2, "pJ", "multiply-accumulate of 32-bit integers, 45 nm (Datta et al., 2107.11979) [M]")
E_AC = Constant(0.1, "pJ", "addition of 32-bit integers, 45 nm (Datta et al., 2107.11979) [M]")
E_MAC_6 = Constant(3.2 * 44.8 / 560.6, "pJ", "of 6 bits: what 560.6× and 44.8× less energy imply there [C]")
PICO = 1e-12

STEPS, BITS = 5, 6


def spikes_per_input(layer: Layer) -> float:
    """ζ: spikes of one input of a layer in all steps; 0 where none reach it."""
    inputs = layer.input_elements // layer.uses
    return (layer.events or 0.0) / inputs


def macs_once(layer: Layer) -> int:
    """F: multiply-accumulates of a layer in one step."""
    return layer.macs // layer.uses


def network_energy(layers: Sequence[Layer], mac: Constant = E_MAC) -> float:
    """E_CNN in J: what the network of ReLUs takes."""
    return PICO * mac.value * sum(macs_once(layer) for layer in layers if layer.weighted)


def spiking_energy(layers: Sequence[Layer], steps: int, *, cached: bool = True, mac: Constant = E_MAC) -> float:
    """E_SNN in J; layers that no spikes reach multiply, once where ``cached``, else at each step."""
    total = 0.0
    for layer in layers:
        if layer.weighted and layer.events is None:
            total += (1 if cached else steps) * macs_once(layer) * mac.value
        elif layer.weighted:
            total += spikes_per_input(layer) * macs_once(layer) * E_AC.value
    return PICO * total


class Volumes(TrainedWorkload):
    """Made-up patches of hyperspectral images, (1, 16 bands, 9, 9), of nine materials; the one in the middle is asked for.

    Each material has a smooth spectrum; a patch has one material with another beside it, lit unevenly, with noise. Every patch
    is drawn anew, so that splits share none, and no pixel.
    """

    name = "volumes"
    classes = 9
    input_shape = (1, 16, 9, 9)
    recipe = Recipe(epochs=12, peak_rate=0.02, weight_decay=1e-4, rotation=0, scaling=0, shift=0)
    duration = "about 20 seconds"
    Options = TrainedOptions

    def __init__(self, options: TrainedOptions) -> None:
        self.options = options

    def load(self) -> Splits:
        """3,000 patches to train on, of which 500 calibrate, and 1,000 each to validate and to test."""
        train = self.lessons()
        return Splits(train.take(torch.arange(500)), _patches(1000, 2), self.judged(), train)

    def lessons(self) -> Samples:
        """The training patches."""
        return _patches(3000, 1)

    def judged(self) -> Samples:
        """The test patches."""
        return _patches(1000, 3)

    def architecture(self) -> Mapping[str, object]:
        """Raised when the network changes."""
        return {"version": 1}

    def build(self) -> nn.Module:
        """Two 3-D convolutions, one 2-D, and a linear layer."""
        return nn.Sequential(
            *(nn.Conv3d(1, 8, (7, 3, 3), bias=False), nn.BatchNorm3d(8), nn.ReLU()),
            *(nn.Conv3d(8, 8, (5, 3, 3), bias=False), nn.BatchNorm3d(8), nn.ReLU()),
            *(nn.Flatten(1, 2), nn.Conv2d(48, 32, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(32 * 9, self.classes)),
        )


def _patches(count: int, seed: int) -> Samples:
    """Patches and their materials."""
    spectra = _smooth(torch.randn(Volumes.classes, 16, generator=torch.Generator().manual_seed(0)))
    generator = torch.Generator().manual_seed(seed)
    materials, others = torch.randint(Volumes.classes, (2, count), generator=generator)
    edge = torch.randint(5, 9, (count, 1, 1, 1), generator=generator)
    beside = torch.arange(9).view(1, 1, 1, 9) >= edge
    found = torch.where(beside, spectra[others][..., None, None], spectra[materials][..., None, None])
    light = 1 + 0.3 * torch.randn(count, 1, 9, 9, generator=generator)
    noise = 5.0 * torch.randn(count, 16, 9, 9, generator=generator)
    return Samples((found * light + noise).unsqueeze(1), materials)


def _smooth(rows: Tensor) -> Tensor:
    """Rows with neighbours averaged, of a root mean square of about one."""
    return nn.functional.avg_pool1d(rows.unsqueeze(0), 5, 1, 2, count_include_pad=False).squeeze(0) * 5**0.5


@dataclass(frozen=True)
class Case:
    """A workload, how many seeds of its training, and how its spiking network is trained."""

    workload: str
    options: Mapping[str, Any]
    seeds: int
    epochs: int


CASES = {
    "mnist-cnn": Case("mnist-cnn", {"train": 20_000}, 3, 3),
    "volumes": Case(f"{__file__}:Volumes", {}, 3, 6),
}

CONVERSIONS: dict[str, Mapping[str, Any]] = {
    "maximum, per layer": {"balancing": "max", "per": "layer"},
    "99.9th percentile, per layer": {"per": "layer"},
    "99th percentile, per layer": {"per": "layer", "percentile": 99.0},
    "99.9th percentile, per channel": {},
    "the same, the last layer spikes": {"last": "spike"},
}
"""How thresholds are balanced; the one that is trained further is that without options."""


@dataclass(frozen=True)
class Job:
    """One figure: a network, its steps, its training, its seed."""

    case: str
    what: str
    steps: int
    seed: int


def jobs(name: str, case: Case) -> Iterator[Job]:
    """All figures, those of one seed together."""
    for seed in range(case.seeds):
        yield Job(name, "network of ReLUs", 0, seed)
        for what in CONVERSIONS:
            for steps in (STEPS, 20):
                yield Job(name, what, steps, seed)
        for what in ("trained in float", f"{BITS}-bit weights", f"trained under {BITS}-bit weights"):
            yield Job(name, what, STEPS, seed)
        yield Job(name, f"trained in float, then under {BITS}-bit weights", STEPS, seed)


def spiking(case: Case, seed: int, steps: int = STEPS, **options: Any) -> Any:
    """The workload of a case in spikes."""
    given = {
        "workload": case.workload,
        "options": {**case.options, "seed": seed},
        "steps": steps,
        "seed": seed,
        **options,
    }
    return registry.create("workloads", "qsearch.workloads.converted:Converted", given)


def result(case: Case, job: Job) -> dict[str, Any]:
    """Accuracy, and energy where it is a spiking network in float."""
    if job.what == "network of ReLUs":
        source = spiking(case, job.seed).source
        return {"accuracy": accuracy(source, source.model())}
    if job.what in CONVERSIONS:
        return measured(spiking(case, job.seed, job.steps, **CONVERSIONS[job.what]), job.steps)
    in_float = job.what.startswith("trained in float")
    found = spiking(case, job.seed, epochs=case.epochs if in_float else 0)
    if job.what == "trained in float":
        return measured(found, job.steps)
    return quantised(found, case, job)


def measured(found: Any, steps: int) -> dict[str, Any]:
    """Accuracy and energies of a spiking network in float."""
    layers = layers_of(found)
    return {
        "accuracy": accuracy(found, found.model()),
        "cnn": network_energy(layers),
        "snn": spiking_energy(layers, steps),
        "cnn6": network_energy(layers, E_MAC_6),
        "snn6": spiking_energy(layers, steps, mac=E_MAC_6),
        "uncached": spiking_energy(layers, steps, cached=False),
        "spikes": {layer.name: spikes_per_input(layer) for layer in layers if layer.weighted},
    }


def quantised(found: Any, case: Case, job: Job) -> dict[str, Any]:
    """Accuracy under weights of a few bits, after a training or as it is."""
    layers = layers_of(found)
    space = build_space(layers, weight_bits=[BITS], activation_bits=[8])
    bits = {site.name: BITS if site.role == "weight" else FLOAT_BITS for site in space.sites}
    training = {"epochs": case.epochs, "optimiser": "adam", "rate": 1e-3, "weight_decay": 0.0}
    name, options = ("qat", training) if "trained" in job.what else ("ptq", {})
    evaluator = registry.create("evaluators", name, options, found, layers)
    return {"accuracy": evaluator.evaluate(BitAssignment(bits), seed=job.seed).metric}


@torch.no_grad()
def accuracy(workload: Any, network: nn.Module) -> float:
    """Mean score on validation data."""
    scores = [workload.score(network(inputs), targets) for inputs, targets in workload.validation()]
    return float(torch.cat(scores).double().mean())


def table(name: str, case: Case, records: Records) -> Table:
    """What is recorded, mean and standard deviation over seeds."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for job in jobs(name, case):
        if asdict(job) in records:
            found.setdefault((job.what, job.steps), []).append(records[asdict(job)])
    shown = Table(title=f"{name}: validation data, {case.seeds} seeds of the training")
    for column in ("network", "steps", "accuracy %", "spikes per input, by layer", "CNN/SNN", "×T", "both at 6 bits"):
        shown.add_column(column, justify="left" if column == "network" else "right")
    for (what, steps), results in found.items():
        accuracies = 100 * np.asarray([item["accuracy"] for item in results])
        spread = f" ± {accuracies.std(ddof=1):.2f}" if len(results) > 1 else ""
        shown.add_row(what, str(steps or ""), f"{accuracies.mean():.2f}{spread}", *energies(results))
    return shown


def energies(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Means over seeds of spikes per input and of ratios of energies; nothing of what has none."""
    if "snn" not in results[0]:
        return []
    layers = [name for name, spikes in results[0]["spikes"].items() if spikes]
    spikes = [float(np.mean([item["spikes"][name] for item in results])) for name in layers]
    ratios = [float(np.mean([item["cnn"] / item[kind] for item in results])) for kind in ("snn", "uncached")]
    few = float(np.mean([item["cnn6"] / item["snn6"] for item in results]))
    return [" ".join(f"{value:.2f}" for value in spikes), f"{ratios[0]:.1f}", f"{ratios[1]:.1f}", f"{few:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=tuple(CASES), default="mnist-cnn")
    parser.add_argument("--records", type=Path, default=Path("conversion.jsonl"))
    parser.add_argument("--tables", action="store_true", help="evaluate nothing, only print what is there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    case, records = CASES[given.case], Records(given.records)
    for job in [] if given.tables else jobs(given.case, case):
        if asdict(job) not in records:
            records.add(asdict(job), result(case, job))
    console = Console()
    console.width = max(console.width, 150)
    console.print(table(given.case, case, records))


if __name__ == "__main__":
    main()
