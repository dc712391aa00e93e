"""A layer that learns locally in 64-bit integers: additions, products and shifts of NumPy, and no float anywhere.

Written from the equations of the modules, as somebody would who builds it; it takes a layer's constants as codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def shifted(x: Ints, places: int) -> Ints:
    """x / 2^places, rounded half to even."""
    if places <= 0:
        return x << -places
    floor = x >> places
    rest, half = x - (floor << places), 1 << (places - 1)
    return floor + ((rest > half) | ((rest == half) & (floor & 1 == 1)))


def clipped(x: Ints, low: int, high: int) -> Ints:
    return np.minimum(np.maximum(x, low), high)


def exponent_of(greatest: int) -> int:
    """⌊log2 greatest⌉."""
    return ((2 * greatest * greatest).bit_length() - 1) // 2


def normalised(x: Ints, bits: int) -> Ints:
    greatest = max(abs(int(x.min())), abs(int(x.max())))
    if greatest == 0:
        return x
    half = 1 << (bits - 1)
    return clipped(shifted(x, exponent_of(greatest) - (bits - 1)), -half, half - 1)


@dataclass
class IntegerLayer:
    """Codes and exponents of one layer; ``pad`` is None for a matrix.

    ``weight_exponent``, ``refractory_exponent`` and ``potential_exponent`` are those of the steps; states have s bits and
    leaks c, errors b. Thresholds broadcast with the neurons; None where nothing spikes.
    """

    codes: Ints
    kernel_bits: Ints
    stored_bits: Ints
    widest: int
    pad: int | None
    s: int
    c: int
    b: int
    leaks: tuple[int, int, int]
    drive: int
    threshold: Ints | None
    reset: Ints | None
    weight_exponent: int
    refractory_exponent: int
    potential_exponent: int
    forward: Ints | None
    backward: Ints | None
    unit: int
    penalty: int
    q: Any = 0
    p: Any = 0
    r: Any = 0
    u: Any = 0

    def advance(self, spikes: Ints) -> Ints:
        alpha, beta, gamma = self.leaks
        top, one = (1 << self.s) - 1, 1 << self.c
        self.q = clipped(shifted(beta * (self.q + 0 * spikes) + (self.drive << self.c) * spikes, self.c), 0, top)
        self.p = clipped(shifted(alpha * self.p + (one - alpha) * self.q, self.c), 0, top)
        self.r = clipped(shifted(np.asarray(gamma * self.r), self.c), 0, top)
        kernels = np.stack([self._acting(kernel) for kernel in range(len(self.codes))])
        currents = self._windows(self.p) @ kernels.reshape(len(kernels), -1).T  # (B, positions, K)
        currents = np.moveaxis(currents, -1, 1).reshape(self._shape(currents))
        one_place = self.weight_exponent - self.s - self.potential_exponent
        other_place = self.refractory_exponent - self.potential_exponent
        finest = max(0, -one_place, -other_place)
        total = (currents << (finest + one_place)) - (self.r << (finest + other_place))
        self.u = clipped(shifted(total, finest), -(1 << (self.s - 1)), (1 << (self.s - 1)) - 1)
        if self.threshold is None or self.reset is None:
            return 0 * self.u
        fired = (self.u >= self.threshold).astype(np.int64)
        self.r = clipped(self.r + self.reset * fired, 0, top)
        return fired

    def learn(self, targets: Ints, rate: int, drawn: Ints) -> None:
        half = max(1, 1 << (self.s - 3))
        activity = clipped(self.u - (0 if self.threshold is None else self.threshold) + half, 0, 2 * half)
        flat = activity.reshape(len(activity), -1)
        y = flat.copy() if self.forward is None else flat @ self.forward.T
        y[np.arange(len(y)), targets] -= self.unit
        errors = normalised(y, self.b)
        spread = (errors if self.backward is None else errors @ self.backward).reshape(activity.shape)
        if self.backward is None:
            delta = normalised(spread, self.b)
        else:
            inside = ((activity > 0) & (activity < 2 * half)).astype(np.int64)
            delta = normalised(spread * inside, self.b) + self.penalty * (self.u > 0)
            if int(activity.sum()) * 10 < 2 * half * activity.size:
                delta = delta - self.penalty * inside
            top = 1 << (self.b - 1)
            delta = clipped(delta, -top, top - 1)
        gradient = normalised(self._products(delta), self.b)
        self._move(gradient, rate, drawn)

    def _move(self, gradient: Ints, rate: int, drawn: Ints) -> None:
        for kernel, bits in enumerate(self.stored_bits.tolist()):
            places, most = self.b + rate - bits, (1 << max(bits - 1, 0)) - 1
            if places <= 0:
                moved = gradient[kernel] << -places
            else:
                fraction = gradient[kernel] & ((1 << places) - 1)
                moved = (gradient[kernel] >> places) + ((drawn[kernel] >> (31 - places)) < fraction)
            self.codes[kernel] = clipped(self.codes[kernel] - moved, -most, most)

    def _acting(self, kernel: int) -> Ints:
        """A kernel's weights with its own bits, in units of the finest."""
        bits, stored = int(self.kernel_bits[kernel]), int(self.stored_bits[kernel])
        most = (1 << max(bits - 1, 0)) - 1
        return clipped(shifted(self.codes[kernel], stored - bits), -most, most) << (self.widest - bits)

    def _windows(self, p: Ints) -> Ints:
        """Inputs of each position, (B, positions, fan-in)."""
        if self.pad is None:
            return p[:, None]
        size = self.codes.shape[2:]
        padded = np.pad(p, ((0, 0), (0, 0), (self.pad, self.pad), (self.pad, self.pad)))
        found = np.lib.stride_tricks.sliding_window_view(padded, size, axis=(2, 3))  # (B, c, h, w, k, k)
        return np.moveaxis(found, 1, 3).reshape(len(p), found.shape[2] * found.shape[3], -1)

    def _shape(self, currents: Ints) -> tuple[int, ...]:
        if self.pad is None:
            return (len(currents), currents.shape[-1])
        extent = self.p.shape[2] + 2 * self.pad - self.codes.shape[2] + 1
        return (len(currents), currents.shape[-1], extent, extent)

    def _products(self, delta: Ints) -> Ints:
        """Σ δ·P, of the shape of the weight."""
        windows = self._windows(self.p)
        errors = delta.reshape(*delta.shape[:2], -1)  # (B, K, positions)
        return np.einsum("bko,bof->kf", errors, windows).reshape(self.codes.shape)
