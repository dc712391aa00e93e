"""Networks, tokenisers and image processors of ``transformers``: from a folder, or by id from its cache.

Weights are safetensors, or a pickle of tensors and nothing else (``weights_only``). Code that lies beside them is never
run. Nothing is fetched unless the caller says so, and nothing is shown: what went wrong is in the error.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from qsearch.errors import DataError, PluginError
from qsearch.workloads.huggingface_offline import offline_unless

try:
    import transformers
    from transformers.utils import logging as transformers_logging
except ImportError as error:
    raise PluginError(
        "workloads of Hugging Face's networks need the package transformers", fix="pip install 'qsearch[huggingface]'"
    ) from error

ENCODER = transformers.AutoModel
TEXT_CLASSIFIER = transformers.AutoModelForSequenceClassification
IMAGE_CLASSIFIER = transformers.AutoModelForImageClassification
"""What :func:`load_network` can make of a folder's configuration."""


def load_network(kind: Any, model: Path | str, download: bool, unused: str = "") -> Any:
    """A trained ``PreTrainedModel`` in float32 and evaluation mode.

    Args:
        kind: one of the classes above.
        model: a folder, or an id.
        download: fetch what is not in the cache of ``transformers``.
        unused: opening of the names of parameters that the caller has no use for: they may be missing.

    Raises:
        DataError: not found, malformed, of another kind, or without some of its weights.
    """
    settings = {"output_loading_info": True, "dtype": torch.float32, "weights_only": True}
    network, report = _load(kind, model, download, **settings)
    missing = sorted(name for name in report["missing_keys"] if not (unused and name.startswith(unused)))
    if missing:
        raise DataError(
            f"model {str(model)!r} must hold all weights of a {type(network).__name__}",
            got=f"none for {', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}",
            fix="give a model that was trained for this task",
        )
    return network.eval()


def load_tokenizer(model: Path | str, download: bool) -> Any:
    """The tokeniser of a model.

    Raises:
        DataError: as :func:`load_network`, or it cannot pad.
    """
    tokenizer = _load(transformers.AutoTokenizer, model, download)
    if tokenizer.pad_token is None:
        raise DataError(
            f"the tokenizer of model {str(model)!r} must have a padding token",
            fix="set pad_token in its tokenizer_config.json",
        )
    return tokenizer


def load_image_processor(model: Path | str, download: bool) -> Any:
    """What turns images into a model's inputs: the implementation in NumPy and PIL, the same on every machine.

    Raises:
        DataError: as :func:`load_network`.
    """
    return _load(transformers.AutoImageProcessor, model, download, backend="pil")


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars, messages and warnings of ``transformers`` inside; as before afterwards."""
    bars, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        transformers_logging.set_verbosity(logging.CRITICAL)
        try:
            yield
        finally:
            transformers_logging.set_verbosity(level)
            if bars:
                transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _load(kind: Any, model: Path | str, download: bool, **settings: Any) -> Any:
    """``kind.from_pretrained``, with one clear line for each of its many errors."""
    place = Path(model).expanduser()
    try:
        with quiet(), offline_unless(download), torch.random.fork_rng(devices=[]):
            return kind.from_pretrained(
                str(place) if place.exists() else str(model),
                local_files_only=not download,
                trust_remote_code=False,
                **settings,
            )
    except Exception as error:  # a folder may be wrong in any way, and each file has errors of its own
        raise DataError(
            f"model {str(model)!r} must load as {kind.__name__}",
            got=_reason(error, place, download),
            fix=_fix(place, download),
        ) from error


def _reason(error: Exception, place: Path, download: bool) -> str:
    if isinstance(error, OSError) and not download and not place.exists():  # it says that there is no network
        return "neither a folder nor in the cache of transformers"
    return f"{type(error).__name__}: {error}"[:300]


def _fix(place: Path, download: bool) -> str:
    if place.exists():
        return (
            "its folder must hold config.json, model.safetensors, and the files of its tokenizer or image processor, "
            "as save_pretrained writes them"
        )
    if download:
        return "check the id and the network"
    return "give the folder that holds it, or set download: true to fetch it by its id"
