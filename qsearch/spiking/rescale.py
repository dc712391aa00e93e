"""Factors and constant drives of currents: layers of their own only where no weight beside them can take them in.

Notation: y = g ⊙ x + d, g the gain and d the drive, one number or of a shape that broadcasts with x.

In front of x = W z + b they are (g ⊙ W) z + (g ⊙ b + d) for every linear layer, and for a convolution whose g and d have one
number per channel. Behind it, W (g ⊙ z) = (W g) z, without a drive: zeros that pad a map stay zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

Weighted = nn.Linear | nn.Conv1d | nn.Conv2d


class Rescale(nn.Module):
    """y = g ⊙ x + d, in float.

    Args:
        gain, drive: g and d.
    """

    gain: Tensor
    drive: Tensor

    def __init__(self, gain: Tensor | float, drive: Tensor | float = 0.0) -> None:
        super().__init__()
        self.register_buffer("gain", torch.as_tensor(gain, dtype=torch.float32))
        self.register_buffer("drive", torch.as_tensor(drive, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """y, of the shape of x."""
        return x * self.gain + self.drive

    @property
    def idle(self) -> bool:
        """Whether it changes nothing: g is 1 but for the rounding of float32, d is 0."""
        ones = torch.ones_like(self.gain)
        return torch.allclose(self.gain, ones, rtol=1e-6, atol=0) and not bool(self.drive.any())


@torch.no_grad()
def taken_in_before(layer: nn.Module, rescale: Rescale) -> bool:
    """Have the layer in front of it take a rescaling in; whether it could."""
    if not isinstance(layer, Weighted):
        return False
    gain, drive = (_per_channel(values, layer) for values in (rescale.gain, rescale.drive))
    if gain is None or drive is None:
        return False
    layer.weight.mul_(gain.reshape(-1, *[1] * (layer.weight.dim() - 1)))
    if layer.bias is not None:
        layer.bias.mul_(gain).add_(drive)
    elif bool(drive.any()):
        layer.bias = nn.Parameter(drive.expand(layer.weight.shape[0]).clone())
    return True


@torch.no_grad()
def taken_in_behind(layer: nn.Module, rescale: Rescale) -> bool:
    """Have a layer behind it take a factor in; whether it could."""
    single = rescale.gain.numel() == 1 and not bool(rescale.drive.any())
    if single and isinstance(layer, Weighted):
        layer.weight.mul_(rescale.gain.reshape(()))
    return single and isinstance(layer, Weighted)


def _per_channel(values: Tensor, layer: Weighted) -> Tensor | None:
    """One number, or one per output channel of a layer; None where there are more."""
    if values.numel() == 1:
        return values.reshape(1)
    channels, spatial = layer.weight.shape[0], layer.weight.dim() - 2
    fits = tuple(values.shape) == (channels, *[1] * spatial)
    return values.reshape(channels) if fits else None
