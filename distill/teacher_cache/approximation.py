"""Measures how far the teacher images of mode `cached` are from those of mode `online`.

Mode `online` augments the blurry image first, and the teacher restores the result. Mode `cached` reads the teacher's image of the
whole blurry image, and augments that. The two differ, because the teacher does not commute with crops, flips and rotations, and
because the cache is 8-bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

import torch
from torch import Tensor

from distill.data.batch import to_tensor
from distill.data.triplets import ImageFile
from distill.networks.teacher import Teacher
from distill.synthesis.eight_bit import to_float
from distill.teacher_cache.store import TeacherCache


def measure_approximation(
    teacher: Teacher, cache: TeacherCache, images: Sequence[ImageFile], patch: int, device: torch.device
) -> dict[str, tuple[float, float]]:
    """{augmentation: (error of the cached teacher image, error of the blurry image)}. The augmentation is applied to both. The
    reference is the teacher's output for the augmented blurry image, as in mode `online`.

    An error is the mean squared error of values in [0, 1], averaged over the images. The blurry image's error gives the scale: it
    is the size of the teacher's own correction. Crops are patch x patch pixels from the centre. An image is not cropped if a side
    is below `patch`, or if both sides equal it. Raises ImageError.
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
    return {name: (fmean(e for e, _ in pairs), fmean(e for _, e in pairs)) for name, pairs in errors.items()}


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
