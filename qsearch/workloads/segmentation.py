"""Loss and score of segmentation.

Notation: N images of H × W pixels, C classes; logits z (N, C, H, W); targets t (N, H, W); p = softmax(z) over classes.
Dice of a class c with predicted pixels P and true pixels T: 2 |P ∩ T| / (|P| + |T|) (Dice, *Ecology* 26, 1945).
"""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812  # the name torch's own documentation uses
from torch import Tensor


def cross_entropy_and_dice(output: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of a pixel in nats, plus 1 − the soft Dice of an image: a scalar, the mean over N.

    The soft Dice puts p in the place of predictions and averages over the classes that the target has (Milletari et al.,
    *V-Net*, 2016, §3, but with the plain sum in the denominator).
    """
    soft = _dice(output.softmax(dim=1), _one_hot(target, output))
    return F.cross_entropy(output, target) + 1 - soft.mean()


def dice(output: Tensor, target: Tensor) -> Tensor:
    """Dice of the most probable classes, averaged over the classes that an image's target has; shape (N,)."""
    return _dice(_one_hot(output.argmax(dim=1), output), _one_hot(target, output))


def _dice(predicted: Tensor, true: Tensor) -> Tensor:
    """Of memberships (N, C, H, W), averaged over the classes that are true somewhere; shape (N,)."""
    common, sizes, pixels = ((part).sum(dim=(2, 3)) for part in (predicted * true, predicted + true, true))
    present = (pixels > 0).to(common.dtype)
    return (2 * common / sizes.clamp_min(1) * present).sum(dim=1) / present.sum(dim=1)


def _one_hot(classes: Tensor, like: Tensor) -> Tensor:
    """(N, H, W) → (N, C, H, W), of the type of ``like``."""
    return F.one_hot(classes, like.shape[1]).movedim(-1, 1).to(like.dtype)
