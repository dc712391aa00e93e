"""``Noise``: how much the loss rises under noise of the size of a quantiser's step.

Notation

=======  ============================================================================================
L        mean loss over calibration samples, of the float network
T        a tensor, a weight or a layer's input
Δ        step of its quantiser at b bits: one per kernel of a weight, one per input
n        noise; u uniform within ±½, z standard normal
=======  ============================================================================================

    D(b) = E_n[L(T + n)] − L(T),        n = Δ(b)·u     (uniform)
                                        n = λ·max|T|·z,  λ = 2^(−b)/√3     (gaussian)

The rounding error of a grid is nearly uniform within half a step, so that D(b) ≈ Δ²·tr(H)/24 on a quadratic loss
(literature: AskariHemmat et al., arXiv 2206.12372). The Gaussian form is that of Schaefer et al. (arXiv 2302.01382), who leave λ
open; here it is the deviation of the rounding error of b bits over ±max|T|.

Noise is drawn in pairs, n and −n, which takes out the gradient's part, and is the same up to its size for all choices of a
site. It asks for no derivative, so it serves where a loss has none. What neurons keep is not disturbed but quantised
(:mod:`qsearch.sensitivity.probed_sites`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from qsearch.assignment import FLOAT_BITS
from qsearch.protocols import Evaluator, FloatNetwork, SensitivityTable
from qsearch.registry import PluginOptions
from qsearch.sensitivity import floating
from qsearch.sensitivity.floating import InputStatistics
from qsearch.sensitivity.probed_sites import completed
from qsearch.sensitivity.probing import shares
from qsearch.space import SearchSpace, Site, Variable

Floats = NDArray[np.float64]


class Noise:
    """Rise of the loss under noise; see the notation above."""

    quantity = "increase of the loss under noise"

    class Options(PluginOptions):
        """Which noise, and how much of it."""

        kind: Literal["uniform", "gaussian"] = "uniform"
        """uniform within a step of the quantiser, or gaussian relative to the largest magnitude."""
        draws: int = Field(default=2, ge=1)
        """Pairs of draws, each a noise and its negative; two passes each, for every choice of every variable."""
        samples: int = Field(default=128, ge=1)
        """The first n calibration samples are used."""
        seed: int = 0
        """Of the noise."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def table(self, space: SearchSpace, evaluator: Evaluator) -> SensitivityTable:
        """Damage of every choice of every variable; a kernel's share of its layer's goes by its squared step.

        Raises:
            PluginError: the evaluator has no float network to give.
            EvaluationError: a damage that is not finite; it names the site.
        """
        network = floating.float_network(evaluator, "noise", "one-at-a-time")
        inputs, passed = floating.observe_inputs(network, space, self.options.samples)
        start, count = floating.mean_loss(network, self.options.samples)
        floating.check_finite(np.asarray([start]), "the float network")
        sizes = _Sizes(network, self.options.kind, inputs)
        damage = {}
        for number, variable in enumerate(floating.tensor_variables(space)):
            rise = np.zeros(len(variable.choices))
            for position, bits in enumerate(variable.choices):
                if bits == FLOAT_BITS:
                    continue
                losses = [
                    self._loss(network, space, variable, number, partial(sizes, bits), draw, sign)
                    for draw in range(self.options.draws)
                    for sign in (1, -1)
                ]
                passed += count * len(losses)
                rise[position] = np.mean(losses) - start
                floating.check_finite(rise[position : position + 1], f"site {variable.name!r} at {bits} bits")
            damage[variable.name] = rise * shares(sizes.squared(space, variable))
        return completed(SensitivityTable(damage, passed + count), space, evaluator, "noise", measures="loss")

    def _loss(
        self,
        network: FloatNetwork,
        space: SearchSpace,
        variable: Variable,
        number: int,
        size: Callable[[Site], Tensor],
        draw: int,
        sign: int,
    ) -> float:
        """Loss with noise of one draw and sign on the sites of a variable."""
        seed = np.random.SeedSequence([self.options.seed % 2**63, number, draw]).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(seed))

        def noisy(site: Site, x: Tensor) -> Tensor:
            return x + sign * size(site).to(x) * self._noise(x, generator)

        with ExitStack() as changes:
            for site in map(space.site, variable.sites):
                if site.role == "weight":
                    weight = floating.weight_of(network, site)
                    changes.enter_context(_replaced(weight, noisy(site, weight.detach())))
                else:
                    changes.enter_context(floating.changed_inputs(network, {site: partial(noisy, site)}))
            return floating.mean_loss(network, self.options.samples)[0]

    def _noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """u or z."""
        if self.options.kind == "uniform":
            return (torch.rand(like.shape, generator=generator) - 0.5).to(like)
        return torch.randn(like.shape, generator=generator).to(like)


class _Sizes:
    """Δ or λ·max|T|: what noise is multiplied by, so that it broadcasts against its tensor."""

    def __init__(self, network: FloatNetwork, kind: str, inputs: dict[str, InputStatistics]) -> None:
        self._network, self._kind, self._inputs = network, kind, inputs

    def __call__(self, bits: int, site: Site) -> Tensor:
        if self._kind == "gaussian":
            return torch.tensor(2.0**-bits / 3**0.5 * self._largest(site))
        step = self._network.step(site.name, bits)
        if site.role == "activation":
            return step
        return step.reshape(-1, *[1] * (floating.weight_of(self._network, site).dim() - 1))

    def squared(self, space: SearchSpace, variable: Variable) -> Floats:
        """Squared sizes of each kernel at each choice, summed over the sites of a variable, (kernels, choices)."""
        found = np.zeros((variable.length, len(variable.choices)))
        for site in map(space.site, variable.sites) if variable.length > 1 else ():
            for position, bits in enumerate(variable.choices):
                if bits != FLOAT_BITS:
                    found[:, position] += self(bits, site).double().square().flatten().cpu().numpy()
        return found

    def _largest(self, site: Site) -> float:
        if site.role == "activation":
            return self._inputs[site.name].largest
        return float(floating.weight_of(self._network, site).detach().abs().max())


@contextmanager
def _replaced(weight: Tensor, values: Tensor) -> Iterator[None]:
    """Inside, a weight has other values."""
    before = weight.data
    weight.data = values
    try:
        yield
    finally:
        weight.data = before
