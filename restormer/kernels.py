"""Depthwise 3x3 convolutions of (b, h, w, c) as Triton kernels, for the forward pass without gradients in half precision on CUDA.

Depthwise convolutions wait for memory, not for arithmetic. The kernels therefore read their input about once and write their
output once. The gated kernel computes gelu(first half of the channels) * second half in registers, where the sums are. The
convolution's own result never goes to memory.

A program (in Triton, a group of threads that computes one part of the output) owns some columns and channels of an image and
walks down a band of rows. Each input row that it loads is added to the three output rows that depend on it. For the left and
right neighbours, the program loads the same row again at another offset. The L1 cache answers these loads.

The module can be imported without Triton. AVAILABLE says whether Triton is installed, which the operators need.

Axes: b batch, h height, w width, c channels of the output. `wide` is the number of input channels: c, or 2c with the gate.
"""

# No postponed annotations: the oldest allowed versions of Triton's interpreter and torch.library cannot read string annotations.

import torch
from torch import Tensor

try:
    import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
    import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
except ModuleNotFoundError:
    AVAILABLE = False
else:
    AVAILABLE = True

# Fixed, because an autotuner would time its candidates at the first call of every shape. Four warps share a tile of 16 columns
# and 32 channels: each of their 128 threads has four channels of one pixel and loads 8 bytes at a time. With 16 bytes, a thread
# would need 235 registers for the gate's 18 weights and 6 sums per channel. With 8 bytes it needs at most 128, so 16 warps fit on
# a multiprocessor and hide each other's latency. 32 channels in half precision are 64 bytes, two whole sectors of memory.
# Neighbouring programs share 1/8 of their input columns and 1/16 of their input rows, because an output needs inputs on all
# sides. They load these at about the same time, so the second load comes from the L2 cache.
LAUNCH = {"rows": 32, "columns": 16, "channels": 32, "num_warps": 4}


@torch.library.custom_op("restormer::depthwise3x3", mutates_args=())
def depthwise3x3(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(b, h, w, c) contiguous, weight (c, 1, 3, 3), bias (c,) -> (b, h, w, c) in x's dtype, zero-padded, summed in float32.

    Fast if c is a multiple of 4. With any other c, channels are loaded one or two at a time. A weight stored in memory as
    (3, 3, c) is used as it is. Any other weight is transposed at every call.

    Raises ValueError if x is not contiguous or the weight's shape is wrong.
    """
    return _launch(x, weight, bias, gate=False)


@torch.library.custom_op("restormer::depthwise3x3_gate", mutates_args=())
def depthwise3x3_gate(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(b, h, w, 2c) contiguous, weight (2c, 1, 3, 3), bias (2c,) -> (b, h, w, c): gelu(first half of the convolution) * second.

    The result is rounded once, at the end. Everything else is as for `depthwise3x3`.
    """
    return _launch(x, weight, bias, gate=True)


@depthwise3x3.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.empty_like(x)


@depthwise3x3_gate.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], x.shape[-1] // 2)


def _launch(x: Tensor, weight: Tensor, bias: Tensor | None, gate: bool) -> Tensor:
    if not AVAILABLE:
        raise RuntimeError("this operator is a Triton kernel, and triton is not installed: ask kernels.AVAILABLE first")
    if not x.is_contiguous():
        raise ValueError(f"x must be contiguous (b, h, w, c), not {tuple(x.shape)} with strides {x.stride()}")
    b, h, w, wide = x.shape
    if weight.shape != (wide, 1, 3, 3):
        raise ValueError(f"{wide} channels need a weight of {(wide, 1, 3, 3)}, not {tuple(weight.shape)}")
    c = wide // 2 if gate else wide
    out = x.new_empty(b, h, w, c)
    weight = weight.flatten(1).t().contiguous()
    biased = bias is not None
    bias = weight if bias is None else bias.contiguous()  # the kernel needs some tensor, but reads it only if `biased`
    grid = (triton.cdiv(c, LAUNCH["channels"]) * triton.cdiv(w, LAUNCH["columns"]), triton.cdiv(h, LAUNCH["rows"]), b)
    with torch.cuda.device_of(x):  # Triton launches on the current device, not on its arguments' device
        _depthwise3x3[grid](x, weight, bias, out, h, w, c=c, gate=gate, biased=biased, **LAUNCH)
    return out


if AVAILABLE:
    # c is a compile-time constant. Triton compiles the kernel for each value of c, and a network has few values. About a run-time
    # argument, Triton knows only whether 16 divides it. That is too little to load four channels at once for, say, c = 136.
    # h and w are not specialised. Triton would compile another kernel for sizes that 16 divides, but images come in many sizes
    # and no size is special.
    @triton.jit(do_not_specialize=["h", "w"])
    def _depthwise3x3(
        x: tl.tensor,
        weight: tl.tensor,  # (9, wide)
        bias: tl.tensor,
        out: tl.tensor,
        h: int,
        w: int,
        c: tl.constexpr,
        gate: tl.constexpr,
        biased: tl.constexpr,
        rows: tl.constexpr,
        columns: tl.constexpr,
        channels: tl.constexpr,
    ) -> None:
        wide: tl.constexpr = 2 * c if gate else c
        blocks: tl.constexpr = (c + channels - 1) // channels
        channel = tl.program_id(0) % blocks * channels + tl.arange(0, channels)
        column = tl.program_id(0) // blocks * columns + tl.arange(0, columns)[:, None]
        first = tl.program_id(1) * rows
        last = tl.minimum(first + rows, h)  # exclusive
        in_channels = channel < c
        # Whether the image has the pixel itself, its left neighbour and its right neighbour.
        inside = (column < w) & in_channels[None, :]
        on_left = (column > 0) & (column <= w) & in_channels[None, :]
        on_right = (column + 1 < w) & in_channels[None, :]
        # The image's first row in the batch. 64 bits: 8 images of 512x512 with 1024 channels are 2^31 elements.
        image = tl.program_id(2).to(tl.int64) * h
        x += column.to(tl.int64) * wide + channel[None, :]
        out += column.to(tl.int64) * c + channel[None, :]

        k00, k01, k02, k10, k11, k12, k20, k21, k22 = _load_weights(weight + channel, in_channels, wide)
        start = tl.zeros((columns, channels), tl.float32)
        if biased:
            start += tl.load(bias + channel, in_channels, 0.0).to(tl.float32)[None, :]
        # The sums so far of two output rows: the row above the input row that is loaded next, and the row at that input row.
        above = start
        here = start
        if gate:  # the same for the second half of the channels
            v00, v01, v02, v10, v11, v12, v20, v21, v22 = _load_weights(weight + c + channel, in_channels, wide)
            v_start = tl.zeros((columns, channels), tl.float32)
            if biased:
                v_start += tl.load(bias + c + channel, in_channels, 0.0).to(tl.float32)[None, :]
            v_above = v_start
            v_here = v_start

        # With one extra row on either side. An output row is complete, and stored, once the input row below it has been added.
        for row in range(first - 1, last + 1):
            exists = (row >= 0) & (row < h)
            row_x = x + (image + row) * w * wide
            left, center, right = _load_row(row_x, on_left & exists, inside & exists, on_right & exists, wide)
            done = above + left * k20 + center * k21 + right * k22
            above = here + left * k10 + center * k11 + right * k12
            here = start + left * k00 + center * k01 + right * k02
            if gate:
                left, center, right = _load_row(row_x + c, on_left & exists, inside & exists, on_right & exists, wide)
                value = v_above + left * v20 + center * v21 + right * v22
                v_above = v_here + left * v10 + center * v11 + right * v12
                v_here = v_start + left * v00 + center * v01 + right * v02
                done = _gelu(done) * value
            tl.store(out + (image + row - 1) * w * c, done.to(out.dtype.element_ty), inside & (row > first))

    @triton.jit
    def _load_weights(weight: tl.tensor, mask: tl.tensor, wide: tl.constexpr) -> tuple[tl.tensor, ...]:
        """The 3x3 weights of some channels, row by row."""
        return (
            tl.load(weight, mask, 0.0).to(tl.float32)[None, :],
            tl.load(weight + 1 * wide, mask, 0.0).to(tl.float32)[None, :],
            tl.load(weight + 2 * wide, mask, 0.0).to(tl.float32)[None, :],
            tl.load(weight + 3 * wide, mask, 0.0).to(tl.float32)[None, :],
            tl.load(weight + 4 * wide, mask, 0.0).to(tl.float32)[None, :],
            tl.load(weight + 5 * wide, mask, 0.0).to(tl.float32)[None, :],
            tl.load(weight + 6 * wide, mask, 0.0).to(tl.float32)[None, :],
            tl.load(weight + 7 * wide, mask, 0.0).to(tl.float32)[None, :],
            tl.load(weight + 8 * wide, mask, 0.0).to(tl.float32)[None, :],
        )

    @triton.jit
    def _load_row(
        x: tl.tensor, on_left: tl.tensor, inside: tl.tensor, on_right: tl.tensor, wide: tl.constexpr
    ) -> tuple[tl.tensor, ...]:
        """One input row of the tile, as (left neighbours, pixels, right neighbours)."""
        left = tl.load(x - wide, on_left, 0.0).to(tl.float32)
        center = tl.load(x, inside, 0.0).to(tl.float32)
        right = tl.load(x + wide, on_right, 0.0).to(tl.float32)
        return left, center, right

    @triton.jit
    def _gelu(x: tl.tensor) -> tl.tensor:
        """x * Phi(x) as max(x, 0) - |x| * Phi(-|x|), where log2(Phi(-a)) is approximated by a polynomial in a = |x|.

        The polynomial minimises the largest error of a * Phi(-a) for 0 <= a <= 6. That error is 2.2e-7. The relative error is
        below 1e-4. For a > 6, both a * Phi(-a) and its approximation are under 1e-8. A call of erf takes three times the
        instructions. With it, the kernel would wait for arithmetic, not for memory.
        """
        a = tl.abs(x)
        log = -1.126279e-06 * a + 4.9097483e-05
        log = log * a - 0.0008472158
        log = log * a + 0.0082455438
        log = log * a - 0.053558076
        log = log * a - 0.45874359
        log = log * a - 1.151179
        log = log * a - 1
        return tl.maximum(x, 0.0) - a * tl.exp2(log)
