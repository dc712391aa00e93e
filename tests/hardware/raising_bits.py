"""The exact rule of cost models, to draw from: no bit can be raised at a saving, in any metric."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st


def check_no_bit_can_be_raised_at_a_saving(cost, layer, data):
    """Without room for rounding: kernel by kernel, all kernels at once, and the input; ``cost(weight, activation)``."""
    bits = st.integers(0, 32)
    low = np.asarray(data.draw(st.lists(bits, min_size=layer.kernels, max_size=layer.kernels)))
    activation, kernel = data.draw(st.integers(1, 32)), data.draw(st.integers(0, layer.kernels - 1))
    one, every = low.copy(), np.maximum(low, data.draw(bits))
    one[kernel] = data.draw(st.integers(int(low[kernel]), 32))
    before = cost(low, activation)
    for after in (cost(one, activation), cost(every, activation), cost(low, data.draw(st.integers(activation, 32)))):
        for metric, value in before.items():
            assert 0 <= value <= after[metric] < np.inf
