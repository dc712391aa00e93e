"""A run with a real ledger and a real report, but without a network: costs and qualities come from formulae."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qsearch.assignment import BitAssignment
from qsearch.config import CampaignConfig, dump
from qsearch.layers import Layer
from qsearch.ledger import Ledger
from qsearch.problem import Bound
from qsearch.report.artifacts import attach
from qsearch.report.write import write_report
from qsearch.run import CONFIG_FILE, RunInfo, load, storage_url
from qsearch.serialise import quality_to_json
from qsearch.sites import build_space
from qsearch.space import SearchSpace
from qsearch.trial import Cost, Quality, Trial

NAME = "synthetic"
BITS = range(2, 9)
LAYERS = (
    Layer("stem.conv", "conv", 3, 8, (3, 3), (1, 1), 1, (16, 16), (16, 16)),
    Layer("block.conv", "conv", 8, 16, (3, 3), (2, 2), 1, (16, 16), (8, 8)),
    Layer("head", "linear", 16, 10),
)
UNITS = {"latency": "s", "size": "byte"}
LATENCY_SHARE, LEAST_ACCURACY = 0.6, 0.9
FAILURE = "EvaluationError: loss and scores must be finite"


@dataclass(frozen=True)
class SyntheticRun:
    """A run's folder, what its ledger holds, and the plots that were attached to its study."""

    folder: Path
    space: SearchSpace
    trials: tuple[Trial, ...]
    plots: tuple[str, ...]

    def numbers(self, state: str) -> list[int]:
        return [trial.number for trial in self.trials if trial.state == state]

    @property
    def refused_after_evaluation(self) -> list[int]:
        """Evaluated, but over the bound on accuracy."""
        return [trial.number for trial in self.trials if trial.state == "complete" and not trial.feasible]


def write_run(root: Path, count: int = 60) -> SyntheticRun:
    """A campaign of ``count`` trials in ``root/synthetic``, with its report and its plots in the study."""
    config = CampaignConfig(
        name=NAME,
        budget={"evaluations": count},
        workload="digits-resnet",
        hardware="bismo",
        searcher="random",
        objectives=[{"metric": "loss", "direction": "minimize"}],
        constraints=[f"latency<={LATENCY_SHARE}", f"accuracy>={LEAST_ACCURACY}"],
    )
    space = build_space(LAYERS, weight_bits=BITS, activation_bits=BITS)
    bounds = _bounds(space)
    trials = tuple(_trial(number, space, bounds) for number in range(count))
    folder = root / NAME
    folder.mkdir(parents=True)
    dump(config, folder / CONFIG_FILE)
    ledger = Ledger(storage_url(config, root), NAME, [item.build() for item in config.objectives], space)
    ledger.annotate({"qsearch": _info(config, space, bounds, trials).model_dump(mode="json")})
    for trial in trials:
        ledger.append(trial)
    run = load(folder)
    written = write_report(run)
    attach(run, written.plots)
    return SyntheticRun(folder, space, trials, tuple(path.name for path in written.plots))


def _cost(assignment: BitAssignment) -> Cost:
    """Latency ∝ MACs × weight bits × input bits; size = weight bits / 8."""
    parts = {}
    for layer in LAYERS:
        weight, activation = assignment.mean_bits(layer.weight_site), assignment.mean_bits(layer.activation_site)
        parts[layer.name] = {"latency": 1e-12 * layer.macs * weight * activation, "size": layer.params * weight / 8}
    return Cost({metric: sum(part[metric] for part in parts.values()) for metric in UNITS}, UNITS, parts)


def _quality(assignment: BitAssignment, samples: int = 400) -> Quality:
    """Accuracy falls with few bits; the weights of the first layer matter most."""
    weight_of = {"stem.conv.weight": 6.0, "stem.conv.input": 2.0}
    damage = sum(weight_of.get(site, 1.0) * 4.0 ** -assignment.mean_bits(site) for site in assignment)
    outcomes = (np.arange(samples) < round(0.98 * samples * np.exp(-0.5 * damage))).astype(np.float32)
    return Quality.from_outcomes(outcomes, loss=0.05 + damage)


def _bounds(space: SearchSpace) -> tuple[Bound, ...]:
    latency = _cost(space.reference(8)).totals["latency"]
    return (
        Bound("latency", LATENCY_SHARE * latency, False, f"latency <= {LATENCY_SHARE} x uniform-8"),
        Bound("accuracy", LEAST_ACCURACY, True, f"accuracy >= {LEAST_ACCURACY}"),
    )


def _trial(number: int, space: SearchSpace, bounds: tuple[Bound, ...]) -> Trial:
    """Random bits; over the latency bound infeasible, every tenth evaluation fails."""
    rng = np.random.default_rng(number)
    assignment = BitAssignment({variable.name: int(rng.choice(variable.choices)) for variable in space.variables})
    cost, quality = _cost(assignment), _quality(assignment)
    known = {**cost.totals, **quality.values}
    violations = {bound.label: float(bound.violation(known[bound.metric])) for bound in bounds}
    over_latency = violations[bounds[0].label]
    before = {bounds[0].label: over_latency}
    if over_latency > 0:
        return Trial(number, assignment, "infeasible", cost, None, before, f"over {bounds[0].label}", 0.01)
    if number % 10 == 3:
        return Trial(number, assignment, "failed", cost, None, before, FAILURE, 0.2)
    return Trial(number, assignment, "complete", cost, quality, violations, "", 0.3)


def _info(config: CampaignConfig, space: SearchSpace, bounds: tuple[Bound, ...], trials: tuple[Trial, ...]) -> RunInfo:
    return RunInfo(
        config=config.model_dump(mode="json"),
        quality_name="accuracy",
        units=UNITS,
        layers=LAYERS,
        variables={variable.name: list(variable.choices) for variable in space.variables},
        space_log10=float(np.log10(float(space.size))),
        bounds=bounds,
        reference=dict(_cost(space.reference(8)).totals),
        float_quality=quality_to_json(_quality(BitAssignment(dict.fromkeys(space.reference(8), 32)))),
        provenance={
            "versions": {"qsearch": "0.1.0"},
            "python": "3.11",
            "machine": "Linux x86_64, 2 cores",
            "git": None,
            "started": "2026-01-01T00:00:00+00:00",
        },
        status="complete",
        seconds=sum(trial.seconds for trial in trials),
        evaluations=sum(trial.evaluated for trial in trials),
    )
