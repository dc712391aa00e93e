"""Element-wise gradient scaling: LSQ's values and steps, with other gradients by the values."""

from __future__ import annotations

import numpy as np
import torch

from qsearch.quantize.activations import ActivationQuantizer
from qsearch.quantize.grid import Grid
from qsearch.training.ewgs import DELTA, Ewgs
from qsearch.training.lsq import Lsq


def test_weights_get_gradients_scaled_by_their_distance_from_the_code() -> None:
    torch.manual_seed(0)
    weight, gradient = torch.randn(3, 40), torch.randn(3, 40)
    bits, scales = np.array([2, 4, 8]), torch.tensor([0.8, -0.3, 0.02])
    found, plain = (family.weight(weight, bits, scales) for family in (Ewgs(), Lsq()))
    w, v = weight.clone().requires_grad_(), weight.clone().requires_grad_()
    values, expected = found(w), plain(v)
    values.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(values, expected)
    assert w.grad is not None
    assert v.grad is not None
    x = weight / scales[:, None]
    factor = 1 + DELTA * gradient.sign() * (x - x.round()) * scales.sign()[:, None]
    torch.testing.assert_close(w.grad, v.grad * factor)
    assert not torch.equal(w.grad, v.grad)
    assert found.step.value.grad is not None
    torch.testing.assert_close(found.step.value.grad, plain.step.value.grad)


def test_so_do_inputs() -> None:
    torch.manual_seed(0)
    data, gradient = torch.rand(5, 40), torch.randn(5, 40)
    x = data.clone().requires_grad_()
    Ewgs().input(ActivationQuantizer(3, torch.tensor(0.1), Grid(0, 7)))(x).backward(gradient)
    codes = data / 0.1
    factor = (1 + DELTA * gradient.sign() * (codes - codes.round())) * (codes <= 7)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, gradient * factor, rtol=1e-5, atol=1e-6)
