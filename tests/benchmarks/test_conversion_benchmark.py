"""The benchmark of conversion: energies by hand, and a table of what is recorded."""

from __future__ import annotations

from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path

import conversion
import pytest
import torch
from conversion import CASES, Job, jobs, network_energy, spikes_per_input, spiking_energy, table
from records import Records
from rich.console import Console

from qsearch.layers import Layer

FIRST = Layer("first", "conv", 1, 4, (3, 3, 3), (1, 1, 1), input_size=(8, 9, 9), output_size=(6, 7, 7))
"""27·4·294 MACs."""

SECOND = Layer("second", "conv", 24, 8, (3, 3), (1, 1), input_size=(7, 7), output_size=(5, 5), uses=5, events=1176.0)
"""24·9·8·25 MACs a step, 1,176 inputs."""

NEURONS = Layer("neurons", "neuron", 8, 8, input_size=(5, 5), output_size=(5, 5), uses=5, constants=8)
LAYERS = (FIRST, NEURONS, SECOND)


def test_energies_are_those_of_the_paper_by_hand() -> None:
    first, second = 27 * 4 * 6 * 7 * 7, 24 * 9 * 8 * 25
    assert network_energy(LAYERS) == pytest.approx((first + second) * 3.2e-12)
    assert spikes_per_input(SECOND) == 1
    assert spiking_energy(LAYERS, 5) == pytest.approx(first * 3.2e-12 + second * 0.1e-12)
    assert spiking_energy(LAYERS, 5, cached=False) == pytest.approx(5 * first * 3.2e-12 + second * 0.1e-12)


def test_neurons_that_always_fire_cost_a_step_each_time() -> None:
    always = replace(SECOND, events=5 * 1176.0)
    assert spikes_per_input(always) == 5
    added = spiking_energy([always], 5) - spiking_energy([replace(SECOND, events=0.0)], 5)
    assert added == pytest.approx(5 * 24 * 9 * 8 * 25 * 0.1e-12)


def test_six_bits_are_what_two_published_ratios_imply() -> None:
    assert pytest.approx(0.2557, abs=1e-4) == conversion.E_MAC_6.value
    ratio = network_energy(LAYERS) / network_energy(LAYERS, conversion.E_MAC_6)
    assert ratio == pytest.approx(12.51, abs=0.01)


def test_the_table_has_a_line_for_what_is_recorded(tmp_path: Path) -> None:
    case, records = CASES["mnist-cnn"], Records(tmp_path / "records.jsonl")
    asked = list(jobs("mnist-cnn", case))
    assert len({(job.what, job.steps, job.seed) for job in asked}) == len(asked)
    for seed, accuracy in ((0, 0.98), (1, 0.96)):
        records.add(asdict(Job("mnist-cnn", "network of ReLUs", 0, seed)), {"accuracy": accuracy})
        energy = {
            "cnn": 8e-6,
            "snn": 1e-6,
            "uncached": 4e-6,
            "cnn6": 1.28e-6,
            "snn6": 2e-6,
            "spikes": {"conv1": 0.0, "conv2": 0.5},
        }
        records.add(asdict(Job("mnist-cnn", "trained in float", 5, seed)), {"accuracy": 0.9, **energy})
    output = StringIO()
    Console(file=output, width=150).print(table("mnist-cnn", case, records))
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.getvalue().splitlines() if "±" in line]
    assert lines == [
        ["network of ReLUs", "", "97.00 ± 1.41", "", "", "", ""],
        ["trained in float", "5", "90.00 ± 0.00", "0.50", "8.0", "2.0", "0.64"],
    ]


def test_volumes_share_no_patch_and_are_balanced() -> None:
    splits = conversion.Volumes(conversion.Volumes.Options()).splits
    assert splits.train is not None
    assert splits.test is not None
    parts = [splits.train, splits.validation, splits.test]
    assert [len(part) for part in parts] == [3000, 1000, 1000]
    rows = torch.cat([part.inputs for part in parts]).flatten(1)
    assert len({row.numpy().tobytes() for row in rows}) == 5000
    assert all(80 <= int(count) <= 150 for count in torch.bincount(splits.validation.targets))
