"""The trainable network gives, to the last bit, what the quantised network made of its settled state gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import DataError, SpaceError
from qsearch.layers import Layer
from qsearch.quantize.network import QuantizedNetwork, Settled
from qsearch.quantize.trace import trace_layers
from qsearch.training.families import FAMILIES, family
from qsearch.training.lessons import Batch, Lessons
from qsearch.training.network import TrainableNetwork


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Plain(nn.Module):
    """Two convolutions with batch norm, one called with a keyword, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.bn2(self.conv2(input=x)))
        return self.head(x.mean((2, 3)))


class Shared(nn.Module):
    """Two layers with one weight, the second of which runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.head(self.second(self.second(x).relu()))


class Functional(nn.Module):
    """Calls functions on parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.matrix = nn.Parameter(normal(4, 3, 3, 3) / 5), nn.Parameter(normal(5, 4, seed=1) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(functional.conv2d(x, self.kernel).relu().mean((2, 3)), self.matrix)


class Attending(nn.Module):
    """Embeddings, attention and a matrix product of two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.attention = nn.Embedding(20, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        scores = torch.matmul(x, x.transpose(1, 2)) / math.sqrt(8)
        return self.head((scores.softmax(-1)[..., None] * x[:, None]).sum(2).mean(1))


def images() -> Tensor:
    return normal(24, 3, 6, 6, seed=3)


def tokens() -> Tensor:
    return torch.randint(20, (24, 5), generator=torch.Generator().manual_seed(3))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor, int]] = {
    "plain": (Plain, images(), 4),
    "shared": (Shared, normal(24, 6, seed=3), 3),
    "functional": (Functional, images(), 5),
    "attending": (Attending, tokens(), 4),
    "one layer": (lambda: nn.Linear(6, 3), normal(24, 6, seed=3), 3),
}


def lessons(name: str) -> Lessons:
    build, inputs, classes = NETWORKS[name]

    def model() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = build()
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.uniform_(module.running_mean, -0.2, 0.2)
                    nn.init.uniform_(module.running_var, 0.5, 1.5)
                    nn.init.uniform_(module.weight, -1, 1.5)
        return network.eval()

    layers = trace_layers(model(), inputs)
    calibrated = QuantizedNetwork(model(), layers, [inputs], correction=False)
    targets = torch.arange(len(inputs)) % classes
    return Lessons(model, layers, calibrated, Batch(inputs, targets), functional.cross_entropy, lambda x, _: x)


def sites(layers: tuple[Layer, ...]) -> list[tuple[str, int]]:
    """Names, and kernels of those that are weights."""
    found = []
    for layer in layers:
        found.append((layer.weight_site, 0 if layer.kind == "matmul" else layer.kernels))
        if layer.kind != "embedding":
            found.append((layer.activation_site, 0))
    return found


def mixed(given: Lessons) -> BitAssignment:
    """Kernels at 0 to 32 bits, inputs at 1 to 8."""
    generator = np.random.default_rng(0)
    choices = np.array([0, 1, 2, 3, 4, 8, FLOAT_BITS])
    return BitAssignment(
        {
            site: tuple(int(b) for b in generator.choice(choices, kernels))
            if kernels
            else int(generator.integers(1, 9))
            for site, kernels in sites(tuple(given.layers))
        }
    )


def trained(given: Lessons, assignment: BitAssignment, name: str) -> TrainableNetwork:
    """After three steps by hand."""
    network = TrainableNetwork(given, assignment, family(name)).train()
    own, steps = network.parameter_groups()
    optimiser = torch.optim.SGD([*own, *steps], lr=0.01)
    for _ in range(3):
        optimiser.zero_grad()
        loss = given.loss(network(given.data.inputs), given.data.targets)
        penalty = network.penalty()
        (loss if penalty is None else loss + penalty).backward()
        optimiser.step()
        network.constrain()
    return network.eval()


@pytest.mark.parametrize("quantizer", FAMILIES)
@pytest.mark.parametrize("name", NETWORKS)
def test_settles_on_what_it_computes(name: str, quantizer: str) -> None:
    given = lessons(name)
    for assignment in (BitAssignment({site: 3 for site, _ in sites(tuple(given.layers))}), mixed(given)):
        network = trained(given, assignment, quantizer)
        looked_up = QuantizedNetwork(
            given.model(), given.layers, [given.data.inputs], correction=False, settled=network.settled()
        )
        looked_up.apply(assignment)
        with torch.no_grad():
            assert torch.equal(network(given.data.inputs), looked_up(given.data.inputs))
        float_network = TrainableNetwork(given, BitAssignment({}), family(quantizer)).eval()
        assert not torch.equal(float_network(given.data.inputs), looked_up(given.data.inputs))


@pytest.mark.parametrize("name", NETWORKS)
def test_starts_as_post_training_quantisation(name: str) -> None:
    given = lessons(name)
    assignment = BitAssignment({site: 4 for site, _ in sites(tuple(given.layers))})
    network = TrainableNetwork(given, assignment, family("lsq")).eval()
    given.calibrated.apply(assignment)
    with torch.no_grad():
        assert torch.equal(network(given.data.inputs), given.calibrated(given.data.inputs))


def test_float_where_nothing_is_said() -> None:
    given = lessons("plain")
    network = TrainableNetwork(given, BitAssignment({"conv1.weight": FLOAT_BITS}), family("lsq")).eval()
    assert not network.weights
    assert not network.inputs
    assert network.penalty() is None
    with torch.no_grad():
        assert torch.equal(network(given.data.inputs), given.model()(given.data.inputs))


def test_groups_hold_every_parameter_once() -> None:
    given = lessons("plain")
    network = TrainableNetwork(given, mixed(given), family("lsq"))
    own, steps = network.parameter_groups()
    assert sorted(map(id, [*own, *steps])) == sorted(map(id, network.parameters()))
    assert {id(parameter) for learner in network.learners for parameter in learner.parameters()} == set(map(id, steps))


def test_state_in_float_has_the_names_of_the_network() -> None:
    given = lessons("plain")
    network = trained(given, mixed(given), "lsq")
    state = network.float_state()
    assert set(state) == set(given.model().state_dict())
    assert torch.equal(state["conv1.weight"], network.float_weight("conv1").detach())
    before = state["head.bias"].clone()
    with torch.no_grad():
        network.model.get_parameter("head.bias").add_(1)
    assert torch.equal(state["head.bias"], before)


def test_training_leaves_the_network_that_was_given_alone() -> None:
    given = lessons("plain")
    model = given.model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained(Lessons(lambda: model, *[getattr(given, name) for name in list(vars(given))[1:]]), mixed(given), "lsq")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_unknown_sites_are_refused() -> None:
    with pytest.raises(SpaceError, match=r"has no site 'conv3.weight'"):
        TrainableNetwork(lessons("plain"), BitAssignment({"conv3.weight": 4}), family("lsq"))


class Elsewhere(Tensor):
    """Stands for a tensor on another device, which it is until it is moved."""

    def cpu(self) -> Tensor:  # type: ignore[override]  # no memory format is asked for
        return self.as_subclass(Tensor)


def test_all_that_it_settles_on_is_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    given = lessons("plain")
    network = TrainableNetwork(given, BitAssignment({"conv2.input": 4}), family("lsq"))
    quantizer = network.inputs["conv2.input"].settle()
    far = replace(quantizer, scale=quantizer.scale.as_subclass(Elsewhere))
    monkeypatch.setattr(network.inputs["conv2.input"], "settle", lambda: far)
    found = network.settled().inputs["conv2.input"]
    assert type(found.scale) is Tensor
    assert found == replace(quantizer, scale=found.scale)
    assert torch.equal(found.scale, quantizer.scale)


def test_names_that_are_none_of_the_network_are_refused() -> None:
    given = lessons("plain")
    state = {"conv1.wait": torch.zeros(6, 3, 3, 3)}
    with pytest.raises(DataError, match=r"no parameter or buffer 'conv1.wait'.*conv1.weight"):
        QuantizedNetwork(given.model(), given.layers, [given.data.inputs], settled=Settled(state))


def test_a_network_that_is_one_layer_keeps_the_names_and_the_floats_that_were_trained() -> None:
    given = lessons("one layer")
    assignment = BitAssignment({given.layers[0].weight_site: (FLOAT_BITS, 4, 4)})
    network = trained(given, assignment, "lsq")
    settled = network.settled()
    assert set(settled.state) == {"weight", "bias"}
    looked_up = QuantizedNetwork(given.model(), given.layers, [given.data.inputs], correction=False, settled=settled)
    looked_up.apply(assignment)
    with torch.no_grad():
        assert torch.equal(network(given.data.inputs), looked_up(given.data.inputs))
