"""``huggingface``: a classifier from ``transformers`` on a data set of ``datasets``, images or texts; folders or ids."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.utils.data import DataLoader

from qsearch.errors import DataError
from qsearch.registry import PluginOptions
from qsearch.workloads.base import ArrayWorkload, Samples, Splits
from qsearch.workloads.dataset_addresses import decoded
from qsearch.workloads.distinct import distinct
from qsearch.workloads.huggingface_data import SPLITS, Split, find_column, find_splits, opened
from qsearch.workloads.huggingface_images import pixels
from qsearch.workloads.huggingface_labels import class_names, class_numbers
from qsearch.workloads.huggingface_models import (
    IMAGE_CLASSIFIER,
    TEXT_CLASSIFIER,
    load_image_processor,
    load_network,
    load_tokenizer,
)
from qsearch.workloads.text_tokens import as_two_inputs, encode, longest, positions_of, uncut

_Rows = tuple[list[Any], NDArray[np.int64]]
"""Inputs as a data set has them, and their classes."""

HELD_OUT = 0.2
"""Share of the training split that validates where a data set has neither validation nor test data."""


class SplitNames(PluginOptions):
    """What the data set calls its splits; found by the usual names where None."""

    train: str | None = None
    validation: str | None = None
    test: str | None = None


class HuggingFace(ArrayWorkload):
    """Any classifier of images or texts that ``transformers`` loads, on any data set that ``datasets`` loads.

    Of each split the rows are taken in a seeded order, as many data sets are sorted by class. Calibration: the first of
    the training split. A data set without validation data validates on half of its test data; one without either, on a
    fifth of its training data, and has no test split; where validation data are taken in this way, an input that occurs
    twice is kept once: in the first of test, validation and train.
    """

    name = "huggingface"
    batch_size = 50

    class Options(PluginOptions):
        """Options of the workload.

        Attributes:
            task: what is classified.
            model: a folder as ``save_pretrained`` writes it, or an id.
            dataset: a folder of csv, json or parquet files, of images in a folder per class, one by ``save_to_disk``, or
                an id.
            subset: one of several that the data set has, as "sst2" of GLUE.
            splits: what the data set calls its splits; see :class:`SplitNames`.
            input_column, label_column: of the data set; found by the usual names where None.
            labels: name of a label of the data set, or its number, → class of the model; by name where None, if both have
                names, else by number.
            length: tokens that texts are cut or padded to; else what 99 % of the calibration texts need.
            calibration: calibration samples, out of the training samples.
            samples: at most as many of each split.
            seed: of the order in which rows are taken.
            download: fetch a model or a data set that is given by its id and is not in the cache of its package.
        """

        task: Literal["image-classification", "text-classification"]
        model: Path | str
        dataset: Path | str
        subset: str | None = None
        splits: SplitNames = SplitNames()
        input_column: str | None = None
        label_column: str | None = None
        labels: dict[str, int] | None = None
        length: int | None = Field(default=None, ge=4)
        calibration: PositiveInt = 256
        samples: PositiveInt = 1000
        seed: int = Field(default=0, ge=0)
        download: bool = False

    def __init__(self, options: Options) -> None:
        self.options = options

    def network(self) -> nn.Module:
        """The model: inputs → logits."""
        return TextLogits(self._model) if self._of_texts else ImageLogits(self._model)

    def load(self) -> Splits:
        """The rows as inputs of the model, and their classes."""
        options = self.options
        with opened(options.dataset, options.subset, options.download) as found:
            given = {split: getattr(options.splits, split) for split in SPLITS}
            names = find_splits(tuple(found), given, str(options.dataset))
            chosen = self._chosen({split: len(found[name]) for split, name in names.items()})
            rows = {split: self._rows(found[names[source]], source, order) for split, (source, order) in chosen.items()}
        if "validation" not in names:
            rows = self._distinct(rows)
        inputs = self._inputs({split: values for split, (values, _) in rows.items()})
        parts = {split: Samples(inputs[split], torch.from_numpy(labels)) for split, (_, labels) in rows.items()}
        self.input_shape = tuple(parts["train"].inputs.shape[1:])
        calibration = parts["train"].take(torch.arange(min(options.calibration, len(parts["train"]))))
        return Splits(calibration, parts["validation"], parts.get("test"), parts["train"])

    def _loader(self, split: str, samples: Samples) -> DataLoader[Any]:
        loader = super()._loader(split, samples)
        return as_two_inputs(loader) if self._of_texts else loader

    @cached_property
    def classes(self) -> int:  # type: ignore[override]  # a model says it, no class
        """Classes of the model."""
        count: int = self._model.config.num_labels
        return count

    @property
    def _of_texts(self) -> bool:
        return self.options.task == "text-classification"

    @cached_property
    def _model(self) -> Any:
        """The ``PreTrainedModel``."""
        kind = TEXT_CLASSIFIER if self._of_texts else IMAGE_CLASSIFIER
        model = load_network(kind, self.options.model, self.options.download)
        if model.config.num_labels < 2:
            raise DataError(
                f"model {str(self.options.model)!r} must choose between classes",
                got=f"{model.config.num_labels} output",
            )
        return model

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self.options.model, self.options.download)

    def _chosen(self, counts: Mapping[Split, int]) -> dict[Split, tuple[Split, NDArray[np.int64]]]:
        """Split of the workload → split of the data set that it is taken from, and rows there."""
        generator = np.random.default_rng(self.options.seed)
        orders: dict[Split, NDArray[np.int64]] = {split: generator.permutation(n) for split, n in counts.items()}
        chosen: dict[Split, tuple[Split, NDArray[np.int64]]] = {split: (split, rows) for split, rows in orders.items()}
        if "validation" not in orders:
            source: Split = "test" if "test" in orders else "train"
            rows = orders[source]
            held_out = len(rows) // 2 if source == "test" else round(HELD_OUT * len(rows))
            chosen["validation"], chosen[source] = (source, rows[:held_out]), (source, rows[held_out:])
        return {split: (source, rows[: self.options.samples]) for split, (source, rows) in chosen.items()}

    def _rows(self, data: Any, split: Split, order: NDArray[np.int64]) -> _Rows:
        """Inputs of some rows as the data set has them, and their classes."""
        options = self.options
        where = f"split {split!r} of {options.dataset}"
        if not len(order):
            raise DataError(
                f"{where} must not be empty", got=f"{len(data)} row{'s' * (len(data) != 1)}", fix="choose another split"
            )
        column = find_column(data, "text" if self._of_texts else "image", options.input_column, where)
        label = find_column(data, "label", options.label_column, where)
        names = getattr(data.features[label], "names", None)
        taken = data.select(order)
        model_names = class_names(self._model.config) if options.labels is None else {}
        labels = class_numbers(
            taken.select_columns(label)[label][:], names, model_names, self.classes, where, options.labels
        )
        return _read(taken.select_columns(column), column, self._of_texts, where), labels

    def _distinct(self, rows: Mapping[Split, _Rows]) -> dict[Split, _Rows]:
        """Rows of each split, without those whose input was there before."""
        kept = distinct({split: self._keys(values) for split, (values, _) in rows.items()})
        empty = next((split for split in rows if not len(kept[split])), None)
        if empty is not None:
            raise DataError(
                f"split {empty!r} of {self.options.dataset} must hold inputs that no other split has",
                got=f"{len(rows[empty][0])} rows, all of them repeated",
                fix="give data without repeated rows, or splits of your own",
            )
        return {
            split: ([values[row] for row in kept[split]], labels[kept[split].numpy()])
            for split, (values, labels) in rows.items()
        }

    def _keys(self, values: list[Any]) -> list[Any]:
        """What tells inputs apart."""
        if self._of_texts:
            return uncut(self._tokenizer, values)
        return [(image.mode, image.size, image.tobytes()) for image in values]

    def _inputs(self, rows: Mapping[Split, list[Any]]) -> dict[Split, Tensor]:
        """Inputs of the model, by split."""
        options = self.options
        if not self._of_texts:
            processor = load_image_processor(options.model, options.download)
            channels = getattr(self._model.config, "num_channels", 3)
            return {split: pixels(processor, images, channels, f"split {split!r}") for split, images in rows.items()}
        tokenizer = self._tokenizer
        positions = positions_of(self._model, tokenizer)
        length = options.length or longest(tokenizer, rows["train"][: options.calibration], positions)
        return {split: encode(tokenizer, texts, length, positions) for split, texts in rows.items()}


class TextLogits(nn.Module):
    """A text classifier with positional inputs: indices and attention mask, (N, T) each → logits (N, C)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, indices: Tensor, mask: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.model(input_ids=indices, attention_mask=mask).logits
        return logits


class ImageLogits(nn.Module):
    """An image classifier: (N, channels, H, W) → logits (N, C)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.model(pixel_values=images).logits
        return logits


def _read(data: Any, column: str, of_texts: bool, where: str) -> list[Any]:
    """The values of a column: strings, or images of PIL.

    Raises:
        DataError: something else, or a file that cannot be read.
    """
    try:
        values = list(data[column] if of_texts else decoded(data, column)[column])
    except DataError:
        raise
    except Exception as error:  # a file may be damaged in any way
        raise DataError(
            f"column {column!r} of {where} must be readable", got=f"{type(error).__name__}: {error}"[:300]
        ) from error
    if of_texts and not all(isinstance(value, str) for value in values):
        odd = next(value for value in values if not isinstance(value, str))
        raise DataError(f"column {column!r} of {where} must hold texts", got=type(odd).__name__)
    return values
