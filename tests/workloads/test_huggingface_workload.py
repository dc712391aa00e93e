"""``huggingface``: tiny networks of ``transformers``, saved to a folder, on tiny data sets of every layout."""

from __future__ import annotations

import json
import logging
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import logging as transformers_logging

from qsearch.errors import ConfigError, DataError, PluginError
from qsearch.protocols import Workload
from qsearch.registry import create, load
from qsearch.setting import layers_of
from qsearch.testing.workload import WorkloadContract
from qsearch.workloads.huggingface import HuggingFace

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "very", "not", "so", "a"]
NAMES = ("circle", "square", "star")


def workload(task: str, model: Path, dataset: Path, **options: Any) -> HuggingFace:
    given = {"task": f"{task}-classification", "model": str(model), "dataset": str(dataset), **options}
    return create("workloads", "huggingface", given)


def save_quietly(thing: Any, folder: Path) -> None:
    """``save_pretrained`` without its progress bar."""
    transformers_logging.disable_progress_bar()
    try:
        thing.save_pretrained(folder)
    finally:
        transformers_logging.enable_progress_bar()


def bert(folder: Path, **settings: Any) -> Path:
    """A text classifier with random weights, and its tokeniser."""
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
        **settings,
    )
    save_quietly(seeded(transformers.BertForSequenceClassification, config), folder)
    transformers.BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}).save_pretrained(folder)
    return folder


def seeded(kind: Any, config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config)


def vit(folder: Path, **settings: Any) -> Path:
    """An image classifier with random weights for images of 8×8, and its processor, which resizes."""
    config = transformers.ViTConfig(
        image_size=8,
        patch_size=4,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        **settings,
    )
    save_quietly(seeded(transformers.ViTForImageClassification, config), folder)
    processor(folder)
    return folder


def processor(folder: Path, size: int = 8, **settings: Any) -> None:
    half = [0.5, 0.5, 0.5]
    kind = transformers.ViTImageProcessorPil
    kind(size={"height": size, "width": size}, image_mean=half, image_std=half, **settings).save_pretrained(folder)


def labelled(names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def image_folder(folder: Path, counts: dict[str, int], size: int = 8, mode: str = "RGB") -> Path:
    """Images of noise, ``counts`` of each class in each split."""
    generator = np.random.default_rng(0)
    for split, count in counts.items():
        for name in NAMES:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                values = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(values).convert(mode).save(folder / split / name / f"{number}.png")
    return folder


def csv_folder(folder: Path, head: str = "text,label", **files: list[str]) -> Path:
    """``train=["good film,1", …]`` becomes ``train.csv``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        (folder / f"{name}.csv").write_text("\n".join([head, *rows]) + "\n")
    return folder


def reviews(count: int, start: int = 0) -> list[str]:
    """Different texts of three words, each with its label: whether the last bit of its number is set."""
    pick = [WORDS[4 + number] for number in range(7)]
    texts = [f"{pick[n % 7]} {pick[n // 7 % 7]} {pick[n // 49 % 7]}" for n in range(start, start + count)]
    return [f"{text},{(start + row) % 2}" for row, text in enumerate(texts)]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return csv_folder(tmp_path / "data", train=reviews(40), validation=reviews(12, 40), test=reviews(10, 60))


class TestTexts(WorkloadContract):
    @pytest.fixture(autouse=True)
    def _files(self, tmp_path: Path, texts: Path) -> None:
        self.model, self.data = bert(tmp_path / "model"), texts

    def workload(self) -> Workload:
        return workload("text", self.model, self.data, calibration=16)


class TestImages(WorkloadContract):
    @pytest.fixture(autouse=True)
    def _files(self, tmp_path: Path) -> None:
        self.model = vit(tmp_path / "model", **labelled())
        self.data = image_folder(tmp_path / "data", {"train": 8, "test": 8})

    def workload(self) -> Workload:
        return workload("image", self.model, self.data, calibration=10)


def test_logits_are_those_of_transformers_on_the_bare_text(tmp_path: Path, texts: Path) -> None:
    folder = bert(tmp_path / "model")
    found = workload("text", folder, texts, samples=5)
    plain = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    (inputs, targets) = next(iter(found.validation()))
    rows = [row.rpartition(",") for row in reviews(12, 40)]
    with torch.no_grad():
        outputs = found.model()(*inputs)
        for output, indices, target in zip(outputs, inputs[0], targets, strict=True):
            text = tokenizer.decode(indices, skip_special_tokens=True)
            assert (text, str(int(target))) in [(words, label) for words, _, label in rows]
            expected = plain(**tokenizer(text, return_tensors="pt")).logits[0]
            torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)


def test_images_are_resized_and_normalised_as_by_hand(tmp_path: Path) -> None:
    data = image_folder(tmp_path / "data", {"train": 2, "validation": 2}, size=16)
    found = workload("image", vit(tmp_path / "model", **labelled()), data)
    inputs, targets = next(iter(found.validation()))
    files = sorted((data / "validation").glob("*/*.png"))
    expected = {}
    for file in files:
        with Image.open(file) as image:
            small = np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR), dtype=np.float64)
        expected[file] = torch.tensor((small / 255 - 0.5) / 0.5).movedim(-1, 0).float()
    for values, target in zip(inputs, targets, strict=True):
        nearest = min(files, key=lambda file: float((expected[file] - values).abs().max()))
        torch.testing.assert_close(values, expected[nearest], atol=1e-5, rtol=0)
        assert nearest.parent.name == NAMES[target]


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (
            transformers.ResNetForImageClassification,
            transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], **labelled()),
        ),
        (
            transformers.MobileNetV2ForImageClassification,
            transformers.MobileNetV2Config(image_size=32, depth_multiplier=0.25, **labelled()),
        ),
    ],
    ids=["resnet", "mobilenet_v2"],
)
def test_convolutional_networks(tmp_path: Path, kind: Any, config: Any) -> None:
    save_quietly(seeded(kind, config), tmp_path / "model")
    processor(tmp_path / "model", size=32)
    found = workload("image", tmp_path / "model", image_folder(tmp_path / "data", {"train": 3, "test": 4}))
    inputs, targets = next(iter(found.validation()))
    assert found.model()(inputs).shape == (len(targets), 3)
    assert {layer.kind for layer in layers_of(found)} == {"conv", "linear"}


def counts(found: HuggingFace) -> tuple[int, int, int, int]:
    splits = found.splits
    assert splits.train is not None
    return len(splits.calibration), len(splits.train), len(splits.validation), len(splits.test or ())


def test_splits_by_rule(tmp_path: Path) -> None:
    model = bert(tmp_path / "model")
    whole = csv_folder(tmp_path / "whole", train=reviews(40), validation=reviews(12, 40), test=reviews(10, 60))
    assert counts(workload("text", model, whole)) == (40, 40, 12, 10)
    assert counts(workload("text", model, whole, calibration=7, samples=11)) == (7, 11, 11, 10)
    halved = csv_folder(tmp_path / "halved", train=reviews(40), test=reviews(11, 60))
    assert counts(workload("text", model, halved)) == (40, 40, 5, 6)
    alone = csv_folder(tmp_path / "alone", train=reviews(40))
    assert counts(workload("text", model, alone)) == (32, 32, 8, 0)
    swapped = {"train": "test", "validation": "train", "test": "validation"}
    assert counts(workload("text", model, whole, splits=swapped)) == (10, 10, 40, 12)


def test_rows_are_shuffled_by_the_seed(tmp_path: Path, texts: Path) -> None:
    model = bert(tmp_path / "model")
    first, again, other = (workload("text", model, texts, seed=seed).splits.calibration.inputs for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert set(map(bytes, first.numpy())) == set(map(bytes, other.numpy()))


def parquet(folder: Path, rows: dict[str, list[Any]]) -> None:
    folder.mkdir()
    datasets.Dataset.from_dict(rows).to_parquet(folder / "train.parquet")


def json_lines(folder: Path, rows: dict[str, list[Any]]) -> None:
    folder.mkdir()
    lines = [json.dumps(dict(zip(rows, row, strict=True))) for row in zip(*rows.values(), strict=True)]
    (folder / "train.jsonl").write_text("\n".join(lines))


def saved(folder: Path, rows: dict[str, list[Any]]) -> None:
    datasets.Dataset.from_dict(rows).save_to_disk(folder)


def saved_splits(folder: Path, rows: dict[str, list[Any]]) -> None:
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows)}).save_to_disk(folder)


@pytest.mark.parametrize("write", [parquet, json_lines, saved, saved_splits])
def test_other_layouts_hold_the_same(tmp_path: Path, write: Callable[[Path, dict[str, list[Any]]], None]) -> None:
    rows = [row.rpartition(",") for row in reviews(20)]
    table = {"sentence": [text for text, _, _ in rows], "target": [int(label) for _, _, label in rows]}
    datasets.disable_progress_bars()
    try:
        write(tmp_path / "data", table)
    finally:
        datasets.enable_progress_bars()
    model = bert(tmp_path / "model")
    plain = workload("text", model, csv_folder(tmp_path / "csv", train=reviews(20))).splits.validation
    found = workload("text", model, tmp_path / "data").splits.validation
    assert torch.equal(found.inputs, plain.inputs)
    assert torch.equal(found.targets, plain.targets)


def test_names_decide_which_class_a_label_is(tmp_path: Path) -> None:
    data = image_folder(tmp_path / "data", {"train": 3, "test": 4})  # circle 0, square 1, star 2
    model = vit(tmp_path / "model", **labelled(("Star", "Circle", "Square")))
    inputs = workload("image", vit(tmp_path / "plain", **labelled()), data).splits.validation
    found = workload("image", model, data).splits.validation
    assert torch.equal(inputs.inputs, found.inputs)
    assert found.targets.tolist() == [(label + 1) % 3 for label in inputs.targets.tolist()]


def test_the_option_labels_comes_first(tmp_path: Path) -> None:
    data = csv_folder(tmp_path / "data", train=["a film,yes", "bad film,no", "so bad,no", "so so,yes", "very good,yes"])
    model = bert(tmp_path / "model", **labelled(("negative", "positive")))
    with pytest.raises(
        DataError, match=r"every label .* the model knows; got (yes|no); the model has 0: negative, 1: pos"
    ):
        workload("text", model, data).validation()
    found = workload("text", model, data, labels={"no": 0, "YES": 1}).splits
    assert found.train is not None
    assert sorted([*found.train.targets.tolist(), *found.validation.targets.tolist()]) == [0, 0, 1, 1, 1]


def test_length_is_what_the_texts_need_and_no_more_than_the_model_takes(tmp_path: Path, texts: Path) -> None:
    model = bert(tmp_path / "model")
    assert workload("text", model, texts).splits.train.inputs.shape == (40, 2, 8)  # type: ignore[union-attr]
    assert workload("text", model, texts, length=4).splits.validation.inputs.shape == (12, 2, 4)
    with pytest.raises(DataError, match="option 'length' must be within what the model takes; got 25; at most 24"):
        workload("text", model, texts, length=25).validation()
    long = csv_folder(tmp_path / "long", train=[f"{'film ' * 60},0", f"{'bad ' * 60},1", "film,0"])
    assert workload("text", model, long).splits.validation.inputs.shape == (1, 2, 24)


def test_grey_images_become_colour_where_the_model_wants_it(tmp_path: Path) -> None:
    data = image_folder(tmp_path / "data", {"train": 2, "test": 2}, mode="L")
    inputs = workload("image", vit(tmp_path / "model", **labelled()), data).splits.validation.inputs
    assert inputs.shape == (3, 3, 8, 8)
    assert torch.equal(inputs[:, 0], inputs[:, 1])


def one_line(task: str, model: Path, data: Path, message: str, **options: Any) -> None:
    """Whatever is asked for first: the error is this one, in one line."""
    found = workload(task, model, data, **options)
    with pytest.raises(DataError, match=message) as caught:
        found.splits, found.model()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ({"train": []}, {}, "must load; got no rows in split 'train'"),
        ({"train": reviews(20), "validation": []}, {}, "must load; got no rows in split 'validation'"),
        ({"train": reviews(20), "test": ["good,0"]}, {}, "must not be empty; got 1 row; choose another split"),
        ({"validation": reviews(5)}, {}, "must have a training split, to calibrate with; got validation"),
        ({"train": reviews(5)}, {"splits": {"test": "tests"}}, "has no split 'tests'; known: train"),
        ({"train": reviews(5)}, {"splits": {"validation": "train"}}, "must be different ones"),
        ({"train": reviews(5)}, {"input_column": "txt"}, "has no column 'txt'; did you mean 'text'"),
        ({"train": reviews(5)}, {"label_column": "y"}, "has no column 'y'; known: label, text"),
        ({"train": ["good,2", "bad,0"]}, {}, r"must be classes of the model, 0\.\.1; got (0|2)\.\.2"),
        ({"train": ["good,-1", "bad,-1"]}, {}, r"must be classes of the model, 0\.\.1; got -1\.\.-1"),
        (
            {"train": ["good,0.5", "bad,0"]},
            {},
            r"labels of split 'train' .* must be whole numbers or names; got float 0.5",
        ),
        ({"train": ["good,yes", "bad,no"]}, {}, "every label of .* the model knows; got .*; the model has no names"),
        ({"train": ["1,0", "2,1"]}, {}, "column 'text' of .* must hold texts; got int"),
        ({"train": ["good,0", "bad,"]}, {}, "must be whole numbers or names; got"),
    ],
)
def test_bad_tables(tmp_path: Path, rows: dict[str, list[str]], options: dict[str, Any], message: str) -> None:
    data = csv_folder(tmp_path / "data", **rows)
    one_line("text", bert(tmp_path / "model"), data, message, **options)


def test_missing_columns(tmp_path: Path) -> None:
    model = bert(tmp_path / "model")
    data = csv_folder(tmp_path / "data", head="words,label", train=reviews(5))
    one_line(
        "text", model, data, r"must have a column text or sentence .*; got words, label; name it by .*'input_column'"
    )
    data = csv_folder(tmp_path / "other", head="text,stars", train=reviews(5))
    one_line("text", model, data, r"must have a column label or .*; got text, stars; name it by .*'label_column'")


def test_missing_folders_and_ids_are_not_fetched(tmp_path: Path, texts: Path) -> None:
    missing = Path("somebody/some-model")
    one_line(
        "text",
        missing,
        texts,
        "model 'somebody/some-model' must load as .*; got neither .*; give the folder .* download: true",
    )
    model = bert(tmp_path / "model")
    one_line("text", model, Path("somebody/some-data"), "data set 'somebody/some-data' must load; .* download: true")
    one_line("text", model, tmp_path / "nothing", "data set .* must load; .* give the folder that holds it")
    (tmp_path / "empty").mkdir()
    one_line("text", model, tmp_path / "empty", "data set .* must load; got .*; give a folder of csv, json")
    one_line("text", tmp_path / "empty", texts, "model .* must load as .*; got .*; its folder must hold config.json")


def test_a_model_without_its_files(tmp_path: Path, texts: Path) -> None:
    model = bert(tmp_path / "weightless")
    (model / "model.safetensors").unlink()
    one_line(
        "text", model, texts, "must load as AutoModelForSequenceClassification; got OSError: .*; its folder must hold"
    )
    model = bert(tmp_path / "cut")
    content = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(content[:-100])
    one_line("text", model, texts, "must load as AutoModelForSequenceClassification; got Safetensor")
    model = vit(tmp_path / "unprocessed", **labelled())
    (model / "preprocessor_config.json").unlink()
    data = image_folder(tmp_path / "images", {"train": 3})
    one_line("image", model, data, "must load as AutoImageProcessor; got .*; its folder must hold config.json")


def test_a_model_of_another_task(tmp_path: Path, texts: Path) -> None:
    one_line("text", vit(tmp_path / "vit"), texts, "must load as AutoModelForSequenceClassification; got ValueError")
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    save_quietly(seeded(transformers.BertModel, config), tmp_path / "headless")
    message = (
        "must hold all weights of a BertForSequenceClassification; got none for classifier.bias, classifier.weight"
    )
    one_line("text", tmp_path / "headless", texts, message)
    one_line("text", bert(tmp_path / "regression", num_labels=1), texts, "must choose between classes; got 1 output")


def test_a_checkpoint_of_other_shapes(tmp_path: Path, texts: Path) -> None:
    model = bert(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    one_line("text", model, texts, "must load as AutoModelForSequenceClassification; got RuntimeError: .*size")


def pickled(model: Path, payload: object) -> None:
    """The folder's weights as a pickle, with something besides."""
    state = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    torch.save({**state, "bert.extra": payload} if payload is not None else state, model / "pytorch_model.bin")


def test_a_pickle_of_tensors_is_read(tmp_path: Path, texts: Path) -> None:
    model = bert(tmp_path / "model")
    expected = load_file(model / "model.safetensors")
    pickled(model, None)
    found = workload("text", model, texts).model().state_dict()
    for name, value in expected.items():
        assert torch.equal(found[f"model.{name}"], value)


class Command:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def test_a_pickle_of_anything_else_is_not_run(tmp_path: Path, texts: Path) -> None:
    model = bert(tmp_path / "model")
    pickled(model, Command(tmp_path / "harm"))
    one_line("text", model, texts, "must load as AutoModelForSequenceClassification; got UnpicklingError")
    assert not (tmp_path / "harm").exists()


def test_code_beside_a_model_is_not_run(tmp_path: Path, texts: Path) -> None:
    model = bert(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForSequenceClassification": "own.Own"}}
    (model / "config.json").write_text(json.dumps({**config, **own}))
    (model / "own.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'harm')!r}).touch()\nclass Own: ...\n"
    )
    one_line("text", model, texts, "must load as AutoModelForSequenceClassification; got ValueError")
    assert not (tmp_path / "harm").exists()


def test_images_of_several_sizes(tmp_path: Path) -> None:
    model = vit(tmp_path / "model", **labelled())
    processor(model, do_resize=False)
    data = image_folder(tmp_path / "data", {"train": 4})
    Image.new("RGB", (9, 9)).save(data / "train" / "star" / "0.png")
    one_line("image", model, data, "images of split '.*' must have one size; got 3×8×8, 3×9×9; set do_resize")


def test_images_of_the_wrong_size(tmp_path: Path) -> None:
    model = vit(tmp_path / "model", **labelled())
    processor(model, size=12)
    found = workload("image", model, image_folder(tmp_path / "data", {"train": 4}))
    with pytest.raises(DataError, match=r"must run on the example input; got ValueError: .*12\*12.*8\*8"):
        layers_of(found)


def test_a_damaged_image(tmp_path: Path) -> None:
    data = image_folder(tmp_path / "data", {"train": 4})
    (data / "train" / "star" / "1.png").write_bytes(b"no image")
    one_line(
        "image", vit(tmp_path / "model", **labelled()), data, "column 'image' of .* must be readable; got Unidentified"
    )


@pytest.mark.parametrize(
    "options", [{"task": "regression"}, {"samples": 0}, {"splits": {"trian": "x"}}, {"modle": "x"}, {"length": 2}]
)
def test_options_are_checked(tmp_path: Path, options: dict[str, Any]) -> None:
    given = {"task": "text-classification", "model": "x", "dataset": "y", **options}
    with pytest.raises(ConfigError):
        create("workloads", "huggingface", given)


def test_nothing_is_shown_and_settings_stay(
    tmp_path: Path, texts: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bert(tmp_path / "model")
    capfd.readouterr()
    before = settings()
    rng = torch.get_rng_state()
    found = workload("text", model, texts)
    found.model()
    found.validation()
    assert settings() == before
    assert torch.equal(torch.get_rng_state(), rng)
    assert capfd.readouterr() == ("", "")


def settings() -> tuple[object, ...]:
    """What others may have set in the packages."""
    return (
        transformers_logging.is_progress_bar_enabled(),
        transformers_logging.get_verbosity(),
        datasets.are_progress_bars_disabled(),
        datasets.utils.logging.get_verbosity(),
        logging.root.level,
        tuple(warnings.filters),
    )


def test_a_cached_data_set_is_found_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    try:
        datasets.load_dataset(str(csv_folder(tmp_path / "tiny", train=reviews(20))), cache_dir=str(tmp_path / "cache"))
    finally:
        datasets.enable_progress_bars()
    model = bert(tmp_path / "model")
    expected = workload("text", model, tmp_path / "tiny").splits.validation
    monkeypatch.chdir(tmp_path / "cache")
    found = workload("text", model, Path("tiny")).splits.validation
    assert torch.equal(found.inputs, expected.inputs)


@pytest.mark.parametrize(
    ("package", "name"),
    [("transformers", "text-classifier"), ("transformers", "huggingface"), ("datasets", "huggingface")],
)
def test_a_missing_package_is_told_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch, package: str, name: str) -> None:
    for module in [key for key in sys.modules if re.match(r"qsearch\.workloads\.(text$|huggingface)", key)]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PluginError, match=r"; pip install 'qsearch\[huggingface\]'$"):
        load("workloads", name)


def outputs(found: HuggingFace) -> Tensor:
    model = found.model()
    with torch.no_grad():
        return torch.cat([model(*inputs) for inputs, _ in found.validation()])


def test_the_model_given_out_is_a_copy(tmp_path: Path, texts: Path) -> None:
    found = workload("text", bert(tmp_path / "model"), texts)
    before = outputs(found)
    with torch.no_grad():
        for value in found.model().parameters():
            value.zero_()
    assert torch.equal(outputs(found), before)


NOWHERE = "http://nowhere.invalid"


def front_matter(path: str) -> str:
    return f"configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {path}\nlicense_link: {NOWHERE}\n"


@pytest.mark.parametrize(
    "address", [f"{NOWHERE}/train.csv", f"zip://train.csv::{NOWHERE}/a.zip", "hf://datasets/a/b/c.csv"]
)
@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
def test_files_that_a_card_names_elsewhere_are_not_fetched(tmp_path: Path, card: str, address: str) -> None:
    data, model = csv_folder(tmp_path / "data", train=reviews(20)), bert(tmp_path / "model")
    fence = "---\n" if card == "README.md" else ""
    (data / card).write_text(f"{fence}{front_matter(address)}{fence}")
    one_line("text", model, data, f"data files that .*{card} names must be in its folder; got {re.escape(address)}")
    (data / card).write_text(f"{fence}{front_matter('train.csv')}{fence}")
    assert len(workload("text", model, data).splits.validation) == 4


@pytest.mark.parametrize("address", [f"{NOWHERE}/0.png", f"simplecache::{NOWHERE}/0.png"])
def test_images_that_are_addresses_are_not_fetched(tmp_path: Path, address: str) -> None:
    rows = [f"{address},{row % 3}" for row in range(10)]
    data = csv_folder(tmp_path / "data", head="image,label", train=rows)
    model = vit(tmp_path / "model", **labelled())
    one_line("image", model, data, f"images in column 'image' must be in the data set; got {re.escape(address)}; fetch")


def test_images_by_their_paths_are_read(tmp_path: Path) -> None:
    images = sorted(image_folder(tmp_path / "images", {"train": 4}).glob("*/*/*.png"))
    rows = [f"{path},{NAMES.index(path.parent.name)}" for path in images]
    data = csv_folder(tmp_path / "data", head="image,label", train=rows)
    found = workload("image", vit(tmp_path / "model", **labelled()), data).splits
    assert len(found.train or ()) + len(found.validation) == 12


def test_a_part_of_the_files_is_told(tmp_path: Path) -> None:
    data = csv_folder(tmp_path / "data", **{"train-00000-of-00002": reviews(20)})
    one_line("text", bert(tmp_path / "model"), data, "must be there; got no train-00001-of-00002.csv; fetch the rest")


def test_names_that_differ_in_case_alone_are_two_classes(tmp_path: Path) -> None:
    rows = ["good film,a", "bad film,A", "so bad,A", "very good,a", "a film,a"]
    model = bert(tmp_path / "model", **labelled(("A", "a")))
    data = csv_folder(tmp_path / "data", train=rows)
    for found in (workload("text", model, data), workload("text", model, data, labels={"A": 0, "a": 1})):
        assert sorted([*found.splits.train.targets.tolist(), *found.splits.validation.targets.tolist()]) == [
            0,
            0,
            1,
            1,
            1,
        ]


def test_a_name_in_another_case_that_fits_two_classes_is_not_guessed(tmp_path: Path) -> None:
    model = bert(tmp_path / "model", **labelled(("Up", "uP")))
    data = csv_folder(tmp_path / "data", train=["good film,up", "bad film,up", "so bad,up"])
    one_line(
        "text",
        model,
        data,
        "every label of .* must be a class that the model knows; got up; the model has 0: Up, 1: uP",
    )


def test_classes_of_one_name_are_told_unless_the_user_says_which_is_which(tmp_path: Path) -> None:
    model = bert(tmp_path / "model", id2label={0: "x", 1: "x"}, label2id={"x": 1})
    data = csv_folder(tmp_path / "data", train=["good film,x", "bad film,x", "so bad,y", "a film,y"])
    one_line("text", model, data, "classes of the model must have different names; got x, x; say which .*'labels'")
    found = workload("text", model, data, labels={"x": 0, "y": 1}).splits
    assert sorted([*found.train.targets.tolist(), *found.validation.targets.tolist()]) == [0, 0, 1, 1]  # type: ignore[union-attr]


def test_repeated_texts_are_kept_once_where_validation_data_are_held_out(tmp_path: Path) -> None:
    model = bert(tmp_path / "model")
    splits = workload("text", model, csv_folder(tmp_path / "data", train=reviews(30) * 4)).splits
    assert splits.train is not None
    seen = [set(map(bytes, part.inputs.numpy())) for part in (splits.train, splits.validation)]
    assert not seen[0] & seen[1]
    assert len(splits.train) + len(splits.validation) == len(seen[0] | seen[1]) == 30
    given = csv_folder(tmp_path / "given", train=reviews(30) * 2, validation=reviews(5))
    assert counts(workload("text", model, given)) == (60, 60, 5, 0)  # its own splits are left as they are
    alike = csv_folder(tmp_path / "alike", train=["good film,1", "bad film,0"] * 40)
    one_line("text", model, alike, "split 'train' of .* must hold inputs that no other split has; got 64 rows, all")


def test_repeated_images_are_kept_once_where_validation_data_are_held_out(tmp_path: Path) -> None:
    data = image_folder(tmp_path / "data", {"train": 5})
    for path in sorted((data / "train").glob("*/*.png")):
        path.with_name(f"again-{path.name}").write_bytes(path.read_bytes())
    splits = workload("image", vit(tmp_path / "model", **labelled()), data).splits
    assert len(splits.train or ()) + len(splits.validation) == 15


def test_positions_of_roberta_begin_behind_its_padding(tmp_path: Path) -> None:
    config = transformers.RobertaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
        pad_token_id=1,
    )
    save_quietly(seeded(transformers.RobertaForSequenceClassification, config), tmp_path / "model")
    tokenizer = transformers.BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})
    tokenizer.save_pretrained(tmp_path / "model")
    data = csv_folder(tmp_path / "data", train=[f"{'good ' * row},{row % 2}" for row in range(30, 50)])
    found = workload("text", tmp_path / "model", data)
    (indices, mask), _ = next(iter(found.validation()))
    assert indices.shape[1] == 22
    assert found.model()(indices, mask).shape == (len(indices), 2)
    with pytest.raises(DataError, match="'length' must be within what the model takes; got 23; at most 22"):
        workload("text", tmp_path / "model", data, length=23).validation()


def test_classes_are_known_before_the_data_are_read(tmp_path: Path) -> None:
    model = vit(tmp_path / "model", **labelled())
    assert workload("image", model, tmp_path / "nothing").classes == 3
