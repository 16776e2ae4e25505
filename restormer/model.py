"""Restormer (Zamir et al., CVPR 2022, arXiv:2111.09881) with the published state-dict keys, computed in NHWC.

`reference.py` is the same network written as in the paper. Here activations stay (b, h, w, c) from end to end: LayerNorm and
the 1x1 convolutions then work on contiguous rows, as `layer_norm` and a matrix product, and the 3x3 convolutions take the
same memory as channels_last, so that no layer waits for a transposition.

With half-precision weights, what every layer adds to, the stream of activations between the blocks, stays float32, and so do all
sums over pixels or channels. A deblurring network amplifies rounding: with a half-precision stream the error was twice as large.

Axes: b batch, h height, w width, c channels, n = h * w pixels, e heads, d channels of one head.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from restormer import fused, kernels
from restormer.padding import pad_hidden

# Three halvings of the resolution: the network itself needs sides that are multiples of this.
SIZE_MULTIPLE = 8
MIN_SIDE = 16


def _conv(c_in: int, c_out: int, kernel: int, bias: bool, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, groups=groups, bias=bias)


def _pointwise(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 1x1 convolution of (b, h, w, c) as one matrix product, in the weights' dtype."""
    return F.linear(x.to(conv.weight.dtype), conv.weight.flatten(1), conv.bias)


def _spatial(x: Tensor, conv: nn.Module) -> Tensor:
    """A 3x3 convolution of (b, h, w, c), in the weights' dtype. The NCHW view of that memory is what torch calls
    channels_last."""
    assert isinstance(conv, nn.Conv2d)
    return conv(x.to(conv.weight.dtype).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _spatial_in_float32(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """As `_spatial`, in float32 whatever the weights are: for the image, whose rounding a network amplifies, and the
    correction."""
    bias = None if conv.bias is None else conv.bias.float()
    out = F.conv2d(x.float().permute(0, 3, 1, 2), conv.weight.float(), bias, padding=conv.padding)
    return out.permute(0, 2, 3, 1)


def _depthwise(x: Tensor, conv: nn.Conv2d, use_kernels: bool) -> Tensor:
    """A depthwise 3x3 convolution of (b, h, w, c)."""
    if use_kernels and not torch.is_grad_enabled():
        return kernels.depthwise3x3(x.contiguous(), conv.weight, conv.bias)
    return _spatial(x, conv)


def _gated_depthwise(x: Tensor, conv: nn.Conv2d, use_kernels: bool) -> Tensor:
    """(b, h, w, 2c) -> (b, h, w, c): the first half of a depthwise 3x3 convolution, through GELU, times the second."""
    if use_kernels and not torch.is_grad_enabled():
        return kernels.depthwise3x3_gate(x.contiguous(), conv.weight, conv.bias)
    gate, value = _spatial(x, conv).chunk(2, dim=-1)
    return F.gelu(gate) * value


class WithBiasLayerNorm(nn.Module):
    """LayerNorm over the channels, from the float32 stream to the weights' dtype."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        out = F.layer_norm(x.float(), self.weight.shape, self.weight.float(), self.bias.float(), eps=1e-5)
        return out.to(self.weight.dtype)


class BiasFreeLayerNorm(nn.Module):
    """Division by the standard deviation alone: the mean is not subtracted from the features (the published behaviour)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        variance = x.var(dim=-1, keepdim=True, unbiased=False)
        return (x * torch.rsqrt(variance + 1e-5) * self.weight.float()).to(self.weight.dtype)


class LayerNorm(nn.Module):
    """Holds the published key level `body`."""

    def __init__(self, dim: int, kind: str) -> None:
        super().__init__()
        self.body = BiasFreeLayerNorm(dim) if kind == "BiasFree" else WithBiasLayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Attention(nn.Module):
    """Multi-Dconv head transposed attention: a (d, d) map per head, from products over all pixels."""

    def __init__(self, dim: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads, self.use_kernels = heads, False
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = _conv(dim, 3 * dim, 1, bias)
        self.qkv_dwconv = _conv(3 * dim, 3 * dim, 3, bias, groups=3 * dim)
        self.project_out = _conv(dim, dim, 1, bias)

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[1]
        qkv = _depthwise(_pointwise(x, self.qkv), self.qkv_dwconv, self.use_kernels)
        q, k, v = rearrange(qkv, "b h w (three e d) -> three b e (h w) d", three=3, e=self.heads)
        attention = (_unit_columns(q).transpose(-2, -1) @ _unit_columns(k)) * self.temperature.float()
        attention = attention.softmax(dim=-1).to(v.dtype)
        out = rearrange(v @ attention.transpose(-2, -1), "b e (h w) d -> b h w (e d)", h=height)
        return _pointwise(out, self.project_out)


def _unit_columns(x: Tensor) -> Tensor:
    """(b, e, n, d) with each channel's norm over the pixels made 1, in float32: 1e-12 is 0 in float16, and a sum of squares
    over a photograph overflows it."""
    norm = torch.linalg.vector_norm(x, dim=-2, keepdim=True, dtype=torch.float32)
    return x / norm.clamp_min(1e-12)


class FeedForward(nn.Module):
    """Gated-Dconv feed-forward network."""

    def __init__(self, dim: int, expansion: float, bias: bool) -> None:
        super().__init__()
        self.use_kernels = False
        hidden = int(dim * expansion)
        self.project_in = _conv(dim, 2 * hidden, 1, bias)
        self.dwconv = _conv(2 * hidden, 2 * hidden, 3, bias, groups=2 * hidden)
        self.project_out = _conv(hidden, dim, 1, bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = _gated_depthwise(_pointwise(x, self.project_in), self.dwconv, self.use_kernels)
        return _pointwise(hidden, self.project_out)


class TransformerBlock(nn.Module):
    def __init__(self, dim: int, heads: int, expansion: float, bias: bool, norm: str) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim, norm)
        self.attn = Attention(dim, heads, bias)
        self.norm2 = LayerNorm(dim, norm)
        self.ffn = FeedForward(dim, expansion, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class PatchEmbed(nn.Module):
    """Holds the published key level `proj`."""

    def __init__(self, c_in: int, dim: int) -> None:
        super().__init__()
        self.proj = _conv(c_in, dim, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return _spatial_in_float32(x, self.proj)


class Downsample(nn.Module):
    """(b, h, w, c) -> (b, h/2, w/2, 2c)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.body = nn.ModuleList([_conv(dim, dim // 2, 3, bias=False)])

    def forward(self, x: Tensor) -> Tensor:
        # The channel order of torch's pixel_unshuffle: c first, then the position within the 2x2 cell.
        return rearrange(_spatial(x, self.body[0]).float(), "b (h i) (w j) c -> b h w (c i j)", i=2, j=2)


class Upsample(nn.Module):
    """(b, h, w, c) -> (b, 2h, 2w, c/2)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.body = nn.ModuleList([_conv(dim, 2 * dim, 3, bias=False)])

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(_spatial(x, self.body[0]).float(), "b h w (c i j) -> b (h i) (w j) c", i=2, j=2)


class Restormer(nn.Module):
    """A 4-level encoder-decoder of transformer blocks; the output is the input plus a learned correction.

    The constructor's keywords and defaults are the published ones: 26 126 644 parameters in 494 tensors.
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
        """Raises ValueError for what is not an RGB Restormer: other channel counts, the dual-pixel variant, an unknown
        LayerNorm kind, or widths that the heads do not divide."""
        super().__init__()
        if (inp_channels, out_channels) != (3, 3) or dual_pixel_task:
            raise ValueError(
                f"only RGB Restormers are supported (3 channels in and out), not {inp_channels} in, {out_channels} out"
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

        self.patch_embed = PatchEmbed(3, dim)
        self.encoder_level1 = blocks(widths[0], heads[0], num_blocks[0])
        self.down1_2 = Downsample(widths[0])
        self.encoder_level2 = blocks(widths[1], heads[1], num_blocks[1])
        self.down2_3 = Downsample(widths[1])
        self.encoder_level3 = blocks(widths[2], heads[2], num_blocks[2])
        self.down3_4 = Downsample(widths[2])
        self.latent = blocks(widths[3], heads[3], num_blocks[3])
        self.up4_3 = Upsample(widths[3])
        self.reduce_chan_level3 = _conv(widths[3], widths[2], 1, bias)
        self.decoder_level3 = blocks(widths[2], heads[2], num_blocks[2])
        self.up3_2 = Upsample(widths[2])
        self.reduce_chan_level2 = _conv(widths[2], widths[1], 1, bias)
        self.decoder_level2 = blocks(widths[1], heads[1], num_blocks[1])
        self.up2_1 = Upsample(widths[1])
        # As published: level 1 of the decoder keeps the 2 * dim channels of the concatenation.
        self.decoder_level1 = blocks(widths[1], heads[0], num_blocks[0])
        self.refinement = blocks(widths[1], heads[0], num_refinement_blocks)
        self.output = _conv(widths[1], 3, 3, bias)

    def forward(self, image: Tensor) -> Tensor:
        """(b, 3, h, w) RGB in [0, 1], any h, w >= 16 -> the same shape and dtype, not clamped.

        A half-precision network takes and corrects a float32 image without rounding it. Raises ValueError for a smaller image.
        """
        height, width = image.shape[-2:]
        if min(height, width) < MIN_SIDE:
            raise ValueError(f"Restormer takes images of at least {MIN_SIDE}x{MIN_SIDE} pixels, not {height}x{width}")
        padded = F.pad(image, (0, -width % SIZE_MULTIPLE, 0, -height % SIZE_MULTIPLE), mode="reflect")
        nhwc = padded.permute(0, 2, 3, 1).contiguous()
        restored = padded + self._correction(nhwc).permute(0, 3, 1, 2).to(padded.dtype)
        return restored[..., :height, :width]

    def padded_copy(self) -> Restormer:
        """The same function, frozen, with hidden widths that a GPU multiplies fast: another state dict, and the same images."""
        network = copy.deepcopy(self).requires_grad_(False)
        for module in network.modules():
            if isinstance(module, FeedForward):
                pad_hidden(module)
        return network

    def use_kernels(self) -> None:
        """From now on depthwise convolutions without gradients are Triton's kernels: on CUDA, for `kernels.AVAILABLE`."""
        for module in self.modules():
            if isinstance(module, Attention | FeedForward):
                module.use_kernels = True

    def _correction(self, x: Tensor) -> Tensor:
        """(b, h, w, 3), sides multiples of 8 -> (b, h, w, 3)."""
        level1 = self._blocks(self.encoder_level1, self.patch_embed(x))
        level2 = self._blocks(self.encoder_level2, self.down1_2(level1))
        level3 = self._blocks(self.encoder_level3, self.down2_3(level2))
        latent = self._blocks(self.latent, self.down3_4(level3))

        x = torch.cat([self.up4_3(latent), level3], dim=-1)
        x = self._blocks(self.decoder_level3, _pointwise(x, self.reduce_chan_level3).float())
        x = torch.cat([self.up3_2(x), level2], dim=-1)
        x = self._blocks(self.decoder_level2, _pointwise(x, self.reduce_chan_level2).float())
        x = torch.cat([self.up2_1(x), level1], dim=-1)
        x = self._blocks(self.refinement, self._blocks(self.decoder_level1, x))
        return _spatial_in_float32(x, self.output)

    def _blocks(self, blocks: nn.Sequential, x: Tensor) -> Tensor:
        """The blocks one after the other, in bands where nothing needs their tensors whole."""
        if fused.can_fuse(x, self.output.weight):
            return fused.apply_blocks(cast(Iterable[TransformerBlock], blocks), x)
        return blocks(x)
