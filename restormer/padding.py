"""Pads hidden widths such as 127 and 255 with zeros that change no result.

Matrix products and depthwise convolutions are slow unless the channels of each pixel are aligned in memory to 16 bytes or more.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restormer.layers import FeedForward

CHANNEL_MULTIPLE = 16


def pad_hidden(ffn: FeedForward) -> None:
    """Pads the hidden width of a feed-forward network to a multiple of CHANNEL_MULTIPLE, and freezes its weights."""
    extra = -ffn.project_out.in_channels % CHANNEL_MULTIPLE
    for conv in (ffn.project_in, ffn.dwconv):
        _replace(conv, *pad_halves(conv.weight, conv.bias, extra))
        conv.out_channels += 2 * extra
    ffn.dwconv.in_channels = ffn.dwconv.groups = ffn.dwconv.out_channels
    # Axis 1 is padded, the input channels. The added inputs are gelu(0) * 0 = 0.
    _replace(ffn.project_out, F.pad(ffn.project_out.weight, (0, 0, 0, 0, 0, extra)), ffn.project_out.bias)
    ffn.project_out.in_channels += extra


def pad_halves(weight: Tensor, bias: Tensor | None, extra: int) -> tuple[Tensor, Tensor | None]:
    """Appends `extra` zero channels to each half of the output channels: to the gate and to the value."""

    def pad(of: Tensor) -> Tensor:
        zeros = of.new_zeros(extra, *of.shape[1:])
        gate, value = of.chunk(2)
        return torch.cat([gate, zeros, value, zeros])

    return pad(weight), None if bias is None else pad(bias)


def _replace(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> None:
    conv.weight = nn.Parameter(weight.detach(), requires_grad=False)
    conv.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
