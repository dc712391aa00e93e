"""What a pass calls and reads, in networks small enough to say so by hand; and what is kept of it in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from written_networks import Network, normal

from qsearch.quantize.flow import Flow, watch
from qsearch.quantize.snapshots import Absent, Missing, Output, Snapshot, Snapshots


def flow_of(model: nn.Module, *stops: nn.Module) -> Flow:
    found = watch(model, normal(2, 4), stops, {stop: list(stop.parameters()) for stop in stops})
    assert found is not None
    return found


def linears(*names: str) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {name: nn.Linear(4, 4) for name in names}


def test_of_a_chain_the_last_output_is_needed() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 4))
    flow = flow_of(model, *(model[i] for i in (0, 2, 3)))
    assert [call.module for call in flow.calls] == [model, *model]
    assert [call.end for call in flow.calls] == [5, 2, 3, 4, 5]
    assert [(cut.position, set(cut.skipped), set(cut.needed)) for cut in flow.cuts] == [
        (1, set(), set()),
        (3, {1, 2}, {2}),
        (4, {1, 2, 3}, {3}),
    ]
    assert flow.cuts[1].size == 2 * 4 * 4


def test_a_skip_connection_is_needed_until_it_ends() -> None:
    def run(net: Network, x: Tensor) -> Tensor:
        first = net.a(x)
        return net.d(net.c(net.b(first)) + first)

    model = Network(run, **linears("a", "b", "c", "d"))
    flow = flow_of(model, model.b, model.c, model.d)
    # d reads a sum, which the network's own call makes of both
    assert [set(cut.needed) for cut in flow.cuts] == [{1}, {1, 2}, {1, 3}]


def test_what_runs_again_before_the_cut_needs_its_inputs() -> None:
    def run(net: Network, x: Tensor) -> Tensor:
        return net.c(net.b(functional.relu(net.a(x))))

    model = Network(run, **linears("a", "b", "c"))
    assert [set(cut.needed) for cut in flow_of(model, model.c).cuts] == [{1, 2}]  # the function reads the first


def test_a_module_within_one_that_is_skipped_is_not_looked_at() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True)), nn.Linear(4, 4), nn.Linear(4, 4))
    flow = flow_of(model, model[0][0], model[2])
    assert [(set(cut.skipped), set(cut.needed)) for cut in flow.cuts] == [(set(), set()), ({1, 4}, {4})]
    assert [call.sound for call in flow.calls] == [True, True, True, False, True, True]  # ReLU writes into its input
    assert [call.rewritten for call in flow.calls] == [False, False, True, False, False, False]


def test_views_and_what_is_passed_through_are_made_anew() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Flatten(), nn.Identity(), nn.Dropout(), nn.Linear(4, 4)).eval()
    flow = flow_of(model, model[4])
    assert [call.sound for call in flow.calls] == [True, True, False, False, False, True]
    assert set(flow.cuts[0].needed) == {1}


def test_two_outputs_in_one_memory_are_made_anew() -> None:
    class Two(nn.Module):
        def __init__(self, way: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
            super().__init__()
            self.a, self.way = nn.Linear(4, 4), way

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.way(self.a(x))

    def run(net: Network, x: Tensor) -> Tensor:
        return net.b(sum(net.two(x)))

    ways: dict[Callable[[Tensor], tuple[Tensor, Tensor]], bool] = {
        lambda y: (y, y): False,
        lambda y: (y, y[:, :4]): False,
        lambda y: (y, y + 1): True,
    }
    for way, sound in ways.items():
        model = Network(run, two=Two(way), b=nn.Linear(4, 4))
        assert [call.sound for call in flow_of(model, model.b).calls] == [True, sound, True, True]


def test_a_module_that_leaves_something_on_itself_tells_nothing() -> None:
    class Leave(nn.Module):
        def __init__(self, leave: Callable[[nn.Module, Tensor], object]) -> None:
            super().__init__()
            self.a, self.leave, self.left = nn.Linear(4, 4), leave, None
            self.register_buffer("kept", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            self.leave(self, y)
            return y

    ways: dict[Callable[[nn.Module, Tensor], object], bool] = {
        lambda module, y: setattr(module, "left", y.shape[0]): False,
        lambda module, y: setattr(module, "other", y): False,
        lambda module, y: setattr(module, "kept", y): False,
        lambda module, y: setattr(module, "left", None): True,
    }
    for way, told in ways.items():
        model = nn.Sequential(Leave(way), nn.Linear(4, 4))
        assert (watch(model, normal(2, 4), [model[1]], {}) is not None) == told


def test_a_weight_that_is_read_beside_its_layer_tells_nothing() -> None:
    def run(net: Network, x: Tensor) -> Tensor:
        return net.b(net.a(x) * net.b.weight.mean())

    model = Network(run, **linears("a", "b"))
    assert watch(model, normal(2, 4), [model.b], {model.b: [model.b.weight]}) is None
    assert watch(model, normal(2, 4), [model.b], {model.b: []}) is not None


def test_parts_that_run_again_depend_on_the_layers_between() -> None:
    def run(net: Network, x: Tensor) -> Tensor:
        return net.d(net.norm(net.c(net.b(net.norm(net.a(x))))))

    model = Network(run, **linears("a", "b", "c", "d"), norm=nn.LayerNorm(4))
    flow = flow_of(model, model.a, model.b, model.c, model.d)
    assert flow.settled([]) == [0, 1, 2, 3]
    assert flow.settled([model.norm]) == [0, 3, 3, 3]


def test_nobody_reads_an_absent_output() -> None:
    with torch.inference_mode():
        absent = Output.of((normal(2, 3), None), needed=False, rewritten=False).give()[0]
        assert isinstance(absent, Absent)
        assert (absent.shape, absent.dtype, len(absent)) == ((2, 3), torch.float32, 2)
        for read in (absent.sum, lambda: absent + 1, lambda: functional.linear(absent, normal(4, 3)), absent.clone):
            with pytest.raises(Missing):
                read()


def test_an_output_that_is_written_into_is_given_as_a_copy() -> None:
    x = normal(3)
    kept = Output.of(x, needed=True, rewritten=True)
    x.zero_()
    kept.give().zero_()
    assert torch.equal(kept.give(), normal(3))


def snapshot(numbers: int) -> Snapshot:
    return Snapshot(({0: Output.of(torch.zeros(numbers), needed=True, rewritten=False)},))


def test_the_least_recently_used_goes_first() -> None:
    kept = Snapshots(3 * 40)
    for key in "abc":
        kept.begin()
        kept.add(key, snapshot(10))
    kept.begin()
    kept.get("a")
    kept.add("d", snapshot(10))
    assert [key in kept for key in "abcd"] == [True, False, True, True]
    assert kept.size == 120


def test_what_a_round_has_used_stays_in_it() -> None:
    """A scan in a circle that does not fit keeps what fits."""
    kept = Snapshots(3 * 40)
    for _ in range(4):
        kept.begin()
        for key in range(5):
            if key in kept:
                kept.get(key)
            else:
                kept.add(key, snapshot(10))
        assert [key in kept for key in range(5)] == [True, True, True, False, False]
    assert kept.room == 0


def test_what_is_larger_than_the_bound_is_not_kept() -> None:
    kept = Snapshots(100)
    kept.add("small", snapshot(10))
    kept.begin()
    kept.add("large", snapshot(30))
    assert "large" not in kept
    assert "small" in kept
    kept.clear()
    assert (kept.size, kept.room) == (0, 100)
