"""Images as tensors, by the image processor that belongs to a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qsearch.errors import DataError

MODES = {1: "L", 3: "RGB"}
"""Channels → what PIL calls such images."""


def pixels(processor: Any, images: Sequence[Any], channels: int, where: str) -> Tensor:
    """Images of PIL, resized and normalised: float32 of shape (N, channels, H, W).

    Raises:
        DataError: a number of channels that images do not have, or images of several sizes that the processor leaves.
    """
    if channels not in MODES:
        raise DataError("the model must take images of 1 or 3 channels", got=channels)
    # one by one, as the processor cannot stack images of several sizes
    found = [
        processor(images=image.convert(MODES[channels]), return_tensors="pt")["pixel_values"][0].float()
        for image in images
    ]
    shapes = sorted({tuple(image.shape) for image in found})
    if len(shapes) > 1:
        raise DataError(
            f"images of {where} must have one size",
            got=", ".join("×".join(map(str, shape)) for shape in shapes[:3]),
            fix="set do_resize and size in the model's preprocessor_config.json",
        )
    return torch.stack(found)
