"""The bench: what it measures, and what becomes of targets that fail in every way a process can."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from qsearch import registry
from qsearch.assignment import BitAssignment
from qsearch.errors import ConfigError, Failure, PluginError, QSearchError, StorageError
from qsearch.layers import Layer
from qsearch.measured_table import write_table
from qsearch.measurements import FILE, MeasurementStore, Subject
from qsearch.measuring import Bench, holding, measure_points
from qsearch.setting import layers_of

TARGETS = Path(__file__).parents[1] / "targets" / "odd_targets.py"
SMALL = Layer("small", "linear", 4, 2)
LARGE = Layer("large", "linear", 40, 2)


def bench(kind: str, folder: Path, notes: Path | None = None, **settings: float) -> Bench:
    options = {} if notes is None else {"notes": str(notes)}
    return Bench(f"{TARGETS}:{kind}", options, folder / "kept", **settings)  # type: ignore[arg-type]  # numbers all


def asked(notes: Path) -> list[str]:
    return notes.read_text().splitlines() if notes.exists() else []


def test_warm_up_is_thrown_away_and_repeats_are_kept(tmp_path):
    with bench("Counted", tmp_path, repeats=4, warm_up=2) as ours:
        found = ours.measure(SMALL, 8, 8)
    assert found.readings == {"latency": (24.0, 32.0, 40.0, 48.0), "energy": (8.0,) * 4}
    assert found.value("latency") == 36.0
    assert found.spread("latency") == 42.0 - 30.0
    assert found.versions == {"counted": "1"}
    assert found.layer == SMALL


def test_a_deterministic_target_is_read_once(tmp_path):
    notes = tmp_path / "notes"
    with bench("Simulated", tmp_path, notes) as ours:
        assert ours.measure(SMALL, 8, 8).readings["latency"] == (8.0,)
    assert len(asked(notes)) == 1


def test_equal_layers_are_measured_once_and_by_a_later_bench_not_again(tmp_path):
    notes = tmp_path / "notes"
    twin = Layer("twin", "linear", 4, 2, alive=7)
    with bench("Simulated", tmp_path, notes) as ours:
        measure_points(ours, [(SMALL, 8, 8), (twin, 8, 8), (LARGE, 8, 8)])
        assert ours.measure(twin, 8, 8).layer == twin
    with bench("Simulated", tmp_path, notes) as ours:
        assert ours.measure(SMALL, 8, 8).readings["latency"] == (8.0,)
        assert ours.measure(SMALL, 32, 32).readings["latency"] == (32.0,)
    assert asked(notes) == ["4 8 8", "40 8 8", "4 32 32"]


@pytest.mark.parametrize(
    ("kind", "failure"),
    [
        ("Crashing", "the process died (exit code 7)"),
        ("Raising", "ValueError: four bits are odd"),
    ],
)
def test_a_failed_point_is_kept_as_such_and_the_rest_goes_on(tmp_path, kind, failure):
    seen = []
    with bench(kind, tmp_path) as ours:
        measure_points(ours, [(SMALL, 8, 8), (SMALL, 4, 8), (LARGE, 8, 8)], seen.append)
        again = ours.measure(SMALL, 4, 8)
    assert [bool(found.failure) for found in seen] == [False, True, False]
    assert seen[1].failure == failure
    assert again is seen[1], "a bench does not try again what it saw fail"
    assert not seen[1].readings
    with bench(kind, tmp_path) as later:
        assert [found.failure for found in later.store.failures] == [failure]
        assert later.known(SMALL, 4, 8) is None, "the next one does"
        assert len(later.store.all) == 2


def test_a_target_that_hangs_is_stopped(tmp_path):
    with bench("Hanging", tmp_path, timeout=0.5) as ours:
        start = time.monotonic()
        assert ours.measure(SMALL, 4, 8).failure == "timed out after 0.5 s"
        assert time.monotonic() - start < 30
        assert not ours.measure(SMALL, 8, 8).failure


def test_a_target_that_keeps_dying_is_given_up(tmp_path):
    with bench("Dead", tmp_path) as ours:
        with pytest.raises(Failure, match=r"died at 3 points in a row.*exit code 9.*0 measurements are kept"):
            measure_points(ours, [(SMALL, 8, 8), (SMALL, 4, 8), (SMALL, 32, 32), (LARGE, 8, 8)])
        assert len(ours.store.failures) == 3


def test_deaths_with_answers_between_them_do_not_end_it(tmp_path):
    points = [(Layer(f"l{size}", "linear", size, 2), bits, 8) for size in (1, 2, 3, 4) for bits in (4, 8)]
    with bench("Crashing", tmp_path) as ours:
        assert len(measure_points(ours, points)) == 8
        assert (len(ours.store.all), len(ours.store.failures)) == (4, 4)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("WrongType", "measure must return a mapping {metric: number}; got float"),
        ("WrongMetric", "a reading must give the metrics that have units: latency, energy; got latency"),
        ("NotANumber", "latency must be finite and at least 0; got nan"),
        ("Negative", "latency must be finite and at least 0; got -1.0"),
        ("Text", "latency must be a number; got 'fast'"),
    ],
)
def test_a_reading_that_is_none_is_told_in_one_line(tmp_path, kind, words):
    with bench(kind, tmp_path) as ours:
        assert ours.measure(SMALL, 8, 8).failure == words


def test_a_target_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(PluginError, match=r"units of target .* must be a mapping"):
        bench("NoUnits", tmp_path)
    with pytest.raises(PluginError, match=r"bits of a target must be within 1..32; got \(8, 64\)"):
        bench("WrongPrecisions", tmp_path).precisions(SMALL)
    with pytest.raises(PluginError, match="unknown target 'onnxruntim'; did you mean 'onnxruntime'"):
        Bench("onnxruntim", {}, tmp_path)
    with pytest.raises(ConfigError, match="unknown option 'platfrm' in options of 'bismo'; did you mean 'platform'"):
        Bench("bismo", {"platfrm": "vu9p"}, tmp_path)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("NoVersions", "must say its versions; got RuntimeError: no board answers"),
        ("ListedVersions", "versions must return a mapping of words; got list"),
        (
            "NoDefinitions",
            "must be a mapping {metric: words}, of metrics that have units; got None; its metrics: latency",
        ),
        ("ListedDefinitions", "of metrics that have units; got (('energy', 'board'),)"),
        ("OddDefinitions", "of metrics that have units; got {'power': 'board'}"),
        ("OddMaxima", "must be metrics that have units; got 'latency'"),
        ("InFurlongs", "unknown unit of latency; got furlong; known: 1, B, J"),
        ("TwoWords", "a metric must be able to head a column; got 'energy [board]'"),
    ],
)
def test_what_a_target_says_wrongly_of_itself_is_told_in_one_line(tmp_path, kind, words):
    with pytest.raises(QSearchError) as refused:
        bench(kind, tmp_path)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("RaisingPrecisions", "must say at which bits it runs a layer; got RuntimeError: no board answers"),
        ("FractionalPrecisions", "precisions must be pairs of weight and activation bits; got ((8.7, 8.2),)"),
    ],
)
def test_precisions_that_are_none_are_told_in_one_line(tmp_path, kind, words):
    with pytest.raises(QSearchError) as refused:
        bench(kind, tmp_path).precisions(SMALL)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_target_that_cannot_be_made_in_its_process_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("QSEARCH_TEST_PARENT", str(os.getpid()))
    with bench("OnlyInParent", tmp_path) as ours, pytest.raises(Failure, match="RuntimeError: no hardware here"):
        ours.measure(SMALL, 8, 8)


def test_bits_that_the_target_does_not_run_are_refused(tmp_path):
    with bench("Simulated", tmp_path) as ours:
        with pytest.raises(ConfigError, match="got W2A2; it does at: W4A8, W8A8, W32A32"):
            ours.measure(SMALL, 2, 2)
        with pytest.raises(ConfigError, match="it does at: none"):
            ours.measure(Layer("embed", "embedding", 4, 2), 8, 32)


def test_a_folder_of_another_target_is_refused(tmp_path):
    with bench("Simulated", tmp_path) as ours:
        ours.measure(SMALL, 8, 8)
    with pytest.raises(StorageError, match=r"holds other measurements; got target .*Simulated' there, .*Counted' here"):
        bench("Counted", tmp_path)


def test_two_benches_do_not_share_a_folder(tmp_path):
    with bench("Simulated", tmp_path), pytest.raises(StorageError, match="only one process may measure into a folder"):
        bench("Simulated", tmp_path).__enter__()


def test_a_line_that_another_bench_is_writing_is_not_lost(tmp_path):
    with bench("Simulated", tmp_path) as ours:
        ours.measure(SMALL, 8, 8)
        with ours.store.path.open("a") as half:
            half.write('{"layer":{"name":"half')
            half.flush()
            with pytest.raises(StorageError, match="only one process"):
                bench("Simulated", tmp_path).__enter__()
            half.write('"}}\n')
        assert ours.store.path.read_text().endswith('{"layer":{"name":"half"}}\n')


def test_what_another_bench_measured_meanwhile_is_known(tmp_path):
    later = bench("Simulated", tmp_path)
    with bench("Simulated", tmp_path) as ours:
        ours.measure(SMALL, 8, 8)
    with later:
        assert later.known(SMALL, 8, 8) is not None


def test_a_bench_that_measured_nothing_leaves_nothing(tmp_path):
    with bench("Simulated", tmp_path / "new" / "folder"):
        assert (tmp_path / "new" / "folder" / "kept").is_dir()
    assert not list(tmp_path.iterdir())
    (tmp_path / "kept").mkdir()
    with pytest.raises(ConfigError), bench("Simulated", tmp_path) as ours:
        ours.measure(SMALL, 2, 2)
    assert (tmp_path / "kept").is_dir(), "it was there before"
    with bench("Simulated", tmp_path / "new") as ours:
        ours.measure(SMALL, 8, 8)
    assert (tmp_path / "new" / "kept" / FILE).is_file()


def test_too_few_readings_are_taken_again(tmp_path):
    with bench("Counted", tmp_path, repeats=2, warm_up=0) as ours:
        ours.measure(SMALL, 8, 8)
    with bench("Counted", tmp_path, repeats=4, warm_up=0) as ours:
        assert ours.known(SMALL, 8, 8) is None
        assert len(ours.measure(SMALL, 8, 8).readings["latency"]) == 4
        assert ours.known(SMALL, 8, 8) is not None
    with bench("Counted", tmp_path, repeats=3, warm_up=0) as ours:
        found = ours.known(SMALL, 8, 8)
        assert found is not None
        assert found.repeats == 4
        assert len(ours.store.path.read_text().splitlines()) == 1 + 2, "both stay in the file"


def test_a_file_that_changed_is_noticed_and_a_path_is_only_a_way_to_it(tmp_path, monkeypatch):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "board.py").write_text(TARGETS.read_text())
    with Bench(f"{tmp_path}/one/board.py:Simulated", {}, tmp_path / "kept") as ours:
        ours.measure(SMALL, 8, 8)
        assert str(tmp_path) not in ours.store.path.read_text()
    monkeypatch.chdir(tmp_path / "one")
    for same in ("board.py:Simulated", "../one/board.py:Simulated"):
        assert Bench(same, {}, tmp_path / "kept").known(SMALL, 8, 8) is not None
    with (tmp_path / "two" / "board.py").open("a") as file:
        file.write("\nclass Another: ...\n")
    with pytest.raises(StorageError, match=r"measurements of board\.py:Simulated, whose file has changed since"):
        Bench("../two/board.py:Simulated", {}, tmp_path / "kept")


def test_maxima_are_those_of_the_target(tmp_path):
    assert bench("Peak", tmp_path).maxima == {"energy"}
    assert bench("Simulated", tmp_path).maxima == frozenset()
    assert Bench("memory", {}, tmp_path).maxima == {"peak_memory"}
    assert Bench("memory", {}, tmp_path).store.subject.maxima == ("peak_memory",)


def test_working_memory_of_a_network_survives_being_measured(tmp_path):
    """What is kept alive for later is part of it: 1152 bytes, in the second convolution of a residual block."""
    layers = layers_of(registry.create("workloads", "digits-resnet"))
    bits = BitAssignment({site: 8 for one in layers for site in (one.weight_site, one.activation_site)})
    with Bench("memory", {}, tmp_path) as ours:
        measure_points(ours, [(layer, 8, 8) for layer in layers])
        write_table(tmp_path / "table.csv", layers, ours.store)
    table = registry.create("cost_models", "lut", {"path": tmp_path / "table.csv"})
    expected = registry.create("cost_models", "memory").estimate(layers, bits)
    assert expected.totals["peak_memory"] == 1152
    found = table.estimate(layers, bits)
    assert found.totals == expected.totals
    assert found.layers == expected.layers


def test_a_cost_model_serves_as_a_target(tmp_path):
    model = registry.create("cost_models", "bismo", {"platform": "pynq-z1"})
    layer = Layer("conv", "conv", 8, 16, (3, 3), (1, 1), 1, (8, 8), (8, 8))
    with Bench("bismo", {"platform": "pynq-z1"}, tmp_path) as ours:
        found = ours.measure(layer, 3, 5)
        assert ours.deterministic
        assert len(ours.precisions(layer)) == 12**2  # 1..8, 10, 12, 16 and 32 bits
    expected = model.layer_cost(layer, np.full(16, 3), 5)
    assert {metric: found.value(metric) for metric in found.readings} == dict(expected)
    with pytest.raises(StorageError, match=r"options .*'pynq-z1'.* there, .*'zynq-7020'.* here"):
        Bench("bismo", {"platform": "zynq-7020"}, tmp_path)


def test_measurements_of_other_versions_are_told(tmp_path, caplog):
    with bench("Simulated", tmp_path) as ours:
        ours.measure(SMALL, 8, 8)
    file = tmp_path / "kept" / FILE
    file.write_text(file.read_text().replace('"counted":"1"', '"counted":"0.9"'))
    with caplog.at_level(logging.WARNING), bench("Simulated", tmp_path):
        pass
    assert "also holds measurements of" in caplog.text
    assert "counted 0.9" in caplog.text


def test_what_a_target_prints_stays_off_standard_output(tmp_path):
    code = f"""
from pathlib import Path
from qsearch.layers import Layer
from qsearch.measuring import Bench
if __name__ == "__main__":
    with Bench({f"{TARGETS}:Talkative"!r}, {{}}, Path({str(tmp_path)!r})) as ours:
        print(ours.measure(Layer("small", "linear", 4, 2), 8, 8).value("latency"))
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "8.0\n"
    assert "measuring now" in done.stderr


def test_an_interruption_keeps_what_was_measured(tmp_path):
    """Ctrl-C reaches the whole group of processes, as from a terminal."""
    code = f"""
from pathlib import Path
from qsearch.layers import Layer
from qsearch.measuring import Bench
if __name__ == "__main__":
    with Bench({f"{TARGETS}:Hanging"!r}, {{}}, Path({str(tmp_path / "kept")!r})) as ours:
        ours.measure(Layer("small", "linear", 4, 2), 8, 8)
        print("one", flush=True)
        ours.measure(Layer("small", "linear", 4, 2), 4, 8)
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "one\n"
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert errors.count("Traceback") == 1, "the target's process ends without a word"
    with bench("Hanging", tmp_path) as ours:
        assert len(ours.store.all) == 1


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        ((8, 8), ((8, 8), (32, 32))),
        ((4, 4), ((4, 32), (8, 8), (32, 32))),
        ((5, 9), ((32, 32),)),
        ((4, 32), ((4, 32), (32, 32))),
        ((32, 32), ((32, 32),)),
    ],
)
def test_the_narrowest_pairs_that_hold_the_bits(bits, expected):
    assert holding([(4, 32), (8, 8), (32, 32)], *bits) == expected
    assert not holding([(4, 4)], 5, 4)


def test_a_store_for_no_target_is_empty(tmp_path):
    assert not MeasurementStore(tmp_path / "nothing", Subject("x")).all
    assert not (tmp_path / "nothing").exists()
