"""Networks written with functions, against the same networks written with modules."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from written_networks import Network, normal

from qsearch.anatomy import Anatomy
from qsearch.assignment import BitAssignment
from qsearch.errors import DataError
from qsearch.layers import Layer
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.products import MatrixProduct
from qsearch.quantize.trace import examine, trace_layers
from qsearch.quantize.unfolding import unfold


class ByModules(nn.Module):
    """Convolutions of 1, 2 and 3 dimensions' worth of options, a batch-norm, an embedding and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(9, 6)
        self.narrow = nn.Conv1d(6, 8, 3, padding="same", bias=False)
        self.norm = nn.BatchNorm1d(8)
        self.wide = nn.Conv2d(8, 12, (1, 3), stride=(1, 2), dilation=(1, 2), padding=(0, 2), groups=4)
        self.hidden = nn.Linear(12, 7)
        self.last = nn.Linear(7, 4, bias=False)
        nn.init.uniform_(self.norm.running_var, 0.5, 1.5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.narrow(self.embed(tokens).transpose(1, 2))).relu()
        x = self.wide(x[:, :, None])[:, :, 0].relu()
        return self.last(self.hidden(x.transpose(1, 2)).relu()).mean(1)


class ByFunctions(ByModules):
    """The same parameters, used by functions."""

    def forward(self, tokens: Tensor) -> Tensor:
        x = functional.embedding(tokens, self.embed.weight).transpose(1, 2)
        x = self.norm(functional.conv1d(x, self.narrow.weight, padding="same")).relu()
        x = functional.conv2d(x[:, :, None], self.wide.weight, self.wide.bias, (1, 2), (0, 2), (1, 2), groups=4)
        x = x[:, :, 0].relu().transpose(1, 2)
        x = functional.linear(x, self.hidden.weight, bias=self.hidden.bias).relu()
        return functional.linear(x, self.last.weight).mean(1)


NAMES = {
    "embed": "embedding",
    "narrow": "conv1d",
    "wide": "conv2d",
    "hidden": "linear",
    "last": "linear_1",
}
"""Layers of :class:`ByModules` → those of :class:`ByFunctions`."""


def tokens(count: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 9, (count, 11), generator=torch.Generator().manual_seed(seed))


def renamed(name: str) -> str:
    layer, _, part = name.partition(".")
    return f"{NAMES[layer]}.{part}" if part else NAMES[layer]


def test_functions_and_modules_give_the_same_layers() -> None:
    modules, functions = examine(ByModules(), tokens(3)), examine(ByFunctions(), tokens(3))
    assert [(renamed(layer.name), layer.macs, layer.alive) for layer in modules.layers] == [
        (layer.name, layer.macs, layer.alive) for layer in functions.layers
    ]
    for one, other in zip(modules.layers, functions.layers, strict=True):
        assert Layer(**{**vars(one), "name": other.name}) == other
    assert functions.left == modules.left == ()


@pytest.mark.parametrize("correction", [False, True])
@pytest.mark.parametrize("batch", [40, 7])
def test_functions_and_modules_give_the_same_numbers_bit_for_bit(correction: bool, batch: int) -> None:
    found = []
    for model, name in ((ByModules().eval(), str), (ByFunctions().eval(), renamed)):
        model.load_state_dict(ByModules().state_dict())
        layers = trace_layers(model, tokens(3))
        network = QuantizedNetwork(model, layers, list(tokens(40).split(batch)), correction=correction)
        bits = {"embed.weight": 4, "narrow.weight": 3, "wide.input": 4, "hidden.weight": 2, "hidden.input": 3}
        network.apply(BitAssignment({name(site): value for site, value in bits.items()}))
        stated = {"norm": network.model.norm.running_mean}
        if correction:
            stated["hidden"] = network.model.get_submodule(name("hidden")).bias
        found.append((network(tokens(20, 1)), network.calibration_output(), *stated.values()))
        assert {layer: what for layer, what in network.corrections.items() if what == "moments"} == (
            {name("narrow"): "moments"} if correction else {}
        )
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("model", [ByFunctions(), ByModules()])
def test_the_network_given_is_left_as_it_is(model: nn.Module) -> None:
    model.train()
    before, attributes = copy.deepcopy(model.state_dict()), set(vars(model))
    names = [name for name, _ in model.named_modules()]
    network = QuantizedNetwork(model, trace_layers(model, tokens(3)), [tokens(8)])
    network.apply(BitAssignment(dict.fromkeys(network.sites, 3)))
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert (set(vars(model)), [name for name, _ in model.named_modules()]) == (attributes, names)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_network_of_modules_gets_a_plain_copy() -> None:
    network = unfold(ByModules(), tokens(3)).network
    assert "forward" not in vars(network)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert [name for name, _ in network.named_modules()] == [name for name, _ in ByModules().named_modules()]


@pytest.mark.parametrize(
    ("run", "weight", "shape", "expected"),
    [
        (lambda net, x: x @ net.w, (5, 3), (4, 5), lambda x, w: x @ w),
        (lambda net, x: torch.matmul(x, net.w.t()), (3, 5), (4, 7, 5), lambda x, w: x @ w.t()),
        (lambda net, x: torch.mm(input=x, mat2=net.w), (5, 3), (4, 5), lambda x, w: x @ w),
        (lambda net, x: (net.w @ x.transpose(1, 2)).mean(2), (3, 5), (4, 7, 5), lambda x, w: (x @ w.t()).mean(1)),
        (lambda net, x: (x @ net.w).softmax(-1), (5,), (4, 7, 5), lambda x, w: (x @ w).softmax(-1)),
        (lambda net, x: x @ net.w.view(5, 6)[:, :2], (30,), (4, 5), lambda x, w: x @ w.view(5, 6)[:, :2]),
        (lambda net, x: functional.linear(x, net.w[:2]), (3, 5), (4, 5), lambda x, w: x @ w[:2].t()),
        (lambda net, x: functional.linear(x, net.w).softmax(-1), (5,), (4, 7, 5), lambda x, w: (x @ w).softmax(-1)),
    ],
    ids=["x @ w", "turned", "mm by keyword", "w @ x", "a vector", "a view", "a slice", "linear with a vector"],
)
def test_parameters_that_are_multiplied_become_layers(
    run: Callable[..., Tensor],
    weight: tuple[int, ...],
    shape: tuple[int, ...],
    expected: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """A weight that its bits hold exactly (signs of one size) changes nothing; at 0 bits, nothing is left of it."""
    signs, x = normal(*weight).sign() * 0.5, normal(*shape)
    model = Network(run, w=signs).eval()
    anatomy = examine(model, x)
    (layer,) = anatomy.layers
    assert (layer.name, layer.kind, layer.in_channels, anatomy.left) == ("linear", "linear", 5, ())
    assert layer.macs == layer.params * (x.numel() // 5 // 4)
    network = QuantizedNetwork(model, anatomy.layers, [x], correction=False)
    for bits in (1, 8):
        network.apply(BitAssignment({"linear.weight": bits}))
        torch.testing.assert_close(network(x), expected(x, signs), rtol=1e-5, atol=1e-5)
    network.apply(BitAssignment({"linear.weight": 0}))
    torch.testing.assert_close(network(x), expected(x, torch.zeros_like(signs)))


def test_addmm_is_a_linear_layer_with_a_bias() -> None:
    """As in the Conv1D of GPT-2."""
    model = Network(lambda net, x: torch.addmm(net.b, x, net.w), w=normal(5, 3), b=normal(3)).eval()
    (layer,) = trace_layers(model, normal(4, 5))
    assert (layer.kind, layer.in_channels, layer.out_channels, layer.bias) == ("linear", 5, 3, True)
    network = QuantizedNetwork(model, [layer], [normal(8, 5)])
    assert network.corrections == {"linear": "shift"}
    torch.testing.assert_close(network(normal(8, 5)), model(normal(8, 5)))


def test_a_product_of_two_activations_has_two_sites_that_are_quantised() -> None:
    x, y = normal(4, 6, 5), normal(4, 5, 3, seed=1).relu()
    model = Network(lambda net, x, y: (x @ y).mean(1)).eval()
    (layer,) = trace_layers(model, (x, y))
    assert layer == Layer("matmul", "matmul", 5, 3, input_size=(6,), output_size=(6,))
    assert layer.macs == 6 * 5 * 3
    network = QuantizedNetwork(model, [layer], [(x, y)])
    assert network.sites == ("matmul.input", "matmul.other")
    assert network.activation_quantizer("matmul.other", 4).grid.low == 0
    network.apply(BitAssignment({"matmul.input": 3, "matmul.other": 2}))
    a, b = network.activation_quantizer("matmul.input", 3), network.activation_quantizer("matmul.other", 2)
    assert torch.equal(network((x, y)), (a(x) @ b(y)).mean(1))
    network.apply(BitAssignment({"matmul.other": 2}))
    assert torch.equal(network((x, y)), (x @ b(y)).mean(1))


@pytest.mark.parametrize(
    ("multiply", "a", "b", "macs"),
    [
        (torch.matmul, (4, 2, 6, 5), (4, 2, 5, 3), 2 * 6 * 5 * 3),
        (
            lambda a, b: torch.bmm(a.flatten(0, 1), b.flatten(0, 1)).mean((1, 2)),
            (4, 2, 6, 5),
            (4, 2, 5, 3),
            2 * 6 * 5 * 3,
        ),
        (lambda a, b: a.matmul(b), (4, 6, 5), (4, 5, 1), 6 * 5),
        (lambda a, b: a @ b[0], (4, 6, 5), (4, 5, 3), 6 * 5 * 3),
        # all samples with one another, a row each: of 8, the largest prime number are run
        (lambda a, b: a.mm(b.t()), (8, 5), (8, 5), 5 * 7),
    ],
    ids=["heads", "heads in the batch", "a column", "one for all samples", "rows"],
)
def test_macs_of_products_by_hand(
    multiply: Callable[[Tensor, Tensor], Tensor], a: tuple[int, ...], b: tuple[int, ...], macs: int
) -> None:
    model = Network(lambda net, x, y: multiply(x, y))
    (layer,) = trace_layers(model, (normal(*a), normal(*b)))
    assert (layer.kind, layer.macs) == ("matmul", macs)


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(1, 5)] * 4), st.integers(2, 4), st.booleans())
def test_counts_of_products_of_any_shape(extents: tuple[int, int, int, int], batch: int, folded: bool) -> None:
    heads, rows, inner, columns = extents
    shapes = (batch, heads, rows, inner), (batch, heads, inner, columns)

    def run(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return torch.bmm(x.flatten(0, 1), y.flatten(0, 1)).view(batch, -1) if folded else x @ y

    (layer,) = trace_layers(Network(run), (normal(*shapes[0]), normal(*shapes[1])))
    assert layer.macs == heads * rows * inner * columns
    assert layer.input_elements == heads * rows * inner
    assert layer.uses * layer.params == heads * inner * columns
    assert layer.output_elements == heads * rows * columns


def test_a_block_that_runs_several_times_is_counted_once_with_all_its_uses() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(normal(5, 5))

        def forward(self, x: Tensor) -> Tensor:
            return (x @ x.transpose(1, 2)).softmax(-1) @ functional.linear(x, self.w)

    model = Network(lambda net, x: net.block(net.block(net.block(x))).mean(1), block=Block())
    layers = {layer.name: layer for layer in trace_layers(model, normal(2, 7, 5))}
    assert {name: (layer.kind, layer.uses) for name, layer in layers.items()} == {
        "block.matmul": ("matmul", 3),
        "block.linear": ("linear", 3),
        "block.matmul_1": ("matmul", 3),
    }
    assert layers["block.matmul"].macs == 3 * 7 * 7 * 5


def test_a_product_of_several_extents_costs_the_sum(caplog: pytest.LogCaptureFixture) -> None:
    class Attend(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x @ x.transpose(1, 2)).softmax(-1) @ x

    model = Network(lambda net, x: net.attend(x).mean(1) + net.attend(x[:, ::2]).mean(1), attend=Attend())
    with caplog.at_level("WARNING", logger="qsearch"):
        scores, context = trace_layers(model, normal(2, 8, 5))
    assert scores.macs == (8 * 8 + 4 * 4) * 5
    assert context.macs == (8 * 8 + 4 * 4) * 5
    lines = [record.getMessage() for record in caplog.records]
    assert "attend.matmul runs on feature maps of 8×5 · 5×8 and of 4×5 · 5×4" in lines[0]
    assert len(lines) == 2


def test_a_weight_that_one_forward_uses_again_is_one_layer() -> None:
    def recurrent(net: Network, x: Tensor) -> Tensor:  # (B, T, 5)
        state = x.new_zeros(len(x), 3)
        for step in x.unbind(1):
            state = torch.tanh(step @ net.read + state @ net.again)
        return state

    model = Network(recurrent, read=normal(5, 3), again=normal(3, 3)).eval()
    layers = trace_layers(model, normal(2, 4, 5))
    assert [(layer.name, layer.uses) for layer in layers] == [("linear", 4), ("linear_1", 4)]
    network = QuantizedNetwork(model, layers, [normal(6, 4, 5)])
    torch.testing.assert_close(network(normal(3, 9, 5)), model(normal(3, 9, 5)))  # longer sequences are welcome


def test_a_table_that_embeds_and_projects_is_quantised_by_each_on_its_own() -> None:
    def tied(net: Network, x: Tensor) -> Tensor:
        return functional.linear(net.embed(x), net.embed.weight).mean(1)

    torch.manual_seed(0)
    model = Network(tied, embed=nn.Embedding(9, 6)).eval()
    layers = trace_layers(model, tokens(2))
    assert [(layer.name, layer.kind) for layer in layers] == [("embed", "embedding"), ("linear", "linear")]
    network = QuantizedNetwork(model, layers, [tokens(20)], correction=False)
    with torch.no_grad():
        for bits in ({"embed.weight": 2}, {"linear.weight": 3}, {"embed.weight": 4, "linear.weight": 1}):
            network.apply(BitAssignment(bits))
            table = model.embed.weight
            first, last = (
                network.quantized_weight(site, bits[site]).values if site in bits else table
                for site in ("embed.weight", "linear.weight")
            )
            torch.testing.assert_close(network(tokens(5)), functional.linear(first[tokens(5)], last).mean(1))


def test_a_module_that_shares_the_weight_of_another_by_its_own_name() -> None:
    class Projection(nn.Module):
        def __init__(self, weight: nn.Parameter) -> None:
            super().__init__()
            self.weight = weight

        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(x, self.weight)

    embed = nn.Embedding(9, 6)
    model = Network(
        lambda net, x: net.project(net.embed(x)).mean(1), embed=embed, project=Projection(embed.weight)
    ).eval()
    anatomy = examine(model, tokens(2))
    assert ([layer.name for layer in anatomy.layers], anatomy.left) == (["embed", "project.linear"], ())
    network = QuantizedNetwork(model, anatomy.layers, [tokens(20)], correction=False)
    network.apply(BitAssignment({"embed.weight": 2}))
    table = network.quantized_weight("embed.weight", 2).values
    expected = functional.linear(table[tokens(5)], embed.weight).mean(1)
    torch.testing.assert_close(network(tokens(5)), expected.detach())


def test_names_that_are_taken_are_passed_over() -> None:
    model = Network(lambda net, x: net.linear(x) @ net.w, linear=nn.Linear(5, 5), w=normal(5, 3))
    assert [layer.name for layer in trace_layers(model, normal(2, 5))] == ["linear", "linear_1"]


def test_a_layer_with_a_forward_of_its_own_keeps_its_weight_and_gives_up_the_others() -> None:
    class Adapted(nn.Linear):
        """A low-rank term beside the layer: Hu et al., LoRA, ICLR 2022."""

        def __init__(self) -> None:
            super().__init__(5, 4)
            self.down, self.up = nn.Parameter(normal(5, 2)), nn.Parameter(normal(2, 4))

        def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
            return functional.linear(input, self.weight.clone(), self.bias) + input @ self.down @ self.up

    anatomy = examine(Network(lambda net, x: net.layer(x), layer=Adapted()), normal(3, 5))
    assert {layer.name: layer.macs for layer in anatomy.layers} == {
        "layer": 20,
        "layer.linear": 10,
        "layer.linear_1": 8,
    }
    assert anatomy.left == ()


def left(anatomy: Anatomy) -> dict[str, tuple[str, int]]:
    return {part.name: (part.what, part.numbers) for part in anatomy.left}


def test_what_stays_in_float_is_told() -> None:
    def run(net: Network, x: Tensor) -> Tensor:  # (B, 7, 5)
        x, _ = net.recurrent(x)
        x = net.used(torch.einsum("bij,bkj->bik", x, x))
        x = functional.linear(x, net.scaled * 2) + net.place
        x = torch.baddbmm(x, x, x.transpose(1, 2))
        return torch.bmm(x.transpose(0, 1), net.experts).mean(0)

    model = Network(
        run,
        recurrent=nn.LSTM(5, 6, batch_first=True),
        used=nn.Linear(7, 7),
        idle=nn.Linear(3, 3),
        scaled=normal(7, 7),
        place=normal(7, 7),
        experts=normal(7, 7, 2),
    )
    anatomy = examine(model, normal(2, 7, 5))
    assert [layer.name for layer in anatomy.layers] == ["used"]
    assert left(anatomy) == {
        "recurrent": ("LSTM", 4 * 6 * (5 + 6)),
        "idle": ("Linear", 9),
        "einsum": ("einsum of activations", 0),
        "linear": ("functional linear", 0),
        "baddbmm": ("baddbmm of activations", 0),
        "matmul": ("functional matmul", 7 * 7 * 2),
        "scaled": ("parameter", 49),
        "place": ("parameter", 49),
    }
    assert next(part.why for part in anatomy.left if part.name == "idle") == "it did not run on the example"
    torch.testing.assert_close(
        QuantizedNetwork(model.eval(), anatomy.layers, [normal(4, 7, 5)])(normal(3, 7, 5)), model(normal(3, 7, 5))
    )


def test_what_stays_in_float_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    model = Network(lambda net, x: net.head(net.up(x).flatten(1)), up=nn.ConvTranspose1d(2, 3, 2), head=nn.Linear(9, 2))
    with caplog.at_level("WARNING", logger="qsearch"):
        examine(model, normal(4, 2, 2))
    assert [record.getMessage() for record in caplog.records] == ["left in float, not searched: up (ConvTranspose1d)"]


def test_calls_with_one_weight_that_differ_stay_in_float() -> None:
    def run(net: Network, x: Tensor) -> Tensor:
        x = functional.conv1d(x, net.w, padding=1) + functional.conv1d(x, net.w, padding=2, dilation=2)
        return net.head(x.mean(2))

    anatomy = examine(Network(run, w=normal(3, 3, 3), head=nn.Linear(3, 2)), normal(2, 3, 9))
    assert [layer.name for layer in anatomy.layers] == ["head"]
    assert left(anatomy) == {"conv1d": ("functional conv1d", 27)}


def test_products_of_runs_that_differ_stay_in_float() -> None:
    class Wavering(nn.Module):
        def forward(self, x: Tensor, more: bool) -> Tensor:
            return (x @ x) @ x if more else x @ x

    model = Network(
        lambda net, x: net.head(net.block(net.block(x, False), True)), block=Wavering(), head=nn.Linear(5, 2)
    )
    anatomy = examine(model, normal(2, 5, 5))
    assert [layer.name for layer in anatomy.layers] == ["head"]
    assert set(left(anatomy)) == {"block.matmul"}


def test_a_call_that_was_not_made_on_the_example_is_an_error() -> None:
    def run(net: Network, x: Tensor) -> Tensor:
        return x @ (net.one if bool((x >= 0).all()) else net.other)

    model = Network(run, one=normal(5, 3), other=normal(5, 3)).eval()
    anatomy = examine(model, normal(4, 5).abs())
    assert left(anatomy) == {"other": ("parameter", 15)}
    network = QuantizedNetwork(model, anatomy.layers, [normal(4, 5).abs()])
    assert torch.allclose(network(normal(3, 5).abs()), model(normal(3, 5).abs()))
    with pytest.raises(DataError, match=r"same calls on all data as on the example; got another linear; make modules"):
        network(normal(3, 5))
    assert torch.allclose(network(normal(3, 5).abs()), model(normal(3, 5).abs()))  # nothing is left of the failed pass
    assert torch._C._len_torch_function_stack() == 0


@pytest.mark.parametrize("inside", [True, False])
def test_a_product_that_is_missing_is_an_error(inside: bool) -> None:
    """The one that is left would be taken for it."""

    def run(net: nn.Module, x: Tensor) -> Tensor:
        if bool((x >= 0).all()):
            x = x @ x
        return x @ x.transpose(1, 2)

    inner = Network(run)
    model = Network(lambda net, x: net.inner(x).mean(1) if inside else run(net, x).mean(1), inner=inner).eval()
    x = normal(4, 5, 5)
    network = QuantizedNetwork(model, trace_layers(model, x.abs()), [x.abs()])
    assert torch.equal(network(x.abs()), model(x.abs()))
    with pytest.raises(DataError, match="same calls on all data as on the example; got fewer calls of matmul"):
        network(x)


def test_a_network_that_does_not_bear_new_children_stays_in_float() -> None:
    class Listing(nn.Module):
        """Runs whatever children it has."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(5, 5)
            self.w = nn.Parameter(normal(5, 5))

        def forward(self, x: Tensor) -> Tensor:
            x = x @ self.w
            for child in self.children():
                x = child(x)
            return x

    model = Listing().eval()
    anatomy = examine(model, normal(2, 5))
    assert [layer.name for layer in anatomy.layers] == ["head"]
    assert left(anatomy) == {"linear": ("call or attention", 25)}
    assert "does not run with modules in their place" in anatomy.left[0].why
    assert torch.equal(QuantizedNetwork(model, anatomy.layers, [normal(4, 5)])(normal(2, 5)), model(normal(2, 5)))


def test_a_network_that_does_not_bear_watching_keeps_its_modules() -> None:
    class Shy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 4)
            self.w = nn.Parameter(normal(4, 3))

        def forward(self, x: Tensor) -> Tensor:
            if any(type(mode).__module__.endswith("discovery") for mode in modes()):
                raise RuntimeError("not while you look")
            return self.layer(x) @ self.w

    def modes() -> list[object]:
        return torch.overrides._get_current_function_mode_stack()

    anatomy = examine(Shy(), normal(2, 5))
    assert [layer.name for layer in anatomy.layers] == ["layer"]
    assert "not while you look" in anatomy.left[0].why


def test_a_deep_copy_of_an_unfolded_network_stands_on_its_own() -> None:
    network = unfold(Network(lambda net, x: x @ net.w @ x.transpose(1, 2), w=normal(5, 5)), normal(2, 7, 5)).network
    x = normal(2, 7, 5)
    expected = network(x)
    other = copy.deepcopy(network)
    assert torch.equal(other(x), expected)
    with torch.no_grad():
        other.linear.weight.zero_()
    assert not other(x).any()
    assert torch.equal(network(x), expected)
    assert isinstance(other.matmul, MatrixProduct)


def test_an_interrupted_pass_leaves_no_mode_behind() -> None:
    class Interrupting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(normal(5, 5))
            self.now = False

        def forward(self, x: Tensor) -> Tensor:
            x = x @ self.w
            if self.now:
                raise KeyboardInterrupt
            return x

    network = unfold(Network(lambda net, x: net.inner(x), inner=Interrupting()), normal(2, 5)).network
    network.inner.now = True
    with pytest.raises(KeyboardInterrupt):
        network(normal(2, 5))
    assert torch._C._len_torch_function_stack() == 0
    network.inner.now = False
    assert network(normal(2, 5)).shape == (2, 5)


@pytest.mark.parametrize("batch", [30, 7])
def test_batches_in_lockstep_give_what_one_batch_gives(batch: int) -> None:
    """Corrections wait in hooks of stand-ins, within calls that are being routed, and between them."""

    def run(net: Network, x: Tensor) -> Tensor:
        x = functional.linear(x, net.first, net.bias).relu()
        x = net.norm(x.transpose(1, 2)).transpose(1, 2)
        x = (x @ x.transpose(1, 2)).softmax(-1) @ net.middle(x)
        return (x @ net.last).mean(1)

    torch.manual_seed(0)
    parts = {"first": normal(8, 5), "bias": normal(8), "last": normal(6, 3)}
    model = Network(run, norm=nn.BatchNorm1d(8), middle=nn.Linear(8, 6), **parts).eval()
    x = normal(30, 7, 5)
    layers = trace_layers(model, x)
    one, several = QuantizedNetwork(model, layers, [x]), QuantizedNetwork(model, layers, list(x.split(batch)))
    for network in (one, several):
        network.apply(BitAssignment(dict.fromkeys(network.sites, 4)))
    stated = zip(one.model.state_dict().values(), several.model.state_dict().values(), strict=True)
    for expected, found in stated:
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert torch._C._len_torch_function_stack() == 0
    assert set(one.corrections) == {"linear", "middle", "linear_1"}
    shift = (one.calibration_output() - model(x).detach()).mean(0).abs().max()
    assert float(shift) < 1e-4  # the last layer's mean is that of the float network


def test_gradients_run_through_the_stand_ins() -> None:
    def run(net: Network, x: Tensor) -> Tensor:
        return (functional.linear(x, net.w) @ x.transpose(1, 2)).mean((1, 2))

    model, x = Network(run, w=normal(5, 5)), normal(4, 7, 5)
    network = unfold(model, x).network.requires_grad_(True)
    (expected,) = torch.autograd.grad(model(x).sum(), [model.w])
    (found,) = torch.autograd.grad(network(x).sum(), [network.linear.weight])
    torch.testing.assert_close(found, expected)
    assert torch.autograd.grad(network(x).sum(), [network.w], allow_unused=True) == (None,)


def test_an_unfolded_network_can_be_exported_by_torch() -> None:
    def run(net: Network, x: Tensor) -> Tensor:
        x = net.attention(x, x, x, need_weights=False)[0] @ net.w
        return functional.scaled_dot_product_attention(x, x, x).mean(1)

    torch.manual_seed(0)
    model = Network(run, attention=nn.MultiheadAttention(6, 2, batch_first=True), w=normal(6, 4)).eval()
    x = normal(3, 5, 6)
    network = QuantizedNetwork(model, trace_layers(model, x), [x])
    network.apply(BitAssignment(dict.fromkeys(network.sites, 4)))
    with torch.no_grad():
        exported = torch.export.export(network.model, (x,), strict=False).module()
        torch.testing.assert_close(exported(x), network(x), rtol=1e-5, atol=1e-6)


def test_a_network_that_draws_numbers_in_evaluation_is_compared_by_the_same_draws() -> None:
    model = Network(lambda net, x: functional.dropout(x, 0.5) @ net.w, w=normal(5, 3))
    state = torch.random.get_rng_state()
    anatomy = examine(model, normal(4, 5))
    assert torch.equal(state, torch.random.get_rng_state())
    assert [layer.name for layer in anatomy.layers] == ["linear"]
    assert anatomy.left == ()


@pytest.mark.parametrize(
    ("run", "what", "why"),
    [
        (lambda net, x: torch.addmm(net.b, x, net.w, beta=2), "functional matmul", "has a factor"),
        (lambda net, x: torch.addmm(x, x, net.w), "functional linear", "its bias is computed"),
        (lambda net, x: functional.linear(x, net.w @ net.w), "functional linear", "multiplies two parameters"),
        (lambda net, x: functional.linear(x, net.w, x[0]), "functional linear", "its bias is computed"),
        (lambda net, x: torch.matmul(x, net.w, out=torch.empty(len(x), 5)), "functional matmul", "of this kind"),
        (lambda net, x: functional.bilinear(x, x, net.e), "functional bilinear", "of this kind"),
        (
            lambda net, x: functional.conv_transpose1d(x[:, :, None], net.e)[:, :, 0],
            "functional conv_trans",
            "of this kind",
        ),
    ],
    ids=["a factor", "an activation added", "two parameters", "a bias computed", "out", "bilinear", "transposed"],
)
@torch.no_grad()
def test_calls_that_stay_in_float_are_told_with_their_reasons(run: Callable[..., Tensor], what: str, why: str) -> None:
    parts = {"w": normal(5, 5), "b": normal(5), "e": normal(5, 5, 5)}
    model, x = Network(lambda net, x: net.head(run(net, x)), head=nn.Linear(5, 2), **parts).eval(), normal(4, 5)
    anatomy = examine(model, x)
    assert [layer.name for layer in anatomy.layers] == ["head"]
    assert anatomy.left[0].what.startswith(what)
    assert why in anatomy.left[0].why
    network = QuantizedNetwork(model, anatomy.layers, [x])
    assert torch.equal(network(x), model(x))


def test_products_with_buffers_stay_in_float() -> None:
    class Filtered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("basis", normal(5, 5))
            self.head = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x @ self.basis)

    anatomy = examine(Filtered(), normal(3, 5))
    assert [layer.name for layer in anatomy.layers] == ["head"]
    assert left(anatomy) == {"matmul": ("matmul of activations", 0)}
    assert "buffer" in anatomy.left[0].why


def test_a_matrix_that_a_network_reads_from_its_weights_is_the_same_in_half_precision() -> None:
    model, x = Network(lambda net, x: x @ net.w, w=normal(64, 8)).bfloat16(), normal(20, 64).bfloat16()
    network = QuantizedNetwork(model, trace_layers(model, x), [x])
    assert torch.equal(network(x), model(x).detach())


def test_a_module_that_only_shares_the_weight_of_a_layer_is_not_left_out() -> None:
    """As of T5, whose encoder has the table that the model keeps too."""
    embed, shared = nn.Embedding(9, 6), nn.Embedding(9, 6)
    shared.weight = embed.weight
    model = Network(lambda net, x: net.embed(x).mean(1), shared=shared, embed=embed)
    assert examine(model, tokens(2)).left == ()
