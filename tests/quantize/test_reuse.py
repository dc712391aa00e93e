"""What passes leave for later ones: the same numbers to the last bit, with fewer calls; and when nothing may be left."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.module import register_module_forward_hook
from written_networks import Network, normal

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.passes import foreign_hooks
from qsearch.quantize.trace import examine
from qsearch.spiking.neurons import Neuron

LARGE = 1 << 28


def conv(channels: int, out: int, **options: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1, bias=False, **options)


class Block(nn.Module):
    """A residual block that writes over what it has."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(channels, channels), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = conv(channels, channels), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.relu(out)


def residual() -> nn.Module:
    torch.manual_seed(0)
    stem = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(4, 3))
    return nn.Sequential(stem, Block(4), Block(4), head).eval()


def top_level_in_place() -> nn.Module:
    torch.manual_seed(0)

    def run(net: Network, x: Tensor) -> Tensor:
        x = net.relu(net.bn(net.one(x)))
        kept = x
        x = net.two(x).relu_()
        x.add_(kept)
        return net.head(x.mean((2, 3)))

    parts = {"one": conv(3, 4), "bn": nn.BatchNorm2d(4), "relu": nn.ReLU(inplace=True), "two": nn.Conv2d(4, 4, 1)}
    return Network(run, **parts, head=nn.Linear(4, 3))


def unet() -> nn.Module:
    torch.manual_seed(0)

    def run(net: Network, x: Tensor) -> Tensor:
        wide = functional.relu(net.down(x))
        deep = functional.relu(net.deep(functional.max_pool2d(wide, 2)))
        up = functional.interpolate(deep, scale_factor=2)
        return net.out(net.up(torch.cat([wide, up], 1)).relu()).mean((2, 3))

    return Network(run, down=nn.Conv2d(3, 4, 3, padding=1), deep=conv(4, 4), up=conv(8, 4), out=nn.Conv2d(4, 3, 1))


def twice() -> nn.Module:
    """A convolution and a batch-norm that run twice, with another layer between: what the norm stores depends on it."""
    torch.manual_seed(0)

    def run(net: Network, x: Tensor) -> Tensor:
        x = net.bn(net.conv(net.stem(x))).relu()
        x = net.bn(net.conv(net.between(x))).relu()
        return net.head(x.mean((2, 3)))

    parts = {"stem": conv(3, 4), "conv": conv(4, 4), "bn": nn.BatchNorm2d(4), "between": nn.Conv2d(4, 4, 1)}
    return Network(run, **parts, head=nn.Linear(4, 3))


def transformer() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.TransformerEncoderLayer(8, 2, 12, batch_first=True) for _ in range(2)]

    def run(net: Network, x: Tensor) -> Tensor:
        x = net.embed(x.flatten(2).transpose(1, 2))
        return net.head(net.second(net.first(x)).mean(1))

    return Network(run, embed=nn.Linear(3, 8), first=layers[0], second=layers[1], head=nn.Linear(8, 3))


def functions() -> nn.Module:
    """Layers by functions and loose weights only."""
    torch.manual_seed(0)

    def run(net: Network, x: Tensor) -> Tensor:
        x = functional.conv2d(x, net.kernel, padding=1).relu()
        scores = x.flatten(2) @ x.flatten(2).transpose(1, 2)
        return functional.linear(scores.softmax(-1).flatten(1) @ net.middle, net.last)

    return Network(run, kernel=normal(4, 3, 3, 3), middle=normal(16, 8), last=normal(3, 8))


def pairs() -> nn.Module:
    """A module that gives a tuple, with a None in it."""
    torch.manual_seed(0)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = conv(4, 4), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, None, Tensor]:
            return self.left(x), None, self.right(x)

    def run(net: Network, x: Tensor) -> Tensor:
        left, _, right = net.two(net.stem(x).relu())
        return net.head((net.out(left.relu()) * right).mean((2, 3)))

    return Network(run, stem=conv(3, 4), two=Two(), out=conv(4, 4), head=nn.Linear(4, 3))


def spiking() -> nn.Module:
    torch.manual_seed(0)

    def run(net: Network, x: Tensor) -> Tensor:
        x = x.flatten(2)[:, :, :12].transpose(1, 2)
        return net.head(net.second(net.hidden(net.first(net.stem(x))))).mean(1)

    neurons = [Neuron(threshold=0.5, leak=0.8) for _ in range(2)]
    parts = {"stem": nn.Linear(3, 8), "first": neurons[0], "hidden": nn.Linear(8, 8), "second": neurons[1]}
    return Network(run, **parts, head=nn.Linear(8, 3))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    made.__name__: made for made in (residual, top_level_in_place, unet, twice, transformer, functions, pairs, spiking)
}


@dataclass
class Both:
    """A network with reuse, and what it gives without, by assignment."""

    reusing: QuantizedNetwork
    plain: QuantizedNetwork
    data: Tensor
    calibration: Sequence[Tensor]
    known: dict[BitAssignment, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, memory: int, *, correction: bool) -> Both:
        calibration, data = normal(12, 3, 6, 6), normal(10, 3, 6, 6, seed=1)
        layers = examine(model, calibration).layers
        reusing, plain = (
            QuantizedNetwork(model, layers, calibration.split(5), correction=correction, reuse=bytes_)
            for bytes_ in (memory, 0)
        )
        reusing.know(data)
        return cls(reusing, plain, data, calibration.split(5))

    @property
    def reused(self) -> int:
        return 0 if self.reusing.reuse is None else self.reusing.reuse.reused

    @property
    def size(self) -> int:
        return 0 if self.reusing.reuse is None else self.reusing.reuse.size

    def agree(self, assignment: BitAssignment) -> None:
        """Both give the same to the last bit, on calibration and on other data."""
        if assignment not in self.known:
            self.known[assignment] = self.outputs(self.plain, assignment)
        for found, expected in zip(self.outputs(self.reusing, assignment), self.known[assignment], strict=True):
            assert torch.equal(found, expected)

    def outputs(self, network: QuantizedNetwork, assignment: BitAssignment) -> tuple[Tensor, Tensor]:
        network.apply(assignment)
        return network.calibration_output(), torch.cat([network(part) for part in self.data.split(4)])

    def one_at_a_time(self, bits: Sequence[int] = (2, 3)) -> None:
        for site in self.reusing.sites:
            for choice in bits:
                self.agree(BitAssignment({site: choice}))


@pytest.mark.parametrize("correction", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_one_at_a_time_gives_the_same_bits(name: str, correction: bool) -> None:
    both = Both.of(NETWORKS[name](), LARGE, correction=correction)
    both.one_at_a_time()
    assert both.reused > 0


@pytest.fixture(scope="module")
def kept() -> dict[tuple[str, bool, int], Both]:
    """Networks of earlier examples: what these have left must do no harm."""
    return {}


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_sequence_of_assignments_gives_the_same_bits(
    kept: dict[tuple[str, bool, int], Both], data: st.DataObject
) -> None:
    key = (
        data.draw(st.sampled_from(sorted(NETWORKS))),
        data.draw(st.booleans()),
        data.draw(st.sampled_from([0, 20_000, 100_000, LARGE])),
    )
    if key not in kept:
        kept[key] = Both.of(NETWORKS[key[0]](), key[2], correction=key[1])
    both = kept[key]
    bits = st.sampled_from([2, 4, FLOAT_BITS])
    sites = both.reusing.sites
    now = dict(zip(sites, data.draw(st.lists(bits, min_size=len(sites), max_size=len(sites))), strict=True))
    for site, choice in data.draw(st.lists(st.tuples(st.sampled_from(sites), bits), max_size=6)):
        now[site] = choice
        both.agree(BitAssignment(now))
    assert both.size <= key[2]


def test_bits_of_kernels_tell_prefixes_apart() -> None:
    both = Both.of(residual(), LARGE, correction=True)
    site = both.reusing.sites[0]
    for kernels in ((2, 3, 4, 5), (5, 4, 3, 2), (2, 3, 4, 5), 3, (2, 2, 2, 3)):
        for later in (2, 3, 8):
            both.agree(BitAssignment({site: kernels, both.reusing.sites[-1]: later}))


def counted(network: QuantizedNetwork) -> list[str]:
    """Names of the layers that run from now on."""
    runs: list[str] = []

    def counting(name: str, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(*args: Tensor, **kwargs: Tensor) -> Tensor:
            runs.append(name)
            return forward(*args, **kwargs)

        return run

    for name, module in network.model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            vars(module)["forward"] = counting(name, module.forward)
    return runs


@pytest.mark.parametrize("correction", [False, True])
def test_layers_before_the_change_run_no_more(correction: bool) -> None:
    network = Both.of(residual(), LARGE, correction=correction).reusing
    runs = counted(network)
    for bits in (2, 3):  # the second finds that the prefix comes back
        network.apply(BitAssignment({"2.conv2.weight": bits}))
        network.calibration_output()
    runs.clear()
    network.apply(BitAssignment({"2.conv2.weight": 4}))
    network.calibration_output()
    assert sorted(runs) == ["2.conv2"] * 3 + ["3.3"] * 3  # three batches
    runs.clear()
    network.apply(BitAssignment({"1.conv1.weight": 4, "2.conv2.weight": 4}))
    network.calibration_output()
    assert runs.count("1.conv1") == 3


def test_assignments_without_a_common_prefix_leave_nothing() -> None:
    both = Both.of(residual(), LARGE, correction=True)
    first = both.reusing.sites[0]
    for bits in range(2, 9):
        both.agree(BitAssignment({first: bits, both.reusing.sites[-1]: bits}))
    assert both.size == 0


def test_a_change_of_what_reads_nothing_before_it_counts() -> None:
    """Data that were written to are other data."""
    both = Both.of(residual(), LARGE, correction=False)
    both.one_at_a_time()
    both.data.mul_(0.5)
    both.known.clear()
    both.one_at_a_time()


def stashing() -> nn.Module:
    """A module that leaves a tensor to another, beside its output."""

    class Stash(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.kept = conv(3, 4), None

        def forward(self, x: Tensor) -> Tensor:
            self.kept = self.conv(x)
            return self.kept.relu()

    def run(net: Network, x: Tensor) -> Tensor:
        y = net.out(net.stash(x))
        z = y + net.stash.kept
        net.stash.kept = None
        return net.head(z.mean((2, 3)))

    torch.manual_seed(0)
    return Network(run, stash=Stash(), out=conv(4, 4), head=nn.Linear(4, 3))


def writing() -> nn.Module:
    """A module whose work is to write into its input; its output is not used."""

    class Write(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x.copy_(self.conv(x))
            return x.mean()

    def run(net: Network, x: Tensor) -> Tensor:
        y = net.stem(x).relu()
        net.write(y)
        return net.head(net.out(y).mean((2, 3)))

    torch.manual_seed(0)
    return Network(run, stem=conv(3, 4), write=Write(), out=conv(4, 4), head=nn.Linear(4, 3))


def branching() -> nn.Module:
    """Which layers run, and what is read, depends on numbers in the midst of the network."""

    def run(net: Network, x: Tensor) -> Tensor:
        early = net.stem(x).relu()
        y = net.middle(early)
        y = net.left(y) if bool(y.mean() > 0.05) else y + early if bool(y.mean() > 0) else net.right(y) - early
        return net.head(net.out(y).mean((2, 3)))

    torch.manual_seed(0)
    parts = {name: conv(4, 4) for name in ("middle", "left", "right", "out")}
    return Network(run, stem=conv(3, 4), **parts, head=nn.Linear(4, 3))


def aside() -> nn.Module:
    """A weight that is read beside its layer."""

    def run(net: Network, x: Tensor) -> Tensor:
        y = net.first(x).relu() * net.second.weight.abs().mean()
        return net.head(net.second(y).mean((2, 3)))

    torch.manual_seed(0)
    return Network(run, first=conv(3, 4), second=conv(4, 4), head=nn.Linear(4, 3))


def keeping() -> nn.Module:
    """A module that leaves its output on itself, where others read it."""

    class Keep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = conv(3, 4), None

        def forward(self, x: Tensor) -> Tensor:
            self.out = self.conv(x).relu()
            return self.out

    def run(net: Network, x: Tensor) -> Tensor:
        net.stem(x)
        y = net.middle(net.stem.out)
        return net.head((net.last(y) + net.stem.out).mean((2, 3)))

    torch.manual_seed(0)
    return Network(run, stem=Keep(), middle=conv(4, 4), last=conv(4, 4), head=nn.Linear(4, 3))


class Counts(nn.Module):
    """Leaves a number with an object, or with itself."""

    def __init__(self, notes: SimpleNamespace | None = None) -> None:
        super().__init__()
        self.conv, self.n, self.notes = conv(3, 4), 1, notes

    def forward(self, x: Tensor) -> Tensor:
        (self if self.notes is None else self.notes).n = x.shape[0]  # type: ignore[union-attr]
        return self.conv(x).relu()


def counting(notes: SimpleNamespace | None = None) -> nn.Module:
    """A number that a module leaves for others: of rows, so that another batch has another."""

    def run(net: Network, x: Tensor) -> Tensor:
        y = net.last(net.middle(net.stem(x)))
        n = net.stem.n if net.stem.notes is None else net.stem.notes.n
        return net.head(y.mean((2, 3))) * (1 + y.shape[0] / n)

    torch.manual_seed(0)
    return Network(run, stem=Counts(notes), middle=conv(4, 4), last=conv(4, 4), head=nn.Linear(4, 3))


def noting() -> nn.Module:
    """The same, left with an object of no module."""
    return counting(SimpleNamespace(n=1))


def listing() -> nn.Module:
    """More than a dozen layers, each of which adds its output to a list that it is given."""

    class Append(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.conv = conv(channels, 4)

        def forward(self, x: Tensor, into: list[Tensor]) -> Tensor:
            into.append(self.conv(x).relu())
            return into[-1]

    class Dense(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.a, self.b, self.c = Append(channels), Append(4), Append(4)

        def forward(self, x: Tensor) -> Tensor:
            into: list[Tensor] = []
            self.c(self.b(self.a(x, into), into), into)
            return torch.stack(into).sum(0).mul(0.3)

    torch.manual_seed(0)
    blocks = [Dense(channels) for channels in (3, 4, 4, 4, 4, 4, 4)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


def sharing() -> nn.Module:
    """Modules whose two outputs are one tensor, into which another writes."""

    class Two(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.conv = conv(channels, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.conv(x)
            return y, y

    class Block(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.two, self.b, self.c = Two(channels), conv(4, 4), conv(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            one, other = self.two(x)
            one.relu_()
            return self.c(self.b(one)) + other

    torch.manual_seed(0)
    blocks = [Block(channels) for channels in (3, 4, 4, 4, 4, 4, 4)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


@pytest.mark.parametrize("make", [stashing, writing, branching, aside, keeping, counting, noting, listing, sharing])
def test_what_networks_do_beside_their_outputs_is_not_lost(make: Callable[[], nn.Module]) -> None:
    model = make()
    calibration = normal(12, 3, 6, 6)
    layers = tuple(layer for layer in examine(model, calibration).layers)
    if make is branching:  # all of its layers, though the example takes one branch
        layers = tuple(layer for shift in (0.0, -4.0) for layer in examine(model, calibration + shift).layers)
        layers = tuple({layer.name: layer for layer in layers}.values())
    networks = [QuantizedNetwork(model, layers, [calibration], correction=False, reuse=m) for m in (LARGE, 0)]
    known = normal(10, 3, 6, 6, seed=1) - 1
    networks[0].know(known)
    for _ in range(2):
        for site in networks[0].sites:
            for bits in (2, 3, 4):
                found = []
                for network in networks:
                    network.apply(BitAssignment({site: bits}))
                    found.append(torch.cat([network.calibration_output(), network(known)]))
                assert torch.equal(*found)


def test_hooks_that_the_network_came_with_see_every_call() -> None:
    seen: list[int] = []
    model = residual()
    model[1].conv1.register_forward_hook(lambda *_: seen.append(0))
    both = Both.of(model, LARGE, correction=False)
    for bits in (2, 3, 4, 5):
        seen.clear()
        both.outputs(both.reusing, BitAssignment({"3.3.weight": bits}))
        assert len(seen) == 3 + 3  # three batches each
    assert both.reused > 0


def test_hooks_that_come_later_see_every_call() -> None:
    both = Both.of(residual(), LARGE, correction=True)
    both.one_at_a_time()
    seen: list[int] = []
    handle = both.reusing.model[0].register_forward_hook(lambda *_: seen.append(0))
    both.outputs(both.reusing, BitAssignment({"3.3.weight": 7}))
    handle.remove()
    assert len(seen) == 3 + 3
    before = both.reused
    both.agree(BitAssignment({"3.3.weight": 6}))
    assert both.reused > before


@pytest.mark.parametrize("how", ["hook", "quantiser"])
def test_what_was_corrected_under_others_influence_is_not_mixed_with_what_was_kept(how: str) -> None:
    both = Both.of(residual(), LARGE, correction=True)
    both.one_at_a_time()
    tried, site = BitAssignment({"3.3.weight": 7}), both.reusing.input_sites[1]
    outputs = []
    for network in (both.reusing, both.plain):
        if how == "hook":
            handle = network.model[0].register_forward_hook(lambda module, args, output: output * 1.5)
            network.apply(tried)
            handle.remove()
        else:
            with network.quantising({site: network.activation_quantizer(site, 2)}):
                network.apply(tried)
        outputs.append(torch.cat([network(part) for part in both.data.split(4)]))
    assert torch.equal(*outputs)


def test_a_copy_of_the_network_goes_its_own_way() -> None:
    both = Both.of(residual(), LARGE, correction=True)
    both.one_at_a_time()
    inner = copy.deepcopy(both.reusing.model)
    assert not any("_compiled_call_impl" in vars(module) for module in both.reusing.model.modules())
    with torch.no_grad():
        torch.testing.assert_close(inner(both.data), both.reusing(both.data), rtol=0, atol=0)


def test_an_error_of_the_network_is_its_own_and_does_no_harm() -> None:
    both = Both.of(residual(), LARGE, correction=True)
    both.one_at_a_time()
    layer = both.reusing.model[3][3]
    original = layer.forward

    def fail(x: Tensor) -> Tensor:
        raise ValueError("broken")

    vars(layer)["forward"] = fail
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            both.reusing.apply(BitAssignment({"3.3.weight": 4}))
    vars(layer)["forward"] = original
    both.one_at_a_time((2, 3, 4))
    assert both.reused > 0


@pytest.mark.parametrize("make", [keeping, counting, noting, listing])
def test_networks_that_leave_more_than_outputs_are_told(make: Callable[[], nn.Module]) -> None:
    """At every cut: lists that calls add to show at some of them only."""
    assert Both.of(make(), LARGE, correction=False).reusing.reuse is None


def test_a_correction_that_failed_leaves_nothing() -> None:
    both = Both.of(residual(), LARGE, correction=True)
    for bits in (2, 3, 4):
        both.agree(BitAssignment({"3.3.weight": bits}))
    layer = both.reusing.model[1].conv2
    original = layer.forward

    def fail(x: Tensor) -> Tensor:
        raise MemoryError("once")

    tried = BitAssignment({"1.conv1.weight": 2, "3.3.weight": 6})
    vars(layer)["forward"] = fail
    for _ in range(2):
        with pytest.raises(MemoryError, match="once"):
            both.reusing.apply(tried)
    vars(layer)["forward"] = original
    for part in both.data.split(4):
        both.reusing(part)
    for bits in (6, 7):
        both.agree(BitAssignment({"1.conv1.weight": 2, "3.3.weight": bits}))


@pytest.mark.parametrize("correction", [False, True])
def test_calibration_data_that_were_written_to_are_other_data(correction: bool) -> None:
    model, shared, other = residual(), normal(12, 3, 6, 6), normal(10, 3, 6, 6, seed=1)
    layers = examine(model, shared).layers
    networks = [
        QuantizedNetwork(model, layers, list(shared.split(5)), correction=correction, reuse=m) for m in (LARGE, 0)
    ]

    def agree(bits: int) -> None:
        for network in networks:
            network.apply(BitAssignment({"3.3.weight": bits}))
        assert torch.equal(*(network(other) for network in networks))
        assert torch.equal(*(network.calibration_output() for network in networks))

    assert networks[0].reuse is not None
    networks[0].know(other)
    for bits in (2, 3, 4):
        agree(bits)
    assert networks[0].reuse.reused > 0
    shared.add_(0.5)
    for bits in (5, 6):
        agree(bits)


def test_other_quantisers_for_a_while_are_not_what_was_kept() -> None:
    both = Both.of(residual(), LARGE, correction=True)
    both.one_at_a_time()
    tried = BitAssignment({"3.3.weight": 5})
    both.agree(tried)
    both.agree(tried)
    before, site = both.reused, both.reusing.input_sites[1]
    found = []
    for network in (both.reusing, both.plain):
        own = network(both.data)
        with network.quantising({site: network.activation_quantizer(site, 2)}):
            found.append(network(both.data))
            assert torch.equal(network.calibration_output(), torch.cat([network(x) for x in both.calibration]))
        assert not torch.equal(found[-1], own)
        assert torch.equal(network.calibration_output(), torch.cat([network(x) for x in both.calibration]))
        assert torch.equal(network(both.data), own)
        with pytest.raises(TypeError):
            network.quantizers[site] = network.activation_quantizer(site, 2)  # type: ignore[index]
    assert torch.equal(*found)
    both.one_at_a_time()
    assert both.reused > before


def test_a_hook_that_takes_the_place_of_another_sees_every_call() -> None:
    model = residual()
    model[1].conv1.register_forward_hook(lambda *_: None)
    both = Both.of(model, LARGE, correction=False)
    both.one_at_a_time()
    inner, seen = both.reusing.model, list[int]()
    (place,) = [module for module in inner.modules() if foreign_hooks(module) and module is inner[1].conv1]
    place._forward_hooks.popitem()
    inner[0].register_forward_hook(lambda *_: seen.append(0))
    both.outputs(both.reusing, BitAssignment({"3.3.weight": 7}))
    assert len(seen) == 3 + 3


def test_hooks_on_all_modules_see_every_call_of_a_copy() -> None:
    both = Both.of(residual(), LARGE, correction=True)
    copied = copy.deepcopy(both.reusing)
    for bits in (2, 3, 4):
        copied.apply(BitAssignment({"3.3.weight": bits}))
        copied.calibration_output()
    assert copied.reuse is not None
    before = copied.reuse.reused
    assert before > both.reused
    seen = list[nn.Module]()
    handle = register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        copied.apply(BitAssignment({"3.3.weight": 7}))
    finally:
        handle.remove()
    assert sum(module is copied.model[0] for module in seen) == 3
    assert copied.reuse.reused == before
