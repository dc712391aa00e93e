"""What sensitivities on the float network have in common: its data in small batches, its layers' inputs, its weights.

The inputs of a product of two activations are sites of their own; which argument of the layer one is, is known here alone.

A float network is a copy that one sensitivity has to itself, so weights may be changed in place and put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qsearch.assignment import FLOAT_BITS
from qsearch.errors import EvaluationError, PluginError
from qsearch.protocols import Differentiable, Evaluator, FloatNetwork
from qsearch.space import SearchSpace, Site, Variable

Floats = NDArray[np.float64]
Batch: TypeAlias = tuple[Any, Tensor]
"""Inputs, a tensor or a tuple of them, and targets; the first extents are the samples."""

CHECKPOINTED = "torch.utils.checkpoint runs layers a second time, with other inputs; leave it out in evaluation"
"""Why a network that saves its memory so cannot be differentiated by inputs that are changed."""

WITHOUT_GRADIENTS = "one-at-a-time, noise and quantization-error"
"""Sensitivities that differentiate nothing."""


def float_network(evaluator: Evaluator, name: str, alternatives: str) -> FloatNetwork:
    """The float network of an evaluator.

    Args:
        name: the sensitivity that needs it.
        alternatives: sensitivities that do without.

    Raises:
        PluginError: it has none to give.
    """
    if not isinstance(evaluator, Differentiable):
        raise PluginError(
            f"{name} sensitivity needs an evaluator that gives its float network",
            got=f"{type(evaluator).__name__} without a method float_network()",
            fix=f"use the evaluator ptq, give yours a float_network, or use the sensitivity {alternatives}",
        )
    return evaluator.float_network()


NEURONS = frozenset({"state", "leak", "threshold"})
"""Roles of what neurons keep, which are found by probing (:mod:`qsearch.sensitivity.probed_sites`)."""


def tensor_variables(space: SearchSpace) -> list[Variable]:
    """The variables of weights and of layers' inputs, in the order of the space; none that is tied with what neurons keep."""
    return [v for v in space.variables if NEURONS.isdisjoint(space.site(name).role for name in v.sites)]


def searched_sites(space: SearchSpace) -> list[Site]:
    """The sites of all variables of weights and of layers' inputs, in network order.

    Raises:
        PluginError: one of an overlay, which has no bits of its own.
    """
    free = {name for variable in tensor_variables(space) for name in variable.sites}
    found = [site for site in space.sites if site.name in free]
    for site in found:
        if site.role not in ("weight", "activation"):
            raise PluginError(
                "a sensitivity that looks at tensors knows of bits only",
                got=f"site {site.name!r}",
                fix="take the sensitivity one-at-a-time, which asks the evaluator, or the searcher optuna, random or grid",
            )
    return found


def batches(network: FloatNetwork, samples: int | None, size: int | None = None) -> Iterator[Batch]:
    """The first ``samples`` samples, at most ``size`` at a time; all of them, and as the network gives them, if None."""
    left = samples
    for inputs, targets in network.batches():
        count = len(targets) if left is None else min(left, len(targets))
        for start in range(0, count, size or max(count, 1)):
            part = slice(start, min(count, start + (size or count)))
            yield _rows(inputs, part), targets[part]
        left = None if left is None else left - count
        if left == 0:
            return


def _rows(inputs: Any, part: slice) -> Any:
    return tuple(tensor[part] for tensor in inputs) if isinstance(inputs, tuple) else inputs[part]


def forward(network: FloatNetwork, inputs: Any) -> Tensor:
    """Outputs for a tensor or a tuple of them; the network is given copies, as it may write into them."""
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    found: Tensor = network.model(*(part.clone() for part in parts))
    return found


def run(network: FloatNetwork, batch: Batch) -> Tensor:
    """Mean loss of a batch."""
    inputs, targets = batch
    return network.loss(forward(network, inputs), targets)


def mean_loss(network: FloatNetwork, samples: int | None) -> tuple[float, int]:
    """Mean loss over the first samples, and how many there were."""
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in batches(network, samples):
            total += float(run(network, batch)) * len(batch[1])
            count += len(batch[1])
    return total / count, count


def changed_arguments(
    site: Site, change: Callable[[Tensor], Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a layer is called with, the input that a site stands for gone through a function.

    Args:
        site: an activation; ``site.operand`` is its place among the positional arguments. Alone, it may be named "input".
    """
    if not args:
        return args, {**kwargs, "input": change(kwargs["input"])}
    place = site.operand
    return (*args[:place], change(args[place]), *args[place + 1 :]), dict(kwargs)


@contextmanager
def changed_inputs(network: FloatNetwork, changes: Mapping[Site, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Inside, the inputs of layers go through functions, and torch refuses checkpoints of what is differentiated.

    Args:
        changes: site of an activation → what becomes of it; once per use where its layer runs several times.
    """

    def hook(site: Site, change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        def replace(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return changed_arguments(site, change, args, kwargs)

        return replace

    handles = [
        network.layers[site.layer].register_forward_pre_hook(hook(site, change), with_kwargs=True)
        for site, change in changes.items()
    ]
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks(CHECKPOINTED):
            yield
    finally:
        for handle in handles:
            handle.remove()


def weight_of(network: FloatNetwork, site: Site) -> Tensor:
    """The float weight of a site; takes gradients."""
    weight = network.layers[site.layer].weight
    assert isinstance(weight, Tensor)
    return weight


def kernel_sums(values: Tensor, kernels: int) -> Floats:
    """Sums over each kernel of a tensor shaped as a weight, (kernels,); over all of it, (1,), where ``kernels`` is 1."""
    found: Floats = values.detach().double().reshape(kernels, -1).sum(1).cpu().numpy()
    return found


def weight_errors(network: FloatNetwork, site: Site) -> Floats:
    """Squared quantisation error of a weight at each choice of its site, shape (kernels, choices)."""
    weight = weight_of(network, site).detach().double()
    errors = np.zeros((site.kernels, len(site.choices)))
    for position, bits in enumerate(site.choices):
        if bits != FLOAT_BITS:
            rest = weight - network.quantized_weight(site.name, bits).double()
            errors[:, position] = kernel_sums(rest.square(), site.kernels)
    return errors


class InputStatistics:
    """What the calibration data show of a layer's input.

    Attributes:
        errors: squared quantisation error at each choice of the site, summed over samples and elements, (choices,).
        energy: sum of squares.
        count: numbers in all samples together.
        largest: largest magnitude.
    """

    def __init__(self, network: FloatNetwork, site: Site) -> None:
        self._network, self._site = network, site
        self.errors = np.zeros(len(site.choices))
        self.energy, self.count, self.largest = 0.0, 0, 0.0

    def observe(self, x: Tensor) -> Tensor:
        """Take in one use of the layer; the input goes on as it is."""
        self.energy += float(x.double().square().sum())
        self.count += x.numel()
        self.largest = max(self.largest, float(x.abs().max()))
        for position, bits in enumerate(self._site.choices):
            if bits != FLOAT_BITS:
                rest = x.double() - self._network.quantized_input(self._site.name, bits, x).double()
                self.errors[position] += float(rest.square().sum())
        return x


def observe_inputs(
    network: FloatNetwork, space: SearchSpace, samples: int | None
) -> tuple[dict[str, InputStatistics], int]:
    """Statistics of every searched input by its site, and the samples that were passed for it; none without such sites.

    Raises:
        EvaluationError: an input that is not finite; it names the site.
    """
    sites = [site for site in searched_sites(space) if site.role == "activation"]
    found = {site.name: InputStatistics(network, site) for site in sites}
    if not sites:
        return found, 0
    with changed_inputs(network, {site: found[site.name].observe for site in sites}):
        count = mean_loss(network, samples)[1]
    for site in sites:
        check_finite(found[site.name].errors, f"site {site.name!r}")
    return found, count


def check_finite(values: Floats, where: str) -> None:
    """Raise unless all values are finite.

    Raises:
        EvaluationError: they are not.
    """
    if not np.isfinite(values).all():
        raise EvaluationError(
            f"the sensitivity of {where} must be finite",
            got=f"{values[~np.isfinite(values)][0]}",
            fix="check the weights and the calibration data of the workload",
        )
