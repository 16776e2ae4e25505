"""Restormer as the paper writes it (Zamir et al., CVPR 2022, arXiv:2111.09881): NCHW, one line per equation, nothing fused.

This network is the oracle for `model.py` and the baseline for its speed. The two share their state-dict keys and no code. Sides
must be multiples of 8.

Axes: b batch, c channels, h height, w width, e heads, d channels of one head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class LayerNormBody(nn.Module):
    def __init__(self, dim: int, kind: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        if kind == "WithBias":
            self.bias = nn.Parameter(torch.zeros(dim))
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        x = rearrange(x, "b c h w -> b h w c")
        mean = x.mean(dim=-1, keepdim=True)
        variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
        if self.kind == "WithBias":
            x = (x - mean) / torch.sqrt(variance + 1e-5) * self.weight + self.bias
        else:
            x = x / torch.sqrt(variance + 1e-5) * self.weight
        return rearrange(x, "b h w c -> b c h w")


class LayerNorm(nn.Module):
    def __init__(self, dim: int, kind: str) -> None:
        super().__init__()
        self.body = LayerNormBody(dim, kind)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class MDTA(nn.Module):
    """Multi-Dconv head transposed attention, equation 1."""

    def __init__(self, dim: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=bias)
        self.qkv_dwconv = nn.Conv2d(3 * dim, 3 * dim, 3, padding=1, groups=3 * dim, bias=bias)
        self.project_out = nn.Conv2d(dim, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        q, k, v = self.qkv_dwconv(self.qkv(x)).chunk(3, dim=1)
        q, k, v = (rearrange(t, "b (e d) h w -> b e d (h w)", e=self.heads) for t in (q, k, v))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        attention = torch.softmax(q @ k.transpose(-2, -1) * self.temperature, dim=-1)
        return self.project_out(rearrange(attention @ v, "b e d (h w) -> b (e d) h w", h=h, w=w))


class GDFN(nn.Module):
    """Gated-Dconv feed-forward network, equation 2."""

    def __init__(self, dim: int, expansion: float, bias: bool) -> None:
        super().__init__()
        hidden = int(dim * expansion)
        self.project_in = nn.Conv2d(dim, 2 * hidden, 1, bias=bias)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=bias)
        self.project_out = nn.Conv2d(hidden, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x1, x2 = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(F.gelu(x1) * x2)


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, expansion: float, bias: bool, kind: str) -> None:
        super().__init__()
        self.norm1, self.attn = LayerNorm(dim, kind), MDTA(dim, heads, bias)
        self.norm2, self.ffn = LayerNorm(dim, kind), GDFN(dim, expansion, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class Resample(nn.Module):
    """A 3x3 convolution and a pixel (un)shuffle. Down: half the side and twice the channels. Up: the reverse."""

    def __init__(self, dim: int, up: bool) -> None:
        super().__init__()
        shuffle = nn.PixelShuffle(2) if up else nn.PixelUnshuffle(2)
        self.body = nn.Sequential(nn.Conv2d(dim, 2 * dim if up else dim // 2, 3, padding=1, bias=False), shuffle)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class PatchEmbed(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class ReferenceRestormer(nn.Module):
    """Figure 2 of the paper, for RGB."""

    def __init__(
        self,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion_factor: float = 2.66,
        bias: bool = False,
        LayerNorm_type: str = "WithBias",  # noqa: N803 (the published keyword)
    ) -> None:
        super().__init__()

        def level(width: int, head_count: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(Block(width, head_count, ffn_expansion_factor, bias, LayerNorm_type) for _ in range(count)))

        self.patch_embed = PatchEmbed(dim)
        self.encoder_level1 = level(dim, heads[0], num_blocks[0])
        self.down1_2 = Resample(dim, up=False)
        self.encoder_level2 = level(2 * dim, heads[1], num_blocks[1])
        self.down2_3 = Resample(2 * dim, up=False)
        self.encoder_level3 = level(4 * dim, heads[2], num_blocks[2])
        self.down3_4 = Resample(4 * dim, up=False)
        self.latent = level(8 * dim, heads[3], num_blocks[3])
        self.up4_3 = Resample(8 * dim, up=True)
        self.reduce_chan_level3 = nn.Conv2d(8 * dim, 4 * dim, 1, bias=bias)
        self.decoder_level3 = level(4 * dim, heads[2], num_blocks[2])
        self.up3_2 = Resample(4 * dim, up=True)
        self.reduce_chan_level2 = nn.Conv2d(4 * dim, 2 * dim, 1, bias=bias)
        self.decoder_level2 = level(2 * dim, heads[1], num_blocks[1])
        self.up2_1 = Resample(2 * dim, up=True)
        self.decoder_level1 = level(2 * dim, heads[0], num_blocks[0])
        self.refinement = level(2 * dim, heads[0], num_refinement_blocks)
        self.output = nn.Conv2d(2 * dim, 3, 3, padding=1, bias=bias)

    def forward(self, image: Tensor) -> Tensor:
        """(b, 3, h, w) RGB in [0, 1], h and w multiples of 8 -> the same shape, not clamped."""
        level1 = self.encoder_level1(self.patch_embed(image))
        level2 = self.encoder_level2(self.down1_2(level1))
        level3 = self.encoder_level3(self.down2_3(level2))
        latent = self.latent(self.down3_4(level3))
        x = self.reduce_chan_level3(torch.cat([self.up4_3(latent), level3], dim=1))
        x = self.decoder_level3(x)
        x = self.reduce_chan_level2(torch.cat([self.up3_2(x), level2], dim=1))
        x = self.decoder_level2(x)
        x = torch.cat([self.up2_1(x), level1], dim=1)
        x = self.refinement(self.decoder_level1(x))
        return self.output(x) + image
