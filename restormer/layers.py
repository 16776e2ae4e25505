"""Restormer's layers: LayerNorm, transposed attention, gated feed-forward network, downsampling and upsampling.

Activations are (b, h, w, c) in memory, so the channels of a pixel lie side by side. LayerNorm and the 1x1 convolutions work on
these channels, as `layer_norm` and a matrix product. The 3x3 convolutions see the same memory as channels_last. No layer waits
for a transposition.

With half-precision weights, two things stay float32: the residual stream, to which every layer adds its output, and all sums over
pixels or channels. A deblurring network amplifies rounding: with a half-precision stream the error was twice as large.

Axes: b batch, h height, w width, c channels, n = h * w pixels, e heads, d channels of one head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from restormer import kernels


def conv(c_in: int, c_out: int, kernel: int, bias: bool, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, groups=groups, bias=bias)


def pointwise(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 1x1 convolution of (b, h, w, c) as one matrix product, in the weights' dtype."""
    return F.linear(x.to(conv.weight.dtype), conv.weight.flatten(1), conv.bias)


def spatial(x: Tensor, conv: nn.Module) -> Tensor:
    """A 3x3 convolution of (b, h, w, c), in the weights' dtype. Torch calls the NCHW view of this memory channels_last."""
    assert isinstance(conv, nn.Conv2d)
    return conv(x.to(conv.weight.dtype).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def spatial_in_float32(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Like `spatial`, but in float32 whatever the weights' dtype. The first layer uses it because a network amplifies the
    rounding of the image. The last layer uses it so that the correction is not rounded."""
    bias = None if conv.bias is None else conv.bias.float()
    out = F.conv2d(x.float().permute(0, 3, 1, 2), conv.weight.float(), bias, padding=conv.padding)
    return out.permute(0, 2, 3, 1)


def _depthwise(x: Tensor, conv: nn.Conv2d, use_kernels: bool) -> Tensor:
    """A depthwise 3x3 convolution of (b, h, w, c)."""
    if use_kernels and not torch.is_grad_enabled():
        return kernels.depthwise3x3(x.contiguous(), conv.weight, conv.bias)
    return spatial(x, conv)


def _gated_depthwise(x: Tensor, conv: nn.Conv2d, use_kernels: bool) -> Tensor:
    """(b, h, w, 2c) -> (b, h, w, c): gelu(first half of a depthwise 3x3 convolution) * second half."""
    if use_kernels and not torch.is_grad_enabled():
        return kernels.depthwise3x3_gate(x.contiguous(), conv.weight, conv.bias)
    gate, value = spatial(x, conv).chunk(2, dim=-1)
    return F.gelu(gate) * value


class WithBiasLayerNorm(nn.Module):
    """LayerNorm over the channels, from the float32 residual stream to the weights' dtype."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        out = F.layer_norm(x.float(), self.weight.shape, self.weight.float(), self.bias.float(), eps=1e-5)
        return out.to(self.weight.dtype)


class BiasFreeLayerNorm(nn.Module):
    """Divides the features by their standard deviation. Does not subtract the mean from them (the published behaviour)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        variance = x.var(dim=-1, keepdim=True, unbiased=False)
        return (x * torch.rsqrt(variance + 1e-5) * self.weight.float()).to(self.weight.dtype)


class LayerNorm(nn.Module):
    """Wraps the norm in `body`, as in the published state-dict keys."""

    def __init__(self, dim: int, kind: str) -> None:
        super().__init__()
        self.body = BiasFreeLayerNorm(dim) if kind == "BiasFree" else WithBiasLayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Attention(nn.Module):
    """Multi-Dconv head transposed attention: the attention is between channels, not between pixels.

    Each head has one (d, d) map. Its entries are products of a channel of q and a channel of k, summed over all pixels.
    """

    def __init__(self, dim: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads, self.use_kernels = heads, False
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = conv(dim, 3 * dim, 1, bias)
        self.qkv_dwconv = conv(3 * dim, 3 * dim, 3, bias, groups=3 * dim)
        self.project_out = conv(dim, dim, 1, bias)

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[1]
        qkv = _depthwise(pointwise(x, self.qkv), self.qkv_dwconv, self.use_kernels)
        q, k, v = rearrange(qkv, "b h w (three e d) -> three b e (h w) d", three=3, e=self.heads)
        attention = (_unit_columns(q).transpose(-2, -1) @ _unit_columns(k)) * self.temperature.float()
        attention = attention.softmax(dim=-1).to(v.dtype)
        out = rearrange(v @ attention.transpose(-2, -1), "b e (h w) d -> b h w (e d)", h=height)
        return pointwise(out, self.project_out)


def _unit_columns(x: Tensor) -> Tensor:
    """Scales each channel of (b, e, n, d) to norm 1 over the pixels, in float32. In float16, 1e-12 would be 0, and a sum of
    squares over a photograph would overflow."""
    norm = torch.linalg.vector_norm(x, dim=-2, keepdim=True, dtype=torch.float32)
    return x / norm.clamp_min(1e-12)


class FeedForward(nn.Module):
    """Gated-Dconv feed-forward network."""

    def __init__(self, dim: int, expansion: float, bias: bool) -> None:
        super().__init__()
        self.use_kernels = False
        hidden = int(dim * expansion)
        self.project_in = conv(dim, 2 * hidden, 1, bias)
        self.dwconv = conv(2 * hidden, 2 * hidden, 3, bias, groups=2 * hidden)
        self.project_out = conv(hidden, dim, 1, bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = _gated_depthwise(pointwise(x, self.project_in), self.dwconv, self.use_kernels)
        return pointwise(hidden, self.project_out)


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
    """Wraps the convolution in `proj`, as in the published state-dict keys."""

    def __init__(self, c_in: int, dim: int) -> None:
        super().__init__()
        self.proj = conv(c_in, dim, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return spatial_in_float32(x, self.proj)


class Downsample(nn.Module):
    """(b, h, w, c) -> (b, h/2, w/2, 2c). The published state-dict key of the convolution is `body.0`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.body = nn.ModuleList([conv(dim, dim // 2, 3, bias=False)])

    def forward(self, x: Tensor) -> Tensor:
        # The channel order of torch's pixel_unshuffle: c first, then the position within the 2x2 cell.
        return rearrange(spatial(x, self.body[0]).float(), "b (h i) (w j) c -> b h w (c i j)", i=2, j=2)


class Upsample(nn.Module):
    """(b, h, w, c) -> (b, 2h, 2w, c/2), in the channel order of torch's pixel_shuffle."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.body = nn.ModuleList([conv(dim, 2 * dim, 3, bias=False)])

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(spatial(x, self.body[0]).float(), "b h w (c i j) -> b (h i) (w j) c", i=2, j=2)
