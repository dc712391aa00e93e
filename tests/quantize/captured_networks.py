"""Small networks of the kinds that programs are captured of, each with data of its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.quantize.modules import Inputs
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.trace import trace_layers


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Residual(nn.Module):
    """A convolution and a residual block, batch-norms, and relus that write into their input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(6) for _ in range(3)])
        self.first = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.second = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.head = nn.Linear(6, 4)
        for norm in self.norms:
            nn.init.uniform_(norm.running_mean, -0.3, 0.3)
            nn.init.uniform_(norm.running_var, 0.2, 0.8)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norms[0](self.stem(x)), inplace=True)
        y = self.norms[1](self.first(x)).relu_()
        y = self.norms[2](input=self.second(y))
        y += x
        return self.head(functional.relu_(y).mean((2, 3)))


class Skips(nn.Module):
    """Down and up again, with a skip, like a U-Net; biases in the place of batch-norms."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(2, 4, 3, padding=1)
        self.bottom = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.up = nn.Conv2d(8, 3, 3, padding=1, bias=False)
        self.out = nn.Conv2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        left = functional.silu(self.down(x))
        low = functional.leaky_relu(self.norm(self.bottom(functional.avg_pool2d(left, 2))))
        raised = functional.interpolate(low, scale_factor=2, mode="nearest")
        return self.out(torch.tanh(self.up(torch.cat([left, raised], 1))))


class Words(nn.Module):
    """An embedding with positions that no assignment changes, and an encoder whose attention is opened; takes a mask too."""

    positions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8)
        self.register_buffer("positions", torch.arange(5)[None] / 5, persistent=False)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        x = self.encoder(self.words(words) + self.positions[..., None], src_key_padding_mask=mask)
        return self.head(x.mean(1))


class Pair(nn.Module):
    """Two inputs, a product of matrices, and one module that runs on its own output's shape in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(5, 4), nn.Linear(6, 4, bias=False), nn.Linear(4, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.sigmoid(self.left(a) * self.right(b)))


def words(count: int) -> Inputs:
    drawn = torch.randint(0, 11, (count, 5), generator=torch.Generator().manual_seed(1))
    return drawn, torch.arange(5)[None] >= 3 + drawn[:, :1] % 3


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Inputs]]] = {
    "residual": (Residual, lambda n: normal(n, 3, 6, 6)),
    "skips": (Skips, lambda n: normal(n, 2, 6, 6)),
    "words": (Words, words),
    "pair": (Pair, lambda n: (normal(n, 5), normal(n, 6, seed=1))),
    "double": (lambda: Residual().double(), lambda n: normal(n, 3, 6, 6).double()),
}


def quantised(
    name: str, count: int = 12, *, correction: bool = False, overlay: int = 0
) -> tuple[QuantizedNetwork, Inputs]:
    """A network by its name and data, all of which calibrate it as one batch."""
    torch.manual_seed(0)
    make, draw = NETWORKS[name]
    model, data = make().eval(), draw(count)
    found = trace_layers(model, data)
    layers = [replace(layer, overlay=overlay if layer.name in ("first", "second") else 0) for layer in found]
    return QuantizedNetwork(model, layers, [data], correction=correction), data


def drawn(
    network: QuantizedNetwork, seed: int, bits: Sequence[int] = (1, 2, 3, 4, 6, 8, 12, 24, FLOAT_BITS)
) -> BitAssignment:
    """A random assignment; every other weight has a bitwidth for each kernel, 0 among them."""
    draws = np.random.default_rng(seed)
    found: dict[str, int | Iterable[int]] = {}
    for site in network.sites:
        if site.endswith((".overlay", ".pattern")):
            continue
        found[site] = int(draws.choice(bits))
        if network.is_weight(site) and draws.random() < 0.5:
            kernels = len(network.quantized_weight(site, 2).scales)
            found[site] = draws.choice([0, *bits], kernels).tolist()
    return BitAssignment(found)  # type: ignore[arg-type]
