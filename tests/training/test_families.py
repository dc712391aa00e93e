"""What every family must do, and how they are found."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qsearch.assignment import FLOAT_BITS
from qsearch.errors import ConfigError
from qsearch.quantize.weights import quantize_weight
from qsearch.training.families import FAMILIES, family


def test_names() -> None:
    assert set(FAMILIES) == {"lsq", "pact", "dorefa", "ewgs"}
    assert family("lsq") is FAMILIES["lsq"]
    with pytest.raises(ConfigError, match=r"unknown quantizer 'lsp'.*lsq"):
        family("lsp")


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("shape", [(6, 8), (6, 2, 3), (6, 2, 3, 3), (6, 2, 2, 2, 2)])
def test_any_mixture_within_one_weight(name: str, shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    bits = np.array([0, 1, 2, 5, 31, FLOAT_BITS])
    scales = torch.tensor(
        [float(quantize_weight(weight, int(b)).scales[k]) if 0 < b < 32 else 1.0 for k, b in enumerate(bits)]
    )
    learner = family(name).weight(weight, bits, scales)
    w = weight.clone().requires_grad_()
    found = learner(w)
    found.square().sum().backward()
    assert found.shape == weight.shape
    assert torch.equal(found[0], torch.zeros_like(weight[0]))
    assert len(found[1].unique()) == 2
    assert len(found[2].unique()) <= 4
    assert torch.equal(found[5], weight[5])
    assert (found[4] - weight[4]).norm() < (1e-5 if name in ("lsq", "ewgs") else 0.5) * weight[4].norm()
    assert w.grad is not None
    assert bool(w.grad.isfinite().all())
    assert torch.equal(w.grad[0], torch.zeros_like(weight[0]))
    for settled in learner.settle(w):
        rows = torch.from_numpy(bits == settled.bits)
        assert torch.equal(settled.values[rows], found[rows])
