"""Taking out the shift that quantisation causes.

Notation, per channel of one batch-norm's input, moments on the same calibration data:

=============  ================================================================================
μ₀, σ²₀        statistics stored by training
μ_f, σ²_f      moments in the float network
μ_q, σ²_q      moments under an assignment, with everything before already corrected
δ              m_f − m_q: shift of a layer's mean output, for layers without a batch-norm behind them
=============  ================================================================================

::

    μ ← μ₀ + (μ_q − μ_f)        σ² ← σ²₀ · σ²_q / σ²_f        bias ← bias₀ + δ

The stored statistics are moved by what quantisation did to the moments, not replaced by the moments of a small
sample, so that a float assignment changes nothing. The bias is that of Nagel et al., "Data-Free Quantization Through
Weight Equalization and Bias Correction", ICCV 2019.

Neurons that spike are not shifted: their thresholds are scaled, so that they spike as often as in float
(:mod:`qsearch.quantize.firing_rates`). Layers that run before the last of them keep their biases: a constant current at
every step wakes neurons that would rest. It helps a small network of leaky neurons, and ruins one of many that forget
nothing: with it, N-MNIST at weights of 2 bits and states of 4 falls from 91 to 70 %. Layers behind it, a readout or a head,
are shifted as everywhere.

One pass of the network over the calibration data does all of it in sequence: each batch-norm measures its input, takes
its corrected statistics and only then normalises, so that the layers behind it see corrected inputs. A module
that runs several times takes the average over its runs; during the pass, the average so far.

The batches of the calibration data pass in lockstep: at each correction all of them wait until the last has been
measured. What comes out is that of one large batch, without its feature maps, for which caches are too small.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from qsearch.errors import EvaluationError
from qsearch.protocols import Correction
from qsearch.quantize.firing_rates import FiringRate
from qsearch.quantize.lockstep import in_lockstep, wait
from qsearch.quantize.modules import CONVOLUTIONS, Inputs, forward, given, head
from qsearch.quantize.moments import Moments, Sums, channel_sums, channel_totals, moments
from qsearch.quantize.passes import hooked
from qsearch.quantize.reuse import Reuse
from qsearch.spiking.neurons import Neuron

log = logging.getLogger(__name__)

VANISHING = 1e-4
"""A channel whose variance is below this share of the one it is compared with keeps its stored variance: it
is constant (its kernel is pruned, or dead in the float network), and the quotient would be noise."""


class _Site:
    """A place in the network that is measured: in float once, and under each assignment.

    Attributes:
        module: whose input or output is measured.
        reference: what was found of each of its runs in float.
        found: the same under an assignment.

    Args:
        axis: of the channels.
        stored: what of the module is corrected while passes run.
    """

    sums = staticmethod(channel_sums)

    def __init__(self, module: nn.Module, axis: int, *stored: Tensor) -> None:
        self.module = module
        self._stored = stored
        self.reference: list[Moments] = []
        self.found: list[Moments] = []
        self._axis = axis
        self._waiting: list[Sums] = []

    def reset(self) -> None:
        """Forget what was found."""
        self._waiting.clear()
        self.found.clear()

    def state(self) -> tuple[list[Moments], tuple[Tensor, ...]]:
        """What was found so far, and what is stored."""
        return list(self.found), tuple(stored.clone() for stored in self._stored)

    def restore(self, state: tuple[list[Moments], tuple[Tensor, ...]]) -> None:
        """Take on such a state."""
        self.found[:] = state[0]
        for stored, value in zip(self._stored, state[1], strict=True):
            stored.copy_(value)

    def gather(self, x: Tensor, into: list[Moments]) -> bool:
        """Wait until all batches are here; the first to go on notes their moments, and is told so."""
        run = len(into)
        self._waiting.append(self.sums(x, self._axis))
        wait()
        first = len(into) == run  # who comes here again, in a next run of the module, waits until all have been here
        if first:
            into.append(moments(self._waiting))
            self._waiting.clear()
        return first

    @property
    def shift(self) -> Tensor:
        """Mean found less mean in float, averaged over the runs so far, shape (C,)."""
        pairs = zip(self.found, self.reference, strict=False)
        return _mean([found[0] - reference[0] for found, reference in pairs])


class _Norm(_Site):
    """A batch-norm with stored statistics."""

    def __init__(self, module: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
        super().__init__(module, 1, mean, variance)
        self._original = mean.clone(), variance.clone()

    def reset(self) -> None:
        super().reset()
        self._store(*self._original)

    def measure(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Pre-hook: note the moments in the float network."""
        self.gather(given(args, kwargs), self.reference)

    def correct(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Pre-hook: store the statistics that this run, and those before it, ask for."""
        if self.gather(given(args, kwargs), self.found):
            mean, variance = self._original
            pairs = zip(self.found, self.reference, strict=False)
            ratios = [variance_ratio(found[1], reference[1], variance) for found, reference in pairs]
            self._store(mean + self.shift, variance * _mean(ratios))

    def _store(self, mean: Tensor, variance: Tensor) -> None:
        self._stored[0].copy_(mean)
        self._stored[1].copy_(variance)


class _Bias(_Site):
    """A layer whose output does not go straight into a batch-norm.

    Attributes:
        rounds: its output is of reduced precision: rounded before the shift is taken out, and not as with another bias.
    """

    sums = staticmethod(channel_totals)  # of a shift, the mean is all

    def __init__(self, module: nn.Module, channels: int) -> None:
        super().__init__(module, 1 if isinstance(module, CONVOLUTIONS) else -1)
        weight, bias = module.weight, module.bias
        assert isinstance(weight, Tensor)
        self._original = bias.detach().clone() if isinstance(bias, Tensor) else weight.new_zeros(channels)
        self._bias = nn.Parameter(self._original.clone(), requires_grad=False)
        module.bias = self._bias
        self.rounds = False

    def reset(self) -> None:
        super().reset()
        self._bias.copy_(self._original)

    @property
    def held(self) -> bool:
        """Whether the module still has the bias that it was given."""
        return self.module.bias is self._bias

    def measure(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        """Hook: note the mean output in the float network."""
        self.rounds |= torch.finfo(output.dtype).bits < 32
        self.gather(output, self.reference)

    def correct(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Hook: the output as the corrected bias makes it."""
        self.gather(output, self.found)
        shift = self.shift.to(output.dtype)
        return output - (shift.reshape(-1, *[1] * (output.dim() - 2)) if self._axis == 1 else shift)

    def finish(self) -> None:
        """Store the corrected bias; not before the end, as every run is measured with the original one."""
        if self.found:
            self._bias.copy_(self._original - self.shift)


class ShiftCorrection:
    """Corrects a network's batch-norm statistics and biases for whatever weights and activations it has.

    In a spiking network, thresholds are corrected in the place of biases, except behind the last neurons that spike. Not
    those of a network that puts tensors in the place of its modules' own while they run, as ``torch.func.functional_call``
    does: passes in lockstep would put back each other's.

    Batch-norms without stored statistics need no correction and get none; embeddings have no bias and get none. So do
    layers whose class has a forward of its own, or that have hooks of their own, unless a batch-norm follows: nothing
    says that their output moves with their bias. A warning names them.

    Args:
        model: the network, in float when this is built. Layers that need a bias get one of zero.
        layers: its quantisable layers, by name.
        batches: calibration data.

    Attributes:
        layers: layer → what is taken out of its output; those that are not corrected are not in it.
        parts: what is corrected.

    Raises:
        EvaluationError: such a network.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, nn.Module], batches: Sequence[Inputs]) -> None:
        self._model, self._batches = model, batches
        normed = normalised_layers(model, layers, head(batches[0], 2))
        self._norms = [
            _Norm(module, module.running_mean, module.running_var)
            for module in model.modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None
        ]
        shifted = layers_behind_spikes(model, layers, head(batches[0], 2)) - normed
        unnormed = {
            name: module
            for name, module in layers.items()
            if name in shifted and isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
        }
        self._rates = [FiringRate(module) for module in model.modules() if isinstance(module, Neuron)]
        self._biases = [
            _Bias(module, module.out_features if isinstance(module, nn.Linear) else module.out_channels)
            for module in unnormed.values()
            if adds_bias(module)
        ]
        self.layers: dict[str, Correction] = dict.fromkeys(sorted(normed), "moments")
        self.layers.update((name, "shift") for name, module in unnormed.items() if adds_bias(module))
        if left := [name for name, module in unnormed.items() if not adds_bias(module)]:
            log.warning("shift not corrected at layers with a forward or hooks of their own: %s", ", ".join(left))
        self._behind: list[_Bias | FiringRate] = [*self._biases, *self._rates]
        self.parts: list[_Norm | _Bias | FiringRate] = [*self._norms, *self._behind]
        handles = [norm.module.register_forward_pre_hook(norm.measure, with_kwargs=True) for norm in self._norms]
        handles += [part.module.register_forward_hook(part.measure) for part in self._behind]
        self._pass(handles)

    @property
    def exact(self) -> bool:
        """Whether :meth:`run` returns what the corrected network gives.

        No module runs more than once, and none that is given a bias rounds to less than float32.
        """
        once = max((len(part.reference) for part in self.parts), default=1) <= 1
        return once and not any(bias.rounds for bias in self._biases)

    @torch.no_grad()
    def reset(self) -> None:
        """Bring back what training stored."""
        for part in self.parts:
            part.reset()

    def run(self, reuse: Reuse | None = None) -> Tensor:
        """Correct for the present weights and activations.

        Args:
            reuse: what earlier runs have left; told before of the present bits.

        Returns:
            The corrected network's output on the calibration data, a row per sample; nearly so unless :attr:`exact`.

        Raises:
            EvaluationError: a module does not run as often as in the float network.
        """
        self.reset()
        handles = [norm.module.register_forward_pre_hook(norm.correct, with_kwargs=True) for norm in self._norms]
        handles += [part.module.register_forward_hook(part.correct) for part in self._behind]
        outputs = self._pass(handles, reuse)
        if any(len(part.found) != len(part.reference) for part in self.parts):
            raise EvaluationError(
                "every layer must run as often as in the float network, for its shift to be corrected",
                fix="set correction: false for networks whose control flow depends on the data",
            )
        with torch.no_grad():
            for bias in self._biases:
                bias.finish()
        return torch.cat(outputs)

    def _pass(self, handles: Sequence[RemovableHandle], reuse: Reuse | None = None) -> list[Tensor]:
        """Run the batches in lockstep with hooks in place, which are then removed."""
        try:
            with torch.inference_mode():
                if reuse is None:
                    outputs = in_lockstep([partial(forward, self._model, batch) for batch in self._batches])
                else:
                    outputs = reuse.in_lockstep(self._batches, [handle.id for handle in handles])
        finally:
            for handle in handles:
                handle.remove()
        if not all(bias.held for bias in self._biases):
            raise EvaluationError(
                "layers must keep their own biases while the network runs, for their shift to be corrected",
                got="tensors put in their place",
                fix="set correction: false for networks that use torch.func.functional_call",
            )
        return outputs


def adds_bias(module: nn.Module) -> bool:
    """Whether a layer's output is torch's own function of its input plus its ``bias``."""
    stock = next(base for base in (*CONVOLUTIONS, nn.Linear) if isinstance(module, base))
    names = ("forward", "_conv_forward")
    same = all(getattr(type(module), name, None) is getattr(stock, name, None) for name in names)
    return same and not any(name in vars(module) for name in names) and not hooked(module)


def variance_ratio(quantized: Tensor, floating: Tensor, stored: Tensor) -> Tensor:
    """σ²_q / σ²_f per channel; 1 where either vanishes."""
    sound = (quantized >= VANISHING * floating) & (floating >= VANISHING * stored) & (floating > 0)
    return torch.where(sound, quantized / floating, torch.ones_like(floating))


def normalised_layers(model: nn.Module, layers: Mapping[str, nn.Module], inputs: Inputs) -> frozenset[str]:
    """Names of the layers whose output goes straight into a batch-norm, every time they run.

    Found by running the network: the batch-norm's input is the layer's output, the same tensor, not written to
    in between.
    """
    outputs: dict[int, tuple[str, Tensor, int]] = {}
    runs, normed = Counter[str](), Counter[str]()

    def produced(name: str) -> Callable[..., None]:
        def record(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            runs[name] += 1
            outputs[id(output)] = (name, output, _version(output))

        return record

    def consumed(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = given(args, kwargs)
        name, output, version = outputs.get(id(x), ("", x, -1))
        if _version(output) == version:
            normed[name] += 1

    handles = [module.register_forward_hook(produced(name)) for name, module in layers.items()]
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    handles += [norm.register_forward_pre_hook(consumed, with_kwargs=True) for norm in norms]
    _watched(model, inputs, handles)
    return frozenset(name for name in runs if normed[name] >= runs[name])


def layers_behind_spikes(model: nn.Module, layers: Mapping[str, nn.Module], inputs: Inputs) -> frozenset[str]:
    """Names of the layers that run, if at all, only after the last neurons that spike; of all where there are none."""
    before, running = set[str](), set[str]()

    def spiked(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        before.update(running)

    def ran(name: str) -> Callable[..., None]:
        return lambda module, args, output: running.add(name)

    handles = [module.register_forward_hook(ran(name)) for name, module in layers.items()]
    handles += [module.register_forward_hook(spiked) for module in model.modules() if isinstance(module, Neuron)]
    _watched(model, inputs, handles)
    return frozenset(layers) - before


def _watched(model: nn.Module, inputs: Inputs, handles: Iterable[RemovableHandle]) -> None:
    """Run a network once with hooks in place, which are then removed."""
    try:
        with torch.no_grad():
            forward(model, inputs)
    finally:
        for handle in handles:
            handle.remove()


def _mean(runs: Sequence[Tensor]) -> Tensor:
    """The mean over the runs; torch takes four calls for that of one."""
    return runs[0] if len(runs) == 1 else torch.stack(list(runs)).mean(0)


def _version(x: Tensor) -> int:
    """How often a tensor was written to; torch does not count that of one made in inference mode."""
    return 0 if x.is_inference() else x._version
