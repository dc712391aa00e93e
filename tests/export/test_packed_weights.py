"""Packed weights: read by NumPy alone, as the module's docstring says, and as large as the cost model promises."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_networks import EVERY_KIND, Case, agrees
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

from qsearch import registry
from qsearch.export.deployment import deploy
from qsearch.export.packed import Packed, Spacing, read_network


def read_weight(t: dict[str, NDArray[Any]], site: str, about: dict[str, Any]) -> NDArray[np.float32]:
    """The reader of the docstring, line by line."""
    kernels, p = about["shape"][0], int(np.prod(about["shape"][1:]))
    low, step, w = about["low"], about["step"], np.zeros((kernels, p), np.float32)
    bits = np.unpackbits(t[site + ".bits"], bitorder="little")[: 6 * kernels].reshape(kernels, 6) @ (1 << np.arange(6))
    c = t[site + ".scales"]
    scales = iter(np.sign(c) * 2.0 ** (low + step * (abs(c.astype(float)) - 1)) if c.itemsize == 2 else c)
    stream, at = np.unpackbits(t[site + ".codes"], bitorder="little"), 0
    for k, b in enumerate(bits):
        whole = b == 32 or b * p + 8 * c.itemsize > 32 * p
        width = 32 if whole else b
        u = stream[at : at + width * p].reshape(p, width) @ (1 << np.arange(width))
        q = u if b == 0 else 1 - 2 * u if b == 1 else u - ((u >> (b - 1)) << b)
        w[k] = u.astype(np.uint32).view(np.float32) if whole else q * next(scales) if b else 0
        at += width * p
    return w.reshape(about["shape"])


def write(case: Case, path: Path, scale_bits: Any, **choices: Any) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """A file of mixed bits: its tensors, its metadata, and the deployment in it."""
    deployment = case.deploy(case.assignment(**choices))
    Packed(scale_bits).write(deployment, path)
    with safe_open(path, "np") as file:
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
    return load_file(path), metadata, deployment


@pytest.mark.parametrize("by_kernel", [False, True])
@pytest.mark.parametrize("scale_bits", [16, 32])
@pytest.mark.parametrize("which", ["small", "attention", "digits"])
def test_numpy_reads_the_weights(
    which: str, scale_bits: int, by_kernel: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    case: Case = request.getfixturevalue(which)
    choices = {"weights": (*EVERY_KIND, 28, 31), "activations": (1, 4, 8, 32), "by_kernel": by_kernel}
    tensors, metadata, deployment = write(case, tmp_path / "w.safetensors", scale_bits, **choices)
    assert metadata["format"] == 1
    assert set(metadata) == {"format", "weights", "inputs"}
    assert {site: about["bits"] for site, about in metadata["inputs"].items()} == {
        site: deployment.assignment[site] for site in deployment.inputs
    }
    for site, about in metadata["weights"].items():
        expected = deployment.weights[site].values.numpy()
        found = read_weight(tensors, site, about)
        if scale_bits == 32:
            assert np.array_equal(found, expected), site
        else:
            np.testing.assert_allclose(found, expected, rtol=2.0**-11, err_msg=site)


def told(case: Case, path: Path, scale_bits: Any, promised: float | None = None) -> tuple[list[str], int, float]:
    """What is told of a file at 4 bits: its lines, what its weights take, and what 'size' promises by default."""
    assignment = case.assignment([4], [8])
    deployment = deploy(case.network, case.layers, assignment, case.samples, promised)
    notes = Packed(scale_bits).write(deployment, path)
    tensors = load_file(path)
    taken = sum(tensors[f"{site}.{part}"].nbytes for site in deployment.weights for part in ("bits", "scales", "codes"))
    size = registry.create("cost_models", "size", {}).estimate(case.layers, assignment).totals["size"]
    return notes, taken, size


def test_the_promise_is_that_of_scales_of_16_bits(small: Case, tmp_path: Path) -> None:
    """With 32 the line says by how much it is exceeded: two bytes for each of the 28 kernels."""
    notes, taken, size = told(small, tmp_path / "w.safetensors", 16)
    assert taken == size
    assert notes[0].endswith(f"take {taken:,} bytes; the cost model 'size' promised {size:,.1f}")
    notes, taken, again = told(small, tmp_path / "w.safetensors", 32)
    assert (again, taken) == (size, size + 2 * 28)
    more = f"56.0 more ({56 / size:.1%}), as scales of 16 bits do not agree with the evaluated network"
    assert notes[0].endswith(f"the cost model 'size' promised {size:,.1f}: {more}")


@pytest.mark.parametrize(("less", "why"), [(1, "streams of bits end on whole bytes"), (99, "in another way"), (-1, "")])
def test_the_promise_is_that_of_the_run(small: Case, tmp_path: Path, less: int, why: str) -> None:
    _, taken, _ = told(small, tmp_path / "w.safetensors", 16)
    notes, _, _ = told(small, tmp_path / "w.safetensors", 16, taken - less)
    more = f": {less:.1f} more ({less / (taken - less):.1%}), as " if why else ""
    assert f"the run's cost model promised {taken - less:,.1f}{more}" in notes[0]
    assert notes[0].endswith(why or f"{taken - less:,.1f}")


@pytest.mark.parametrize("scale_bits", [16, 32])
def test_every_byte_is_told(small: Case, tmp_path: Path, scale_bits: int) -> None:
    file = tmp_path / "w.safetensors"
    notes, _, _ = told(small, file, scale_bits)
    found = re.findall(r"(?:take|header) ([\d,]+) bytes", " ".join(notes))
    assert len(found) == 3
    assert sum(int(number.replace(",", "")) for number in found) == file.stat().st_size


@pytest.mark.skipif(os.name == "nt", reason="needs the file modes of POSIX")
def test_the_file_is_as_readable_as_others(small: Case, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        small.export((Packed(16),), small.assignment([8], [8]), tmp_path / "w.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "w.safetensors").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("scale_bits", [16, 32])
def test_takes_what_the_cost_model_promises(digits: Case, tmp_path: Path, scale_bits: int) -> None:
    """Streams end on whole bytes: up to seven bits more for each tensor of a weight, and not one less."""
    model = registry.create("cost_models", "size", {"scale_bits": scale_bits})
    for seed in range(3):
        choices = {"weights": (*EVERY_KIND, 31), "activations": [8], "by_kernel": True, "seed": seed}
        tensors, metadata, deployment = write(digits, tmp_path / "w.safetensors", scale_bits, **choices)
        sites = metadata["weights"]
        taken = sum(tensors[f"{site}.{part}"].nbytes for site in sites for part in ("bits", "scales", "codes"))
        promised = model.estimate(digits.layers, deployment.assignment).totals["size"]
        assert promised <= taken < promised + 2 * len(sites)


def test_nothing_of_the_skeleton_is_used(small: Case, tmp_path: Path) -> None:
    """Every number comes from the file: a skeleton full of NaN gives the evaluated network's outputs."""
    _, _, deployment = write(small, tmp_path / "w.safetensors", 32, weights=(2, 4, 8), activations=(1, 5, 8))
    with torch.no_grad():
        for value in (*deployment.skeleton.parameters(), *deployment.skeleton.buffers()):
            value.fill_(torch.nan if value.is_floating_point() else 0)
    network = read_network(tmp_path / "w.safetensors", deployment.skeleton)
    assert torch.equal(network(small.samples), small.network(small.samples))


def test_agrees(small: Case, attention: Case, tmp_path: Path) -> None:
    for case in (small, attention):
        bits = case.assignment((3, 4, 8, 32), (6, 8, 32), by_kernel=True)
        agrees(case.export((Packed(32),), bits, tmp_path / "w.safetensors"))
    whole = tmp_path / "w.safetensors"
    assert b"/work" not in whole.read_bytes()


@given(arrays(np.float32, st.integers(1, 8), elements=st.floats(2.0**-20, 2.0**10, width=32)), st.data())
def test_scales_of_16_bits_are_near(scales: NDArray[np.float32], data: st.DataObject) -> None:
    """Within half a step, which 15 bits make small; signs and zeros stay."""
    signs = data.draw(arrays(np.float32, len(scales), elements=st.sampled_from([-1.0, 0.0, 1.0])))
    given_ = scales * signs
    spacing = Spacing.of(given_)
    found = spacing.decode(spacing.encode(given_))
    assert np.array_equal(np.sign(found), np.sign(given_))
    octaves = np.ptp(np.log2(scales[signs != 0])) if (signs != 0).any() else 0.0
    np.testing.assert_allclose(found, given_, rtol=float(octaves) / 32766 * 0.36 + 1e-9)
