"""Makes the original project's data set: splits sharp images into training, test and benchmark images, cuts them into patches on
a grid, and blurs each patch once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from distill.config.degradations import Degradation
from distill.data.batch import Skipped, batch_of_one, unpack
from distill.data.decoding.decode import orientation_of
from distill.data.image_files import ImageError, encode_jpeg, encode_png, read_image
from distill.data.pixels import SWAPS_AXES, Pixels
from distill.data.sampler import sample_generator
from distill.runtime.files import write_bytes
from distill.synthesis.degrade import draw
from distill.synthesis.eight_bit import to_uint8

# The original's folders below `sharp` and `blurry`. A tenth of the images is for the benchmark, a fifth of the rest for tests.
BENCHMARK, TEST, TRAIN = "benchmark", "train/test", "train/train"
MIN_IMAGES = 3


@dataclass(frozen=True)
class Settings:
    """The settings that decide every pixel of the data set."""

    patch: int
    seed: int
    degrade: Sequence[Degradation]
    quality: int | None
    """JPEG quality, 1 to 100. None writes PNG."""

    @property
    def suffix(self) -> str:
        return ".png" if self.quality is None else ".jpg"

    def encode(self, pixels: Pixels) -> bytes:
        return encode_png(pixels) if self.quality is None else encode_jpeg(pixels, self.quality)


def split(stems: Sequence[str], seed: int) -> dict[str, str]:
    """Assigns each image as a whole to one part, so that no photograph is in two parts: {stem: folder}. Raises ImageError if a
    part would be empty.

    Seed 42 gives the original's split, which scikit-learn's `train_test_split` made of the sorted file names.
    """
    if len(stems) < MIN_IMAGES:
        raise ImageError(f"{len(stems)} images cannot be split into training, test and benchmark; {MIN_IMAGES} can")
    rest, benchmark = _set_apart(sorted(stems), 0.1, seed)
    train, test = _set_apart(rest, 0.2, seed)
    parts = {TRAIN: train, TEST: test, BENCHMARK: benchmark}
    return dict(sorted((stem, folder) for folder, part in parts.items() for stem in part))


def _set_apart(stems: Sequence[str], fraction: float, seed: int) -> tuple[list[str], list[str]]:
    """Shuffles the stems and returns (the others, those set apart). A `fraction` of the stems, rounded up, is set apart. The old
    RandomState is used because scikit-learn uses it."""
    shuffled = [stems[index] for index in np.random.RandomState(seed).permutation(len(stems))]
    count = math.ceil(fraction * len(stems))
    return shuffled[count:], shuffled[:count]


@dataclass(frozen=True)
class Prepared:
    """The result for one image: folder and number of its patches, whether they are new, and why the image was skipped."""

    folder: str
    patches: int
    new: bool
    skipped: Skipped | None = None


class PatchWriter(Dataset[Prepared]):
    """Getting item i cuts, blurs and writes the patches of image i, unless the files of all its patches exist. The class is a
    Dataset so that loader workers share the images out among themselves."""

    def __init__(self, images: dict[str, Path], folders: dict[str, str], out: Path, settings: Settings) -> None:
        self.images, self.folders, self.out, self.settings = list(images.items()), folders, out, settings

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Prepared:
        """Raises WriteError."""
        stem, path = self.images[index]
        folder = self.folders[stem]
        try:
            if (size := _size(path)) is not None:
                pairs = self._pairs(stem, size)
                if all(file.exists() for pair in pairs.values() for file in pair):
                    return Prepared(folder, len(pairs), new=False)
            pixels = read_image(path)
        except ImageError as error:
            return Prepared(folder, 0, False, Skipped.of(error))
        pairs = self._pairs(stem, pixels.shape[:2])
        for (top, left), pair in pairs.items():
            self._write(f"{stem}_{top}_{left}", pair, pixels, top, left)
        return Prepared(folder, len(pairs), new=True)

    def _pairs(self, stem: str, size: tuple[int, ...]) -> dict[tuple[int, int], tuple[Path, Path]]:
        """{(top, left): (sharp file, blurry file)} of an (H, W) image, without incomplete patches at its right and bottom."""
        side = self.settings.patch
        corners = [(top, left) for top in range(0, size[0] - side + 1, side) for left in range(0, size[1] - side + 1, side)]
        return {(top, left): self._files(stem, f"{stem}_{top}_{left}") for top, left in corners}

    def _files(self, stem: str, name: str) -> tuple[Path, Path]:
        sharp, blurry = (self.out / kind / self.folders[stem] / f"{name}{self.settings.suffix}" for kind in ("sharp", "blurry"))
        return sharp, blurry

    def _write(self, name: str, files: tuple[Path, Path], pixels: Pixels, top: int, left: int) -> None:
        side, seed = self.settings.patch, self.settings.seed
        sharp = np.ascontiguousarray(pixels[top : top + side, left : left + side])
        draws = draw(self.settings.degrade, sample_generator(seed, 0, name, "prepare"))
        blurry = to_uint8(unpack(batch_of_one(name, sharp, None, draws), self.settings.degrade)[1])
        for path, image in zip(files, (sharp, blurry[0].permute(1, 2, 0).contiguous().numpy()), strict=True):
            write_bytes(path, self.settings.encode(image))


def _size(path: Path) -> tuple[int, int] | None:
    """(height, width) after rotation, from the file's header alone. None if Pillow cannot tell: the image is then read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                width, height = image.size
                # Pillow swaps the two itself for a TIFF.
                swapped = image.format != "TIFF" and orientation_of(image) in SWAPS_AXES
                return (width, height) if swapped else (height, width)
    except Exception:  # noqa: BLE001 (reading the image says what is wrong)
        return None
