"""``nmnist``: the contract, splits, options of binning, the network's accuracy on all recordings, and what may be missing."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qsearch.errors import ConfigError, DataError
from qsearch.protocols import Workload
from qsearch.registry import create
from qsearch.testing.workload import WorkloadContract
from qsearch.workloads.event_files import ARCHIVE
from qsearch.workloads.nmnist import NETWORK, Nmnist

SPLITS = ("calibration", "train", "validation", "test")


@pytest.fixture
def folder(real_data: Path) -> Path:
    """The folder of the recordings and the network."""
    found = real_data / "nmnist"
    if not (found / ARCHIVE).is_file() or not (found / NETWORK).is_file():
        pytest.skip(f"no {ARCHIVE} and {NETWORK} in {found}")
    return found


def workload(**options: Any) -> Nmnist:
    return create("workloads", "nmnist", options)


@pytest.mark.usefixtures("folder")
class TestNmnist(WorkloadContract):
    def workload(self) -> Workload:
        return workload(calibration=10, train=20, validation=20, test=20, steps=8)


def rows(samples: Any) -> set[bytes]:
    return {frames.numpy().tobytes() for frames in samples.inputs}


@pytest.mark.usefixtures("folder")
def test_the_splits_share_out_the_recordings() -> None:
    found = workload()
    splits = found.splits
    assert [len(getattr(splits, split)) for split in SPLITS] == [100, 400, 300, 300]
    assert splits.train is not None
    assert splits.test is not None
    assert rows(splits.calibration) < rows(splits.train)
    assert len(rows(splits.train) | rows(splits.validation) | rows(splits.test)) == 1000
    share = np.array([97, 116, 99, 93, 105, 92, 94, 117, 87, 100]) / 1000
    for split in SPLITS:
        counts = np.bincount(getattr(splits, split).targets.numpy(), minlength=10)
        assert np.abs(counts - share * counts.sum()).max() <= 1
    events = sum(int(getattr(splits, split).inputs.sum()) for split in SPLITS[1:])
    assert events == 4_133_231, "the default bins hold all events"


@pytest.mark.usefixtures("folder")
def test_two_constructions_draw_the_same_splits() -> None:
    one, other = (workload(steps=2).splits.test for _ in range(2))
    assert one is not None
    assert other is not None
    assert torch.equal(one.inputs, other.inputs)
    assert torch.equal(one.targets, other.targets)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (32, 2, 34, 34)),
        ({"bin_ms": 1}, (320, 2, 34, 34)),
        ({"bin_ms": 30}, (11, 2, 34, 34)),
        ({"steps": 5}, (5, 2, 34, 34)),
        ({"duration_ms": 105}, (11, 2, 34, 34)),
        ({"duration_ms": 105, "steps": 3}, (3, 2, 34, 34)),
        ({"steps": 4, "polarity": "merged"}, (4, 1, 34, 34)),
    ],
)
def test_options_of_binning(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    inputs: Tensor = next(iter(workload(train=20, validation=20, test=20, calibration=10, **options).validation()))[0]
    assert inputs.shape[1:] == shape
    assert inputs.dtype == torch.float32


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"bin_ms": 0},
        {"bin_ms": float("inf")},
        {"duration_ms": -1},
        {"duration_ms": float("inf")},
        {"duration_ms": float("nan")},
        {"polarity": "on"},
        {"train": 5},
        {"seed": 1},
        {"step": 0},
    ],
)
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        workload(**options)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 3, "bin_ms": 10}, "either 'steps' or 'bin_ms'"),
        ({"train": 800}, "200 samples must be enough for 300 and 300 more"),
        ({"calibration": 500}, "400 samples must be enough for 500 and at least 1 more"),
        ({"train": None}, "'train' and 'validation' must be numbers; got train=None"),
        ({"duration_ms": 0.5, "bin_ms": 0.5}, r"must have an event within the first 0\.5 ms"),
        ({"bin_ms": 0.1}, "must take at most 2 GiB"),
    ],
)
def test_options_that_the_recordings_cannot_meet(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _ = workload(**{"bin_ms": None if "steps" in options else 10, **options}).splits


@pytest.mark.usefixtures("folder")
def test_a_validation_split_that_takes_what_is_left() -> None:
    found = workload(train=400, validation=500, test=None, steps=2).splits
    assert found.test is not None
    assert len(found.test) == 100


def test_official_splits_are_kept(tmp_path: Path, folder: Path) -> None:
    """Train from the folder Train, validation and test from Test: a recording is told by the place of its one event."""
    for half, split in enumerate(("Train", "Test")):
        for index in range(300):
            path = tmp_path / split / str(index % 10) / f"{index:05d}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes([index // 10, 10 * half + index % 10, 128, 0, 0]))
    found = workload(data=str(tmp_path), train=None, validation=100, test=50, steps=1)
    splits = found.splits
    assert [len(getattr(splits, split)) for split in SPLITS] == [100, 300, 100, 50]
    for split, half in zip(SPLITS, (0, 0, 1, 1), strict=True):
        samples = getattr(splits, split)
        place = samples.inputs[:, 0, 1].sum(2).nonzero()
        assert place[:, 0].tolist() == list(range(len(samples))), "each has one event"
        assert place[:, 1].tolist() == (10 * half + samples.targets).tolist(), "in the row of its folder and class"
    assert not rows(splits.validation) & rows(splits.test)


@torch.no_grad()
def right(found: Nmnist, splits: tuple[str, ...]) -> int:
    model = found.model()
    return sum(
        int((model(inputs).argmax(1) == targets).sum())
        for split in splits
        for inputs, targets in getattr(found, split)()
    )


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("bin_ms", [10, 3])
def test_the_network_is_as_good_as_published(bin_ms: float) -> None:
    """98.8 % on the 1,000 recordings."""
    assert 980 <= right(workload(bin_ms=bin_ms), ("train", "validation", "test")) <= 995


@pytest.mark.usefixtures("folder")
def test_the_network_knows_the_digits() -> None:
    found = workload(calibration=10, train=20, validation=60, test=20)
    assert right(found, ("validation",)) >= 56


def test_a_network_of_the_users_own(tmp_path: Path, folder: Path) -> None:
    shutil.copy(folder / NETWORK, tmp_path / "own.nir")
    public, own = workload(), workload(network=str(tmp_path / "own.nir"), data=str(tmp_path))
    assert all(
        torch.equal(one, other)
        for one, other in zip(public.model().parameters(), own.model().parameters(), strict=True)
    )


def test_a_network_for_other_frames(folder: Path) -> None:
    with pytest.raises(DataError, match=r"cnn_sinabs\.nir must take frames of shape \(1, 34, 34\)"):
        workload(polarity="merged").model()


def test_a_network_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the trained network cnn_sinabs\.nir must be in a data folder"):
        workload(data=str(tmp_path)).model()


@pytest.mark.usefixtures("folder")
def test_options_reach_the_neurons() -> None:
    neurons = [
        module
        for module in workload(reset="zero", several=False).model().modules()
        if isinstance(module, torch.nn.Module) and hasattr(module, "several")
    ]
    assert len(neurons) == 5
    assert all(neuron.reset == "zero" and not neuron.several for neuron in neurons)


def archive(folder: Path, last: dict[int, int]) -> str:
    """60 recordings of two events, the last of them when ``last`` says, in µs, else after 1 ms."""
    times = np.array([[0, last.get(index, 1000)] for index in range(60)]).ravel()
    zeros = np.zeros(120, np.uint8)
    labels, offsets = np.arange(60) % 10, 2 * np.arange(61)
    np.savez(folder / ARCHIVE, x=zeros, y=zeros, p=zeros, t_us=times, offsets=offsets, label=labels)
    return str(folder)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_recordings_to_judge_by_do_not_decide_what_is_seen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"train": 20, "validation": 20, "test": 20, "calibration": 10}
    first = workload(data=archive(tmp_path, {}), **options)
    late = {int(share[-1]): 900_000 for share in first._shares[1:]}
    caplog.set_level(logging.WARNING)
    assert first.splits.calibration.inputs.shape[1] == 32
    assert "left out" not in caplog.text
    second = workload(data=archive(tmp_path, late), **options)
    assert torch.equal(second.splits.calibration.inputs, first.splits.calibration.inputs)
    assert "2 events of nmnist happen after 320 ms and are left out; the option 'duration_ms'" in caplog.text
    caplog.clear()
    asked = workload(data=archive(tmp_path, late), duration_ms=900.5, **options)
    assert asked.splits.calibration.inputs.shape[1] == 91
    assert "left out" not in caplog.text


def leaky(folder: Path, tau: float, said: dict[str, Any] | None = None) -> str:
    """A NIR file of ten neurons of a time constant in s."""
    nir = pytest.importorskip("nir")
    ones, zeros = np.ones(10, np.float32), np.zeros(10, np.float32)
    nodes = {
        "input": nir.Input(np.array([2, 34, 34])),
        "flat": nir.Flatten(np.array([2, 34, 34]), 0, 2),
        "w": nir.Affine(np.ones((10, 2312), np.float32), zeros),
        "n": nir.LIF(tau * ones, ones, zeros, ones, zeros),
        "output": nir.Output(np.array([10])),
    }
    names = list(nodes)
    graph = nir.NIRGraph(nodes, list(itertools.pairwise(names)), type_check=False)
    graph.metadata = {} if said is None else {"qsearch": json.dumps(said)}
    nir.write(folder / "leaky.nir", graph)
    return str(folder / "leaky.nir")


@pytest.mark.parametrize(
    ("options", "said", "leak"),
    [
        ({}, None, 0.5),
        ({"bin_ms": 5}, None, 0.75),
        ({"steps": 64}, None, 0.75),
        ({"step": 0.002}, None, 0.9),
        ({}, 0.004, 0.8),
        ({"step": 0.002}, 0.004, 0.9),
    ],
)
def test_a_step_takes_as_long_as_a_bin(
    options: dict[str, Any], said: float | None, leak: float, tmp_path: Path
) -> None:
    """λ = 1 − Δt/τ, of τ = 20 ms; what an option or the file says of Δt counts before the bin."""
    told = None if said is None else {"version": 1, "step": said, "readout": "mean"}
    network = workload(network=leaky(tmp_path, 0.02, told), **options).model()
    assert isinstance(network, torch.nn.Sequential)
    (found,) = (module.leak.weight for module in network if hasattr(module, "leak"))
    assert found.detach().numpy() == pytest.approx(leak)


def test_time_constants_shorter_than_a_bin_name_the_option(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"at least a step, 0\.01; got 0\.001; say how long .* by 'step'; snntorch"):
        workload(network=leaky(tmp_path, 0.001)).model()
