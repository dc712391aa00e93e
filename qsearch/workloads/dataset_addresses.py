"""Addresses in a folder of the ``datasets`` package, which would be fetched without a word: they are refused.

They stand in two places: the front matter of a README (or ``.huggingface.yaml``) may name files elsewhere, and an image
may be kept as the address of a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from qsearch.errors import DataError, PluginError

try:
    import datasets
    from huggingface_hub import DatasetCard
except ImportError as error:
    raise PluginError(
        "a folder of the datasets package needs it to be read", fix="pip install 'qsearch[huggingface]'"
    ) from error

FIX = "fetch the files, and name them by their place in the folder"


def check_card(folder: Path) -> None:
    """Raise DataError where a folder's card takes data files from elsewhere, as ``load_dataset`` would read it."""
    readme, settings = folder / datasets.config.REPOCARD_FILENAME, folder / datasets.config.REPOYAML_FILENAME
    cards: dict[Path, Any] = {}
    if readme.is_file():
        cards[readme] = DatasetCard.load(readme).data.to_dict()
    if settings.is_file():
        cards[settings] = YAML(typ="safe").load(settings.read_text(encoding="utf-8"))
    for path, card in cards.items():
        configs = card.get("configs") if isinstance(card, dict) else None
        address = next((text for text in _texts(configs) if _is_address(text)), None)
        if address is not None:
            raise DataError(f"data files that {path} names must be in its folder", got=address[:200], fix=FIX)


def decoded(data: Any, column: str) -> Any:
    """The data set, with images of PIL in a column that holds them as bytes, as arrays or as paths.

    Raises:
        DataError: an image is an address.
    """
    stored = data.cast_column(column, datasets.Image(decode=False))
    for image in stored[column]:
        place = None if image is None or image["bytes"] is not None else image["path"]
        if place is not None and _is_address(place):
            raise DataError(f"images in column {column!r} must be in the data set", got=place[:200], fix=FIX)
    return stored.cast_column(column, datasets.Image())


def _is_address(text: str) -> bool:
    """Whether the package would open it by a protocol, or a chain of them."""
    return "://" in text or "::" in text


def _texts(value: Any) -> Iterator[str]:
    """All strings within nested lists and dictionaries."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
