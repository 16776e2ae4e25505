"""Restormer (Zamir et al., CVPR 2022, arXiv:2111.09881) with the published state-dict keys, computed in NHWC.

`reference.py` is the same network written as in the paper. `layers.py` says why activations stay (b, h, w, c) from end to end.

Axes: b batch, h height, w width, c channels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restormer import fused
from restormer.layers import (
    Attention,
    Downsample,
    FeedForward,
    PatchEmbed,
    TransformerBlock,
    Upsample,
    conv,
    pointwise,
    spatial_in_float32,
)
from restormer.padding import pad_hidden

# The network halves the resolution three times, so `forward` pads the sides to multiples of this.
SIZE_MULTIPLE = 8
MIN_SIDE = 16


class Restormer(nn.Module):
    """A 4-level encoder-decoder of transformer blocks. The output is the input plus a learned correction.

    The constructor's keywords and defaults are the published ones. The defaults give 26 126 644 parameters in 494 tensors.
    """

    def __init__(
        self,
        inp_channels: int = 3,
        out_channels: int = 3,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion_factor: float = 2.66,
        bias: bool = False,
        LayerNorm_type: str = "WithBias",  # noqa: N803 (the published keyword)
        dual_pixel_task: bool = False,
    ) -> None:
        """Raises ValueError for channels that are not 3 in and out, or 1 in and out, the dual-pixel variant, an unknown LayerNorm
        kind, an odd `dim`, `num_blocks` or `heads` without 4 entries, or a level whose heads do not divide its width."""
        super().__init__()
        if inp_channels != out_channels or inp_channels not in (1, 3) or dual_pixel_task:
            raise ValueError(
                f"only RGB or grey Restormers are supported (3 or 1 channels), not {inp_channels} in, {out_channels} out"
                + (", dual-pixel" if dual_pixel_task else "")
            )
        if LayerNorm_type not in ("WithBias", "BiasFree"):
            raise ValueError(f"LayerNorm_type is 'WithBias' or 'BiasFree', not {LayerNorm_type!r}")
        if len(num_blocks) != 4 or len(heads) != 4:
            raise ValueError(f"num_blocks and heads have 4 entries, one per level, not {len(num_blocks)} and {len(heads)}")
        widths = [dim, 2 * dim, 4 * dim, 8 * dim]
        for width, count in zip(widths, heads, strict=True):
            if dim % 2 or width % count:
                raise ValueError(f"dim {dim} must be even and each level's width a multiple of its heads: {width}, {count}")

        def blocks(width: int, head_count: int, count: int) -> nn.Sequential:
            layers = [TransformerBlock(width, head_count, ffn_expansion_factor, bias, LayerNorm_type) for _ in range(count)]
            return nn.Sequential(*layers)

        self.channels = inp_channels
        self.patch_embed = PatchEmbed(inp_channels, dim)
        self.encoder_level1 = blocks(widths[0], heads[0], num_blocks[0])
        self.down1_2 = Downsample(widths[0])
        self.encoder_level2 = blocks(widths[1], heads[1], num_blocks[1])
        self.down2_3 = Downsample(widths[1])
        self.encoder_level3 = blocks(widths[2], heads[2], num_blocks[2])
        self.down3_4 = Downsample(widths[2])
        self.latent = blocks(widths[3], heads[3], num_blocks[3])
        self.up4_3 = Upsample(widths[3])
        self.reduce_chan_level3 = conv(widths[3], widths[2], 1, bias)
        self.decoder_level3 = blocks(widths[2], heads[2], num_blocks[2])
        self.up3_2 = Upsample(widths[2])
        self.reduce_chan_level2 = conv(widths[2], widths[1], 1, bias)
        self.decoder_level2 = blocks(widths[1], heads[1], num_blocks[1])
        self.up2_1 = Upsample(widths[1])
        # As published: level 1 of the decoder keeps the 2 * dim channels of the concatenation.
        self.decoder_level1 = blocks(widths[1], heads[0], num_blocks[0])
        self.refinement = blocks(widths[1], heads[0], num_refinement_blocks)
        self.output = conv(widths[1], out_channels, 3, bias)

    def forward(self, image: Tensor) -> Tensor:
        """(b, 3, h, w) RGB in [0, 1], any h, w >= 16 -> the same shape and dtype, not clamped. A grey network takes (b, 1, h, w).

        A half-precision network corrects a float32 image without rounding it. Raises ValueError for a smaller image.
        """
        height, width = image.shape[-2:]
        if min(height, width) < MIN_SIDE:
            raise ValueError(f"Restormer takes images of at least {MIN_SIDE}x{MIN_SIDE} pixels, not {height}x{width}")
        padded = F.pad(image, (0, -width % SIZE_MULTIPLE, 0, -height % SIZE_MULTIPLE), mode="reflect")
        nhwc = padded.permute(0, 2, 3, 1).contiguous()
        restored = padded + self._correction(nhwc).permute(0, 3, 1, 2).to(padded.dtype)
        return restored[..., :height, :width]

    def padded_copy(self) -> Restormer:
        """A frozen copy that gives the same images. The hidden widths of its feed-forward networks are padded to widths that a
        GPU multiplies fast, so its state dict has other shapes."""
        network = copy.deepcopy(self).requires_grad_(False)
        for module in network.modules():
            if isinstance(module, FeedForward):
                pad_hidden(module)
        return network

    def use_kernels(self) -> None:
        """Switches depthwise convolutions without gradients to the Triton kernels. They need CUDA and `kernels.AVAILABLE`."""
        for module in self.modules():
            if isinstance(module, Attention | FeedForward):
                module.use_kernels = True

    def _correction(self, x: Tensor) -> Tensor:
        """(b, h, w, 3 or 1), sides multiples of 8 -> the same shape."""
        level1 = self._blocks(self.encoder_level1, self.patch_embed(x))
        level2 = self._blocks(self.encoder_level2, self.down1_2(level1))
        level3 = self._blocks(self.encoder_level3, self.down2_3(level2))
        latent = self._blocks(self.latent, self.down3_4(level3))

        x = torch.cat([self.up4_3(latent), level3], dim=-1)
        x = self._blocks(self.decoder_level3, pointwise(x, self.reduce_chan_level3).float())
        x = torch.cat([self.up3_2(x), level2], dim=-1)
        x = self._blocks(self.decoder_level2, pointwise(x, self.reduce_chan_level2).float())
        x = torch.cat([self.up2_1(x), level1], dim=-1)
        x = self._blocks(self.refinement, self._blocks(self.decoder_level1, x))
        return spatial_in_float32(x, self.output)

    def _blocks(self, blocks: nn.Sequential, x: Tensor) -> Tensor:
        """Runs the blocks one after the other, each of them in bands of rows if `fused.can_fuse` allows it."""
        if fused.can_fuse(x, self.output.weight):
            return fused.apply_blocks(cast(Iterable[TransformerBlock], blocks), x)
        return blocks(x)
