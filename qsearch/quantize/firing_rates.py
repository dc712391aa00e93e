"""Thresholds that bring firing rates back to what they are in float.

Notation, for one run of a neuron layer on the calibration data:

========  =================================================================================
θ₀        stored thresholds
r_f       spikes per step and neuron in the float network: of all neurons, or of each channel where channels have
          thresholds of their own
r(x)      the same under an assignment, with thresholds of θ₀ · 2^x
========  =================================================================================

A rate falls where a threshold rises, but how steeply depends on the leak and on what comes in: as 1/θ where nothing leaks,
to nothing at once where neurons just reach their threshold. So no formula is trusted, and every threshold is tried: x halves
[−1, 1], from x = 0, and the one whose rate comes nearest to r_f is kept, the first of equals. θ₀ is the first that is tried,
so that on these data no rate ends further off than without correction.

Tried is what registers hold: the threshold's own, where it has one, and in force what the state's then makes of it. Above
the greatest value of a register there is nothing to try, and rates that are too high stay so; between two codes there is
nothing either, and a state of few bits, whose steps are as coarse as its threshold, leaves nothing to correct.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qsearch.quantize.lockstep import wait
from qsearch.spiking.neurons import Neuron, RecurrentNeuron

TRIALS = 7
"""Thresholds that are tried: the last is within 1.1 % of where the rate would be that in float."""


class FiringRate:
    """Neurons whose thresholds are corrected, in passes in lockstep.

    A module that runs several times takes the average x over its runs, each found from θ₀; during the pass, the average so
    far. Neurons that hear each other have one rate, as the threshold of one channel changes those of the others.

    Attributes:
        module: the neurons.
        reference: r_f of each run.
        found: x of each run under an assignment; what :meth:`measure` and :meth:`correct` note.
    """

    def __init__(self, module: Neuron) -> None:
        self.module = module
        self.reference: list[Tensor] = []
        self.found: list[Tensor] = []
        self._original = module.threshold.weight.detach().clone()
        self._waiting: list[tuple[Tensor, int]] = []
        self._rate = torch.zeros(1)

    def reset(self) -> None:
        """Bring back θ₀, and forget what was found."""
        self._waiting.clear()
        self.found.clear()
        self._keep(self._original)

    def state(self) -> tuple[list[Tensor], Tensor]:
        """What was found so far, and the thresholds."""
        return list(self.found), self.module.threshold.weight.detach().clone()

    def restore(self, state: tuple[list[Tensor], Tensor]) -> None:
        """Take on such a state."""
        self.found[:] = state[0]
        self._keep(state[1])

    def measure(self, module: torch.nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        """Hook: note the rate in the float network."""
        run = len(self.reference)
        rate = self._gather(output)
        if len(self.reference) == run:
            self.reference.append(rate)

    def correct(self, module: torch.nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Hook: the spikes as the corrected thresholds make them."""
        run = len(self.found)
        if run >= len(self.reference):  # more often than in float, which is told after the pass
            self.found.append(torch.zeros(1))
            return output
        nearest = self._search(args[0], self.reference[run])
        if len(self.found) == run:
            self.found.append(nearest)
        self._scale(torch.stack(self.found).mean(0))
        return self.module.forward(args[0])

    def _search(self, currents: Tensor, wanted: Tensor) -> Tensor:
        """x of the nearest rate, in the shape of the rate. All passes see the same rates, and take the same steps."""
        low, high, nearest = -torch.ones_like(wanted), torch.ones_like(wanted), torch.zeros_like(wanted)
        least = torch.full_like(wanted, torch.inf)
        tried: list[tuple[Tensor, Tensor]] = []
        for _ in range(TRIALS):
            x = (low + high) / 2
            thresholds = self._scale(x)
            known = [rate for others, rate in tried if torch.equal(others, thresholds)]
            rate = known[0] if known else self._gather(self.module.forward(currents))
            tried.append((thresholds, rate))
            off = (rate - wanted).abs()
            nearest, least = torch.where(off < least, x, nearest), torch.minimum(off, least)
            if not least.any():
                break
            low, high = torch.where(rate > wanted, x, low), torch.where(rate > wanted, high, x)
        return nearest

    def _gather(self, spikes: Tensor) -> Tensor:
        """Wait until all batches are here; their rate, in a shape that broadcasts with θ₀."""
        channels = self._channels(spikes)
        rows = spikes.flatten(0, 1).reshape(spikes.shape[0] * spikes.shape[1], channels, -1)
        self._waiting.append((rows.sum(2, dtype=torch.float32).sum(0, dtype=torch.float64), rows[:, 0].numel()))
        wait()
        if self._waiting:
            total = torch.stack([spiked for spiked, _ in self._waiting]).sum(0)
            rates = total / sum(count for _, count in self._waiting)
            self._rate = rates.reshape(-1, *[1] * (self._original.dim() - 1))
            self._waiting.clear()
        wait()  # nobody comes here again before all have taken the rate
        return self._rate

    def _channels(self, spikes: Tensor) -> int:
        """Rates that are told apart."""
        shape = tuple(self._original.shape)
        own = shape == (*spikes.shape[2:3], *[1] * (spikes.dim() - 3)) and not isinstance(self.module, RecurrentNeuron)
        return shape[0] if own else 1

    def _scale(self, x: Tensor) -> Tensor:
        """Take on thresholds of θ₀ · 2^x, as their register holds them; those that are then in force in the state's."""
        grids = self.module.grids
        registers = [] if grids.threshold is None else [grids.threshold]
        registers += [] if grids.state is None else [grids.state.positive]
        thresholds = self._original * torch.exp2(x)
        stored = registers[0].values(thresholds) if registers else thresholds
        self._keep(stored)
        return registers[-1].values(stored) if registers else stored

    @torch.no_grad()
    def _keep(self, thresholds: Tensor) -> None:
        self.module.threshold.weight.copy_(thresholds)
