"""Conversion between 8-bit images and floats in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor


def to_float(image: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 -> float in [0, 1], channels_last."""
    return image.contiguous(memory_format=torch.channels_last).float() / 255


def quantize(image: Tensor) -> Tensor:
    """Clamps to [0, 1] and rounds to the nearest of 256 levels."""
    return (image.clamp(0, 1) * 255).round() / 255


def to_uint8(image: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> uint8. `quantize` clamps and rounds, as it does when a network's input is made. The second
    rounding only turns the multiples of 1/255 into whole numbers."""
    return (quantize(image.float()) * 255).round().byte()
