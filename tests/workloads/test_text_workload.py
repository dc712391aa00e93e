"""``text-classifier``: the real task with the real encoder; the rest with a tiny encoder on a task of its own."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional
from transformers.utils import logging as transformers_logging

from qsearch.config import load
from qsearch.errors import ConfigError, DataError
from qsearch.protocols import Workload
from qsearch.registry import create
from qsearch.setting import layers_of
from qsearch.testing.workload import WorkloadContract
from qsearch.workloads import text_head
from qsearch.workloads.base import Samples
from qsearch.workloads.files import sha256
from qsearch.workloads.text import MINILM, MINILM_PACKAGE, TextClassifier, minilm
from qsearch.workloads.text_files import TASKS, TextTask, parse
from qsearch.workloads.text_head import INVERSE_PENALTY, fit_head
from qsearch.workloads.text_network import PooledClassifier, pooled_features

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
LETTERS = CONSONANTS + VOWELS
TRAIN, TEST = 900, 60
SHARED = 3
"""Texts of the test file that open the training file too."""


def words(count: int) -> list[str]:
    """As many different texts; every third letter is a vowel."""
    generator = np.random.default_rng(0)
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(generator.choice(list(VOWELS if place % 3 == 1 else CONSONANTS)) for place in range(9))] = None
    return list(found)


def lines(texts: list[str]) -> str:
    """Each with its label: the kind of its second letter, of three."""
    return "".join(f"{min(2, VOWELS.index(text[1]))} {text[:4]} {text[4:]} ?\n" for text in texts)


@pytest.fixture
def tiny_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task "trec" of its own in the data folder, and an empty cache."""
    texts = words(TRAIN + TEST)
    train, test = texts[:TRAIN], texts[TRAIN:]
    contents = {"train": lines([*test[:SHARED], *train]), "test": lines(test)}
    (tmp_path / "data" / "text").mkdir(parents=True)
    for split, content in contents.items():
        (tmp_path / "data" / "text" / split).write_text(content)
    files = {split: (split, sha256(content.encode())[:8]) for split, content in contents.items()}
    monkeypatch.setitem(TASKS, "trec", TextTask(3, 16, "utf-8", files))  # type: ignore[arg-type]  # a dictionary
    monkeypatch.setenv("QSEARCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data" / "text"


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A BERT with random weights that reads letters."""
    return save_encoder(tmp_path / "encoder", 0)


def save_encoder(folder: Path, seed: int) -> Path:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "?", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.BertModel(
            transformers.BertConfig(
                vocab_size=len(vocabulary),
                hidden_size=24,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=20,
                initializer_range=0.5,
            )
        )
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder)
    transformers_logging.enable_progress_bar()
    tokenizer = transformers.BertTokenizer(vocab={word: number for number, word in enumerate(vocabulary)})
    tokenizer.model_max_length = 20
    tokenizer.save_pretrained(folder)
    return folder


def workload(model: Path | None = None, **options: Any) -> TextClassifier:
    return create("workloads", "text-classifier", {**({"model": str(model)} if model else {}), **options})


@pytest.mark.usefixtures("tiny_task")
class TestTiny(WorkloadContract):
    @pytest.fixture(autouse=True)
    def _files(self, encoder: Path) -> None:
        self.model = encoder

    def workload(self) -> Workload:
        return workload(self.model, calibration=50)


@pytest.mark.usefixtures("tiny_task")
def test_splits(encoder: Path) -> None:
    splits = workload(encoder, calibration=50).splits
    assert splits.test is not None
    assert splits.train is not None
    assert [len(part) for part in (splits.calibration, splits.validation, splits.test, splits.train)] == [
        50,
        500,
        TEST,
        TRAIN - 500,
    ]
    other = workload(encoder, calibration=50, seed=1).splits
    assert not torch.equal(splits.validation.inputs, other.validation.inputs)
    assert torch.equal(splits.test.inputs, other.test.inputs)
    for part in (splits.calibration, splits.validation):  # classes in proportion
        shares = torch.bincount(part.targets).double() / len(part)
        torch.testing.assert_close(shares, torch.tensor([0.2, 0.2, 0.6]).double(), atol=0.06, rtol=0)


@pytest.mark.usefixtures("tiny_task")
def test_inputs_are_indices_and_mask(encoder: Path) -> None:
    found = workload(encoder, length=12)
    (indices, mask), targets = next(iter(found.test()))
    assert indices.shape == mask.shape == (50, 12)
    assert indices.dtype == mask.dtype == targets.dtype == torch.int64
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    for row, line in enumerate(lines(words(TRAIN + TEST)[TRAIN:]).splitlines()[:50]):
        expected = tokenizer(line[2:])["input_ids"]
        assert len(expected) == 12
        assert indices[row].tolist() == expected
        assert int(targets[row]) == int(line[0])


@pytest.mark.usefixtures("tiny_task")
def test_the_network_is_the_encoder_its_mean_and_the_head(encoder: Path) -> None:
    found = workload(encoder)
    network = found.model()
    plain = transformers.BertModel.from_pretrained(encoder).eval()
    (indices, mask), _ = next(iter(found.validation()))
    head = dict(network.named_parameters())
    with torch.no_grad():
        outputs = network(indices, mask)
        for row in range(10):  # without padding nothing needs a mask
            hidden = plain(indices[row : row + 1, : int(mask[row].sum())]).last_hidden_state[0]
            expected = head["head.weight"] @ hidden.mean(0) + head["head.bias"]
            torch.testing.assert_close(outputs[row], expected, atol=1e-4, rtol=1e-4)
    assert {layer.name for layer in layers_of(found) if layer.kind == "linear"} == {
        "head",
        *(f"model.encoder.layer.0.attention.self.{part}" for part in ("query", "key", "value")),
        *(f"model.encoder.layer.0.{part}.dense" for part in ("attention.output", "intermediate", "output")),
    }


@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_is_the_minimum_of_the_penalised_loss(encoder: Path, classes: int) -> None:
    generator = torch.Generator().manual_seed(1)
    indices = torch.randint(5, 40, (200, 8), generator=generator)
    samples = Samples(torch.stack([indices, torch.ones_like(indices)], dim=1), indices[:, 0] % classes)
    network = PooledClassifier(transformers.BertModel.from_pretrained(encoder).eval(), classes)
    fit_head(network, samples)
    x = pooled_features(network, samples.inputs)
    head = network.head.double()
    loss = functional.cross_entropy(head(x.double()), samples.targets, reduction="sum")
    weight = head.weight if classes > 2 else head.weight[1:] - head.weight[:1]
    (loss + weight.square().sum() / (2 * INVERSE_PENALTY)).backward()  # type: ignore[no-untyped-call]
    assert head.weight.grad is not None
    assert float(head.weight.detach().abs().max()) > 0.05
    start = functional.one_hot(samples.targets).double() - 1 / classes  # the gradient at zero, for scale
    assert float(head.weight.grad.abs().max()) < 5e-3 * float((start.T @ x.double()).abs().max())


def test_features_do_not_depend_on_the_batch_or_its_padding(encoder: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    indices = torch.randint(5, 40, (150, 18), generator=generator)
    mask = (torch.arange(18) < torch.randint(3, 19, (150, 1), generator=generator)).long()
    network = PooledClassifier(transformers.BertModel.from_pretrained(encoder).eval(), 2)
    found = pooled_features(network, torch.stack([indices * mask, mask], dim=1))
    with torch.no_grad():
        for row in range(0, 150, 7):
            expected = network.model(indices[row : row + 1, : int(mask[row].sum())]).last_hidden_state[0].mean(0)
            torch.testing.assert_close(found[row], expected, atol=1e-4, rtol=1e-4)


def test_the_head_is_kept(
    tiny_task: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = workload(encoder).model().state_dict()
    (file,) = (tmp_path / "cache").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(text_head, "fit_head", lambda *_: pytest.fail("fitted again"))
        again = workload(encoder, calibration=30).model().state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    file.write_bytes(file.read_bytes()[:-1])
    assert torch.equal(workload(encoder).model().state_dict()["head.weight"], first["head.weight"])
    assert "must be whole; got" in caplog.text
    assert "fitting again" in caplog.text
    workload(save_encoder(tmp_path / "other", 1)).model()
    workload(encoder, seed=1).model()
    assert len(list((tmp_path / "cache").iterdir())) == 3


@pytest.mark.usefixtures("tiny_task")
def test_random_state_is_left_alone(encoder: Path) -> None:
    before = torch.get_rng_state()
    workload(encoder).model()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("tiny_task")
def test_a_cache_that_cannot_be_written_is_told(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        workload(encoder).model()
    assert "cannot keep the head in" in caplog.text


def test_missing_and_changed_files(tiny_task: Path, encoder: Path, tmp_path: Path) -> None:
    (tiny_task / "train").write_text("0 other texts\n")
    with pytest.raises(
        DataError, match=r"SHA-256 of .*train must open with [0-9a-f]{8}; got [0-9a-f]{8}; fetch it again"
    ):
        workload(encoder).validation()
    (tiny_task / "train").unlink()
    with pytest.raises(DataError, match=r"the text file train must be in a data folder; got none in .*; fetch it from"):
        workload(encoder).validation()
    with pytest.raises(DataError, match="option 'data' must name a folder"):
        workload(encoder, data=str(tmp_path / "missing")).validation()


@pytest.mark.usefixtures("tiny_task")
def test_options_out_of_range(encoder: Path) -> None:
    with pytest.raises(DataError, match="option 'length' must be within what the model takes; got 21; at most 20"):
        workload(encoder, length=21).validation()
    with pytest.raises(DataError, match="'calibration' must leave some of 400 training texts; got 398"):
        workload(encoder, calibration=398).validation()
    with pytest.raises(DataError, match=r"'somebody/some-model' .*; got neither a folder nor .*; .* or set download"):
        workload(Path("somebody/some-model")).validation()


@pytest.mark.parametrize("options", [{"task": "mnli"}, {"length": 1}, {"calibration": 0}, {"modle": "x"}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        workload(**options)


def test_lines_keep_what_belongs_to_a_text() -> None:
    found = parse("1 a  b ?\n\n0 0 is\x85 a number \n5  x\n")
    assert found.texts == ("a  b ?", "0 is\x85 a number", "x")
    assert found.labels.tolist() == [1, 0, 5]


def test_the_encoder_is_found_in_its_package_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec(MINILM_PACKAGE) is None:
        pytest.skip(f"{MINILM_PACKAGE} is not installed")
    assert (Path(minilm()) / "model.safetensors").is_file()
    assert MINILM_PACKAGE not in sys.modules
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert minilm() == MINILM


def test_the_example_is_a_campaign_of_it() -> None:
    sweep = load(Path(__file__).parents[2] / "examples" / "text.yaml")
    found = create("workloads", sweep.workload.name, sweep.workload.options)
    assert isinstance(found, TextClassifier)
    assert found.classes == 6


@pytest.fixture
def real_texts(real_data: Path) -> Path:
    if not (real_data / "text" / "TREC.train.all").is_file() or minilm() == MINILM:
        pytest.skip(f"no text/TREC.train.all in {real_data}, or no package {MINILM_PACKAGE}")
    return real_data


@pytest.mark.usefixtures("real_texts")
@pytest.mark.parametrize(("task", "counts"), [("trec", (4869, 500, 500)), ("sst2", (6909, 872, 1821))])
def test_real_files(task: str, counts: tuple[int, int, int]) -> None:
    splits = workload(task=task).splits
    assert splits.test is not None
    assert splits.train is not None
    assert (len(splits.train), len(splits.validation), len(splits.test)) == counts
    full = float((splits.train.inputs[:, 1].sum(1) == splits.train.inputs.shape[2]).double().mean())
    assert full <= 0.011  # texts that may have been cut


@pytest.mark.slow
@pytest.mark.usefixtures("real_texts")
def test_float_accuracy_on_trec() -> None:
    found = workload()
    network = found.model()
    scores = []
    with torch.no_grad():
        for inputs, targets in found.test():
            scores.append(found.score(network(*inputs), targets))
    assert float(torch.cat(scores).mean()) == pytest.approx(0.906, abs=0.004)  # two of 500 for another processor


@pytest.mark.usefixtures("tiny_task")
def test_texts_that_are_alike_when_cut_are_all_kept(encoder: Path) -> None:
    splits = workload(encoder, length=4, calibration=50).splits
    assert splits.test is not None
    assert splits.train is not None
    assert (len(splits.test), len(splits.validation), len(splits.train)) == (TEST, 500, TRAIN - 500)


@pytest.mark.usefixtures("tiny_task")
def test_length_is_bounded_by_the_encoder_where_the_tokeniser_does_not_say(encoder: Path) -> None:
    settings = json.loads((encoder / "tokenizer_config.json").read_text())
    (encoder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 10**30}))
    with pytest.raises(DataError, match="option 'length' must be within what the model takes; got 21; at most 20"):
        workload(encoder, length=21).validation()
    assert workload(encoder, length=20).splits.validation.inputs.shape == (500, 2, 20)


def test_too_few_texts_are_told(
    encoder: Path, tmp_path: Path, tiny_task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = lines(words(100))
    (tiny_task / "train").write_text(content)
    files = {**TASKS["trec"].files, "train": ("train", sha256(content.encode())[:8])}
    monkeypatch.setitem(TASKS, "trec", TextTask(3, 16, "utf-8", files))  # type: ignore[arg-type]  # a dictionary
    with pytest.raises(DataError, match=r"500 texts must be drawn from .*; got 100 different texts, .* by class"):
        workload(encoder).validation()
