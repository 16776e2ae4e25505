"""The student: a U-Net (Ronneberger et al., MICCAI 2015) that predicts a correction of its input.

It has two forms. `double_conv` is the paper's, and the original project's: `UNet(width=64, depth=4, residual=False)` has its
state-dict keys. `residual` is that of newer restoration networks, such as DRUNet (Zhang et al., arXiv:2008.13751): residual
blocks and skips that are added.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
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


class ResidualBlock(nn.Module):
    """x + convolution(ReLU(convolution(x))), both 3x3 and each followed by the norm. What it adds is zero at the start."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm1, self.norm2 = (nn.BatchNorm2d(channels) if norm == "batch" else nn.Identity() for _ in range(2))
        last: nn.Module = self.norm2 if norm == "batch" else self.conv2
        nn.init.zeros_(cast(nn.Parameter, last.weight))
        nn.init.zeros_(cast(nn.Parameter, last.bias))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)), inplace=True)))


class UNet(nn.Module):
    """Encoders enc1, enc2, ..., a bottleneck, decoders ..., dec1. Each level down has half the sides and twice the channels."""

    def __init__(
        self,
        width: int = 32,
        depth: int = 4,
        residual: bool = True,
        norm: str = "batch",
        block: str = "double_conv",
        blocks: Sequence[int] | None = None,
    ) -> None:
        """`depth` counts the levels, including the bottleneck: depth 4 has three changes of resolution. With `residual`, the
        network predicts a correction to its input. Its last layer then starts at zero, so the untrained network returns its
        input.

        `block` is the form, `double_conv` or `residual`. `blocks`, for the second only, has the number of residual blocks of each
        level, the bottleneck last; a level's encoder and decoder have as many each.

        Raises ValueError for a depth outside 2 to 5, a width below 1, an unknown norm or block, or `blocks` that do not fit.
        """
        super().__init__()
        if not 2 <= depth <= 5 or width < 1 or norm not in ("batch", "none"):
            raise ValueError(f"depth is 2 to 5, width at least 1, norm batch or none; found {depth}, {width}, {norm!r}")
        if block not in ("double_conv", "residual"):
            raise ValueError(f"block is double_conv or residual; found {block!r}")
        if (blocks is None) != (block == "double_conv"):
            raise ValueError("blocks are given for block residual, and for no other")
        if blocks is not None and (len(blocks) != depth or min(blocks) < 0):
            raise ValueError(f"blocks has a number of at least 0 for each of the {depth} levels; found {list(blocks)}")
        self.depth, self.residual, self.blocks = depth, residual, blocks
        channels = [width * 2**level for level in range(depth)]
        if blocks is None:
            self._build_double_conv(channels, norm)
        else:
            self._build_residual(channels, norm, blocks)
        if residual:
            nn.init.zeros_(self.final.weight)
            nn.init.zeros_(cast(nn.Parameter, self.final.bias))

    def _build_double_conv(self, channels: Sequence[int], norm: str) -> None:
        self.stem: nn.Module = nn.Identity()
        for level in range(1, self.depth):
            self.add_module(f"enc{level}", DoubleConv(3 if level == 1 else channels[level - 2], channels[level - 1], norm))
            self.add_module(f"down{level}", nn.MaxPool2d(2))
        self.bottleneck: nn.Module = DoubleConv(channels[-2], channels[-1], norm)
        for level in range(self.depth - 1, 0, -1):
            self.add_module(f"up{level}", nn.ConvTranspose2d(channels[level], channels[level - 1], 2, stride=2))
            self.add_module(f"dec{level}", DoubleConv(channels[level], channels[level - 1], norm))
        self.final = nn.Conv2d(channels[0], 3, 1)

    def _build_residual(self, channels: Sequence[int], norm: str, blocks: Sequence[int]) -> None:
        def level_of(level: int) -> nn.Sequential:
            return nn.Sequential(*(ResidualBlock(channels[level - 1], norm) for _ in range(blocks[level - 1])))

        self.stem = nn.Conv2d(3, channels[0], 3, padding=1)
        for level in range(1, self.depth):
            self.add_module(f"enc{level}", level_of(level))
            self.add_module(f"down{level}", nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(channels[level - 1], channels[level], 1)))
        self.bottleneck = level_of(self.depth)
        for level in range(self.depth - 1, 0, -1):
            to_shuffle = nn.Conv2d(channels[level], 4 * channels[level - 1], 1)
            self.add_module(f"up{level}", nn.Sequential(to_shuffle, nn.PixelShuffle(2)))
            self.add_module(f"dec{level}", level_of(level))
        self.final = nn.Conv2d(channels[0], 3, 3, padding=1)

    @property
    def receptive_radius(self) -> int:
        """Receptive radius in pixels: a block of output pixels depends only on inputs within this distance of the block.

        This holds for blocks that begin and end at multiples of the total downsampling factor, 2 ** (depth - 1).
        """
        # Follows the network backwards, from the output to the input. `reach` is in pixels of the current level, from the block's
        # first pixel towards lower coordinates. It is the same from the block's last pixel towards higher coordinates.
        of_level = [2] * self.depth if self.blocks is None else [2 * count for count in self.blocks]  # two 3x3 convolutions add 2
        ends = 0 if self.blocks is None else 1  # the stem's and the last layer's 3x3 convolution
        reach = ends
        for level in range(1, self.depth):  # the decoders
            reach = -(-(reach + of_level[level - 1]) // 2)  # the next level has half the resolution, rounded up
        reach += of_level[-1]  # the bottleneck
        for level in range(self.depth - 1, 0, -1):  # the encoders
            reach = 2 * reach + of_level[level - 1]
        return reach + ends

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1], any H, W >= 16 -> the same shape, not clamped. Raises ValueError for a smaller image."""
        height, width = image.shape[-2:]
        if min(height, width) < MIN_SIDE:
            raise ValueError(f"UNet takes images of at least {MIN_SIDE}x{MIN_SIDE} pixels, not {height}x{width}")
        x = F.pad(image, (0, -width % SIZE_MULTIPLE, 0, -height % SIZE_MULTIPLE), mode="reflect")
        x = self.stem(x)
        skips = []
        for level in range(1, self.depth):
            x = self.get_submodule(f"enc{level}")(x)
            skips.append(x)
            x = self.get_submodule(f"down{level}")(x)
        x = self.bottleneck(x)
        for level in range(self.depth - 1, 0, -1):
            x, skip = self.get_submodule(f"up{level}")(x), skips[level - 1]
            x = self.get_submodule(f"dec{level}")(torch.cat([x, skip], dim=1) if self.blocks is None else x + skip)
        x = self.final(x)[..., :height, :width]
        return image + x if self.residual else x


def for_inference(model: UNet) -> UNet:
    """A copy that gives the same images faster. Each BatchNorm is folded into the convolution before it; memory is channels_last.

    The copy is in eval mode, is frozen, and has the state-dict keys of `norm="none"`.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for block in list(model.modules()):
        if isinstance(block, DoubleConv):
            block.block = nn.Sequential(*_folded(block.block))
        elif isinstance(block, ResidualBlock):
            block.conv1, block.conv2 = cast(list[nn.Conv2d], _folded([block.conv1, block.norm1, block.conv2, block.norm2]))
            block.norm1, block.norm2 = nn.Identity(), nn.Identity()
    return model.to(memory_format=torch.channels_last)


def _folded(layers: Iterable[nn.Module]) -> list[nn.Module]:
    """The layers, each BatchNorm folded into the convolution before it, without those that do nothing."""
    kept: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm):
            kept.append(fuse_conv_bn_eval(cast(nn.Conv2d, kept.pop()), layer))
        elif not isinstance(layer, nn.Identity):
            kept.append(layer)
    return kept
