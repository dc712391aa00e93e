"""The correction of shifts, against moments computed by hand."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import pytest
import torch
from greenlet import greenlet
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import EvaluationError
from qsearch.quantize.correction import (
    ShiftCorrection,
    adds_bias,
    layers_behind_spikes,
    normalised_layers,
    variance_ratio,
)
from qsearch.quantize.lockstep import in_lockstep, wait
from qsearch.quantize.moments import channel_sums, moments
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.trace import trace_layers
from qsearch.spiking.network import SpikingNetwork, over_time
from qsearch.spiking.neurons import Integrator, Neuron, RecurrentNeuron


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(x: Tensor) -> tuple[Tensor, Tensor]:
    """By numpy's definition, over all extents but the second."""
    rows = x.double().transpose(0, 1).flatten(1)
    return rows.mean(1), rows.var(1, correction=0)


class Normed(nn.Module):
    """conv → bn → relu → conv → bn → relu → linear, with statistics that are not those of the test data."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(2, 5, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(5)
        self.conv2 = nn.Conv2d(5, 4, 3)
        self.bn2 = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3, bias=False)
        for norm in (self.bn1, self.bn2):
            nn.init.uniform_(norm.running_mean, -0.3, 0.3)
            nn.init.uniform_(norm.running_var, 0.2, 0.8)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.bn2(input=self.conv2(x)))
        return self.head(x.mean((2, 3)))


def network(model: nn.Module, data: Tensor) -> QuantizedNetwork:
    return QuantizedNetwork(model, trace_layers(model, data[:1]), list(data.split(7)))


def weights(bits: int) -> BitAssignment:
    return BitAssignment({"conv1.weight": bits, "conv2.weight": bits, "head.weight": bits})


@torch.no_grad()
def test_statistics_and_bias_equal_a_computation_by_hand() -> None:
    model, data = Normed().eval(), normal(30, 2, 9, 9)
    quantised = network(model, data)
    quantised.apply(weights(2))
    found = quantised.model
    x_f = x_q = data
    for conv, norm in (("conv1", "bn1"), ("conv2", "bn2")):
        layer, bn, bias = getattr(model, conv), getattr(model, norm), getattr(model, conv).bias
        x_f, x_q = functional.conv2d(x_f, layer.weight, bias), functional.conv2d(x_q, getattr(found, conv).weight, bias)
        (mean_f, var_f), (mean_q, var_q) = by_hand(x_f), by_hand(x_q)
        mean, var = bn.running_mean + (mean_q - mean_f).float(), bn.running_var * (var_q / var_f).float()
        torch.testing.assert_close(getattr(found, norm).running_mean, mean, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(getattr(found, norm).running_var, var, rtol=1e-4, atol=1e-6)
        x_f = functional.batch_norm(x_f, bn.running_mean, bn.running_var, bn.weight, bn.bias).relu()
        x_q = functional.batch_norm(x_q, mean, var, bn.weight, bn.bias).relu()
    x_f, x_q = x_f.mean((2, 3)), x_q.mean((2, 3))
    shift = (x_f @ model.head.weight.T).mean(0) - (x_q @ found.head.weight.T).mean(0)
    torch.testing.assert_close(found.head.bias, shift, rtol=1e-3, atol=1e-6)
    assert float(shift.abs().max()) > 1e-3


@torch.no_grad()
def test_corrected_batch_norms_see_what_they_saw_in_float() -> None:
    """With stored statistics equal to the data's, each normalised channel keeps mean 0 and variance 1."""
    model, data = Normed(), normal(40, 2, 9, 9)
    model.train()
    for norm in (model.bn1, model.bn2):
        norm.momentum = 1.0
    for _ in range(3):
        model(data)
    quantised = network(model.eval(), data)
    quantised.apply(weights(2))
    seen: list[Tensor] = []
    for norm in (quantised.model.bn1, quantised.model.bn2):
        norm.register_forward_hook(lambda module, args, output: seen.append(output))
    quantised(data)
    for output in seen:
        mean, variance = by_hand(output)
        assert float(mean.abs().max()) < 1e-3
        torch.testing.assert_close(variance, torch.ones_like(variance), rtol=0.01, atol=0)


class Plain(nn.Module):
    """No batch-norm anywhere; one layer with a bias, two without."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv1d(3, 6, 3, bias=False)
        self.middle = nn.Linear(6, 7)
        self.head = nn.Linear(7, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv(x)).transpose(1, 2)
        return self.head(functional.relu(self.middle(x))).mean(1)


@torch.no_grad()
def test_without_batch_norm_the_mean_of_every_layer_is_that_of_the_float_network() -> None:
    model, data = Plain().eval(), normal(50, 3, 12).abs()
    quantised = network(model, data)
    quantised.apply(BitAssignment({"conv.weight": 2, "middle.weight": 2, "head.weight": 2}))
    outputs: dict[str, list[Tensor]] = {}
    for owner in (model, quantised.model):
        for name, axis in (("conv", 1), ("middle", 2), ("head", 2)):
            getattr(owner, name).register_forward_hook(
                lambda module, args, output, name=name, axis=axis: outputs.setdefault(name, []).append(
                    output.transpose(1, axis).transpose(0, 1).flatten(1).mean(1)
                )
            )
    model(data)
    uncorrected = QuantizedNetwork(model, trace_layers(model, data[:1]), [data], correction=False)
    uncorrected.apply(BitAssignment({"conv.weight": 2, "middle.weight": 2, "head.weight": 2}))
    quantised(data)
    for name, means in outputs.items():
        torch.testing.assert_close(means[-1], means[0], rtol=1e-4, atol=1e-5, msg=name)
    assert float((uncorrected(data).mean(0) - model(data).mean(0)).abs().max()) > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("build", [Normed, Plain])
@pytest.mark.parametrize("split", [33, 8])
def test_float_is_neutral_bit_for_bit_through_the_correction_itself(build: type[nn.Module], split: int) -> None:
    model = build().eval()
    data = normal(33, 2, 9, 9) if build is Normed else normal(33, 3, 12)
    layers = {layer.name: model.get_submodule(layer.name) for layer in trace_layers(model, data[:1])}
    expected = torch.cat([model(batch) for batch in data.split(split)])
    state = {key: value.clone() for key, value in model.state_dict().items()}
    correction = ShiftCorrection(model, layers, list(data.split(split)))
    assert torch.equal(correction.run(), expected)
    assert torch.equal(torch.cat([model(batch) for batch in data.split(split)]), expected)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())


def test_the_pass_gives_the_output_of_the_corrected_network() -> None:
    quantised = network(Normed().eval(), normal(30, 2, 9, 9))
    quantised.apply(weights(3))
    assert quantised.passes == 1
    torch.testing.assert_close(quantised.calibration_output(), quantised(normal(30, 2, 9, 9)), rtol=1e-4, atol=1e-6)


def test_which_layers_go_straight_into_a_batch_norm() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.straight, self.added = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
            self.rectified, self.sometimes = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
            self.norms = nn.ModuleList(nn.BatchNorm2d(2) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            x = self.norms[0](self.straight(x))
            x = self.norms[1](self.added(x) + x)
            x = self.norms[2](self.rectified(x).relu_())
            return self.sometimes(self.norms[3](self.sometimes(x)))

    model = Mixed().eval()
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert normalised_layers(model, layers, normal(2, 2, 3, 3)) == {"straight"}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_pruned_channel_keeps_its_variance_and_stays_tame() -> None:
    model, data = Normed().eval(), normal(30, 2, 9, 9)
    quantised = network(model, data)
    quantised.apply(BitAssignment({"conv1.weight": (0, 8, 8, 8, 8)}))
    assert quantised.model.bn1.running_var[0] == model.bn1.running_var[0]
    assert bool(torch.isfinite(quantised(data)).all())
    with torch.no_grad():
        after = quantised.model.bn1(quantised.model.conv1(data))[:, 0].mean()
        before = model.bn1(model.conv1(data))[:, 0].mean()
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-5)


def test_variance_ratio_is_guarded() -> None:
    quantised = torch.tensor([2.0, 0.0, 1.0, 1e-9, 1.0], dtype=torch.float64)
    floating = torch.tensor([1.0, 1.0, 0.0, 1.0, 1e-9], dtype=torch.float64)
    assert variance_ratio(quantised, floating, torch.ones(5)).tolist() == [2.0, 1.0, 1.0, 1.0, 1.0]


class Reused(nn.Module):
    """A block of convolution and batch-norm that runs twice, and a layer without batch-norm that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv1 = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(3)
        self.conv2 = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = self.conv2(self.bn(self.conv1(x)).relu()).tanh()
        return x.mean((2, 3))


@torch.no_grad()
def test_a_reused_module_takes_the_average_over_its_runs() -> None:
    model, data = Reused().eval(), normal(40, 3, 6, 6) + 0.5
    quantised = network(model, data)
    quantised.apply(BitAssignment({"conv1.weight": 2}))
    assert quantised.passes == 2
    wq = quantised.model.conv1.weight
    shifts, ratios, biases = [], [], []
    x_f = x_q = data
    for _ in range(2):
        y_f, y_q = functional.conv2d(x_f, model.conv1.weight, padding=1), functional.conv2d(x_q, wq, padding=1)
        (mean_f, var_f), (mean_q, var_q) = by_hand(y_f), by_hand(y_q)
        shifts.append(mean_q - mean_f)
        ratios.append(var_q / var_f)
        mean = model.bn.running_mean + torch.stack(shifts).mean(0).float()
        var = model.bn.running_var * torch.stack(ratios).mean(0).float()
        z_f, z_q = model.conv2(model.bn(y_f).relu()), model.conv2(functional.batch_norm(y_q, mean, var).relu())
        biases.append(by_hand(z_f)[0] - by_hand(z_q)[0])
        x_f, x_q = z_f.tanh(), (z_q + torch.stack(biases).mean(0).float()[:, None, None]).tanh()
    torch.testing.assert_close(quantised.model.bn.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(quantised.model.bn.running_var, var, rtol=1e-4, atol=1e-5)
    bias = model.conv2.bias + torch.stack(biases).mean(0).float()
    torch.testing.assert_close(quantised.model.conv2.bias, bias, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(quantised.calibration_output(), quantised(data))


@pytest.mark.parametrize("split", [2, 5, 20])
def test_a_layer_that_runs_twice_in_a_row_is_measured_on_all_batches(split: int) -> None:
    """Nothing is gathered between its runs, so that one batch must not come to the second before all have left the first."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x))

    torch.manual_seed(5)
    model, data = Twice().eval(), normal(20, 4) + 1
    layers = trace_layers(model, data[:1])
    one, several = (QuantizedNetwork(model, layers, list(data.split(size))) for size in (20, split))
    for quantised in (one, several):
        quantised.apply(BitAssignment({"layer.weight": 2}))
    torch.testing.assert_close(several.model.layer.bias, one.model.layer.bias)


def test_batch_norms_without_statistics_are_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)).eval()
    data = normal(20, 2, 5, 5)
    quantised = QuantizedNetwork(model, trace_layers(model, data[:1]), [data])
    quantised.apply(BitAssignment({"0.weight": 3}))
    assert bool(torch.isfinite(quantised(data)).all())
    assert torch.equal(quantised.model[0].bias, model[0].bias)


def test_a_layer_that_runs_more_often_than_in_float_is_told() -> None:
    class Wavering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)
            self.more = False

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x)) if self.more else self.conv(x)

    model = Wavering().eval()
    quantised = QuantizedNetwork(model, trace_layers(model, normal(1, 2, 3, 3)), [normal(4, 2, 3, 3)])
    quantised.model.more = True
    with pytest.raises(EvaluationError, match=r"as often as in the float network.*correction: false"):
        quantised.apply(BitAssignment({"conv.weight": 3}))
    quantised.model.more = False
    quantised.apply(BitAssignment({"conv.weight": 3}))
    quantised.apply(BitAssignment({"conv.weight": FLOAT_BITS}))


@pytest.mark.parametrize("shape", [(64, 5), (16, 5, 7), (8, 5, 6, 6), (4, 5, 3, 3, 3)])
def test_channel_moments(shape: tuple[int, ...]) -> None:
    x = normal(*shape) * 3 + 2
    for parts in ([x], [x[:3], x[3:]]):
        for found, expected in zip(moments([channel_sums(part) for part in parts]), by_hand(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    last = moments([channel_sums(x.movedim(1, -1), -1)])
    torch.testing.assert_close(last[0], by_hand(x)[0], rtol=1e-5, atol=1e-7)


def test_batches_in_lockstep_give_what_one_batch_gives() -> None:
    model, data = Normed().eval(), normal(30, 2, 9, 9)
    layers = trace_layers(model, data[:1])
    one, several = QuantizedNetwork(model, layers, [data]), QuantizedNetwork(model, layers, list(data.split(4)))
    for quantised in (one, several):
        quantised.apply(weights(2))
    states = zip(one.model.state_dict().values(), several.model.state_dict().values(), strict=True)
    for expected, found in states:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_passes_wait_for_each_other() -> None:
    order: list[str] = []

    def task(name: str, stops: int) -> str:
        for stop in range(stops):
            order.append(f"{name}{stop}")
            wait()
        return name.upper()

    assert in_lockstep([partial(task, "a", 2), partial(task, "b", 1), partial(task, "c", 3)]) == ["A", "B", "C"]
    assert order == ["a0", "b0", "c0", "a1", "c1", "c2"]


def test_a_pass_that_fails_ends_all() -> None:
    def fail() -> None:
        wait()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        in_lockstep([wait, fail])


def test_a_pass_that_fails_unwinds_the_others_where_they_wait() -> None:
    events: list[str] = []

    def hold(name: str) -> None:
        try:
            wait()
            wait()
            events.append(f"{name} went on")
        except Exception:
            events.append(f"{name} took it for an error")
        finally:
            events.append(f"{name} released")

    def fail() -> None:
        wait()
        raise ValueError("no")

    passes = [partial(hold, "one"), fail, partial(hold, "other")]
    with pytest.raises(ValueError, match="no") as caught:
        in_lockstep(passes)
    assert events == ["one released", "other released"]
    assert caught.value.__context__ is None
    assert in_lockstep([lambda: 1, lambda: 2]) == [1, 2]


def test_a_pass_that_fails_before_the_others_begin_keeps_them_from_it() -> None:
    begun: list[str] = []

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        in_lockstep([fail, partial(begun.append, "late")])
    assert not begun


class Counting(TorchFunctionMode):
    """Counts the additions that it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        self.count += func is torch.add
        return func(*args, **(kwargs or {}))


def test_each_pass_keeps_its_own_modes() -> None:
    x, outer, inner = torch.ones(2), Counting(), [Counting() for _ in range(3)]

    def task(position: int) -> None:
        with inner[position]:
            for _ in range(position + 1):
                wait()
                torch.add(x, x)
        wait()
        torch.add(x, x)

    with outer:
        in_lockstep([partial(task, position) for position in range(3)])
        torch.add(x, x)
    assert [mode.count for mode in inner] == [1, 2, 3]
    assert outer.count == (1 + 2 + 3) + 3 + 1
    assert torch._C._len_torch_function_stack() == 0


def test_a_pass_that_fails_leaves_no_modes_of_the_others() -> None:
    events: list[int] = []

    def hold() -> None:
        with Counting(), Counting():
            try:
                wait()
            finally:
                events.append(torch._C._len_torch_function_stack())

    def fail() -> None:
        with Counting():
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        in_lockstep([hold, hold, fail])
    assert events == [2, 2]
    assert torch._C._len_torch_function_stack() == 0


def test_waiting_outside_of_a_pass_does_not_leave_the_callers_own_greenlet() -> None:
    def work() -> str:
        wait()
        return "".join(in_lockstep([partial(waited, "a"), partial(waited, "b")]))

    def waited(name: str) -> str:
        wait()
        return name

    task = greenlet(work)
    assert task.switch() == "ab"
    assert task.dead


def test_a_network_that_fails_while_it_is_measured_can_be_used_again() -> None:
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)
            self.fails = False

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.conv(x))
            if self.fails and len(x) == 1:
                raise RuntimeError("an odd batch")
            return x.mean((2, 3))

    model, data = Failing().eval(), normal(9, 2, 4, 4)
    quantised = QuantizedNetwork(model, trace_layers(model, data[:1]), list(data.split(4)))
    fresh = QuantizedNetwork(model, trace_layers(model, data[:1]), list(data.split(4)))
    assignment = BitAssignment({"conv.weight": 2})
    quantised.model.fails = True
    with pytest.raises(RuntimeError, match="an odd batch"):
        quantised.apply(assignment)
    assert not any(module._forward_hooks for module in quantised.model.modules())
    quantised.model.fails = False
    quantised.apply(assignment)
    fresh.apply(assignment)
    assert torch.equal(quantised(data), fresh(data))


class NoBias(nn.Linear):
    """Ignores its bias."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight)


class Doubling(nn.Conv2d):
    """Adds its bias, and then goes on."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Padded(nn.Conv2d):
    """Keeps torch's forward, but not what that calls."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv2d(functional.pad(x, (0, 1, 0, 1)), weight) * 3


class Named(nn.Conv2d):
    """A subclass that leaves the computation alone."""


def hooked() -> nn.Module:
    module = nn.Linear(4, 4)
    module.register_forward_hook(lambda module, args, output: output.relu())
    return module


def replaced() -> nn.Module:
    module = nn.Linear(4, 4)
    module.forward = lambda x: functional.linear(x, module.weight)  # type: ignore[method-assign]
    return module


def test_layers_that_are_no_plain_function_plus_bias_are_told_apart() -> None:
    plain = [nn.Linear(2, 2), nn.Conv1d(2, 2, 1), nn.Conv2d(2, 2, 1), nn.Conv3d(2, 2, 1), Named(2, 2, 1)]
    assert all(map(adds_bias, plain))
    assert not any(map(adds_bias, [NoBias(2, 2), Doubling(2, 2, 1), Padded(2, 2, 1), hooked(), replaced()]))


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(Named(2, 3, 2), nn.ReLU(), nn.Flatten(), NoBias(27, 4)),
        nn.Sequential(Doubling(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4)),
        nn.Sequential(Padded(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)),
        nn.Sequential(nn.Flatten(), nn.Linear(32, 4), hooked(), nn.Linear(4, 2)),
    ],
    ids=["no bias", "doubling", "own convolution", "hooked"],
)
def test_what_the_pass_gives_is_what_such_a_network_gives(network: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    data = normal(24, 2, 4, 4)
    layers = trace_layers(network, data[:1])
    with caplog.at_level("WARNING", logger="qsearch"):
        quantised = QuantizedNetwork(network.eval(), layers, list(data.split(7)))
    assert "shift not corrected at layers with a forward or hooks of their own" in caplog.text
    quantised.apply(BitAssignment({layer.weight_site: 2 for layer in layers}))
    assert quantised.passes == 1
    torch.testing.assert_close(quantised.calibration_output(), quantised(data), rtol=1e-4, atol=1e-5)


def events(*shape: int) -> Tensor:
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(3)) < 0.3).float()


def spiking(threshold: float = 0.3, leak: float | None = 0.9, cell: type[Neuron] = Neuron) -> SpikingNetwork:
    torch.manual_seed(4)
    of_its_own = (nn.Linear(6, 6),) if cell is RecurrentNeuron else ()
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        hidden=nn.Linear(8, 6),
        cell=cell(*of_its_own, threshold, leak),
        out=nn.Linear(6, 3),
        voltage=Integrator(0.9),
    )
    return SpikingNetwork(layers, readout="mean").eval()


@torch.no_grad()
def rate(model: nn.Module, data: Tensor) -> float:
    """Of the hidden neurons of :func:`spiking`."""
    return float(model.cell(over_time(model.hidden, data)).double().mean())


@pytest.mark.parametrize("cell", [Neuron, RecurrentNeuron])
@pytest.mark.parametrize("leak", [None, 0.9, 0.5])
@pytest.mark.parametrize(
    "assignment",
    [{"hidden.weight": 2}, {"cell.state": 3}, {"cell.threshold": 2}, {"hidden.weight": 3, "cell.threshold": 3}],
    ids=str,
)
def test_no_rate_ends_further_off_than_without_correction(
    assignment: dict[str, int], leak: float | None, cell: type[Neuron]
) -> None:
    data = events(24, 8, 8)
    for threshold in (0.2, 0.5, 0.9):
        model = spiking(threshold, leak, cell)
        layers = trace_layers(model, data[:1])
        plain = QuantizedNetwork(model, layers, [data], correction=False)
        corrected = QuantizedNetwork(model, layers, list(data.split(7)))
        for quantised in (plain, corrected):
            quantised.apply(BitAssignment(assignment))
        wanted = rate(model, data)
        assert abs(rate(corrected.model, data) - wanted) <= abs(rate(plain.model, data) - wanted)
        torch.testing.assert_close(corrected.calibration_output(), corrected(data))


def test_the_threshold_in_force_is_scaled_and_not_that_in_float() -> None:
    """1 spike in 3 steps, in float and in a register that rounds 0.9 to 1: nothing is to be corrected."""
    model = spiking(0.9, None)
    with torch.no_grad():
        model.hidden.weight.zero_()
        model.hidden.bias.fill_(0.35)
    data = events(4, 6, 8)
    quantised = QuantizedNetwork(model, trace_layers(model, data[:1]), [data])
    quantised.apply(BitAssignment({"cell.threshold": 1}))
    assert rate(model, data) == rate(quantised.model, data) == pytest.approx(1 / 3)
    assert quantised.model.cell.threshold.weight.tolist() == [1.0]


def test_a_register_that_is_full_keeps_its_greatest_value() -> None:
    model, data = spiking(0.5, None), events(24, 8, 8)
    quantised = QuantizedNetwork(model, trace_layers(model, data[:1]), list(data.split(5)))
    quantised.apply(BitAssignment({"cell.threshold": 3}))
    with torch.no_grad():
        quantised.model.hidden.bias += 0.3
    quantised.apply(BitAssignment({"cell.threshold": 3, "out.weight": 2}))
    register = quantised.register("cell.threshold", 3)
    assert register is not None
    assert quantised.model.cell.threshold.weight.tolist() == [register.highest * register.step]


def test_neurons_that_an_assignment_silences_spike_again() -> None:
    """In float they spike every third step; a leak of two bits keeps them from ever reaching their threshold."""
    model, data = spiking(0.9, 0.95), events(4, 6, 8)
    with torch.no_grad():
        model.hidden.weight.zero_()
        model.hidden.bias.fill_(0.35)
    layers = trace_layers(model, data[:1])
    plain, corrected = (QuantizedNetwork(model, layers, [data], correction=on) for on in (False, True))
    for quantised in (plain, corrected):
        quantised.apply(BitAssignment({"cell.leak": 1}))
    assert rate(plain.model, data) == 0
    assert rate(corrected.model, data) == rate(model, data) == pytest.approx(1 / 3)


class Echo(nn.Module):
    """The same neurons, run twice on the same currents."""

    def __init__(self, times: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.hidden, self.cell, self.times = nn.Linear(8, 6), Neuron(0.2, 0.9), times

    def forward(self, x: Tensor) -> Tensor:
        currents = over_time(self.hidden, x)
        return torch.stack([self.cell(currents) for _ in range(self.times)]).mean((0, 2))


@pytest.mark.parametrize("split", [32, 6])
def test_each_run_of_neurons_is_corrected_from_the_stored_threshold(split: int) -> None:
    data, found = events(32, 6, 8), []
    for times in (1, 2):
        model = Echo(times).eval()
        quantised = QuantizedNetwork(model, trace_layers(model, data[:1]), list(data.split(split)))
        quantised.apply(BitAssignment({"hidden.weight": 2}))
        found.append(float(quantised.model.cell.threshold.weight))
    assert found[0] == found[1] != pytest.approx(0.2)


def test_thresholds_that_are_corrected_in_inference_mode_can_be_learnt_afterwards() -> None:
    model, data = spiking(), events(16, 6, 8)
    quantised = QuantizedNetwork(model, trace_layers(model, data[:1]), [data])
    with torch.inference_mode():
        quantised.apply(BitAssignment({"hidden.weight": 2}))
    threshold = quantised.model.cell.threshold.weight
    assert not threshold.is_inference()
    threshold.requires_grad_(True)
    quantised.model(data).sum().backward()
    assert threshold.grad is not None


def test_a_readout_behind_the_last_neurons_keeps_its_mean() -> None:
    model, data = spiking(), events(16, 6, 8)
    quantised = QuantizedNetwork(model, trace_layers(model, data[:1]), list(data.split(5)))
    quantised.apply(BitAssignment({"out.weight": 2}))
    with torch.no_grad():
        reaching = model.cell(over_time(model.hidden, data))
        expected, found = (over_time(net.out, reaching).mean((0, 1)) for net in (model, quantised.model))
    torch.testing.assert_close(found, expected)
    assert torch.equal(quantised.model.hidden.bias, model.hidden.bias)
    assert quantised.corrections == {"out": "shift"}


def test_which_layers_run_behind_the_last_neurons() -> None:
    data = events(4, 6, 8)

    def behind(model: nn.Module) -> set[str]:
        layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        return set(layers_behind_spikes(model, layers, data))

    assert behind(spiking()) == behind(spiking(cell=RecurrentNeuron)) == {"out"}
    assert behind(Echo(2)) == set()
    assert behind(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))) == {"0", "1"}
