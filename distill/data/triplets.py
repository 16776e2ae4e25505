"""The whole images of one sample, and where they are read from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from distill.data.image_files import ImageError, read_image
from distill.data.pixels import Pixels


@dataclass(frozen=True)
class Triplet:
    """One sample's whole images, (H, W, 3) uint8 of one size; None for what is not on disk."""

    sharp: Pixels
    blurry: Pixels | None = None
    teacher: Pixels | None = None

    @property
    def nbytes(self) -> int:
        return sum(pixels.nbytes for pixels in (self.sharp, self.blurry, self.teacher) if pixels is not None)


@dataclass(frozen=True)
class ImageFile:
    """A sharp image on disk and, where there is one, its blurry partner."""

    stem: str
    sharp: Path
    blurry: Path | None = None

    def read(self) -> Triplet:
        """Raises ImageError for damage and for a pair of different size."""
        sharp = read_image(self.sharp)
        if self.blurry is None:
            return Triplet(sharp)
        return Triplet(sharp, check_size(read_image(self.blurry), self.blurry, sharp, self.sharp))


def check_size(pixels: Pixels, path: Path, sharp: Pixels, sharp_path: Path) -> Pixels:
    """The pixels, when they have their sharp image's size. Raises ImageError."""
    if pixels.shape != sharp.shape:
        sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in (pixels, sharp)]
        raise ImageError(f"{sizes[0]} pixels, but its sharp image {sharp_path} has {sizes[1]}", path)
    return pixels


class TripletReader(Protocol):
    """Where a data set reads its images: the image files themselves, or a teacher cache."""

    @property
    def stores_targets(self) -> bool:
        """Whether triplets come with the teacher's image. One that comes without it has an image still to be computed."""

    def read(self, image: ImageFile) -> Triplet:
        """Raises ImageError for an image that cannot be used."""


class ImageFileReader:
    """Reads sharp and blurry images from their files."""

    stores_targets = False

    def read(self, image: ImageFile) -> Triplet:
        """Raises ImageError for damage and for a pair of different size."""
        return image.read()
