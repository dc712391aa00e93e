"""Runs without a network: layers, costs and qualities are made up from formulae that the tests know."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qsearch.assignment import BitAssignment
from qsearch.config import CampaignConfig
from qsearch.layers import Layer
from qsearch.problem import Bound
from qsearch.run import Run, RunInfo
from qsearch.serialise import quality_to_json
from qsearch.trial import Cost, Quality, Trial

UNITS = {"latency": "s", "energy": "J", "size": "byte"}
FLOAT_CORRECT = 0.99


def make_layers(count: int) -> tuple[Layer, ...]:
    """Convolutions that grow, and a linear layer at the end."""
    layers = [
        Layer(f"stage{i // 4 + 1}.{i % 4}.conv", "conv", 8 + 2 * i, 10 + 2 * i, (3, 3), (1, 1), 1, (8, 8), (8, 8))
        for i in range(count - 1)
    ]
    return (*layers, Layer("fc", "linear", 8 + 2 * count, 10))


def cost_of(layers: Sequence[Layer], assignment: BitAssignment) -> Cost:
    """Latency ∝ MACs × weight bits × activation bits, energy the same plus traffic, size = bits / 8."""
    parts = {}
    for layer in layers:
        weight, activation = assignment.mean_bits(layer.weight_site), assignment.mean_bits(layer.activation_site)
        work = layer.macs * weight * activation
        size = layer.params * weight / 8
        parts[layer.name] = {"latency": 2e-12 * work, "energy": 1e-14 * work + 1e-10 * size, "size": size}
    totals = {metric: sum(part[metric] for part in parts.values()) for metric in UNITS}
    return Cost(totals, UNITS, parts)


def quality_of(share: float, samples: int = 400, seed: int = 0) -> Quality:
    """A share of correct samples; the same samples are the hard ones for every network."""
    order = np.random.default_rng(seed).permutation(samples)
    outcomes = np.zeros(samples, dtype=np.float32)
    outcomes[order[: round(share * samples)]] = 1
    return Quality.from_outcomes(outcomes, loss=2 * (1 - share))


def accuracy_of(layers: Sequence[Layer], assignment: BitAssignment, noise: float = 0.0) -> float:
    """Falls with few bits, most for the first layer."""
    damage = 0.0
    for index, layer in enumerate(layers):
        for site in (layer.weight_site, layer.activation_site):
            damage += (2.5 if index == 0 else 1.0) * 4.0 ** -assignment.mean_bits(site)
    return float(np.clip(FLOAT_CORRECT * np.exp(-3 * damage / len(layers)) + noise, 0.1, 1))


def random_assignment(layers: Sequence[Layer], rng: np.random.Generator, kernel_wise: bool = False) -> BitAssignment:
    bits: dict[str, Any] = {}
    for layer in layers:
        centre = rng.integers(2, 9)
        weight = np.clip(centre + rng.integers(-2, 3, layer.kernels), 2, 8) if kernel_wise else int(rng.integers(2, 9))
        bits[layer.weight_site] = weight
        bits[layer.activation_site] = int(rng.integers(2, 9))
    return BitAssignment(bits)


def uniform(layers: Sequence[Layer], bits: int) -> BitAssignment:
    sites = [site for layer in layers for site in (layer.weight_site, layer.activation_site)]
    return BitAssignment(dict.fromkeys(sites, bits))


class RunFactory:
    """Makes runs in a folder of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(
        self,
        *,
        name: str = "demo/random-s0",
        searcher: str = "random",
        options: dict[str, Any] | None = None,
        seed: int = 0,
        layers: int = 8,
        evaluations: int = 40,
        budget: int | None = None,
        limit: float = 0.6,
        objectives: Sequence[tuple[str, str]] = (("accuracy", "maximize"),),
        kernel_wise: bool = False,
        failures: int = 0,
        tested: bool = True,
        status: str = "complete",
        workload: str = "digits-resnet",
        trials: Iterable[Trial] | None = None,
        seconds: float = 12.5,
        skill: float = 0.0,
        start: Sequence[int] = (),
    ) -> Run:
        network = make_layers(layers)
        reference = cost_of(network, uniform(network, 8)).totals
        label = f"latency <= {limit:g} x uniform-8"
        bounds = (Bound("latency", limit * reference["latency"], False, label),) if limit else ()
        if trials is None:
            trials = self._trials(network, bounds, seed, evaluations, kernel_wise, failures, skill, start)
        config = CampaignConfig(
            name=name,
            budget={"evaluations": budget or evaluations},
            workload=workload,
            hardware={"name": "bismo", "options": {"platform": "zynq-7020"}},
            searcher={"name": searcher, "options": options or {}},
            seed=seed,
            objectives=[{"metric": metric, "direction": direction} for metric, direction in objectives],
            constraints=[{"metric": "latency", "at_most": limit, "relative_to": "auto"}] if limit else [],
        )
        trials = tuple(trials)
        info = RunInfo(
            config=config.model_dump(mode="json"),
            quality_name="accuracy",
            units=UNITS,
            layers=network,
            variables={site: list(range(2, 9)) for site in uniform(network, 8)},
            space_log10=2 * layers * np.log10(7),
            bounds=bounds,
            reference=reference,
            float_quality=quality_to_json(quality_of(FLOAT_CORRECT)),
            provenance={
                "versions": {"qsearch": "0.1.0", "torch": "2.13.0"},
                "python": "3.11.9",
                "machine": "Linux x86_64, 2 cores",
                "git": "0123abcd",
                "started": "2025-01-01T00:00:00+00:00",
            },
            status=status,
            seconds=seconds,
            evaluations=sum(trial.evaluated for trial in trials),
            sensitivity_samples=1024 if searcher == "ilp" else 0,
            sensitivity_seconds=3.2 if searcher == "ilp" else 0.0,
        )
        run = Run(self.root / name, config, info, trials)
        if tested and run.best is not None and run.best.quality is not None:
            result = {
                "float": quality_to_json(quality_of(FLOAT_CORRECT, 360, 1)),
                str(run.best.number): quality_to_json(quality_of(run.best.quality.metric - 0.002, 360, 1)),
            }
            run = Run(run.folder, config, info.model_copy(update={"tested": result}), trials)
        run.folder.mkdir(parents=True, exist_ok=True)
        return run

    def _trials(
        self,
        layers: Sequence[Layer],
        bounds: Sequence[Bound],
        seed: int,
        evaluations: int,
        kernel_wise: bool,
        failures: int,
        skill: float,
        start: Sequence[int],
    ) -> list[Trial]:
        """Random assignments; those over the limit are refused. ``skill`` is how often the best so far is varied."""
        rng = np.random.default_rng(seed + 1000)
        trials: list[Trial] = []
        best: tuple[float, BitAssignment] | None = None
        spent = 0
        queue = [uniform(layers, bits) for bits in start]
        while spent < evaluations and len(trials) < 40 * evaluations:
            assignment = queue.pop(0) if queue else random_assignment(layers, rng, kernel_wise)
            if best is not None and rng.random() < skill:
                site = str(rng.choice(list(best[1])))
                assignment = best[1].replace({site: int(rng.integers(2, 9))})
            cost = cost_of(layers, assignment)
            violations = {bound.label: float(bound.violation(cost.totals[bound.metric])) for bound in bounds}
            number = len(trials)
            if any(value > 0 for value in violations.values()):
                trials.append(
                    Trial(number, assignment, "infeasible", cost, None, violations, f"over {bounds[0].label}", 0.01)
                )
                continue
            spent += 1
            if spent <= failures:
                reason = (
                    "EvaluationError: loss and scores must be finite" if spent % 3 else "MemoryError: out of memory"
                )
                trials.append(Trial(number, assignment, "failed", cost, None, violations, reason, 0.2))
                continue
            share = accuracy_of(layers, assignment, 0.002 * rng.standard_normal())
            trials.append(Trial(number, assignment, "complete", cost, quality_of(share), violations, "", 0.3))
            if best is None or share > best[0]:
                best = (share, assignment)
        return trials
