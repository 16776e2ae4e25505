"""How far a cached target is from the one that online mode would compute for the same augmented patch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

import torch
from torch import Tensor

from distill.data.datasets import to_tensor
from distill.data.images import ImageFile
from distill.networks.teacher import Teacher
from distill.scoring.metrics import decibel
from distill.synthesis.degrade import to_float
from distill.teacher_cache.store import TeacherCache


def measure_approximation(
    teacher: Teacher, cache: TeacherCache, images: Sequence[ImageFile], patch: int, device: torch.device
) -> dict[str, tuple[float, float]]:
    """By augmentation: the PSNR between cached and online target, and for scale the one between blurry patch and online target,
    in dB, of the mean over images of their mean squared errors. Crops are of the centre; images of at most that size leave them
    out. Raises ImageError.
    """
    errors: dict[str, list[tuple[float, float]]] = {}
    for image in images:
        triplet = cache.read(image)
        assert triplet.blurry is not None
        assert triplet.teacher is not None
        blurry, cached = (to_float(to_tensor(pixels).to(device)) for pixels in (triplet.blurry, triplet.teacher))
        for name, transform in _transforms(patch, blurry).items():
            online = teacher(transform(blurry))
            pair = [float((transform(other) - online).square().mean()) for other in (cached, blurry)]
            errors.setdefault(name, []).append((pair[0], pair[1]))
    return {name: (decibel(fmean(e for e, _ in pairs)), decibel(fmean(e for _, e in pairs))) for name, pairs in errors.items()}


def _transforms(patch: int, image: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    height, width = image.shape[-2:]
    top, left = (height - patch) // 2, (width - patch) // 2
    transforms: dict[str, Callable[[Tensor], Tensor]] = {
        "none": lambda x: x,
        "flip": lambda x: x.flip(-1),
        "quarter turn": lambda x: x.rot90(1, (-2, -1)),
    }
    if min(top, left) >= 0 and max(height, width) > patch:
        transforms[f"crop {patch}x{patch}"] = lambda x: x[..., top : top + patch, left : left + patch]
    return transforms
