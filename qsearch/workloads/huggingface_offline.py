"""Keeping Hugging Face's packages from the network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from qsearch.errors import PluginError

try:
    from huggingface_hub import constants
except ImportError as error:
    raise PluginError(
        "workloads of Hugging Face's networks need the package transformers", fix="pip install 'qsearch[huggingface]'"
    ) from error


@contextmanager
def offline_unless(download: bool) -> Iterator[None]:
    """Inside, the hub is asked for nothing unless ``download``; as before afterwards.

    ``local_files_only`` does not do: the package asks for other things than the files, such as a list to name its user by.
    """
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not download
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
