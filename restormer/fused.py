"""Runs the transformer blocks of `layers.py` without gradients on a CPU: the same result, computed in bands of rows that are
small enough for the processor's cache.

A block's widest tensors have three to five times as many channels as its input, and a CPU waits for them. Each is a fresh
allocation of a hundred megabytes, whose page faults and memory traffic cost more than the arithmetic. Here these tensors exist
one band at a time. A depthwise 3x3 convolution needs one extra row on either side of its band. The last two projected rows of
a band are the first two of the next one, and are copied there, so nothing is computed twice.

- Feed-forward: each band passes through LayerNorm, 1x1, depthwise 3x3, gate and 1x1 before the next band starts.
- Attention: Restormer's attention is between channels. Per head, the products of q and k are a (d, d) matrix, a sum over pixels,
  which is added up band by band, like the norms of q and k. Its softmax and the output projection are both matrices over
  channels. They are multiplied into one (c, c) matrix per image, which is applied to v once.
- With bf16 weights the wide tensors are bf16, and so is a band's product of q and k. The residual stream x, the sums over bands
  and the softmax stay float32, as in `layers.py`.
- Hidden widths such as 127 and 255 are padded to a multiple of CHANNEL_MULTIPLE: oneDNN's depthwise kernel is slow for them.

Axes: b batch, h height, w width, c channels, e heads, d channels of one head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restormer.layers import Attention, FeedForward, LayerNorm, TransformerBlock
from restormer.padding import CHANNEL_MULTIPLE, pad_halves

# Target size of a band's widest tensor. Measured at 256x256 with the published network: 1 MiB 3.2 s, 4 MiB 2.6 s, 16 MiB 2.8 s.
BAND_BYTES = 4 * 2**20


def can_fuse(x: Tensor, weight: Tensor) -> bool:
    """Whether `apply_blocks` may replace the blocks: float32 or bf16 weights on a CPU, without gradients, neither compiled nor
    traced."""
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return (
        x.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16)
        and not torch.is_grad_enabled()
        and not recorded
    )


def apply_blocks(blocks: Iterable[TransformerBlock], x: Tensor) -> Tensor:
    """(b, h, w, c) float32 -> the same shape, in new memory."""
    x = x.clone(memory_format=torch.contiguous_format)
    for block in blocks:
        _attend(x, block.norm1, block.attn)
        _feed_forward(x, block.norm2, block.ffn)
    return x


def _attend(x: Tensor, norm: LayerNorm, attention: Attention) -> None:
    """Adds the attention's output to x, in place."""
    (b, h, w, c), e = x.shape, attention.heads
    v = torch.empty(b, h * w, c, dtype=attention.qkv.weight.dtype)
    product = torch.zeros(b, e, c // e, c // e)
    squares = torch.zeros(b, 2 * c)
    project, depthwise = _parameters(attention.qkv), _parameters(attention.qkv_dwconv)
    for images, rows, qkv in _wide_bands(x, norm, project, depthwise):
        qk, v[images, rows.start * w : rows.stop * w] = qkv.flatten(1, 2).split((2 * c, c), dim=-1)
        squares[images] += torch.linalg.vector_norm(qk, dim=1, dtype=torch.float32).square_()
        q, k = qk.unflatten(-1, (2, e, -1)).permute(2, 0, 3, 1, 4)  # (b, e, pixels, d) each
        product[images] += q.transpose(-2, -1) @ k
    q_norm, k_norm = squares.sqrt_().clamp_min_(1e-12).unflatten(-1, (2, e, -1)).unbind(1)
    maps = (product / q_norm.unsqueeze(-1) / k_norm.unsqueeze(-2) * attention.temperature.float()).softmax(dim=-1)
    # The block's output is weight @ attention @ v, and `attention` is block-diagonal: a head's columns of `weight` meet only its
    # map.
    weight, bias = _parameters(attention.project_out)
    columns = weight.float().unflatten(1, (e, -1)).transpose(0, 1)  # (e, c, d)
    from_v = (columns @ maps).transpose(-3, -2).flatten(-2)  # (b, c, e * d)
    if v.dtype == x.dtype:
        x.flatten(1, 2).baddbmm_(v, from_v.transpose(-2, -1))
    else:
        x.flatten(1, 2).add_(v @ from_v.transpose(-2, -1).to(v.dtype))
    if bias is not None:
        x += bias


def _feed_forward(x: Tensor, norm: LayerNorm, ffn: FeedForward) -> None:
    """Adds the feed-forward network's output to x, in place."""
    hidden = ffn.project_out.weight.shape[1]
    extra = -hidden % CHANNEL_MULTIPLE
    project, depthwise = (pad_halves(*_parameters(conv), extra) for conv in (ffn.project_in, ffn.dwconv))
    weight, bias = _parameters(ffn.project_out)
    weight = F.pad(weight, (0, extra))
    for images, rows, wide in _wide_bands(x, norm, project, depthwise):
        gate, value = wide.chunk(2, dim=-1)
        # In place is safe: the next band needs the last of these rows, but keeps it in projected form and does not read x again.
        x[images, rows] += F.linear(F.gelu(gate).mul_(value), weight, bias)


Parameters = tuple[Tensor, Tensor | None]


def _parameters(conv: nn.Conv2d) -> Parameters:
    """Weight and bias. The weight of a 1x1 convolution is returned as a matrix."""
    return (conv.weight.flatten(1) if conv.kernel_size == (1, 1) else conv.weight), conv.bias


def _wide_bands(x: Tensor, norm: LayerNorm, project: Parameters, depthwise: Parameters) -> Iterator[tuple[slice, slice, Tensor]]:
    """LayerNorm, 1x1 and depthwise 3x3 convolution, band by band: yields (images, rows, the result in these rows).

    If whole images fit into BAND_BYTES, a band is one or several of them. Otherwise an image is cut into bands of equal height,
    the last of which may be lower. Each row of x is read once, before its band is yielded.
    """
    b, h, w, _ = x.shape
    row_bytes = w * project[0].shape[0] * project[0].element_size()
    together = BAND_BYTES // (h * row_bytes)
    if together:
        for image in range(0, b, together):
            images = slice(image, min(b, image + together))
            yield images, slice(0, h), _convolve(F.linear(norm(x[images]), *project), depthwise, padding=(1, 1))
        return
    parts = -(-h // max(1, BAND_BYTES // row_bytes))
    for image in range(b):
        for rows, wide in _row_bands(x[image], -(-h // parts), norm, project):
            yield slice(image, image + 1), rows, _convolve(wide[None], depthwise, padding=(0, 1))


def _row_bands(x: Tensor, height: int, norm: LayerNorm, project: Parameters) -> Iterator[tuple[slice, Tensor]]:
    """Projects x (h, w, c) in bands of `height` rows: yields (rows, the projected rows with one extra row on either side).

    An extra row outside the image is zero. The next band overwrites the yielded tensor.
    """
    (h, w, _), (weight, bias) = x.shape, project
    wide = weight.new_zeros(height + 2, w, weight.shape[0])  # image row r is stored in row r - top + 1
    projected = 0  # rows of x that are projected so far
    for top in range(0, h, height):
        bottom = min(h, top + height)
        if top:
            wide[:2] = wide[height:].clone()
        new = slice(projected, min(h, bottom + 1))
        if new.stop > projected:
            into = wide[new.start - top + 1 : new.stop - top + 1].flatten(0, 1)
            torch.mm(norm(x[new]).flatten(0, 1), weight.t(), out=into)
            if bias is not None:
                into += bias
        if bottom == h:
            wide[h - top + 1 :] = 0
        projected = new.stop
        yield slice(top, bottom), wide[: bottom - top + 2]


def _convolve(wide: Tensor, depthwise: Parameters, padding: tuple[int, int]) -> Tensor:
    weight, bias = depthwise
    return F.conv2d(wide.permute(0, 3, 1, 2), weight, bias, padding=padding, groups=len(weight)).permute(0, 2, 3, 1)
