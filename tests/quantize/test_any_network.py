"""What networks do that nobody expects: each against what the network itself computes, or against counts by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from written_networks import Network, normal

from qsearch.anatomy import Anatomy
from qsearch.assignment import BitAssignment
from qsearch.errors import DataError, EvaluationError
from qsearch.quantize.correction import normalised_layers
from qsearch.quantize.lockstep import in_lockstep, wait
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.trace import examine


def layers(anatomy: Anatomy) -> list[str]:
    return [layer.name for layer in anatomy.layers]


def left(anatomy: Anatomy) -> dict[str, tuple[str, int]]:
    return {part.name: (part.what, part.numbers) for part in anatomy.left}


@pytest.mark.parametrize("correction", [False, True])
def test_a_network_that_writes_into_its_input_leaves_the_data_as_they_are(correction: bool) -> None:
    model = Network(lambda net, x: net.head(x.sub_(0.5).div_(0.25)), head=nn.Linear(5, 3))
    data = normal(12, 5)
    expected, kept = model(data.clone()).detach(), data.clone()
    network = QuantizedNetwork(model, examine(model, data).layers, list(data.split(4)), correction=correction)
    torch.testing.assert_close(network(data), expected)
    network.apply(BitAssignment({"head.weight": 3, "head.input": 3}))
    first = network(data)
    network.apply(BitAssignment({"head.weight": 2}))
    network.apply(BitAssignment({"head.weight": 3, "head.input": 3}))
    assert torch.equal(network(data), first)
    assert torch.equal(data, kept)


class Padded(nn.Module):
    """An encoder whose output is averaged over all positions, hidden ones included."""

    def __init__(self, closed: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8))
        nn.init.ones_(self.encoder.norm.bias)
        self.head, self.closed = nn.Linear(8, 3), closed
        self.eval()

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        if self.closed:  # reads the weights of an attention, which can then not be opened
            x = x + self.encoder.layers[0].self_attn.in_proj_weight.mean()
        return self.head(self.encoder(x, src_key_padding_mask=padding).mean(1))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("lengths", [(6, 4, 2), (4, 4, 3)])
@pytest.mark.parametrize("at_the_end", [True, False])
def test_padding_of_an_encoder_is_zero_where_torch_has_nested_tensors(
    closed: bool, lengths: tuple[int, ...], at_the_end: bool
) -> None:
    model, x = Padded(closed), normal(9, 6, 8)
    padding = torch.arange(6) >= torch.tensor(lengths * 3)[:, None]
    padding = padding if at_the_end else padding.flip(1)
    with torch.inference_mode():
        expected = model(x, padding)
    anatomy = examine(model, (x, padding))
    assert ("encoder.layers.0.self_attn" in left(anatomy)) == closed
    network = QuantizedNetwork(model, anatomy.layers, [(x, padding)], correction=False)
    torch.testing.assert_close(network((x, padding)), expected, rtol=1e-4, atol=1e-5)
    network.apply(BitAssignment({"encoder.layers.1.linear1.input": 1}))
    assert float((network((x, padding)) - expected).abs().max()) > 1e-4


def test_each_pass_keeps_its_own_autocast() -> None:
    seen: list[tuple[int, bool]] = []

    def task(position: int) -> None:
        if position == 0:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                wait()
                seen.append((position, torch.is_autocast_enabled("cpu")))
                wait()
        else:
            wait()
            seen.append((position, torch.is_autocast_enabled("cpu")))
            with torch.autocast("cpu", dtype=torch.float16):
                wait()
                wait()
        seen.append((position, torch.is_autocast_enabled("cpu")))

    in_lockstep([lambda: task(0), lambda: task(1)])
    assert sorted(seen) == [(0, False), (0, True), (1, False), (1, False)]
    assert not torch.is_autocast_enabled("cpu")


def test_a_pass_that_fails_leaves_no_autocast_of_the_others() -> None:
    kinds: list[torch.dtype] = []

    def hold(kind: torch.dtype) -> None:
        with torch.autocast("cpu", dtype=kind):
            try:
                wait()
            finally:
                kinds.append(torch.get_autocast_dtype("cpu"))

    def fail() -> None:
        raise ValueError("no")

    before = torch.get_autocast_dtype("cpu")
    with pytest.raises(ValueError, match="no"):
        in_lockstep([lambda: hold(torch.float16), lambda: hold(torch.bfloat16), fail])
    assert kinds == [torch.float16, torch.bfloat16]
    assert (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")) == (False, before)


def in_reduced_precision(net: Network, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = net.one(x).relu()
    return net.two(x.float())


def test_the_output_on_the_calibration_data_is_that_of_the_network_in_reduced_precision() -> None:
    torch.manual_seed(0)
    model, data = Network(in_reduced_precision, one=nn.Linear(12, 32), two=nn.Linear(32, 9)), normal(40, 12)
    found = QuantizedNetwork(model, examine(model, data).layers, list(data.split(16)))
    found.apply(BitAssignment({"one.weight": 3, "two.weight": 3, "one.input": 4}))
    assert found.passes == 2
    assert torch.equal(found.calibration_output(), torch.cat([found(part) for part in data.split(16)]))
    one = QuantizedNetwork(model, examine(model, data).layers, [data])
    one.apply(BitAssignment({"one.weight": 3, "two.weight": 3, "one.input": 4}))
    torch.testing.assert_close(found(data), one(data), rtol=1e-3, atol=1e-3)
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("batch", [1, 3, 4, 8, 16, 32, 64])
def test_what_is_computed_once_for_all_samples_counts_the_same_at_any_batch(batch: int) -> None:
    """64 learned queries of 12 numbers attend to a sample's 9 tokens."""

    def run(net: Network, x: Tensor) -> Tensor:
        scores = net.query(net.latents) @ x.transpose(1, 2)
        return net.head((scores.softmax(-1) @ x).mean(1))

    model = Network(run, latents=normal(64, 12), query=nn.Linear(12, 12), head=nn.Linear(12, 5))
    macs = {layer.name: layer.macs for layer in examine(model, normal(batch, 9, 12)).layers}
    assert macs == {"query": 64 * 12 * 12, "matmul": 64 * 12 * 9, "matmul_1": 64 * 9 * 12, "head": 12 * 5}


def test_a_network_for_one_size_of_batch_is_examined_on_it() -> None:
    model = Network(lambda net, x: net.head(x.reshape(16, 5)), head=nn.Linear(5, 2))
    assert [layer.macs for layer in examine(model, normal(16, 5)).layers] == [10]
    with pytest.raises(DataError, match=r"must run on the example input; got RuntimeError: shape '\[16, 5\]'"):
        examine(model, normal(8, 5))


@pytest.mark.parametrize("shape", [(1,), (), (10,)])
def test_what_addmm_adds_may_be_one_number(shape: tuple[int, ...]) -> None:
    bias, data = normal(10)[: shape[0]] if shape else torch.tensor(0.7), normal(8, 6)
    model = Network(lambda net, x: torch.addmm(net.b, x, net.w), w=normal(6, 10), b=bias)
    anatomy = examine(model, data)
    assert (layers(anatomy), anatomy.left) == (["linear"], ())
    network = QuantizedNetwork(model, anatomy.layers, [data])
    torch.testing.assert_close(network(data), model(data).detach())
    assert network.model.linear.bias.shape == (10,)


def test_layers_within_inference_mode_are_corrected() -> None:
    def run(net: Network, x: Tensor) -> Tensor:
        with torch.inference_mode():
            x = net.norm(net.conv(x)).relu()
        return net.head(x.clone().flatten(1))

    parts = {"conv": nn.Conv2d(2, 3, 3), "norm": nn.BatchNorm2d(3), "head": nn.Linear(12, 2)}
    model, data = Network(run, **parts), normal(8, 2, 4, 4)
    assert normalised_layers(model, {"conv": model.conv, "head": model.head}, data) == {"conv"}
    network = QuantizedNetwork(model, examine(model, data).layers, [data])
    network.apply(BitAssignment({"conv.weight": 2}))
    assert dict(network.corrections) == {"conv": "moments", "head": "shift"}


@pytest.mark.parametrize("layout", ["channels last", "transposed"])
@pytest.mark.parametrize("bits", [3, (3, 4) * 4])
def test_a_weight_of_any_layout_that_a_module_and_a_call_use(layout: str, bits: int | tuple[int, ...]) -> None:
    """Quantising the module's weight must not make another weight of the call's."""
    if layout == "transposed":
        first: nn.Module = nn.Linear(8, 8, bias=False)
        first.weight = nn.Parameter(normal(8, 8).t())
        model = Network(lambda net, x: functional.linear(net.first(x), net.first.weight), first=first)
        data, call = normal(10, 8), "linear"
    else:
        first = nn.Conv2d(8, 8, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
        model = Network(lambda net, x: functional.conv2d(net.first(x), net.first.weight), first=first)
        data, call = normal(10, 8, 4, 4), "conv2d"
    network = QuantizedNetwork(model, examine(model, data).layers, [data], correction=False)
    network.apply(BitAssignment({"first.weight": bits, f"{call}.weight": bits}))
    rows = [network.quantized_weight("first.weight", b).values for b in (bits if isinstance(bits, tuple) else (bits,))]
    values = torch.stack([rows[i % len(rows)][i] for i in range(8)])
    x = functional.linear(data, values) if call == "linear" else functional.conv2d(data, values, padding=1)
    expected = functional.linear(x, values) if call == "linear" else functional.conv2d(x, values)
    torch.testing.assert_close(network(data), expected)


@pytest.mark.parametrize(
    ("multiply", "name"),
    [
        (lambda q, k: torch.inner(q, k), "inner"),
        (lambda q, k: q.inner(k), "inner"),
        (lambda q, k: torch.outer(q[:, 0], k[:, 0]), "outer"),
        (lambda q, k: q[:, 0].outer(k[:, 0]), "outer"),
        (lambda q, k: torch.ger(q[:, 0], k[:, 0]), "ger"),
        (lambda q, k: torch.dot(q[0], k[0]), "dot"),
        (lambda q, k: q[0].vdot(k[0]), "vdot"),
        (lambda q, k: torch.linalg.vecdot(q, k), "linalg_vecdot"),
        (lambda q, k: torch.cdist(q, k), "cdist"),
        (lambda q, k: (q + 0).addmm_(q, k[:5]), "addmm_"),
        (lambda q, k: (q + 0)[:, 0].addmv_(q, k[0]), "addmv_"),
        (lambda q, k: q[None].clone().baddbmm_(q[None], k[None, :5]), "baddbmm_"),
        (lambda q, k: q.clone().addbmm_(q[None], k[None, :5]), "addbmm_"),
        (lambda q, k: q.new_zeros(len(q), len(k)).addr_(q[:, 0], k[:, 0]), "addr_"),
    ],
)
def test_products_by_other_names_are_told(multiply: Callable[[Tensor, Tensor], Tensor], name: str) -> None:
    def run(net: Network, x: Tensor) -> Tensor:
        return net.q(x) + multiply(net.q(x), net.k(x)).mean()

    anatomy = examine(Network(run, q=nn.Linear(5, 5), k=nn.Linear(5, 5)), normal(7, 5))
    assert left(anatomy) == {name: (f"{name} of activations", 0)}


def test_the_method_of_a_product_from_the_right_is_a_product() -> None:
    def run(net: Network, x: Tensor) -> Tensor:
        return net.w.__rmatmul__(x) + net.head(x).__rmatmul__(x @ x.t())

    model, data = Network(run, w=normal(5, 5), head=nn.Linear(5, 5)), normal(7, 5)
    anatomy = examine(model, data)
    assert [(layer.name, layer.kind) for layer in anatomy.layers] == [
        ("linear", "linear"),
        ("head", "linear"),
        ("matmul", "matmul"),
        ("matmul_1", "matmul"),
    ]
    torch.testing.assert_close(QuantizedNetwork(model, anatomy.layers, [data])(data), model(data).detach())


def test_a_parameter_that_is_a_layer_here_and_added_in_place_there() -> None:
    model = Network(lambda net, x: (x @ net.w).clone().addmm_(x, net.w), w=normal(5, 5))
    anatomy = examine(model, normal(7, 5))
    assert layers(anatomy) == ["linear"]
    assert left(anatomy) == {"addmm_": ("functional addmm_", 25)}


def test_the_numbers_of_a_parameter_are_counted_once() -> None:
    def run(net: Network, x: Tensor) -> Tensor:
        z = net.z.expand(len(x), -1, -1)  # (B, 4, 5)
        return net.head((z @ x.transpose(1, 2)).mean(-1)) + torch.einsum("ij,ij->i", net.w, net.w)

    model = Network(run, z=normal(4, 5), w=normal(3, 6), head=nn.Linear(4, 3))
    assert left(examine(model, normal(7, 9, 5))) == {
        "matmul": ("functional matmul", 20),
        "einsum": ("functional einsum", 18),
    }


def test_layers_that_share_one_parameter() -> None:
    """A table that embeds, projects as a module, and projects by a call; a slice and a transpose are other weights."""

    def run(net: Network, x: Tensor) -> Tensor:
        h = net.embed(x).mean(1)
        logits = net.head(h) + functional.linear(h, net.embed.weight)
        return logits + functional.linear(logits @ net.embed.weight, net.embed.weight[:6]).mean(1, keepdim=True)

    embed, head = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)
    head.weight = embed.weight
    anatomy = examine(Network(run, embed=embed, head=head), torch.randint(0, 9, (5, 4)))
    assert layers(anatomy) == ["embed", "head", "linear", "linear_1", "linear_2"]
    assert anatomy.ties["shared"] == (("embed.weight", "head.weight", "linear.weight"),)
    assert anatomy.groups(["shared"]) == anatomy.ties["shared"]


def test_a_layer_that_runs_only_on_later_data_is_told() -> None:
    def run(net: Network, x: Tensor) -> Tensor:
        return net.head(net.one(x) if bool(x.mean() > 0) else net.two(x))

    model = Network(run, one=nn.Linear(5, 5), two=nn.Linear(5, 5), head=nn.Linear(5, 3))
    data = [normal(4, 5).abs(), -normal(4, 5).abs()]
    anatomy = examine(model, data[0])
    refused = r"layer 'two' must run on the example too.*; got a call of it on other data"
    with pytest.raises(DataError, match=refused):
        QuantizedNetwork(model, anatomy.layers, data)
    found = QuantizedNetwork(model, anatomy.layers, data[:1])
    with pytest.raises(DataError, match=refused):  # it would stay in float, and in no cost
        found(data[1])


class Counting(nn.Module):
    """Adds how often it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.runs = nn.Linear(5, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.head(x) + self.runs


@pytest.mark.parametrize("kind", ["counts", "draws"])
def test_a_network_that_is_another_in_every_run_is_told(kind: str) -> None:
    drawing = Network(lambda net, x: net.head(functional.dropout(x, 0.5, True)), head=nn.Linear(5, 3))
    model, data = Counting().eval() if kind == "counts" else drawing, normal(8, 5)
    with pytest.raises(DataError, match="must give the same output whenever it runs on the same data; got another one"):
        QuantizedNetwork(model, examine(model, data).layers, [data])


def test_a_network_that_swaps_the_tensors_of_its_modules_is_not_corrected() -> None:
    def run(net: Network, x: Tensor) -> Tensor:
        return net.head(functional_call(net.one, {k: 1.0 * v for k, v in net.one.named_parameters()}, (x,)))

    model, data = Network(run, one=nn.Linear(5, 5), head=nn.Linear(5, 3)), normal(12, 5)
    batches, found = list(data.split(4)), examine(model, data).layers
    with pytest.raises(EvaluationError, match=r"layers must keep their own biases.*set correction: false"):
        QuantizedNetwork(model, found, batches)
    network = QuantizedNetwork(model, found, batches, correction=False)
    torch.testing.assert_close(network(data), model(data).detach())
