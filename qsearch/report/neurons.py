"""Spikes in words: where they are, how many, and how often. Loads no plots.

Spikes are counted per sample, in all of its steps; a rate is that for each neuron, or input, and step.
"""

from __future__ import annotations

from collections.abc import Sequence

from qsearch.layers import Layer
from qsearch.report import wording
from qsearch.run import Run
from qsearch.trial import SPIKES, Quality, Trial


def spiking(layers: Sequence[Layer]) -> bool:
    """Whether some layer has neurons."""
    return any(layer.kind == "neuron" for layer in layers)


def rate(layer: Layer) -> float | None:
    """Spikes per step and neuron that they leave, or input that they reach; None where there are none."""
    if layer.events is None or layer.kind == "threshold":
        return None
    return layer.events / (layer.uses * layer.neurons or layer.input_elements)


def spikes_text(layer: Layer) -> str:
    """Spikes per sample, and their rate: ``1,204 (0.085)``."""
    found = rate(layer)
    return "–" if found is None else f"{layer.events:,.0f} ({wording.significant(found)})"


def spikes_sentence(run: Run, trial: Trial) -> str | None:
    """How often neurons spike under an assignment, beside the float network; None where nobody has counted."""
    found, reference = spikes_of(trial.quality), spikes_of(run.float_quality)
    if found is None or reference is None:
        return None
    share = f", {wording.ratio(found / reference)} of the float network's {reference:,.0f}" if reference > 0 else ""
    return f"{found:,.0f} per sample{share}"


def spikes_of(quality: Quality | None) -> float | None:
    """Mean number of spikes that left neurons, per sample, where they were counted."""
    value = None if quality is None else quality.details.get(SPIKES)
    return float(value) if isinstance(value, int | float) else None
