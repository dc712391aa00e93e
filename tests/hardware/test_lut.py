"""Tables of measurements: reading, rules between entries, and what is refused."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator

from qsearch.assignment import BitAssignment
from qsearch.errors import ConfigError, DataError, QSearchError
from qsearch.hardware.axes import check_same_axis
from qsearch.hardware.lut import LookUpTable
from qsearch.layers import Layer
from qsearch.measured_table import write_table
from qsearch.measurements import Measurement, MeasurementStore, Subject
from qsearch.measuring import Bench
from qsearch.registry import create
from qsearch.testing.cost_model import CostModelContract, contract_of

HEAD = Layer("head", "linear", 8, 4)
STEM = Layer("stem", "conv", 3, 6, (3, 3), (1, 1), 1, (4, 4), (4, 4))
KEYS = "layer,weight_bits,activation_bits"


def lut(path: Path, **options) -> LookUpTable:
    return create("cost_models", "lut", {"path": path, **options})


def written(folder: Path, text: str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def grid(folder: Path, cost, layers=("stem", "head"), weights=(2, 4, 8), activations=(4, 8), unit="s") -> Path:
    rows = [f"{layer},{w},{a},{cost(w, a)!r}" for layer in layers for w in weights for a in activations]
    return written(folder, "\n".join([f"{KEYS},latency [{unit}]", *rows]))


def cost(model: LookUpTable, layer: Layer, weight_bits: int, activation_bits: int, metric: str = "latency") -> float:
    return model.layer_cost(layer, np.full(layer.kernels, weight_bits), activation_bits)[metric]


@pytest.fixture
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("lut")


class TestTableContract(CostModelContract):
    """Every layer of the contract, full grid of the bits 1..8, 12, 16, 32 with linear rules between them; spikes are 1 bit."""

    weight_bits = (0, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32)
    activation_bits = (4, 5, 6, 7, 8, 12, 16, 32)

    @pytest.fixture(autouse=True)
    def _table(self, tmp_path):
        names = [layer.name for layer in self.layers()]
        path = grid(tmp_path, lambda w, a: 1e-6 * w * a, names, (1, 2, 4, 8, 32), (1, 4, 8, 32))
        self.made = lut(path, interpolation="linear")

    def model(self):
        return self.made


class TestTableContractOfMeans(TestTableContract):
    @pytest.fixture(autouse=True)
    def _table(self, tmp_path):
        names = [layer.name for layer in self.layers()]
        path = written(
            tmp_path,
            "\n".join(
                [
                    f"{KEYS},latency [s],energy [J]",
                    *(
                        f"{n},{w},{a},{v},{v / 2}"
                        for n in names
                        for w, a, v in [(4, 32, 2.0), (8, 8, 1.5), (32, 32, 9.0)]
                    ),
                ]
            ),
        )
        self.made = lut(path, interpolation="wider", kernels="mean")


def test_entries_are_found_and_units_become_those_of_cost_models(folder):
    text = f"{KEYS},latency [ms],energy [µJ],size [KiB]\nhead, 4,8, 2.5,3,1\nhead,8,8,5,6,2\n\nstem,4,8,1,1,1\nstem,8,8,1,1,1\n"
    model = lut(written(folder, "\ufeff" + text))
    assert model.units == {"latency": "s", "energy": "J", "size": "byte"}
    assert model.layer_cost(HEAD, np.full(4, 4), 8) == pytest.approx({"latency": 2.5e-3, "energy": 3e-6, "size": 1024})
    assert model.estimate([HEAD, STEM], BitAssignment({s: 8 for layer in (HEAD, STEM) for s in (layer.weight_site, layer.activation_site)})).totals == pytest.approx({"latency": 6e-3, "energy": 7e-6, "size": 3072})  # fmt: skip


def test_a_layer_whose_kernels_differ_runs_at_the_highest_or_costs_the_mean(folder):
    path = grid(folder, lambda w, a: float(w * a))
    bits = np.asarray([2, 2, 4, 8])
    assert lut(path).layer_cost(HEAD, bits, 8)["latency"] == 64
    assert lut(path, kernels="mean").layer_cost(HEAD, bits, 8)["latency"] == pytest.approx(32)
    assert lut(path, kernels="mean").kernel_additive
    assert lut(path).layer_cost(HEAD, np.zeros(4, dtype=int), 8)["latency"] == 0


def test_linear_is_bilinear(folder):
    rng = np.random.default_rng(0)
    weights, activations = (2, 3, 6, 8), (4, 5, 8)
    values = {(w, a): float(rng.random()) for w in weights for a in activations}
    model = lut(grid(folder, lambda w, a: values[w, a], ("head",), weights, activations), interpolation="linear")
    independent = RegularGridInterpolator(
        (weights, activations), np.asarray([[values[w, a] for a in activations] for w in weights])
    )
    for w in range(2, 9):
        for a in range(4, 9):
            assert cost(model, HEAD, w, a) == pytest.approx(float(independent((w, a))))


ENTRIES = st.dictionaries(
    st.tuples(st.integers(1, 9), st.integers(1, 9)), st.floats(0, 10, allow_subnormal=False), min_size=1, max_size=12
)


@settings(max_examples=60, deadline=None)
@given(entries=ENTRIES)
def test_wider_is_the_cheapest_entry_with_at_least_these_bits(tmp_path_factory, entries):
    rows = [f"head,{w},{a},{value!r}" for (w, a), value in entries.items()]
    path = written(tmp_path_factory.mktemp("wider"), "\n".join([f"{KEYS},latency [s]", *rows]))
    model = lut(path, interpolation="wider")
    for w in range(1, 11):
        for a in range(1, 11):
            known = [value for (more, also), value in entries.items() if more >= w and also >= a]
            if known:
                assert cost(model, HEAD, w, a) == min(known)
            else:
                with pytest.raises(DataError, match="no rule goes beyond the table"):
                    cost(model, HEAD, w, a)


def test_few_entries_answer_under_wider(folder):
    text = f"{KEYS},latency [s]\nhead,4,32,2\nhead,8,8,1\nhead,32,32,4\n"
    model = lut(written(folder, text), interpolation="wider")
    assert [cost(model, HEAD, *bits) for bits in [(2, 8), (4, 16), (6, 8), (6, 9), (16, 2), (32, 32)]] == [1, 2, 1, 4, 4, 4]  # fmt: skip
    layers, weights, activations = model.domain()
    assert [layer.name for layer in layers] == ["head"]
    assert (weights, activations) == (tuple(range(33)), tuple(range(1, 33)))
    few = lut(written(folder, f"{KEYS},latency [s]\nhead,4,32,2\nhead,8,8,1\n"), interpolation="wider")
    assert few.domain()[1:] == (tuple(range(9)), tuple(range(1, 9)))
    with pytest.raises(DataError, match=r"got 8/32 bits; .*; no rule goes beyond the table"):
        cost(few, HEAD, 8, 32)


@pytest.mark.parametrize("rule", ["none", "linear", "wider"])
@pytest.mark.parametrize("bits", [(16, 8), (8, 16), (9, 4), (8, 9)])
def test_no_rule_goes_beyond_the_table(folder, rule, bits):
    model = lut(grid(folder, lambda w, a: float(w * a)), interpolation=rule)
    with pytest.raises(DataError) as error:
        cost(model, HEAD, *bits)
    assert f"no cost of layer 'head' at these bits (interpolation: {rule}); got {bits[0]}/{bits[1]} bits" in str(
        error.value
    )
    assert "it has weight bits 2, 4, 8, activation bits 4, 8; no rule goes beyond the table" in str(error.value)


def test_between_entries_only_a_named_rule_answers(folder):
    path = grid(folder, lambda w, a: float(w * a))
    with pytest.raises(DataError, match=r"got 3/8 bits; .*interpolation: wider answers there"):
        cost(lut(path), HEAD, 3, 8)
    with pytest.raises(DataError, match="got 1/8 bits"):
        cost(lut(path, interpolation="linear"), HEAD, 1, 8)
    assert cost(lut(path, interpolation="linear"), HEAD, 3, 6) == 18
    assert cost(lut(path, interpolation="wider"), HEAD, 1, 1) == 8


def test_a_refusal_names_the_kernel_bits_that_have_no_entry(folder):
    with pytest.raises(DataError, match="got 5/8 bits"):
        lut(grid(folder, lambda w, a: 1.0), kernels="mean").layer_cost(HEAD, np.asarray([2, 4, 5, 8]), 8)


def test_an_embedding_has_no_bits_of_its_input(folder):
    embedding = Layer("embed", "embedding", 10, 4, input_size=(3,), output_size=(3,))
    model = lut(grid(folder, lambda w, a: float(w * a), ("embed",), activations=(8,)))
    assert model.estimate([embedding], BitAssignment({"embed.weight": 4})).totals["latency"] == 32
    assert model.layer_cost(embedding, np.full(10, 4), 2)["latency"] == 32


def test_an_unknown_layer_is_answered_by_the_nearest_names(folder):
    model = lut(grid(folder, lambda w, a: 1.0, ("layer1.conv1", "layer1.conv2", "layer2.conv1", "head")))
    with pytest.raises(DataError) as error:
        cost(model, Layer("layer1.conv3", "linear", 4, 4), 4, 8)
    assert str(error.value).startswith(
        "table.csv has no layer 'layer1.conv3' of the network; nearest of its 4 layers: layer1.conv2, layer1.conv1,"
    )


def test_spreads_add_up_as_squares(folder):
    text = (
        f"{KEYS},latency [ms],latency spread [us],energy [J]\n"
        "head,8,8,2,1349,1\nhead,4,8,1,674.5,1\nstem,8,8,2,2698,1\nstem,4,8,1,0,1\n"
    )
    model = lut(written(folder, text))
    bits = {site: 8 for layer in (HEAD, STEM) for site in (layer.weight_site, layer.activation_site)}
    found = model.estimate([HEAD, STEM], BitAssignment(bits))
    assert found.deviations == pytest.approx({"latency": 1e-3 * 5**0.5}, rel=1e-4)
    assert found.totals == {"latency": pytest.approx(4e-3), "energy": 2}
    assert set(model.units) == {"latency", "energy"}
    half = model.estimate([HEAD], BitAssignment({"head.weight": 4, "head.input": 8}))
    assert half.deviations == pytest.approx({"latency": 0.5e-3}, rel=1e-4)


def test_the_spread_under_wider_is_that_of_the_entry_taken(folder):
    text = f"{KEYS},latency [s],latency spread [s]\nhead,8,8,1,0.1349\nhead,4,8,2,1.349\n"
    model = lut(written(folder, text), interpolation="wider")
    found = model.estimate([HEAD], BitAssignment({"head.weight": 3, "head.input": 8}))
    assert (found.totals["latency"], found.deviations["latency"]) == (1, pytest.approx(0.1, rel=1e-4))


def test_single_readings_say_nothing_of_how_sure_they_are(folder):
    model = lut(written(folder, f"{KEYS},latency [s],latency spread [s]\nhead,8,8,1,0\n"))
    assert model.estimate([HEAD], BitAssignment({"head.weight": 8, "head.input": 8})).deviations == {}


def test_spreads_of_readings_come_back_as_standard_deviations(folder):
    """From readings through the file that ``qsearch hardware measure`` writes."""
    readings = np.random.default_rng(0).normal(10.0, 1.0, 4001)
    store = MeasurementStore(folder, Subject("board", {}, {"latency": "s"}))
    store.add(Measurement(HEAD, 8, 8, {"latency": tuple(readings.tolist())}, "", "", {}, 1.0))
    write_table(folder / "table.csv", [HEAD], store)
    found = lut(folder / "table.csv").estimate([HEAD], BitAssignment({"head.weight": 8, "head.input": 8}))
    assert found.totals["latency"] == np.median(readings)
    assert found.deviations["latency"] == pytest.approx(1.0, abs=0.1)


def test_layers_that_share_a_measurement_err_together(folder):
    rows = "".join(f"{name},8,8,2,{spread}\n" for name, spread in [("a", 1.349), ("b", 1.349), ("c", 2.698)])
    model = lut(written(folder, f"{KEYS},latency [s],latency spread [s]\n{rows}"))
    layers = [Layer(name, "linear", 4, 4) for name in "abc"]
    bits = BitAssignment({site: 8 for layer in layers for site in (layer.weight_site, layer.activation_site)})
    assert model.estimate(layers, bits).deviations == pytest.approx({"latency": (2**2 + 2**2) ** 0.5}, rel=1e-4)


@pytest.mark.parametrize("rule", ["none", "linear", "wider"])
def test_what_is_pruned_costs_nothing_unless_the_table_says_so(folder, rule):
    path = grid(folder, lambda w, a: float(w * a))
    assert cost(lut(path, interpolation=rule), HEAD, 0, 8) == 0
    half = lut(path, interpolation=rule, kernels="mean").layer_cost(HEAD, np.asarray([0, 0, 8, 8]), 8)
    assert half["latency"] == 32
    charged = grid(folder, lambda w, a: float(w + 1), weights=(0, 8), activations=(8,))
    assert cost(lut(charged, interpolation=rule), HEAD, 0, 8) == 1


def test_remarks_in_front_say_what_is_counted(folder):
    text = f"# measured in May: by hand\n# energy: the board: wall plug\n#\n\n{KEYS},latency [s],energy [J]\nhead,8,8,1,1\n"
    path = written(folder, text)
    assert lut(path).definitions == {"energy": "the board: wall plug"}
    assert lut(path, definition="own").definitions == {"energy": "own"}
    with pytest.raises(DataError, match="line 7, layer 'head'"):
        lut(written(folder, text + "head,8,9,nan,1\n"))


def test_a_table_of_measurements_shares_the_axis_of_what_was_measured(folder):
    model = create("cost_models", "bismo")
    with Bench("bismo", {}, folder) as bench:
        bench.measure(HEAD, 8, 8)
        write_table(folder / "table.csv", [HEAD], bench.store)
    check_same_axis("energy", {"table": lut(folder / "table.csv"), "bismo": model})
    with pytest.raises(ConfigError, match="one definition"):
        check_same_axis("energy", {"table": lut(folder / "table.csv"), "bitfusion": create("cost_models", "bitfusion")})


def test_tables_of_one_name_are_two_definitions(folder):
    one = written(folder, f"{KEYS},energy [J]\nhead,8,8,1\n")
    for name in ("same", "other"):
        (folder / name).mkdir()
    same = written(folder / "same", one.read_text())
    other = written(folder / "other", f"{KEYS},energy [J]\nhead,8,8,2\n")
    check_same_axis("energy", {"one": lut(one), "same": lut(same)})
    with pytest.raises(ConfigError, match="one definition"):
        check_same_axis("energy", {"one": lut(one), "other": lut(other)})


def test_maxima_may_be_named(folder):
    path = written(folder, f"{KEYS},latency [s],buffer [kB],peak_memory [kB]\nhead,8,8,1,3,3\nstem,8,8,2,5,5\n")
    bits = {site: 8 for layer in (HEAD, STEM) for site in (layer.weight_site, layer.activation_site)}
    found = lut(path, maxima=["buffer"]).estimate([HEAD, STEM], BitAssignment(bits))
    assert found.totals == {"latency": 3, "buffer": 5000, "peak_memory": 8000}
    with pytest.raises(ConfigError, match=r"maxima must be metrics of table\.csv; got bufer; did you mean 'buffer'"):
        lut(path, maxima=["bufer"])


def test_a_fall_with_more_bits_is_told_once_with_the_way_out(folder, caplog):
    fall = {(2, 4): 3.0, (2, 8): 4.0, (4, 4): 2.0, (4, 8): 4.0, (8, 4): 5.0, (8, 8): 5.0}
    path = grid(folder, lambda w, a: fall[w, a])
    with caplog.at_level(logging.WARNING):
        model = lut(path)
    assert [record.getMessage() for record in caplog.records] == [
        "table.csv: latency of layer 'stem' falls from 3 at 2/4 bits to 2 at 4/4 (and 1 more such steps); searchers take "
        "more bits to cost no less: interpolation: wider makes it so"
    ]
    assert cost(model, HEAD, 4, 4) == 2
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        mended = lut(path, interpolation="wider")
    assert not caplog.records
    assert [cost(mended, HEAD, w, 4) for w in (2, 4, 8)] == [2, 2, 5]
    contract_of(mended).test_costs_rise_with_uniform_bits()
    with pytest.raises(AssertionError, match=r"layer 'stem' from 2/4 to 4/4 bits"):
        contract_of(model).test_costs_rise_with_uniform_bits()


def test_a_table_that_rises_gives_no_warning(folder, caplog):
    with caplog.at_level(logging.WARNING):
        lut(grid(folder, lambda w, a: float(max(w, a))))
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have the columns layer, weight_bits, activation_bits"),
        (f"{KEYS},latency [s]\n", "at least one row"),
        ("layer,bits,latency [s]\nhead,8,1\n", "without weight_bits, activation_bits; its header has: layer, bits, latency [s]"),
        (f"{KEYS}\nhead,8,8\n", "must have a column with a metric"),
        (f"{KEYS},latency\nhead,8,8,1\n", "column 'latency' must carry its unit in brackets"),
        (f"{KEYS},latency [J]\nhead,8,8,1\n", "latency cannot be in J; its units: s, ms, us, µs, ns, cycle, unstated"),
        (f"{KEYS},energy [ms]\nhead,8,8,1\n", "energy cannot be in ms; its units: J, mJ"),
        (f"{KEYS},latency [mz]\nhead,8,8,1\n", "unknown unit of latency; got mz; did you mean 'm"),
        (f"{KEYS},latency [s],latency [ms]\nhead,8,8,1,1\n", "each metric once; got 'latency' in two units"),
        (f"{KEYS},latency [s],latency [s]\nhead,8,8,1,1\n", "must differ; got 'latency [s]' twice"),
        (f"{KEYS},energy spread [J],latency [s]\nhead,8,8,1,1\n", "has spreads of 'energy' but no costs"),
        (f"{KEYS},latency [s]\nhead,8,8,nan\n", "table.csv, line 2, layer 'head' at 8/8 bits: latency must be finite and at least 0; got nan"),
        (f"{KEYS},latency [s]\nhead,4,8,1\nhead,8,8,-1\n", "line 3, layer 'head' at 8/8 bits: latency must be finite and at least 0; got -1"),
        (f"{KEYS},latency [s]\nhead,8,8,inf\n", "must be finite"),
        (f"{KEYS},latency [s]\nhead,8,8,\n", "line 2, layer 'head' at 8/8 bits: latency must be a number; got ''"),
        (f"{KEYS},latency [s],latency spread [s]\nhead,8,8,1,-2\n", "latency spread must be finite and at least 0"),
        (f"{KEYS},latency [s]\nhead,8,8,1\nstem,8,8,1\nhead,8,8,2\n", "line 4, layer 'head' at 8/8 bits: each layer and pair of bits must stand once; got line 2 has it too"),
        (f"{KEYS},latency [s]\nhead,8,8\n", "line 2: a row must have 4 cells, as the header has; got 3 cells"),
        (f"{KEYS},latency [s]\n,8,8,1\n", "line 2: a row must name its layer"),
        (f"{KEYS},latency [s]\nhead,33,8,1\n", "layer 'head': weight_bits must be a whole number within 0..32; got '33'"),
        (f"{KEYS},latency [s]\nhead,8,0,1\n", "activation_bits must be a whole number within 1..32; got '0'"),
        (f"{KEYS},latency [s]\nhead,8,8,1_000\n", "latency must be a number; got '1_000'"),
        (f"{KEYS},latency [s]\nhead,8,8,٤\n", "latency must be a number; got '٤'"),
        (f"{KEYS},latency [s]\nhead,٤,8,1\n", "weight_bits must be a whole number within 0..32; got '٤'"),
        (f"{KEYS},latency [s]\nhead,4.5,8,1\n", "weight_bits must be a whole number"),
        (f"{KEYS},latency [s]\nhead,2,4,1\nhead,4,8,1\n", "no entry of layer 'head' at 2/8 bits; add it, or set interpolation: wider"),
    ],
)  # fmt: skip
def test_bad_tables_are_refused_in_one_line(folder, text, message):
    with pytest.raises(DataError) as error:
        lut(written(folder, text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(folder):
    with pytest.raises(DataError, match=r"must be a readable file; got .*none.csv: No such file"):
        lut(folder / "none.csv")
    (folder / "binary.csv").write_bytes(b"\xff\xfe\x00layer")
    with pytest.raises(DataError, match=r"binary\.csv"):
        lut(folder / "binary.csv")
    with pytest.raises(ConfigError, match="CSV or an npy file"):
        lut(written(folder, "", "table.txt"))
    with pytest.raises(ConfigError, match="path in options of 'lut': field required"):
        create("cost_models", "lut")


def array(folder: Path, values, name: str = "table.npy") -> Path:
    np.save(folder / name, values)
    return folder / name


OPTIONS = {"metric": "latency", "unit": "us", "layers": ["stem", "head"]}


def test_an_array_is_read_by_the_names_of_its_axes(folder):
    values = np.arange(1, 13).reshape(2, 3, 2)
    model = lut(array(folder, values), **OPTIONS, weight_bits=[2, 4, 8], activation_bits=[4, 8])
    assert cost(model, HEAD, 4, 8) == pytest.approx(values[1, 1, 1] * 1e-6)
    counted = lut(folder / "table.npy", **OPTIONS)
    assert cost(counted, STEM, 3, 1) == pytest.approx(values[0, 2, 0] * 1e-6)


@pytest.mark.parametrize(
    ("name", "text"), [("names.json", json.dumps(["stem", "head"])), ("names.txt", "stem\nhead\n")]
)
def test_names_of_layers_may_stand_in_a_file(folder, name, text):
    values = np.arange(1.0, 9.0).reshape(2, 2, 2)
    model = lut(array(folder, values), **{**OPTIONS, "layers": str(written(folder, text, name))})
    assert cost(model, HEAD, 1, 1) == pytest.approx(5e-6)


@pytest.mark.parametrize(
    ("values", "changed", "message"),
    [
        (np.ones((2, 2, 2)), {"unit": None}, "option 'unit' is missing"),
        (np.ones((2, 2, 2)), {"layers": None}, "option 'layers' is missing"),
        (np.ones((2, 2, 2)), {"unit": "J"}, "latency cannot be in J"),
        (np.ones((3, 2, 2)), {}, "shape (2, 2, 2); got shape (3, 2, 2)"),
        (np.ones((2, 2)), {}, "axes layer, weight bits, activation bits; got shape (2, 2)"),
        (np.full((2, 2, 2), "x"), {}, "must be an array of numbers"),
        (np.ones((0, 2, 2)), {"layers": ["a"]}, "must be an array of numbers"),
        (np.asarray([[[1, 2]], [[1, np.nan]]]), {}, "layer 'head' at 1/2 bits: latency must be finite and at least 0; got nan"),
        (np.asarray([[[1, -2]], [[1, 2]]]), {}, "layer 'stem' at 1/2 bits: latency must be finite and at least 0; got -2.0"),
        (np.ones((2, 2, 2)), {"layers": ["a", "a"]}, "layers of table.npy must differ; got 'a' twice"),
        (np.ones((2, 2, 2)), {"weight_bits": [8, 33]}, "weight_bits of table.npy must be within 0..32; got 33"),
        (np.ones((2, 2, 2)), {"weight_bits": [8]}, "shape (2, 1, 2); got shape (2, 2, 2)"),
    ],
)  # fmt: skip
def test_bad_arrays_are_refused_in_one_line(folder, values, changed, message):
    given = {key: value for key, value in {**OPTIONS, **changed}.items() if value is not None}
    with pytest.raises(QSearchError) as error:
        lut(array(folder, values), **given)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_peak_is_the_greatest_of_its_layers(folder):
    text = f"{KEYS},latency [s],peak_memory [kB],peak_memory spread [kB]\nhead,8,8,1,3,1\nstem,8,8,2,5,1\n"
    model = lut(written(folder, text))
    bits = {site: 8 for layer in (HEAD, STEM) for site in (layer.weight_site, layer.activation_site)}
    found = model.estimate([HEAD, STEM], BitAssignment(bits))
    assert (found.totals, found.deviations) == ({"latency": 3, "peak_memory": 5000}, {})


def test_layers_that_share_no_bits_have_no_domain(folder):
    model = lut(written(folder, f"{KEYS},latency [s]\nhead,8,8,1\nstem,4,4,2\n"))
    with pytest.raises(DataError, match=r"the layers of table\.csv must share bits"):
        model.domain()


def test_a_truncated_array_and_a_pickle_are_refused(folder):
    path = array(folder, np.ones((2, 8, 8)))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="must be a readable file"):
        lut(path, **OPTIONS)
    np.save(folder / "pickle.npy", np.asarray([object()]), allow_pickle=True)
    with pytest.raises(DataError, match=r"must be a readable file.*pickle"):
        lut(folder / "pickle.npy", **OPTIONS)


def test_what_a_header_says_is_not_said_again(folder):
    with pytest.raises(ConfigError, match="option 'unit' is for npy files"):
        lut(grid(folder, lambda w, a: 1.0), unit="s")


def test_energies_say_whose_they_are(folder):
    path = written(folder, f"{KEYS},latency [s],energy [J]\nhead,8,8,1,1\n")
    assert re.fullmatch(r"table table\.csv \([0-9a-f]{12}\)", lut(path).definitions["energy"])
    assert lut(path, definition="board, wall plug").definitions == {"energy": "board, wall plug"}
    cycles = written(folder, f"{KEYS},latency [cycle]\nhead,8,8,1\n", "cycles.csv")
    assert list(lut(cycles).definitions) == ["latency"]
