"""Every installed sensitivity, through the registry, on networks of many kinds behind the post-training evaluator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from qsearch import registry
from qsearch.assignment import BitAssignment
from qsearch.errors import ConfigError, EvaluationError, PluginError
from qsearch.evaluate.ptq import PostTraining
from qsearch.protocols import SensitivityTable
from qsearch.search.damage import predicted_damage
from qsearch.setting import layers_of
from qsearch.sites import build_space
from qsearch.space import SearchSpace
from qsearch.trial import Quality

OPTIONS: dict[str, dict[str, Any]] = {
    "fisher": {},
    "hessian": {"samples": 16, "standard_error": 10.0, "probes": 4, "max_probes": 4},
    "noise": {"samples": 16},
    "one-at-a-time": {},
    "pairwise": {},
    "quantization-error": {},
}
MAY_BE_NEGATIVE = {"noise"}
"""Its damage is a rise of the loss, and the loss of a drawn network may as well fall."""


class Residual(nn.Module):
    """As digits-resnet, only smaller: a stem, a block with a shortcut, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv1, self.norm1 = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False), nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu_()
        x = functional.relu(x + self.conv2(self.norm1(self.conv1(x)).relu_()), inplace=True)
        return self.head(x.mean((2, 3)))


class Reused(nn.Module):
    """One convolution runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.again, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.again(self.stem(x)).relu()).relu()
        return self.head(x.mean((2, 3)))


class Joined(nn.Module):
    """Two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4 + 2, 3)

    def forward(self, picture: Tensor, numbers: Tensor) -> Tensor:
        return self.head(torch.cat([self.conv(picture).relu().mean((2, 3)), numbers], 1))


class Text(nn.Module):
    """An embedding, whose input is no site, and a head over the mean of its words."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden, self.head = nn.Embedding(11, 4), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.hidden(self.embed(words)).tanh().mean(1))


class Overwriting(nn.Module):
    """Adds to what it still needs for a gradient: it runs, but cannot be differentiated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.more, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu_()
        x += self.more(x)
        return self.head(x.mean((2, 3)))


def weight_normed() -> nn.Module:
    return nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(1, 4, 3)),
        nn.ReLU(),
        nn.Flatten(),
        parametrizations.weight_norm(nn.Linear(64, 3)),
    )


def without_gradients() -> nn.Module:
    network = Residual()
    return network.requires_grad_(False)


def regressor() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 1))


class Drawn:
    """A workload of a drawn network on drawn data, in two batches of unlike sizes; it is right on all of them."""

    name, metric = "drawn", "accuracy"

    def __init__(self, network: Callable[[], nn.Module], shapes: tuple[tuple[int, ...], ...], words: int = 0) -> None:
        self.network, self.shapes, self.words = network, shapes, words

    def model(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.network().eval()

    def calibration(self) -> Iterator[tuple[Any, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        for count in (20, 12):
            if self.words:
                inputs = [torch.randint(0, self.words, (count, *shape), generator=generator) for shape in self.shapes]
            else:
                inputs = [torch.randn(count, *shape, generator=generator) for shape in self.shapes]
            with torch.inference_mode():
                output = self.model()(*inputs)
            targets = output[:, 0] if output.shape[1] == 1 else output.argmax(1)
            yield inputs[0] if len(inputs) == 1 else tuple(inputs), targets.clone()

    validation = test = calibration

    def train(self) -> None:
        return None

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        if output.shape[1] == 1:
            return functional.mse_loss(output[:, 0], target)
        return functional.cross_entropy(output, target)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        return (output.argmax(-1) == target).float()


NETWORKS: dict[str, Drawn] = {
    "residual": Drawn(Residual, ((1, 6, 6),)),
    "several inputs": Drawn(Joined, ((1, 6, 6), (2,))),
    "weight norm": Drawn(weight_normed, ((1, 6, 6),)),
    "reused": Drawn(Reused, ((1, 6, 6),)),
    "embedding": Drawn(Text, ((5,),), words=11),
    "no gradients": Drawn(without_gradients, ((1, 6, 6),)),
    "one output": Drawn(regressor, ((1, 6, 6),)),
}

OVERWRITING = Drawn(Overwriting, ((1, 6, 6),))

Case = tuple[SensitivityTable, SearchSpace]


def evaluator(network: str) -> PostTraining:
    workload = NETWORKS[network]
    return PostTraining(workload, layers_of(workload), PostTraining.Options(threads=1))


def found(name: str, network: str = "residual", **options: Any) -> Case:
    """The table of a sensitivity, and the space that it is of."""
    given = {"weight_bits": [0, 2, 4, 8, 32], "activation_bits": [2, 4, 8, 32], **options}
    space = build_space(layers_of(NETWORKS[network]), **given)
    plugin = registry.create("sensitivities", name, OPTIONS[name])
    return plugin.table(space, evaluator(network)), space


def test_every_installed_sensitivity_is_tested_here() -> None:
    assert sorted(OPTIONS) == registry.names("sensitivities")


@pytest.mark.parametrize("granularity", ["layer", "kernel"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", OPTIONS)
def test_a_finite_number_for_every_choice_and_most_damage_by_the_fewest_bits(
    name: str, network: str, granularity: str
) -> None:
    table, space = found(name, network, granularity=granularity)
    assert list(table.damage) == [variable.name for variable in space.variables]
    assert table.samples > 0
    predicted_damage(space, table)  # raises where shapes or values do not fit
    for variable in space.variables:
        damage = table.damage[variable.name]
        assert damage.shape == (variable.length, len(variable.choices))
        assert damage[:, -1].tolist() == [0.0] * variable.length, "32 bits are float"
        if name not in MAY_BE_NEGATIVE:
            assert (damage >= -1e-9 * np.abs(damage).max(initial=0.0)).all()
    total = sum(damage.sum(axis=0)[[0, -2]] for damage in table.damage.values())
    assert abs(total[0]) > 4 * abs(total[1])


@pytest.mark.parametrize("name", OPTIONS)
def test_twice_the_same(name: str) -> None:
    (first, _), (second, _) = (found(name) for _ in range(2))
    assert first.samples == second.samples
    for one, other in ((first.damage, second.damage), (first.interactions, second.interactions)):
        assert list(one) == list(other)
        for key, values in one.items():
            np.testing.assert_array_equal(values, other[key])


@pytest.mark.parametrize("name", OPTIONS)
def test_kernels_add_up_to_the_size_of_their_layer(name: str) -> None:
    whole, _ = found(name, weight_bits=[2, 8])
    parts, _ = found(name, weight_bits=[2, 8], granularity="kernel")
    for site in ("stem.weight", "head.weight"):
        ratio = parts.damage[site].sum(axis=0)[0] / whole.damage[site][0, 0]
        assert 0.1 <= ratio <= 10


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("granularity", ["layer", "kernel"])
def test_ties_and_fixed_sites(name: str, granularity: str) -> None:
    table, space = found(
        name,
        ties=[("stem.weight", "conv1.weight"), ("conv1.input", "conv2.input")],
        fixed={"head.weight": 8, "head.input": 8, "stem.input": 8},
        granularity=granularity,
    )
    assert list(table.damage) == ["stem.weight", "conv1.input", "conv2.weight"]
    assert all(values.sum(axis=0)[0] != 0 for values in table.damage.values())
    assert len(space.variables) == 3


@pytest.mark.parametrize("name", OPTIONS)
def test_one_choice_each_and_nothing_at_all(name: str) -> None:
    table, _ = found(name, weight_bits=[4], activation_bits=[8])
    assert {values.shape for values in table.damage.values()} == {(1, 1)}
    table, space = found(name, fixed={"weights": 8, "activations": 8})
    assert table.damage == {}
    assert space.dimension == 0


@pytest.mark.parametrize("name", OPTIONS)
def test_the_workload_and_the_generators_are_left_as_they_are(name: str) -> None:
    used = evaluator("residual")
    space = build_space(layers_of(NETWORKS["residual"]), weight_bits=[2, 4], activation_bits=[4, 8])
    before, random = used.evaluate(space.uniform(4)), torch.random.get_rng_state()
    registry.create("sensitivities", name, OPTIONS[name]).table(space, used)
    assert torch.equal(random, torch.random.get_rng_state())
    assert used.evaluate(space.uniform(4)) == before


@pytest.mark.parametrize("name", OPTIONS)
def test_an_evaluator_that_can_give_nothing_is_told_in_one_line(name: str) -> None:
    class Blind:
        def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
            raise AssertionError("a sensitivity must not see validation data")

    space = build_space(layers_of(NETWORKS["residual"]), weight_bits=[2, 4], activation_bits=[8])
    with pytest.raises(PluginError, match=rf"{name} sensitivity needs.*Blind without a method.*use") as caught:
        registry.create("sensitivities", name, OPTIONS[name]).table(space, Blind())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_network_that_cannot_be_differentiated_is_measured_or_told_in_one_line(name: str) -> None:
    layers = layers_of(OVERWRITING)
    space = build_space(layers, weight_bits=[2, 8], activation_bits=[8])
    plugin = registry.create("sensitivities", name, OPTIONS[name])
    used = PostTraining(OVERWRITING, layers, PostTraining.Options(threads=1))
    if name not in {"fisher", "hessian"}:
        assert all(
            (values[:, 0] != 0).any()
            for key, values in plugin.table(space, used).damage.items()
            if key.endswith("weight")
        )
        return
    with pytest.raises(EvaluationError, match=f"{name} sensitivity needs.*differentiated.*one-at-a-time") as caught:
        plugin.table(space, used)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_is_misspelt_is_answered_by_its_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown option 'smaples' in options of '{name}'"):
        registry.create("sensitivities", name, {"smaples": 3})


@pytest.mark.parametrize("name", OPTIONS)
def test_a_quantity_is_named_for_readers_of_a_table(name: str) -> None:
    quantity = registry.create("sensitivities", name, OPTIONS[name]).quantity
    assert isinstance(quantity, str)
    assert quantity
