"""``Hessian``: mean curvature times squared perturbation, for weights and for input activations.

Notation

==========  ==========================================================================================
L           mean loss over N calibration samples
W_k, ΔW_k   a kernel's weights and what quantisation does to them; the whole tensor where bits are per layer
p_k         number of weights in it
Tr_k        trace of the Hessian of L with respect to W_k
x, Δx       a layer's input on all N samples, p numbers, and what quantisation does to it
==========  ==========================================================================================

    D_k(b) = ½ · (Tr_k / p_k) · ‖ΔW_k(b)‖²,        D(b) = ½ · (Tr_x / p) · ‖Δx(b)‖²

the second term of L's Taylor series with the diagonal of the Hessian at its mean: HAWQ-V2's measure (Dong et al., NeurIPS
2020) with the ½ that makes it an increase of the loss. The first term is left out: a trained network is near a minimum.
No trace counts as negative, for a search that minimises damage must not be paid for taking bits away; and one that is not
known to be flat, for it is within its standard error of 0, counts as the most that it may be within that error. Traces are Hutchinson's (:mod:`qsearch.sensitivity.hutchinson`); no kept library gives those of weights
and inputs from one product. Of a network that has learnt its calibration data by heart, most traces are next to nothing
and hard to know: expect the warning that they are, and more of ``fisher`` with its temperature.

Spikes are differentiated twice by the surrogates of their neurons: a curvature of those. What neurons keep is probed
(:mod:`qsearch.sensitivity.probed_sites`).

Cost: a graph of the gradients takes a forward and a backward pass, 3 forward passes; each product one backward pass
through it, 6 (measured: 6.3). A probe is two products, one for all weights and one for all inputs: what couples the two
is most of the variance of a single one, and inputs would need some 16 times the probes. The data go in small batches,
each with probes of its own, which costs the same and has a smaller variance than one probe for all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from qsearch.errors import EvaluationError
from qsearch.protocols import Evaluator, FloatNetwork, SensitivityTable
from qsearch.registry import PluginOptions
from qsearch.sensitivity import floating
from qsearch.sensitivity.floating import Batch
from qsearch.sensitivity.hutchinson import Trace, diagonal_probe, estimate
from qsearch.sensitivity.probed_sites import completed
from qsearch.sensitivity.probing import confirm_idle
from qsearch.space import SearchSpace, Site

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

Leaf: TypeAlias = tuple[Site, Tensor]
"""A tensor to differentiate by, and the site it belongs to."""

FLAT = 1e-6
"""Share of a first-order change of the loss below which a second-order one is rounding."""

BATCH = 8
"""Samples that share a probe."""

GRAPH_PASSES, PRODUCT_PASSES = 3, 6
"""Forward passes that a graph of gradients stands for, and a product with the Hessian."""


class Hessian:
    """Mean Hessian trace × squared quantisation error; see the notation above."""

    quantity = "predicted increase of the loss"

    class Options(PluginOptions):
        """How well traces are to be known."""

        samples: int = Field(default=64, ge=1)
        """The first n calibration samples are used."""
        standard_error: float = Field(default=0.3, gt=0, allow_inf_nan=False)
        """Standard error at which the estimate of a trace is accepted, relative to it."""
        probes: int = Field(default=8, ge=2)
        """Probes in a round; rounds go on until all traces are known well enough."""
        max_probes: int = Field(default=32, ge=2)
        """Probes at which it ends anyway, at least as many as a round; what is not known well enough then is told."""
        seed: int = 0
        """Of the probes."""

        @model_validator(mode="after")
        def _rounds(self) -> Hessian.Options:
            if self.probes > self.max_probes:
                raise ValueError(f"max_probes must be at least probes, which is {self.probes}")
            return self

    def __init__(self, options: Options) -> None:
        self.options = options

    def table(self, space: SearchSpace, evaluator: Evaluator) -> SensitivityTable:
        """Damage of every choice of every variable.

        Raises:
            PluginError: the evaluator has no float network to give.
            EvaluationError: a loss that cannot be differentiated twice, a site that changes the outputs and has no
                gradient, or a trace that is not finite.
        """
        network = floating.float_network(evaluator, "hessian", "one-at-a-time")
        options, sites = self.options, floating.searched_sites(space)
        if not sites:
            return completed(SensitivityTable({}, 0), space, evaluator, "hessian")
        inputs, passed = floating.observe_inputs(network, space, options.samples)
        curvature = Curvature(network, sites, options.samples, options.seed)
        traces = estimate(curvature.draw, options.standard_error, probes=options.probes, most=options.max_probes)
        _check(traces, options.standard_error)
        # at an exact minimum gradients vanish, curvature does not: out of reach is what has neither
        idle = [site for site in sites if not curvature.slopes[site.name] and not traces[site.name].parts.any()]
        passed += sum(confirm_idle(evaluator, site, "hessian") for site in idle)
        found = {
            site.name: _weight_damage(network, site, traces[site.name])
            if site.role == "weight"
            else 0.5 * curvatures(traces[site.name]) / inputs[site.name].count * inputs[site.name].errors[None]
            for site in sites
        }
        damage = {
            variable.name: np.sum([found[name] for name in variable.sites], axis=0)
            for variable in floating.tensor_variables(space)
        }
        return completed(SensitivityTable(damage, passed + curvature.samples), space, evaluator, "hessian")


class Curvature:
    """Probes of the Hessian of the mean loss with respect to weights and layers' inputs.

    Args:
        network: a float network to itself.
        sites: weights and inputs.
        samples: the first n calibration samples are used.
        seed: of the probes.

    Attributes:
        samples: passed through the network so far, in float forward passes.
        slopes: site → Σ|gradient| · size, at most the first-order change of the loss if all that stands there changes
            by its size, which is its root mean square.
    """

    def __init__(self, network: FloatNetwork, sites: Sequence[Site], samples: int | None, seed: int) -> None:
        self._network, self._sites, self._limit = network, tuple(sites), samples
        self._generator = torch.Generator().manual_seed(seed)
        self._count = sum(len(targets) for _, targets in floating.batches(network, samples))
        self.samples = 0
        self.slopes, self._sizes = dict[str, float](), dict[str, float]()
        network.model.requires_grad_(False)
        for site in self._sites:
            if site.role == "weight":
                floating.weight_of(network, site).requires_grad_(True)

    def draw(self, probes: int) -> list[dict[str, Floats]]:
        """vᵀ(Hv) of each kernel of each site, for several independent probes: site → shape (kernels,).

        Raises:
            EvaluationError: the loss cannot be differentiated twice, or a product is not finite.
        """
        drawn = [{site.name: np.zeros(site.kernels) for site in self._sites} for _ in range(probes)]
        self.slopes = {site.name: 0.0 for site in self._sites}
        for batch in floating.batches(self._network, self._limit, BATCH):
            share = len(batch[1]) / self._count
            leaves, gradients = self._gradients(batch)
            for (site, _), gradient in zip(leaves, gradients, strict=True):
                slope = 0.0 if gradient is None else float(gradient.detach().abs().sum())
                self.slopes[site.name] += share * slope * self._sizes[site.name]
            roles = {site.role for site, _ in leaves}
            for totals in drawn:
                for role in sorted(roles):
                    self._add(
                        totals, share, [pair for pair in zip(leaves, gradients, strict=True) if pair[0][0].role == role]
                    )
            self.samples += len(batch[1]) * (GRAPH_PASSES + PRODUCT_PASSES * len(roles) * probes)
        for name in drawn[0]:
            floating.check_finite(np.stack([totals[name] for totals in drawn]), f"site {name!r}")
        if all(self._flat(name, parts) for totals in drawn for name, parts in totals.items()):
            raise _not_twice("a second derivative that is zero everywhere")
        return drawn

    def _flat(self, name: str, parts: Floats) -> bool:
        """Whether vᵀ(Hv) of a site is nothing beside its gradient."""
        return float(np.abs(parts).max()) * self._sizes[name] ** 2 <= FLAT * self.slopes[name]

    def _add(self, totals: dict[str, Floats], share: float, chosen: Sequence[tuple[Leaf, Tensor | None]]) -> None:
        """Add one product's vᵀ(Hv), of the loss of one batch, to those of a probe."""
        leaves = [leaf for (_, leaf), _ in chosen]
        with _differentiating():
            products = diagonal_probe([gradient for _, gradient in chosen], leaves, self._generator)
        for ((site, _), _), product in zip(chosen, products, strict=True):
            if product is not None:
                totals[site.name] += share * floating.kernel_sums(product, site.kernels)

    def _gradients(self, batch: Batch) -> tuple[list[Leaf], tuple[Tensor | None, ...]]:
        """What the loss of a batch is differentiated by, and its gradients with their graph.

        An input is a leaf as often as its layer runs: zeros that are added to it.
        """
        leaves: list[Leaf] = [
            (site, floating.weight_of(self._network, site)) for site in self._sites if site.role == "weight"
        ]

        def perturbed(site: Site, x: Tensor) -> Tensor:
            self._sizes[site.name] = _size(x)
            leaves.append((site, torch.zeros_like(x, requires_grad=True)))
            return x + leaves[-1][1]

        self._sizes = {site.name: _size(weight) for site, weight in leaves}
        inputs = [site for site in self._sites if site.role == "activation"]
        self._sizes |= {site.name: 0.0 for site in inputs}  # of a layer that does not run
        changes = {site: partial(perturbed, site) for site in inputs}
        with _differentiating(), torch.enable_grad(), floating.changed_inputs(self._network, changes):
            output = floating.forward(self._network, batch[0])
            _check_twice(self._network, output.detach(), batch[1])
            loss = self._network.loss(output, batch[1])
            return leaves, torch.autograd.grad(loss, [leaf for _, leaf in leaves], create_graph=True, allow_unused=True)


def _size(x: Tensor) -> float:
    """Root mean square."""
    return float(x.detach().double().square().mean().sqrt())


def _check_twice(network: FloatNetwork, output: Tensor, targets: Tensor) -> None:
    """Raise if the gradient of the loss by the outputs changes with them and autograd does not know: it would take 0."""

    def gradient(at: Tensor) -> Tensor:
        leaf = at.clone().requires_grad_(True)
        return torch.autograd.grad(network.loss(leaf, targets), [leaf], create_graph=True)[0]

    found = gradient(output)
    if not found.requires_grad and not torch.equal(found.detach(), gradient(1.01 * output).detach()):
        raise _not_twice("a loss whose gradient has no derivative, though it changes with the outputs")


def _weight_damage(network: FloatNetwork, site: Site, trace: Trace) -> Floats:
    """½ · (Tr_k / p_k) · ‖ΔW_k(b)‖², shape (kernels, choices)."""
    size = floating.weight_of(network, site).numel() / site.kernels
    found: Floats = 0.5 * curvatures(trace)[:, None] / size * floating.weight_errors(network, site)
    return found


def curvatures(trace: Trace) -> Floats:
    """Traces to go by, shape (kernels,): see the module."""
    positive = np.maximum(trace.parts, 0.0)
    most = min(max(trace.value + trace.standard_error, 0.0), trace.standard_error)
    found: Floats = positive + max(most - float(positive.sum()), 0.0) / len(positive)
    return found


def _check(traces: Mapping[str, Trace], relative: float) -> None:
    """Tell of the traces that are not known as well as was asked for."""
    loose = [name for name, trace in traces.items() if not trace.within(relative)]
    if loose:
        worst = max(loose, key=lambda name: traces[name].standard_error / (abs(traces[name].value) or 1e-300))
        error = traces[worst].standard_error / (abs(traces[worst].value) or 1e-300)
        log.warning(
            "%d of %d Hessian traces are known less well than asked for after %d probes; the worst, of %s, to ±%.0f %%; "
            "raise max_probes, samples or standard_error",
            len(loose), len(traces), traces[worst].probes, worst, 100 * error,
        )  # fmt: skip


@contextmanager
def _differentiating() -> Iterator[None]:
    """What autograd raises inside becomes one line that names what still works."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        raise _not_twice(f"{type(error).__name__}: {error}"[:200]) from error


def _not_twice(reason: str) -> EvaluationError:
    return EvaluationError(
        "hessian sensitivity needs a loss that can be differentiated twice",
        got=reason,
        fix=f"use the sensitivity {floating.WITHOUT_GRADIENTS}",
    )
