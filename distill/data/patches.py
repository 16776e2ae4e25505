"""The original project's data set from sharp images: split, cut into patches on a grid, each blurred once and for all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from distill.data.datasets import Skipped, to_tensor
from distill.data.degrade import degrade, draw, to_float, to_uint8
from distill.data.files import write_bytes
from distill.data.images import ImageError, Pixels, encode_jpeg, encode_png, read_image
from distill.data.sampler import sample_generator
from distill.degradations import Degradation

# The original's folders below `sharp` and `blurry`, and its fractions: a tenth for the benchmark, a fifth of the rest for tests.
BENCHMARK, TEST, TRAIN = "benchmark", "train/test", "train/train"
MIN_IMAGES = 3
EXIF_ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)


@dataclass(frozen=True)
class Settings:
    """What decides every pixel of the data set."""

    patch: int
    seed: int
    degrade: Sequence[Degradation]
    quality: int | None
    """Of JPEG files; None: PNG."""

    @property
    def suffix(self) -> str:
        return ".png" if self.quality is None else ".jpg"

    def encode(self, pixels: Pixels) -> bytes:
        return encode_png(pixels) if self.quality is None else encode_jpeg(pixels, self.quality)


def split(stems: Sequence[str], seed: int) -> dict[str, str]:
    """{stem: folder}: whole images, so that no photograph is in two parts. Raises ImageError where a part would be empty."""
    if len(stems) < MIN_IMAGES:
        raise ImageError(f"{len(stems)} images cannot be split into training, test and benchmark; {MIN_IMAGES} can")
    order = np.random.default_rng(seed).permutation(len(stems))
    benchmark = math.ceil(0.1 * len(stems))
    test = math.ceil(0.2 * (len(stems) - benchmark))
    folders = [BENCHMARK] * benchmark + [TEST] * test + [TRAIN] * (len(stems) - benchmark - test)
    return dict(sorted((sorted(stems)[index], folder) for index, folder in zip(order, folders, strict=True)))


@dataclass(frozen=True)
class Prepared:
    """What became of one image."""

    folder: str
    patches: int
    new: bool
    skipped: Skipped | None = None


class PatchWriter(Dataset[Prepared]):
    """Item i cuts, blurs and writes image i, unless its patches are all there; a data set, so that loader workers share them."""

    def __init__(self, images: dict[str, Path], folders: dict[str, str], out: Path, settings: Settings) -> None:
        self.images, self.folders, self.out, self.settings = list(images.items()), folders, out, settings

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Prepared:
        """Raises WriteError."""
        stem, path = self.images[index]
        try:
            size = _size(path)
            names = [f"{stem}_{row}_{column}" for row, column in _grid(size, self.settings.patch)]
            pairs = [[self._path(kind, stem, name) for kind in ("sharp", "blurry")] for name in names]
            if all(file.exists() for pair in pairs for file in pair):
                return Prepared(self.folders[stem], len(names), new=False)
            self._write(names, pairs, read_image(path))
        except ImageError as error:
            return Prepared(self.folders[stem], 0, False, Skipped(str(path), str(error).removeprefix(f"{path}: ")))
        return Prepared(self.folders[stem], len(names), new=True)

    def _path(self, kind: str, stem: str, name: str) -> Path:
        return self.out / kind / self.folders[stem] / f"{name}{self.settings.suffix}"

    def _write(self, names: list[str], pairs: list[list[Path]], pixels: Pixels) -> None:
        side, seed = self.settings.patch, self.settings.seed
        for name, pair, (row, column) in zip(names, pairs, _grid(pixels.shape[:2], side), strict=True):
            sharp = pixels[row * side : (row + 1) * side, column * side : (column + 1) * side]
            draws = draw(self.settings.degrade, sample_generator(seed, 0, name, "prepare"))
            values = {key: torch.tensor([value]) for key, value in draws.items()}
            blurry = to_uint8(degrade(to_float(to_tensor(sharp)), self.settings.degrade, values))
            for path, image in zip(pair, (sharp, blurry[0].permute(1, 2, 0).numpy()), strict=True):
                write_bytes(path, self.settings.encode(np.ascontiguousarray(image)))


def _grid(size: tuple[int, ...], side: int) -> list[tuple[int, int]]:
    """(row, column) of the patches of an (H, W) image; incomplete ones at its right and bottom are dropped."""
    return [(row, column) for row in range(size[0] // side) for column in range(size[1] // side)]


def _size(path: Path) -> tuple[int, int]:
    """(height, width) as the image will be read, from the file's header alone. Raises ImageError."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            return (width, height) if image.getexif().get(EXIF_ORIENTATION) in SIDEWAYS else (height, width)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: {' '.join(str(error).split())}") from error
