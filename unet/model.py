"""The student: a U-Net (Ronneberger et al., MICCAI 2015) that predicts a correction of its input.

`UNet(width=64, depth=4, residual=False)` is the original project's network, with the same state-dict keys.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# Sides are padded to a multiple of 16 at any depth, as in the original project: the same weights give the same image in both.
SIZE_MULTIPLE = 16
MIN_SIDE = 16


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each followed by the norm and a ReLU. They are in `block`, as in the original project's keys."""

    def __init__(self, c_in: int, c_out: int, norm: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (c_in, c_out):
            layers.append(nn.Conv2d(channels, c_out, 3, padding=1))
            if norm == "batch":
                layers.append(nn.BatchNorm2d(c_out))
            layers.append(nn.ReLU(inplace=True))
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class UNet(nn.Module):
    """Encoders enc1, enc2, ..., a bottleneck, decoders ..., dec1. Each level down has half the sides and twice the channels."""

    def __init__(self, width: int = 32, depth: int = 4, residual: bool = True, norm: str = "batch") -> None:
        """`depth` counts the levels, including the bottleneck: depth 4 has three poolings. With `residual`, the network predicts
        a correction to its input. Its last layer then starts at zero, so the untrained network returns its input.

        Raises ValueError for a depth outside 2 to 5, a width below 1, or an unknown norm.
        """
        super().__init__()
        if not 2 <= depth <= 5 or width < 1 or norm not in ("batch", "none"):
            raise ValueError(f"depth is 2 to 5, width at least 1, norm batch or none; found {depth}, {width}, {norm!r}")
        self.depth, self.residual = depth, residual
        channels = [width * 2**level for level in range(depth)]
        for level in range(1, depth):
            self.add_module(f"enc{level}", DoubleConv(3 if level == 1 else channels[level - 2], channels[level - 1], norm))
        self.bottleneck = DoubleConv(channels[-2], channels[-1], norm)
        for level in range(depth - 1, 0, -1):
            self.add_module(f"up{level}", nn.ConvTranspose2d(channels[level], channels[level - 1], 2, stride=2))
            self.add_module(f"dec{level}", DoubleConv(channels[level], channels[level - 1], norm))
        self.final = nn.Conv2d(width, 3, 1)
        if residual:
            nn.init.zeros_(self.final.weight)
            nn.init.zeros_(cast(nn.Parameter, self.final.bias))

    @property
    def receptive_radius(self) -> int:
        """Receptive radius in pixels: a block of output pixels depends only on inputs within this distance of the block.

        This holds for blocks that begin and end at multiples of the total downsampling factor, 2 ** (depth - 1).
        """
        # Follows the network backwards, from the output to the input. `reach` is in pixels of the current level, from the block's
        # first pixel towards lower coordinates. It is the same from the block's last pixel towards higher coordinates.
        reach = 0
        for _ in range(self.depth - 1):  # the decoders
            reach = -(-(reach + 2) // 2)  # two 3x3 convolutions add 2; the next level has half the resolution, rounded up
        reach += 2  # the bottleneck
        for _ in range(self.depth - 1):  # the encoders
            reach = 2 * reach + 2
        return reach

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1], any H, W >= 16 -> the same shape, not clamped. Raises ValueError for a smaller image."""
        height, width = image.shape[-2:]
        if min(height, width) < MIN_SIDE:
            raise ValueError(f"UNet takes images of at least {MIN_SIDE}x{MIN_SIDE} pixels, not {height}x{width}")
        x = F.pad(image, (0, -width % SIZE_MULTIPLE, 0, -height % SIZE_MULTIPLE), mode="reflect")
        skips = []
        for level in range(1, self.depth):
            x = self.get_submodule(f"enc{level}")(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottleneck(x)
        for level in range(self.depth - 1, 0, -1):
            x = self.get_submodule(f"up{level}")(x)
            x = self.get_submodule(f"dec{level}")(torch.cat([x, skips[level - 1]], dim=1))
        x = self.final(x)[..., :height, :width]
        return image + x if self.residual else x


def for_inference(model: UNet) -> UNet:
    """A copy that gives the same images faster. Each BatchNorm is folded into the convolution before it; memory is channels_last.

    The copy is in eval mode, is frozen, and has the state-dict keys of `norm="none"`.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for block in [module for module in model.modules() if isinstance(module, DoubleConv)]:
        layers: list[nn.Module] = []
        for layer in block.block:
            if isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm):
                layers.append(fuse_conv_bn_eval(cast(nn.Conv2d, layers.pop()), layer))
            else:
                layers.append(layer)
        block.block = nn.Sequential(*layers)
    return model.to(memory_format=torch.channels_last)
