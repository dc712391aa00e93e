"""``QuantizationError``: squared quantisation error of each tensor, relative to its size; no labels, no gradients.

Notation

==========  ==========================================================================================
x, Q(x)     a weight, or a layer's input on calibration data, and the same at b bits; p numbers
x_k         a kernel's part of a weight
==========  ==========================================================================================

    D_k(b) = Σ (x_k − Q(x_k))² / (p · max|x|²)        "range": D = Σ_k D_k is E_QE²
    D_k(b) = Σ (x_k − Q(x_k))² / Σ x²                 "energy": D is the ratio of noise to signal

E_QE = √(mean (x − Q(x))²) / max|x| is the measure of Schaefer et al. (arXiv 2302.01382). Its square is used, as it is the
powers of independent errors that add up, not their roots; a square keeps the order. A tensor of zeros has no damage.
What neurons keep is probed (:mod:`qsearch.sensitivity.probed_sites`).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qsearch.protocols import Evaluator, FloatNetwork, SensitivityTable
from qsearch.registry import PluginOptions
from qsearch.sensitivity import floating
from qsearch.sensitivity.probed_sites import completed
from qsearch.space import SearchSpace, Site

Floats = NDArray[np.float64]

QUANTITIES = {"range": "squared error / (numbers × largest²)", "energy": "squared error / sum of squares"}


class QuantizationError:
    """Relative quantisation error; see the notation above."""

    class Options(PluginOptions):
        """What the error is relative to."""

        normalise: Literal["range", "energy"] = "range"
        """range: the largest magnitude, as in E_QE; energy: the sum of squares."""
        samples: int | None = Field(default=None, ge=1)
        """The first n calibration samples show the inputs; all without it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.quantity = QUANTITIES[options.normalise]

    def table(self, space: SearchSpace, evaluator: Evaluator) -> SensitivityTable:
        """Damage of every choice of every variable: one pass over calibration data where inputs are searched.

        Raises:
            PluginError: the evaluator has no float network to give.
            EvaluationError: an error that is not finite; it names the site.
        """
        network = floating.float_network(evaluator, "quantization-error", "one-at-a-time")
        inputs, passed = floating.observe_inputs(network, space, self.options.samples)
        found: dict[str, Floats] = {}
        for site in floating.searched_sites(space):
            if site.role == "weight":
                found[site.name] = self._weight_damage(network, site)
            else:
                seen = inputs[site.name]
                found[site.name] = self._relative(seen.errors[None], seen.count, seen.largest, seen.energy)
            floating.check_finite(found[site.name], f"site {site.name!r}")
        damage = {
            variable.name: np.sum([found[name] for name in variable.sites], axis=0)
            for variable in floating.tensor_variables(space)
        }
        return completed(SensitivityTable(damage, passed), space, evaluator, "quantization-error")

    def _weight_damage(self, network: FloatNetwork, site: Site) -> Floats:
        """Shape (kernels, choices)."""
        weight = floating.weight_of(network, site).detach().double()
        largest, energy = float(weight.abs().max()), float(weight.square().sum())
        return self._relative(floating.weight_errors(network, site), weight.numel(), largest, energy)

    def _relative(self, errors: Floats, count: int, largest: float, energy: float) -> Floats:
        whole = count * largest**2 if self.options.normalise == "range" else energy
        return errors / whole if whole > 0 else np.zeros_like(errors)
