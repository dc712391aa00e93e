"""``QuantizedNetwork``: a copy of a network that takes on bit assignments.

Quantised weights are tabulated once per (site, bits), so that an assignment costs look-ups: a layer-wise choice swaps
a tensor in, a kernel-wise one gathers rows. Input activations are fake-quantised in hooks. Then
:mod:`qsearch.quantize.correction` takes out the shift that quantisation causes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qsearch.assignment import FLOAT_BITS, BitAssignment, Bits
from qsearch.errors import DataError, SpaceError, nearest
from qsearch.layers import Layer
from qsearch.overlay import ALL
from qsearch.protocols import Correction
from qsearch.quantize.activations import ActivationQuantizer, ActivationRange
from qsearch.quantize.checks import Arguments, Hook, check_repeats, check_spikes, checked, observe, refuse
from qsearch.quantize.correction import ShiftCorrection
from qsearch.quantize.modules import QUANTISABLE, Inputs, first, forward, samples
from qsearch.quantize.neurons import NeuronRegisters, Register
from qsearch.quantize.overlay import OverlaidWeight, OverlayTable
from qsearch.quantize.reuse import Reuse, find_flow, sites_by_module
from qsearch.quantize.unfolding import unfold
from qsearch.quantize.weights import QuantizedWeight, WeightTable
from qsearch.sites import idle_sites
from qsearch.spiking.neurons import Integrator


@dataclass(frozen=True)
class Settled:
    """What training has found, in place of what the network has and calibration would find.

    Attributes:
        state: parameters and buffers of the unfolded network, those of its layers in float, by their names there; those
            that it does not name are the network's.
        weights: weight site → the weight at the bitwidths of its kernels.
        inputs: input site → its quantiser.
        registers: site of neurons → its register.
        overlays: weight site → the weight under its overlay, of those that have one.
    """

    state: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, Sequence[QuantizedWeight]] = field(default_factory=dict)
    inputs: Mapping[str, ActivationQuantizer] = field(default_factory=dict)
    overlays: Mapping[str, OverlaidWeight] = field(default_factory=dict)
    registers: Mapping[str, Register] = field(default_factory=dict)


class QuantizedNetwork:
    """A network under bit assignments; float until the first one is applied.

    Works on an unfolded copy (:mod:`qsearch.quantize.unfolding`): the network given is never touched. Weights that
    several layers share are quantised by each of them on its own; parametrised ones (weight norm, say) are quantised as the
    values they have. What the network computes depends on the last assignment only, not on those before it.

    Attributes:
        model: the unfolded copy.
        idle: sites that change nothing that is computed.
        beside: weight site → the sites of its overlay.
        reuse: what passes leave for those under later assignments; None where nothing is kept.

    Args:
        model: the float network.
        layers: its layers, as traced; each has a weight site and, but for embeddings, an input site. A matrix product has
            two input sites; a layer with the period of an overlay the two sites of :mod:`qsearch.overlay`.
        calibration: batches of inputs. All of them set the activation ranges; together, as one batch, they correct
            the shift.
        correction: take out the shift that quantisation causes, after every new assignment.
        correction_samples: how many of the calibration samples that takes, from the first; all if None.
        settled: parameters and grids that are not the network's and calibration's.
        reuse: bytes for what passes leave for those under later assignments, see :mod:`qsearch.quantize.reuse`. What they
            compute is the same to the last bit; of other data than calibration's, those that it is told of by :meth:`know`.

    Raises:
        DataError: no calibration data, a network that cannot be copied or whose output is not one tensor with a row
            per sample, or differs from one run to the next, a layer that it does not have, one that runs and is not
            among ``layers``, numbers that are not finite, or are no spikes where a layer reads those, a name in ``settled`` that is none of the network's.
    """

    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        calibration: Sequence[Inputs],
        *,
        correction: bool = True,
        correction_samples: int | None = None,
        settled: Settled | None = None,
        reuse: int = 0,
    ) -> None:
        if not calibration:
            raise DataError("calibration needs at least one batch", got="none")
        self.model = unfold(model, calibration[0]).network
        self._calibration = tuple(calibration)
        self._modules = own_modules(self.model, layers)
        if settled is not None:
            self._load(settled.state)
        self._weights = {
            layer.weight_site: WeightTable(layer.weight_site, _weight(self._modules[layer.name]))
            for layer in layers
            if layer.weighted
        }
        self._overlays = {
            layer.weight_site: OverlayTable(self._weights[layer.weight_site], layer.overlay)
            for layer in layers
            if layer.overlay
        }
        self.beside = {layer.weight_site: (layer.overlay_site, layer.pattern_site) for layer in layers if layer.overlay}
        self.idle = idle_sites(layers)
        self._neurons = NeuronRegisters(self._modules, layers)
        self._inputs = {site: place for layer in layers for site, place in input_sites(layer).items()}
        self._ranges = {site: ActivationRange(site) for site in self._inputs}
        self._quantizers: dict[str, ActivationQuantizer] = {}
        self._others: Mapping[str, Callable[[Tensor], Tensor]] | None = None
        extra = [site for sites in self.beside.values() for site in sites]
        extra += [layer.activation_site for layer in layers if layer.reads_spikes]  # they stay as they are
        sites = dict.fromkeys([*self._weights, *self._ranges, *self._neurons.sites, *extra])
        self._bits: dict[str, Bits] = dict.fromkeys(sites, FLOAT_BITS)
        self._refuse_others()
        self._calibrate(layers)
        self._adopt(settled or Settled())
        corrected_on = first(self._calibration, correction_samples)
        self._share = sum(map(samples, corrected_on)) / sum(map(samples, self._calibration))
        self._correction = ShiftCorrection(self.model, self._modules, corrected_on) if correction else None
        self._settled = True
        self._output: Tensor | None = None
        parts = [] if self._correction is None else self._correction.parts
        owned = sites_by_module(layers, self._modules, self._bits)
        flow = find_flow(self.model, self._calibration[0], owned, parts) if reuse else None
        for site, (layer, operand) in self._inputs.items():
            self._modules[layer].register_forward_pre_hook(self._quantise_input(site, operand), with_kwargs=True)
        self.reuse = None if flow is None else Reuse(self.model, flow, owned, parts, reuse, self._calibration)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of all sites that an assignment may set."""
        return tuple(self._bits)

    @property
    def input_sites(self) -> tuple[str, ...]:
        """Names of the sites that are inputs of layers."""
        return tuple(self._ranges)

    @property
    def quantizers(self) -> Mapping[str, ActivationQuantizer]:
        """Input site → its quantiser under the present assignment; sites in float are not in it. Read-only."""
        return MappingProxyType(self._quantizers)

    @contextmanager
    def quantising(self, quantizers: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
        """Inside, these quantise the inputs of their sites, in the place of all others."""
        before = self._others
        self._others, self._output = quantizers, None
        try:
            with nullcontext() if self.reuse is None else self.reuse.resting():
                yield
        finally:
            self._others, self._output = before, None

    @property
    def has_neurons(self) -> bool:
        """Whether it has neurons that spike, or integrate."""
        return bool(self._neurons.sites)

    @property
    def quantised(self) -> bool:
        """Whether anything is, that computes."""
        return any(bits != FLOAT_BITS for site, bits in self._bits.items() if site not in self.idle)

    def apply(self, assignment: BitAssignment) -> None:
        """Take on an assignment; sites that it does not name are float, weights whose overlay it does not name plain.

        Raises:
            SpaceError: a site that the network does not have, or bits that it cannot take.
            EvaluationError: the shift cannot be corrected.
        """
        self.take_on(assignment)
        if not self._settled:
            self._correct()
            self._settled = True

    def take_on(self, assignment: BitAssignment) -> None:
        """Take on an assignment without correcting the shift: for who corrects it elsewhere, or calls :meth:`apply` later.

        Raises:
            SpaceError: as :meth:`apply`.
        """
        for site in assignment:
            if site not in self._bits:
                raise SpaceError(f"the network has no site {site!r}", fix=nearest(site, self._bits))
        wanted = {site: assignment.get(site, FLOAT_BITS) for site in self._bits}
        for overlay, pattern in self.beside.values():
            if wanted[overlay] == ALL:
                wanted[pattern] = FLOAT_BITS  # it has no meaning there
        settable = (*self._weights, *self._ranges, *self._neurons.sites)
        parts = {site: (site, *self.beside.get(site, ())) for site in settable}
        changed = [site for site, named in parts.items() if any(wanted[part] != self._bits[part] for part in named)]
        if not changed and self._settled:
            return
        self._settled, self._output = False, None
        if self.reuse is not None:
            self.reuse.pause()
        for site in changed:
            self._set(site, wanted)
            self._bits.update({part: wanted[part] for part in parts[site]})

    def __call__(self, inputs: Inputs) -> Any:
        """The network's output under the present assignment, in inference mode."""
        with torch.inference_mode():
            return forward(self.model, inputs) if self.reuse is None else self.reuse.forward(inputs)

    def know(self, data: Inputs) -> None:
        """Passes of rows of these data may be reused: they are kept, and nobody writes into them other than by torch."""
        if self.reuse is not None:
            self.reuse.know(data)

    def calibration_output(self) -> Tensor:
        """Output on the calibration data, a row per sample; costs nothing where the correction has given it."""
        if self._output is None:
            self._output = torch.cat([self(batch) for batch in self._calibration])
        return self._output

    @property
    def corrections(self) -> Mapping[str, Correction]:
        """Layer → what the correction takes out of its output; other layers are not corrected."""
        return self._correction.layers if self._correction is not None else {}

    @property
    def passes(self) -> float:
        """Forward passes over the calibration data that an assignment and its :meth:`calibration_output` take."""
        if self._correction is None or self._gives_output(self._correction):
            return 1
        return 1 + self._share

    def quantized_weight(self, site: str, bits: int) -> QuantizedWeight:
        """Codes, scales and values of a weight at one bitwidth, 0..31."""
        return self._table(site).quantized(bits)

    def overlaid_weight(self, site: str, bits: int, kept: int, pattern: int) -> OverlaidWeight:
        """Codes, scales, mask and values of a weight under an overlay; see :meth:`OverlayTable.overlaid`."""
        with torch.inference_mode(False), torch.no_grad():
            return self._overlay(site).overlaid(bits, kept, pattern)

    def weight_errors(self, site: str, bits: int) -> NDArray[np.float64]:
        """Squared error of each kernel of a weight at one bitwidth, shape (K,)."""
        with torch.inference_mode(False), torch.no_grad():
            return self._table(site).errors(bits)

    def activation_quantizer(self, site: str, bits: int) -> ActivationQuantizer:
        """Scale and grid of an input activation at one bitwidth, 1..31; of either input of a matrix product."""
        if site not in self._ranges:
            raise SpaceError(f"the network has no input site {site!r}", fix=nearest(site, self._ranges))
        return self._ranges[site].quantizer(bits)

    def register(self, site: str, bits: int) -> Register | None:
        """The register of a site of neurons at one bitwidth; None for float."""
        return self._neurons.register(site, bits)

    def is_weight(self, site: str) -> bool:
        """Whether a site is a weight; the others are inputs of layers, or of neurons."""
        return site in self._weights

    def _table(self, site: str) -> WeightTable:
        if site not in self._weights:
            raise SpaceError(f"the network has no weight site {site!r}", fix=nearest(site, self._weights))
        return self._weights[site]

    def _overlay(self, site: str) -> OverlayTable:
        if site not in self._overlays:
            raise SpaceError(f"the network has no overlay at {site!r}", fix=nearest(site, self._overlays))
        return self._overlays[site]

    @torch.inference_mode(False)
    @torch.no_grad()
    def _set(self, site: str, wanted: Mapping[str, Bits]) -> None:
        """Give one site its bits."""
        bits = wanted[site]
        if site in self._weights:
            weight, values = _weight(self._modules[site.removesuffix(".weight")]), self.values(site, wanted)
            if values.stride() != weight.stride():  # functional calls with the weight know it by its layout
                values = torch.empty_like(weight).copy_(values)
            weight.data = values
        elif site in self._neurons.sites:
            self._neurons.set(site, bits)
        elif not isinstance(bits, int) or bits < 1:
            raise SpaceError(f"activation site {site!r} takes one bitwidth of at least 1", got=bits)
        elif bits == FLOAT_BITS:
            self._quantizers.pop(site, None)
        else:
            self._quantizers[site] = self._ranges[site].quantizer(bits)

    def values(self, site: str, wanted: Mapping[str, Bits]) -> Tensor:
        """A weight as an assignment asks for it."""
        table, bits = self._weights[site], wanted[site]
        overlay = [wanted[name] for name in self.beside.get(site, ())]
        if not overlay or overlay[0] == ALL:
            return table.values(
                bits if isinstance(bits, int) else BitAssignment({site: bits}).vector(site, table.kernels)
            )
        kept, pattern = overlay
        if not (isinstance(bits, int) and isinstance(kept, int) and isinstance(pattern, int)):
            raise SpaceError(
                f"an overlaid weight takes one bitwidth, and one overlay, at {site!r}", got=(bits, *overlay)
            )
        return self._overlays[site].overlaid(bits, kept, pattern).values

    def _load(self, state: Mapping[str, Tensor]) -> None:
        """Take on the tensors that a state names."""
        known = self.model.state_dict()
        for name in state:
            if name not in known:
                raise DataError(f"the network has no parameter or buffer {name!r}", fix=nearest(name, known))
        self.model.load_state_dict(state, strict=False)

    def _correct(self) -> None:
        changed = self.quantised
        if self.reuse is not None:
            self.reuse.begin(self._bits)
        if self._correction is None:
            return
        if not changed:
            self._correction.reset()
            return
        try:
            output = self._correction.run(self.reuse)
        except BaseException:
            if self.reuse is not None:
                self.reuse.pause()  # what is corrected by now is nobody's
            raise
        self._output = output if self._gives_output(self._correction) else None

    def _gives_output(self, correction: ShiftCorrection) -> bool:
        """Whether a correction gives the output on the calibration data: exactly, and on all of them."""
        return correction.exact and self._share == 1

    def _refuse_others(self) -> None:
        """Let no layer run that is not among those given, on any data: it would run in float, and cost nothing."""
        searched = set(self._modules.values())
        for name, module in self.model.named_modules():
            if isinstance(module, (*QUANTISABLE, Integrator)) and module not in searched:
                module.register_forward_pre_hook(refuse(name))

    def _calibrate(self, layers: Sequence[Layer]) -> None:
        """Let every input site see the calibration data, in float; let no layer that reads spikes see anything else."""
        handles = [
            self._modules[layer].register_forward_pre_hook(observe(self._ranges[site], operand), with_kwargs=True)
            for site, (layer, operand) in self._inputs.items()
        ]
        handles += [
            self._modules[layer.name].register_forward_pre_hook(check_spikes(layer.name), with_kwargs=True)
            for layer in layers
            if layer.reads_spikes
        ]
        handles += self._neurons.watch(self.model)
        try:
            outputs = [checked(self.model, forward(self.model, batch), batch) for batch in self._calibration]
        finally:
            for handle in handles:
                handle.remove()
        check_repeats(self.model, outputs[0], forward(self.model, self._calibration[0]))

    def _adopt(self, settled: Settled) -> None:
        for site, found in settled.weights.items():
            for quantized in found:
                self._table(site).adopt(quantized)
        for site, quantizer in settled.inputs.items():
            self._ranges[site].adopt(quantizer)
        for site, overlaid in settled.overlays.items():
            self._overlay(site).adopt(overlaid)
        for site, register in settled.registers.items():
            self._neurons.adopt(site, register)

    def _quantise_input(self, site: str, operand: int) -> Hook:
        def quantise(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
            quantizer = (self._quantizers if self._others is None else self._others).get(site)
            if quantizer is None:
                return None
            if args:
                return (*args[:operand], quantizer(args[operand]), *args[operand + 1 :]), kwargs
            return args, {**kwargs, "input": quantizer(kwargs["input"])}

        return quantise


def input_sites(layer: Layer) -> dict[str, tuple[str, int]]:
    """Sites of a layer's inputs that are quantised → its name, and which of its inputs each is."""
    if layer.reads_spikes or layer.kind in ("embedding", "neuron", "threshold"):
        return {}
    first = {layer.activation_site: (layer.name, 0)}
    return first | {layer.weight_site: (layer.name, 1)} if layer.kind == "matmul" else first


def own_modules(model: nn.Module, layers: Sequence[Layer]) -> dict[str, nn.Module]:
    """The modules of the layers, each with a weight of its own."""
    modules = dict(model.named_modules())
    for layer in layers:
        if layer.name not in modules:
            raise DataError(f"the network must have the layer {layer.name!r}", fix=nearest(layer.name, modules))
        module = modules[layer.name]
        if not layer.weighted:
            continue
        module.weight = nn.Parameter(_weight(module).detach().clone(), requires_grad=False)
    return {layer.name: modules[layer.name] for layer in layers}


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight
