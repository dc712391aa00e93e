"""``TrainableNetwork``: a network under one assignment whose weights and quantisers learn.

Made like a :class:`qsearch.quantize.network.QuantizedNetwork`, of an unfolded copy with a weight of its own for each
layer; only that quantisers stand where that one looks values up. When training is over, :meth:`TrainableNetwork.settled`
says what was found in the terms of that class, which then evaluates and exports it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from qsearch.assignment import FLOAT_BITS, BitArray, BitAssignment
from qsearch.errors import SpaceError, nearest
from qsearch.layers import Layer
from qsearch.overlay import ALL
from qsearch.quantize.activations import ActivationQuantizer
from qsearch.quantize.modules import Inputs
from qsearch.quantize.network import QuantizedNetwork, Settled, input_sites, own_modules
from qsearch.quantize.neurons import NeuronRegisters, Register
from qsearch.quantize.overlay import OverlaidWeight
from qsearch.quantize.unfolding import unfold
from qsearch.quantize.weights import QuantizedWeight
from qsearch.spiking.neurons import Integrator
from qsearch.training.lessons import Lessons
from qsearch.training.overlay import OverlaidLearner, overlaid_learner
from qsearch.training.quantizers import Family, InputLearner, Learner, WeightLearner

_Found = TypeVar("_Found", QuantizedWeight, OverlaidWeight, ActivationQuantizer)


class TrainableNetwork(nn.Module):
    """A network under one assignment, in float where that says 32; sites that it does not name are float.

    Args:
        lessons: the network and its grids.
        assignment: bits of its sites.
        family: what quantises.

    Attributes:
        model: the network; its parameters take gradients.
        weights, inputs: site → its quantiser, of those that are not in float.

    Raises:
        SpaceError: a site that the network does not have.
    """

    @torch.inference_mode(False)
    def __init__(self, lessons: Lessons, assignment: BitAssignment, family: Family) -> None:
        super().__init__()
        calibrated = lessons.calibrated
        for site in assignment:
            if site not in calibrated.sites:
                raise SpaceError(f"the network has no site {site!r}", fix=nearest(site, calibrated.sites))
        self.model = unfold(lessons.model(), _first(lessons.data.inputs)).network
        self._modules_of = own_modules(self.model, lessons.layers)
        self.model.requires_grad_(True)
        self.weights: Mapping[str, WeightLearner] = {}
        self.inputs: Mapping[str, InputLearner] = {}
        for layer in lessons.layers:
            if calibrated.is_weight(layer.weight_site):
                self._quantise_weight(layer, assignment, calibrated, family)
            for site, (_, operand) in input_sites(layer).items():
                self._quantise_input(layer, site, operand, assignment, calibrated, family)
        self._registers = self._give_registers(lessons.layers, assignment, calibrated)

    def forward(self, inputs: Inputs) -> Any:
        """The network's output on a batch."""
        return self.model(*inputs) if isinstance(inputs, tuple) else self.model(inputs)

    @property
    def learners(self) -> Iterator[Learner]:
        """All quantisers."""
        yield from self.weights.values()
        yield from self.inputs.values()

    def parameter_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters of the network, and those of its quantisers."""
        steps = [parameter for learner in self.learners for parameter in learner.parameters()]
        known = set(map(id, steps))
        return [parameter for parameter in self.model.parameters() if id(parameter) not in known], steps

    def constrain(self) -> None:
        """Bring parameters of quantisers and neurons back to where they make sense; call it after every step."""
        for learner in self.learners:
            learner.constrain()
        for module in self.model.modules():
            if isinstance(module, Integrator):
                module.constrain()

    def penalty(self) -> Tensor | None:
        """What the quantisers add to the loss; None for nothing."""
        found = [penalty for learner in self.learners if (penalty := learner.penalty()) is not None]
        return torch.stack(found).sum() if found else None

    @torch.inference_mode(False)
    @torch.no_grad()
    def settled(self) -> Settled:
        """What was found so far: a copy, on the processor."""
        weights = {
            site: [_moved(found) for found in learner.settle(self._float(site))]
            for site, learner in self.weights.items()
            if not isinstance(learner, OverlaidLearner)
        }
        overlays = {
            site: _moved(learner.overlaid(self._float(site)))
            for site, learner in self.weights.items()
            if isinstance(learner, OverlaidLearner)
        }
        inputs = {site: _moved(learner.settle()) for site, learner in self.inputs.items()}
        return Settled(self.float_state(), weights, inputs, overlays, self._registers)

    def float_state(self) -> dict[str, Tensor]:
        """Parameters and buffers of the network in float, by their names without quantisers; a copy, on the processor."""
        skipped = tuple(_places(self))
        state = self.model.state_dict()
        return {
            float_name(name): value.detach().cpu().clone()
            for name, value in state.items()
            if not name.startswith(skipped)
        }

    def float_weight(self, layer: str) -> nn.Parameter:
        """The weight of a layer before it is quantised."""
        module: Any = self._modules_of[layer]
        found: nn.Parameter = (
            module.parametrizations.weight.original if f"{layer}.weight" in self.weights else module.weight
        )
        return found

    def _float(self, site: str) -> nn.Parameter:
        return self.float_weight(site.removesuffix(".weight"))

    def _give_registers(
        self, layers: Sequence[Layer], assignment: BitAssignment, calibrated: QuantizedNetwork
    ) -> dict[str, Register]:
        """Let neurons have their states, leaks and thresholds in registers; site → register, where it is not float."""
        neurons = NeuronRegisters(self._modules_of, layers)
        found: dict[str, Register] = {}
        for site in neurons.sites:
            if (register := calibrated.register(site, assignment.highest(site))) is not None:
                neurons.adopt(site, register)
                neurons.set(site, register.bits)
                found[site] = register
        return found

    def _quantise_weight(
        self, layer: Layer, assignment: BitAssignment, calibrated: QuantizedNetwork, family: Family
    ) -> None:
        site, weight = layer.weight_site, self._modules_of[layer.name].weight
        assert isinstance(weight, Tensor)
        bits = assignment.vector(site, layer.kernels) if site in assignment else np.asarray([FLOAT_BITS])
        kept = assignment.highest(layer.overlay_site) if layer.overlay else ALL
        learner: WeightLearner
        if kept != ALL:
            pattern = assignment.highest(layer.pattern_site)
            start = calibrated.overlaid_weight(site, assignment.highest(site), kept, pattern)
            learner = overlaid_learner(start, weight.detach(), family)
        elif bool((bits == FLOAT_BITS).all()):
            return
        else:
            learner = family.weight(weight.detach(), bits, calibrated_scales(calibrated, site, bits))
        self._attach_weight(layer, learner)
        self.weights = {**self.weights, site: learner}

    def _quantise_input(
        self,
        layer: Layer,
        site: str,
        operand: int,
        assignment: BitAssignment,
        calibrated: QuantizedNetwork,
        family: Family,
    ) -> None:
        bits = assignment.highest(site)
        if bits == FLOAT_BITS:
            return
        learner = family.input(calibrated.activation_quantizer(site, bits))
        self._attach_input(layer, site, operand, learner)
        self.inputs = {**self.inputs, site: learner}

    def _attach_weight(self, layer: Layer, learner: Learner) -> None:
        """Let a quantiser stand behind a layer's weight."""
        module = self._modules_of[layer.name]
        register_parametrization(module, "weight", learner, unsafe=True)  # whose check would run the quantiser twice

    def _attach_input(self, layer: Layer, site: str, operand: int, learner: Learner) -> None:
        """Let a quantiser stand before one of a layer's inputs."""
        module = self._modules_of[layer.name]
        module.add_module(f"quantize_{site.rpartition('.')[2]}", learner)
        module.register_forward_pre_hook(_quantise(learner, operand), with_kwargs=True)


def calibrated_scales(calibrated: QuantizedNetwork, site: str, bits: BitArray) -> Tensor:
    """Scale of each kernel of a weight at its own bits, shape (K,); 1 for kernels at 0 and at 32 bits."""
    found = torch.ones(len(bits))
    for b in {int(b) for b in bits} - {0, FLOAT_BITS}:
        rows = torch.from_numpy(bits == b)
        found[rows] = calibrated.quantized_weight(site, b).scales.cpu()[rows]
    return found


def float_name(name: str) -> str:
    """Name in float of a tensor of a trainable network: without what lets a quantiser stand behind a weight."""
    return name.replace("parametrizations.weight.original", "weight")  # no dot before it where the network is the layer


def _quantise(
    learner: Learner, operand: int
) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]:
    def quantise(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (*args[:operand], learner(args[operand]), *args[operand + 1 :]), kwargs
        return args, {**kwargs, "input": learner(kwargs["input"])}

    return quantise


def _places(network: TrainableNetwork) -> Iterator[str]:
    """How names of the quantisers' own parameters begin in the network's state."""
    learners = set(map(id, network.learners))
    for name, module in network.model.named_modules():
        if id(module) in learners:
            yield f"{name}."


def _moved(found: _Found) -> _Found:
    """What a quantiser has settled on, on the processor."""
    tensors: dict[str, Any] = {name: part.cpu() for name, part in vars(found).items() if isinstance(part, Tensor)}
    return replace(found, **tensors)


def _first(inputs: Inputs) -> Inputs:
    """A few samples, to unfold the network with."""
    return tuple(part[:8] for part in inputs) if isinstance(inputs, tuple) else inputs[:8]
