"""The whole images of one sample, and the classes that read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from distill.data.image_files import ImageError, read_image
from distill.data.pixels import Pixels


@dataclass(frozen=True)
class Triplet:
    """One sample's whole images, (H, W, 3) uint8, all of one size. A blurry or teacher image that is not on disk is None."""

    sharp: Pixels
    blurry: Pixels | None = None
    teacher: Pixels | None = None

    @property
    def nbytes(self) -> int:
        return sum(pixels.nbytes for pixels in (self.sharp, self.blurry, self.teacher) if pixels is not None)


@dataclass(frozen=True)
class ImageFile:
    """A sharp image on disk and its blurry partner, if it has one."""

    stem: str
    sharp: Path
    blurry: Path | None = None

    def read(self) -> Triplet:
        """Raises ImageError for a file that cannot be used, and for a pair of different sizes."""
        sharp = read_image(self.sharp)
        if self.blurry is None:
            return Triplet(sharp)
        return Triplet(sharp, check_size(read_image(self.blurry), self.blurry, sharp, self.sharp))


def check_size(pixels: Pixels, path: Path, sharp: Pixels, sharp_path: Path) -> Pixels:
    """Returns the pixels if they have the size of their sharp image. Raises ImageError if not."""
    if pixels.shape != sharp.shape:
        sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in (pixels, sharp)]
        raise ImageError(f"{sizes[0]} pixels, but its sharp image {sharp_path} has {sizes[1]}", path)
    return pixels


class TripletReader(Protocol):
    """Reads the images of a data set, from the image files themselves or from a teacher cache."""

    @property
    def stores_targets(self) -> bool:
        """Whether the reader also reads teacher images. If so, and a triplet has none, its teacher image is not computed yet."""

    def read(self, image: ImageFile) -> Triplet:
        """Raises ImageError for an image that cannot be used."""


class ImageFileReader:
    """Reads sharp and blurry images from their files."""

    stores_targets = False

    def read(self, image: ImageFile) -> Triplet:
        """Raises ImageError for a file that cannot be used, and for a pair of different sizes."""
        return image.read()
