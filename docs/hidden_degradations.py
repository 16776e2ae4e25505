"""Writes photographs that are spoilt as by a camera, a lens or a program, for runs that are not told how:

    python docs/hidden_degradations.py PHOTOS/bsds500_val hidden

writes hidden/gaussian, hidden/motion_jpeg, hidden/noise and hidden/lens. They are made with scipy and Pillow, not by `degrade`:
nothing of a training recipe's own arithmetic is in them. No recipe has `lens`: red and blue are magnified differently, the whole
is softened, and then sharpened until edges have halos.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy.ndimage import convolve, gaussian_filter, zoom

Floats = NDArray[np.float32]


def gaussian(image: Floats, rng: np.random.Generator) -> Floats:
    """Gaussian blur of sigma 2."""
    return gaussian_filter(image, (2.0, 2.0, 0), mode="reflect")


def motion(image: Floats, rng: np.random.Generator) -> Floats:
    """Nine pixels along a line of 30 degrees, as a shaken camera draws it: 90 points of a straight path, antialiased."""
    kernel = np.zeros((11, 11), np.float32)
    for step in np.linspace(-4, 4, 90):
        x, y = 5 + step * np.cos(np.pi / 6), 5 - step * np.sin(np.pi / 6)
        left, top = int(x), int(y)
        for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
            kernel[top + dy, left + dx] += (1 - abs(x - left - dx)) * (1 - abs(y - top - dy))
    return convolve(image, (kernel / kernel.sum())[:, :, None], mode="reflect")


def noise(image: Floats, rng: np.random.Generator) -> Floats:
    """White Gaussian noise of 15 levels of 255."""
    return image + rng.normal(0, 15, image.shape).astype(np.float32)


def lens(image: Floats, rng: np.random.Generator) -> Floats:
    """Lateral chromatic aberration of 0.4 %, a soft lens, and the halos of an unsharp mask."""
    shifted = np.stack([_magnified(image[..., 0], 1.004), image[..., 1], _magnified(image[..., 2], 0.996)], axis=-1)
    soft = gaussian_filter(shifted, (1.2, 1.2, 0), mode="reflect")
    sharpened = Image.fromarray(_pixels(soft)).filter(ImageFilter.UnsharpMask(radius=2.5, percent=120, threshold=0))
    return np.asarray(sharpened, np.float32)


def _magnified(channel: Floats, factor: float) -> Floats:
    """Scaled about its centre, the size kept: a border that is then missing is reflected."""
    scaled = zoom(np.pad(channel, 8, mode="reflect"), factor, order=3)
    top, left = ((inner - outer) // 2 for inner, outer in zip(scaled.shape, channel.shape, strict=True))
    return scaled[top : top + channel.shape[0], left : left + channel.shape[1]]


def _pixels(image: Floats) -> NDArray[np.uint8]:
    return (image.clip(0, 255) + 0.5).astype(np.uint8)


# {folder: (what spoils the picture, JPEG quality; None: a PNG)}
DEGRADATIONS: dict[str, tuple[Callable[[Floats, np.random.Generator], Floats], int | None]] = {
    "gaussian": (gaussian, None),
    "motion_jpeg": (motion, 60),
    "noise": (noise, None),
    "lens": (lens, None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder of sharp photographs")
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, help="the first N alone", metavar="N")
    arguments = parser.parse_args()
    photos = sorted(path for path in arguments.photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for path in photos[: arguments.count]:
        image = np.asarray(Image.open(path).convert("RGB"), np.float32)
        for folder, (spoil, quality) in DEGRADATIONS.items():
            rng = np.random.default_rng([zlib.crc32(path.name.encode()), zlib.crc32(folder.encode())])
            result = Image.fromarray(_pixels(spoil(image, rng)))
            target = arguments.out / folder / f"{path.stem}.{'png' if quality is None else 'jpg'}"
            target.parent.mkdir(parents=True, exist_ok=True)
            result.save(target, **({} if quality is None else {"quality": quality}))


if __name__ == "__main__":
    main()
