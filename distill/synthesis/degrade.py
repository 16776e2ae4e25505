"""Sharp -> blurry on the device, per sample: blur, rescaling, noise, JPEG.

The loader draws each sample's parameters as a function of (seed, epoch, image). kornia's functional operators take them as
arguments, where its augmentation classes would draw their own: a sample's result does not depend on the batch that it is in. The
result is clamped and rounded to 8 bits: without rounding, the blur would be easier to undo than the blur of any image file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import kornia
import numpy as np
import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor

from distill.config.degradations import Defocus, Degradation, GaussianBlur, Jpeg, MotionBlur, Noise, Rescale
from distill.synthesis.eight_bit import quantize


def draw(degradations: Sequence[Degradation], rng: np.random.Generator) -> dict[str, float]:
    """The random numbers of one sample: whether it gets each degradation, and how strongly."""
    draws: dict[str, float] = {}
    for number, step in enumerate(degradations):
        draws[f"degrade.{number}.applied"] = float(rng.random() < step.probability)
        draws[f"degrade.{number}.strength"] = rng.uniform(*_range(step))
        # The angle is a motion blur's direction in degrees, the seed is for noise. Every step draws all four numbers: another
        # kind in its place does not shift the draws of later steps.
        draws[f"degrade.{number}.angle"] = rng.uniform(0, 360)
        draws[f"degrade.{number}.seed"] = int(rng.integers(2**62))
    return draws


def _range(step: Degradation) -> tuple[float, float]:
    match step:
        case GaussianBlur() | Noise():
            return step.sigma
        case Defocus():
            return step.radius
        case MotionBlur():
            return step.length
        case Rescale():
            return step.factor
        case Jpeg():
            return step.quality


def degrade(sharp: Tensor, degradations: Sequence[Degradation], draws: dict[str, Tensor]) -> Tensor:
    """Sharp images, (B, 3, H, W) in [0, 1] -> blurry images, same shape, multiples of 1/255. `draws` are (B,) on the CPU."""
    image = sharp
    for number, step in enumerate(degradations):
        mine = {key: draws[f"degrade.{number}.{key}"] for key in ("applied", "strength", "angle", "seed")}
        applied = mine["applied"] > 0
        if not applied.any():
            continue
        degraded = _apply(step, image, mine).clamp(0, 1)
        degrades = applied.to(image.device, non_blocking=True)[:, None, None, None]
        image = torch.where(degrades, degraded, image)
    return quantize(image)


def _apply(step: Degradation, image: Tensor, draws: dict[str, Tensor]) -> Tensor:
    # kornia's operators get their parameters on the CPU: they read the values, and would wait for each value on a device.
    strength = draws["strength"].float()
    match step:
        case GaussianBlur():
            return _gaussian_blur(image, strength, step.sigma[1])
        case Defocus():
            return _defocus(image, strength, step.radius[1])
        case MotionBlur():
            return _motion_blur(image, strength, draws["angle"].float(), step.length[1])
        case Rescale():
            return _rescale(image, strength, step.antialias)
        case Noise():
            return _noise(image, strength / 255, draws["seed"])
        case Jpeg():
            return kornia.enhance.jpeg_codec_differentiable(image, strength)


def _gaussian_blur(image: Tensor, sigma: Tensor, largest: float) -> Tensor:
    # The kernel size follows the largest sigma of the configuration. If it followed the largest sigma in the batch, a sample
    # would depend on the others in its batch.
    radius = min(math.ceil(3 * largest), min(image.shape[-2:]) - 1)
    return kornia.filters.gaussian_blur2d(image, 2 * radius + 1, sigma[:, None].expand(-1, 2), border_type="reflect")


def _defocus(image: Tensor, radius: Tensor, largest: float) -> Tensor:
    reach = min(math.ceil(largest - 0.5), min(image.shape[-2:]) - 1)
    kernels = _discs(radius, reach).to(image.device, non_blocking=True)
    return kornia.filters.filter2d(image, kernels, border_type="reflect")


def _discs(radius: Tensor, reach: int) -> Tensor:
    """Kernels of discs, (B, 2 * reach + 1, 2 * reach + 1), each of sum 1: the share of each pixel that the disc covers."""
    # Each pixel is divided into cells. A cell that the edge of the disc crosses counts in part, so that the kernel follows the
    # radius without steps.
    cells, size = 8, 2 * reach + 1
    place = (torch.arange(size * cells) + 0.5) / cells - size / 2
    distance = torch.hypot(place[:, None], place)
    covered = ((radius[:, None, None] - distance) * cells + 0.5).clamp(0, 1)
    share = reduce(covered, "b (h y) (w x) -> b h w", "mean", y=cells, x=cells)
    return share / share.sum(dim=(1, 2), keepdim=True)


def _motion_blur(image: Tensor, length: Tensor, angle: Tensor, longest: float) -> Tensor:
    size = min(_odd(longest), 2 * (min(image.shape[-2:]) - 1) + 1)
    sizes = [min(_odd(value), size) for value in length.tolist()]
    kernels = []
    for taps, degrees in zip(sizes, angle, strict=True):
        kernel = kornia.filters.get_motion_kernel2d(taps, degrees[None], mode="bilinear")
        kernels.append(F.pad(kernel, [(size - taps) // 2] * 4))
    return kornia.filters.filter2d(image, torch.cat(kernels).to(image.device, non_blocking=True), border_type="reflect")


def _odd(length: float) -> int:
    return 2 * round((length - 1) / 2) + 1


def _rescale(image: Tensor, factor: Tensor, antialias: bool) -> Tensor:
    height, width = image.shape[-2:]
    sizes = [(max(1, round(height / f)), max(1, round(width / f))) for f in factor.tolist()]
    out = torch.empty_like(image)
    for size in dict.fromkeys(sizes):
        # Indexing with a Python list would wait until the list is on the device.
        samples = torch.tensor([index for index, own in enumerate(sizes) if own == size]).to(image.device, non_blocking=True)
        # Rounded to 8 bits in between, as a small image file would be.
        small = quantize(F.interpolate(image.index_select(0, samples), size, mode="bicubic", antialias=antialias))
        out.index_copy_(0, samples, F.interpolate(small, (height, width), mode="bicubic", antialias=antialias))
    return out


def _noise(image: Tensor, sigma: Tensor, seed: Tensor) -> Tensor:
    generator = torch.Generator(image.device)
    noise = torch.empty_like(image, memory_format=torch.contiguous_format)
    for index, value in enumerate(seed.tolist()):
        noise[index].normal_(generator=generator.manual_seed(value))
    return image + noise * sigma.to(image.device, non_blocking=True)[:, None, None, None]
