"""Checkpoints: what torch and safetensors wrote is read back; what does not fit is told in one line; nothing is run."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from qsearch.errors import DataError
from qsearch.registry import create
from qsearch.workloads.checkpoint import load_checkpoint
from qsearch.workloads.files import sha256


def network(width: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width * 4, 2))


def trained() -> nn.Sequential:
    torch.manual_seed(5)
    found = network()
    found(torch.rand(8, 1, 4, 4))
    return found


def save_torch(path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, path)


def save_held(path: Path, state: dict[str, Tensor]) -> None:
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, path)


def save_legacy(path: Path, state: dict[str, Tensor]) -> None:
    torch.save({"model": state}, path, _use_new_zipfile_serialization=False)


def save_safetensors(path: Path, state: dict[str, Tensor]) -> None:
    safetensors.torch.save_file(state, path)


@pytest.mark.parametrize(
    ("save", "name"),
    [(save_torch, "w.pt"), (save_held, "w.pth"), (save_legacy, "w.th"), (save_safetensors, "w.safetensors")],
)
def test_weights_come_back(tmp_path: Path, save: Callable[[Path, dict[str, Tensor]], None], name: str) -> None:
    source, target = trained(), network()
    save(tmp_path / name, source.state_dict())
    load_checkpoint(target, tmp_path / name)
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value), key


def test_counters_of_batches_may_be_missing_and_nothing_else(tmp_path: Path) -> None:
    state = trained().state_dict()
    del state["1.num_batches_tracked"]
    torch.save(state, tmp_path / "w.pt")
    load_checkpoint(network(), tmp_path / "w.pt")
    del state["1.running_mean"]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"1\.running_mean is missing, of shape \(3,\) in the network; 7 of 9 tensors"):
        load_checkpoint(network(), tmp_path / "w.pt")


def other_width(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return network(4).state_dict()


def other_name(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "head.weight": torch.zeros(7, 2)}


def not_finite(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "3.bias": torch.tensor([1.0, torch.nan])}


def no_tensor(state: dict[str, Tensor]) -> dict[str, Any]:
    return {**state, "3.bias": [1.0, 2.0]}


def sparse(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "3.weight": state["3.weight"].to_sparse()}


def empty(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            other_width,
            r"0\.weight has shape \(4, 1, 3, 3\) there and \(3, 1, 3, 3\) in the network; 2 of 9 tensors agree",
        ),
        (other_name, r"head\.weight, of shape \(7, 2\), is not in it"),
        (not_finite, r"must be finite; got NaN or infinity in 3\.bias"),
        (no_tensor, r"must map names to dense tensors; got list under '3\.bias'"),
        (
            sparse,
            r"must map names to dense tensors; got Parameter|must map names to dense tensors; got Tensor under '3\.",
        ),
        (empty, "must hold a state dictionary; got an empty one"),
    ],
)
def test_what_does_not_fit_is_told_and_the_network_left_alone(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], Any], message: str
) -> None:
    torch.save(change(trained().state_dict()), tmp_path / "w.pt")
    target = network()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(DataError, match=message) as caught:
        load_checkpoint(target, tmp_path / "w.pt")
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("modern", [True, False], ids=["zip", "legacy"])
def test_a_malicious_checkpoint_does_not_run(tmp_path: Path, modern: bool) -> None:
    path, mark = tmp_path / "w.pt", tmp_path / "ran"
    torch.save({"state_dict": Trap(mark)}, path, _use_new_zipfile_serialization=modern)
    with pytest.raises(
        DataError, match=r"only tensors and plain containers; got \w+\.mkdir; nothing of it was run"
    ) as caught:
        load_checkpoint(network(), path)
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists(), "the trap must work, or the test proves nothing"


def test_a_plain_malicious_pickle_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    with pytest.raises(DataError, match=r"w\.pt must be a whole file|w\.pt may hold only tensors") as caught:
        load_checkpoint(network(), tmp_path / "w.pt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_whole_module_is_refused_by_its_name(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "w.pt")
    with pytest.raises(
        DataError, match=r"got torch\.nn\.modules\.container\.Sequential; .* save network\.state_dict\(\)"
    ):
        load_checkpoint(network(), tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 cut"], ids=["empty", "text", "cut"])
def test_what_is_no_checkpoint_is_told_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} must be a whole") as caught:
        load_checkpoint(network(), tmp_path / name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", ["missing.pt", "."])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="must be a file that can be read; got"):
        load_checkpoint(network(), tmp_path / name)


def test_a_known_file_is_known_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(trained().state_dict(), path)
    load_checkpoint(network(), path, opening=sha256(path.read_bytes())[:8])
    with pytest.raises(DataError, match=r"must open with deadbeef; got [0-9a-f]{8}; fetch it again"):
        load_checkpoint(network(), path, opening="deadbeef")


def test_every_workload_takes_weights_of_the_users_own(tmp_path: Path) -> None:
    for name in (
        "cifar10-resnet20",
        "cifar10-resnet32",
        "cifar10-mobilenetv2",
        "mnist-mlp",
        "mnist-cnn",
        "shapes-unet",
        "digits-spiking",
    ):
        torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "w.pt")
        with pytest.raises(DataError, match="must have the names and shapes of the network; got first difference"):
            create("workloads", name, {"weights": tmp_path / "w.pt"}).model()


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda value: value.to(torch.complex64), "torch.complex64 in 3.weight, torch.float32 in the network"),
        (lambda value: (value * 100).to(torch.int8), "torch.int8 in 3.weight, torch.float32 in the network"),
        (lambda value: value > 0, "torch.bool in 3.weight, torch.float32 in the network"),
        (lambda value: value.to("meta"), r"no numbers \(meta\) in 3.weight"),
    ],
    ids=["complex", "integer", "boolean", "meta"],
)
def test_other_kinds_of_numbers_are_told(tmp_path: Path, change: Callable[[Tensor], Tensor], got: str) -> None:
    state = trained().state_dict()
    torch.save({**state, "3.weight": change(state["3.weight"])}, tmp_path / "w.pt")
    with pytest.raises(DataError, match=f"must hold the network's kind of number; got {got}") as caught:
        load_checkpoint(network(), tmp_path / "w.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")  # torch is about to drop its quantised tensors
def test_a_quantised_checkpoint_is_told(tmp_path: Path) -> None:
    state = trained().state_dict()
    rounded = torch.quantize_per_tensor(state["3.weight"], 0.1, 0, torch.qint8)
    torch.save({**state, "3.weight": rounded}, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"must hold the network's kind of number; got torch\.qint8 in 3\.weight"):
        load_checkpoint(network(), tmp_path / "w.pt")


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_other_precisions_are_converted(tmp_path: Path, kind: torch.dtype) -> None:
    state = trained().state_dict()
    weight = state["3.weight"].to(kind)
    torch.save({**state, "3.weight": weight}, tmp_path / "w.pt")
    target = network()
    load_checkpoint(target, tmp_path / "w.pt")
    assert torch.equal(target.state_dict()["3.weight"], weight.float())


def test_numbers_too_large_for_the_network_are_told(tmp_path: Path) -> None:
    state = trained().state_dict()
    torch.save({**state, "3.bias": torch.full((2,), 1e300, dtype=torch.float64)}, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"must be finite; got NaN or infinity in 3\.bias"):
        load_checkpoint(network(), tmp_path / "w.pt")


@pytest.mark.timeout(20)
def test_a_dictionary_that_holds_itself_is_told(tmp_path: Path) -> None:
    held: dict[str, Any] = {}
    held["state_dict"] = held
    torch.save(held, tmp_path / "w.pt")
    with pytest.raises(DataError, match="must map names to dense tensors; got dict under 'state_dict'"):
        load_checkpoint(network(), tmp_path / "w.pt")


@pytest.mark.parametrize("prefix", ["module._orig_mod.", "_orig_mod.module.", "module.module."])
def test_prefixes_are_taken_off_in_any_order(tmp_path: Path, prefix: str) -> None:
    source, target = trained(), network()
    torch.save({f"{prefix}{name}": value for name, value in source.state_dict().items()}, tmp_path / "w.pt")
    load_checkpoint(target, tmp_path / "w.pt")
    assert torch.equal(target.state_dict()["3.weight"], source.state_dict()["3.weight"])
