"""``Fisher``: the output error of each layer, weighted by gradients.

Notation, per sample n; y has the channels of a layer's output

===========  =======================================================================================
y, y_c       output of a layer in float, and with one site of it at choice c, the rest in float
α, β         gain and offset per channel by which an evaluation corrects y_c; 1 and 0 without a correction
Δ_c          α·y_c + β − y
z, p         outputs of the network, shape (classes,), and softmax(z / T) with T the temperature
F            (diag(p) − p·pᵀ) / T², the Fisher matrix of that softmax with respect to z
s            random vector with E[s·sᵀ] = F
g            ∂(sᵀz)/∂y
d_n(c)       Σ g·Δ_c over channels and positions: change of sᵀz to first order
===========  =======================================================================================

To second order the divergence that choice c causes is ½·E[Δzᵀ·F·Δz], with Δz linear in Δ_c, and so

    D(v, c) = ½·E_n,s[ (Σ_sites d_n(c))² ]         I(v c, v′ c′) = E_n,s[ d_n(c)·d_n(c′) ]

(Gauss–Newton; the Fisher matrix in the direction of the error itself and not only its diagonal). s = (√p∘ε − p·(√pᵀε)) / T,
ε of random signs, has the second moment F. One forward and one backward pass give every choice of every site; y_c is the layer run on its float input.
Kernels: d_n is a sum over channels, and D_k = ½·E[d_nk²].

α and β are those with which y_c has the float mean and variance (behind a batch-norm), or its mean: what the
evaluation repairs anyway is no damage. A network that is sure of its training data has p near 0 or 1, and F near 0 but for
few samples: T > 1 lets all samples count, and D is the divergence of the softened outputs.

Spikes are differentiated by the surrogates of their neurons; what those keep is probed
(:mod:`qsearch.sensitivity.probed_sites`).

With gradient: loss, s is the gradient of the sample's loss: the empirical Fisher matrix. Outputs that are no logits take
the mean squared difference of outputs in place of the divergence, as :class:`qsearch.protocols.Probe` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from qsearch.errors import EvaluationError
from qsearch.protocols import Evaluator, FloatNetwork, SensitivityTable
from qsearch.registry import PluginOptions
from qsearch.sensitivity.floating import (
    NEURONS,
    WITHOUT_GRADIENTS,
    batches,
    check_finite,
    float_network,
    forward,
    searched_sites,
    tensor_variables,
)
from qsearch.sensitivity.output_errors import OutputErrors
from qsearch.sensitivity.probed_sites import completed
from qsearch.sensitivity.probing import confirm_idle, error_shares
from qsearch.space import SearchSpace, Site, Variable

Floats = NDArray[np.float64]


class Fisher:
    """Gradient-weighted output error of every choice, from one backward pass; see the module for what that is.

    Costs one forward pass, two for each backward pass, and one for each choice that a layer's sites have.
    """

    class Options(PluginOptions):
        """What is differentiated, and on how much data.

        Attributes:
            samples: the first n calibration samples.
            gradient: "model", the divergence from the float outputs, which needs no labels; "loss", the workload's.
            temperature: T; 1 is the divergence itself.
            draws: vectors s per sample, each with a backward pass of its own.
            interactions: also give I of every pair of layer-wise variables, which takes no further pass.
            seed: of the random signs.
        """

        samples: int = Field(default=256, ge=1)
        gradient: Literal["model", "loss"] = "model"
        temperature: float = Field(default=2.0, gt=0.0, allow_inf_nan=False)
        draws: int = Field(default=1, ge=1)
        interactions: bool = False
        seed: int = Field(default=0, ge=0)

    def __init__(self, options: Options) -> None:
        self._options = options
        what = "divergence from the softened float outputs, nats" if options.gradient == "model" else "empirical Fisher"
        self.quantity = f"predicted {what}"

    def table(self, space: SearchSpace, evaluator: Evaluator) -> SensitivityTable:
        """Damage of every choice of every variable.

        Raises:
            PluginError: the evaluator has no float network to give.
            EvaluationError: outputs that have no gradient, a site that changes them and has none, or numbers that are
                not finite, with the name of the site.
        """
        network = float_network(evaluator, "fisher", "one-at-a-time")
        sites = searched_sites(space)
        if not sites:
            return completed(SensitivityTable({}, 0), space, evaluator, "fisher")
        errors = {site.name: OutputErrors(network, site) for site in sites}
        count = self._pass(network, sites, errors)
        changes: dict[str, Floats] = {}
        probed = 0
        for site in sites:
            found = errors[site.name].changes()
            changes[site.name] = np.zeros((1, 1, len(site.choices))) if found is None else found
            check_finite(changes[site.name], f"site {site.name!r}")
            if not changes[site.name].any():
                probed += confirm_idle(evaluator, site, "fisher")
        damage = {
            variable.name: _damage(variable, [changes[name] for name in variable.sites], evaluator)
            for variable in tensor_variables(space)
        }
        interactions = _interactions(space, changes) if self._options.interactions else {}
        backward = self._options.draws if self._options.gradient == "model" else 1
        layers = {site.layer for site in space.sites if site.role not in NEURONS}
        choices = sum(len(site.choices) for site in sites) / max(1, len(layers))
        samples = probed + round(count * (1 + 2 * backward + choices))
        return completed(SensitivityTable(damage, samples, interactions), space, evaluator, "fisher")

    def _pass(self, network: FloatNetwork, sites: Sequence[Site], errors: dict[str, OutputErrors]) -> int:
        """Pass the samples forward and back; how many there were."""
        generator = torch.Generator().manual_seed(self._options.seed)
        count = 0
        for inputs, targets in batches(network, self._options.samples):
            with taps(network, sites) as found:
                output = forward(network, inputs)
            directions = self._directions(network, output, targets, generator)
            for tap, gradients in _gradients(output, found, list(directions)):
                for site in sites:
                    if site.layer == tap.layer:
                        errors[site.name].observe(tap.args, tap.kwargs, tap.output.detach(), gradients)
            for gathered in errors.values():
                gathered.end_batch(len(targets))
            count += len(targets)
        return count

    def _directions(
        self, network: FloatNetwork, output: Tensor, targets: Tensor, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """s of each sample, as many times as there are draws, shape of the output."""
        if not output.requires_grad:
            raise EvaluationError(
                "fisher sensitivity needs outputs that can be differentiated",
                got="outputs without a gradient",
                fix=f"take the sensitivity {WITHOUT_GRADIENTS}",
            )
        if self._options.gradient == "loss":
            yield _loss_gradient(network, output, targets) * len(targets)
            return
        for _ in range(self._options.draws):
            signs = torch.randint(0, 2, output.shape, generator=generator).to(output) * 2 - 1
            yield square_root_of_fisher(output.detach(), signs, self._options.temperature)


def square_root_of_fisher(logits: Tensor, signs: Tensor, temperature: float = 1.0) -> Tensor:
    """s, with E[s·sᵀ] the second derivative of the divergence; of outputs that are no logits, of the mean square.

    Args:
        logits: z, shape (n, classes ≥ 2), or outputs of any other shape (n, …).
        signs: ε, ±1 each, of the same shape.
        temperature: T; logits only.
    """
    if logits.dim() != 2 or logits.shape[1] < 2:
        return signs * math.sqrt(2 * len(logits) / logits.numel())
    root = (logits / temperature).softmax(1).sqrt()
    return (root * signs - root.square() * (root * signs).sum(1, keepdim=True)) / temperature


def _loss_gradient(network: FloatNetwork, output: Tensor, targets: Tensor) -> Tensor:
    """∂ mean loss / ∂ outputs."""
    try:
        found = torch.autograd.grad(network.loss(output, targets), [output], retain_graph=True)
    except RuntimeError as error:
        raise EvaluationError(
            "fisher sensitivity with gradient: loss needs a loss that can be differentiated",
            got=str(error).partition("\n")[0],
            fix=f"take gradient: model, or the sensitivity {WITHOUT_GRADIENTS}",
        ) from error
    return found[0]


def _gradients(
    output: Tensor, found: Sequence[Tap], directions: Sequence[Tensor]
) -> Iterator[tuple[Tap, list[Tensor]]]:
    """g for each direction, of the runs that the output depends on."""
    taken = [tap for tap in found if tap.output.requires_grad]
    if not taken:
        return
    outputs = [tap.output for tap in taken]
    try:
        rows = [torch.autograd.grad(output, outputs, s, retain_graph=True, allow_unused=True) for s in directions]
    except RuntimeError as error:
        raise EvaluationError(
            "fisher sensitivity needs a network that can be differentiated",
            got=str(error).partition("\n")[0],
            fix=f"take the sensitivity {WITHOUT_GRADIENTS}",
        ) from error
    for tap, column in zip(taken, zip(*rows, strict=True), strict=True):
        if all(gradient is not None for gradient in column):
            yield tap, list(column)


class Tap:
    """One run of a layer: what it was called with, and what it gave."""

    def __init__(self, layer: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        self.layer, self.output = layer, output
        # later layers may write into what this one was given
        self.args = tuple(value.detach().clone() if isinstance(value, Tensor) else value for value in args)
        self.kwargs = {key: v.detach().clone() if isinstance(v, Tensor) else v for key, v in kwargs.items()}


@contextmanager
def taps(network: FloatNetwork, sites: Sequence[Site]) -> Iterator[list[Tap]]:
    """Inside, every run of a layer that has one of the sites is noted."""
    found: list[Tap] = []

    def note(layer: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            found.append(Tap(layer, args, kwargs, output))
            return output.clone()  # what follows may write into its input

        return hook

    layers = dict.fromkeys(site.layer for site in sites)
    handles = [network.layers[name].register_forward_hook(note(name), with_kwargs=True) for name in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _damage(variable: Variable, changes: Sequence[Floats], evaluator: Evaluator) -> Floats:
    """D, shape (kernels, choices), from d of the variable's sites, each of shape (samples, kernels or 1, choices)."""
    if all(found.shape[1] == variable.length for found in changes):
        return np.asarray(0.5 * np.mean(np.square(sum(changes)), axis=0), dtype=np.float64)
    return np.asarray(0.5 * np.mean(np.square(_total(changes)), axis=0) * error_shares(variable, evaluator))


def _total(changes: Sequence[Floats]) -> Floats:
    """d of all kernels of all sites together, shape (samples, choices)."""
    return np.asarray(sum(found.sum(axis=1) for found in changes), dtype=np.float64)


def _interactions(space: SearchSpace, changes: dict[str, Floats]) -> dict[tuple[str, str], Floats]:
    """I of every pair of layer-wise variables, shape (choices, choices′)."""
    totals = {
        variable.name: _total([changes[name] for name in variable.sites])
        for variable in tensor_variables(space)
        if variable.length == 1
    }
    names = list(totals)
    return {
        (one, other): np.asarray(np.mean(totals[one][:, :, None] * totals[other][:, None], axis=0), dtype=np.float64)
        for position, one in enumerate(names)
        for other in names[position + 1 :]
    }
