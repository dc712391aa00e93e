"""Float networks whose curvature is known, and an evaluator that gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from qsearch.assignment import BitAssignment
from qsearch.protocols import Correction, FloatNetwork
from qsearch.trial import Quality

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Given(FloatNetwork):
    """A model with data; weights and inputs are rounded to multiples of 2^−bits, whose steps are 2^−bits."""

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    criterion: Loss = functional.cross_entropy
    batch_size: int = 8
    layers: dict[str, nn.Module] = field(init=False)

    def __post_init__(self) -> None:
        self.layers = {n: m for n, m in self.model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d | Product)}

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.inputs.split(self.batch_size), self.targets.split(self.batch_size), strict=True)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return self.criterion(output, target)

    def quantized_weight(self, site: str, bits: int) -> Tensor:
        weight = self.layers[site.rpartition(".")[0]].weight
        assert isinstance(weight, Tensor)
        return rounded(weight.detach(), bits)

    def quantized_input(self, site: str, bits: int, x: Tensor) -> Tensor:
        return rounded(x, bits)

    def step(self, site: str, bits: int) -> Tensor:
        if site.endswith((".input", ".other")):
            return torch.tensor(2.0**-bits)
        weight = self.layers[site.rpartition(".")[0]].weight
        assert isinstance(weight, Tensor)
        return torch.full((len(weight),), 2.0**-bits)

    def correction(self, layer: str) -> Correction:
        return "none"


def rounded(x: Tensor, bits: int) -> Tensor:
    """To multiples of 2^−bits."""
    return (x * 2**bits).round() / 2**bits


@dataclass
class Gives:
    """An evaluator that only gives its float network."""

    make: Callable[[], Given]

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        raise AssertionError("a sensitivity must not see validation data")

    def float_network(self) -> Given:
        return self.make()


class Product(nn.Module):
    """A layer of two inputs: (…, M, K) · (…, K, N)."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b


class Attention(nn.Module):
    """One head on 4 tokens of 3 numbers, and a linear layer on its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(3, 2) for _ in range(3))
        self.scores, self.context = Product(), Product()
        self.head = nn.Linear(2, 3)

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Q, Kᵀ and V."""
        return self.query(x), self.key(x).transpose(1, 2), self.value(x)

    def end(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Outputs from there on."""
        return self.finish(torch.softmax(self.scores(q, k) / 2**0.5, -1), v)

    def finish(self, weights: Tensor, v: Tensor) -> Tensor:
        """Outputs from the second product on."""
        found: Tensor = self.head(self.context(weights, v).mean(1))
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.end(*self.operands(x))


def attention(samples: int = 8, seed: int = 0) -> Given:
    """Two products of activations: four operands that are sites, beside weights and inputs of linear layers."""
    torch.manual_seed(seed)
    model = Attention().double()
    inputs = 2 * torch.randn(samples, 4, 3, dtype=torch.float64)
    return Given(model, inputs, torch.randint(0, 3, (samples,)))


def perceptron(samples: int = 12, seed: int = 0) -> Given:
    """Two linear layers with a smooth nonlinearity between: every second derivative is there."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    inputs = torch.randn(samples, 3, dtype=torch.float64)
    return Given(model, inputs, torch.randint(0, 3, (samples,)))


def half_square(output: Tensor, target: Tensor) -> Tensor:
    """½ · mean square of the outputs."""
    return 0.5 * output.square().mean()


def quadratic(hessian: Tensor, weight: Tensor) -> Given:
    """One kernel w with the loss ½ wᵀHw, H positive definite, shape (n, n)."""
    size = len(hessian)
    model = nn.Sequential(nn.Linear(size, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(weight[None])
    inputs = torch.linalg.cholesky(hessian).T * size**0.5
    return Given(model, inputs, torch.zeros(size), half_square, batch_size=size)
