"""The whole images of one sample, and the files that they are read from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from distill.data.decoding.kinds import JPEG
from distill.data.image_files import ImageError, read_image
from distill.data.pixels import Pixels


@dataclass(frozen=True)
class Triplet:
    """One sample's whole images, (H, W, 3) uint8, all of one size. An image that is not on disk is None, but never both the sharp
    and the blurry one."""

    sharp: Pixels | None
    blurry: Pixels | None = None
    teacher: Pixels | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        pixels = self.blurry if self.sharp is None else self.sharp
        assert pixels is not None
        return pixels.shape[0], pixels.shape[1]

    @property
    def nbytes(self) -> int:
        return sum(pixels.nbytes for pixels in (self.sharp, self.blurry, self.teacher) if pixels is not None)


@dataclass(frozen=True)
class ImageFile:
    """An image on disk: a sharp one, a blurry one, or a pair of both."""

    stem: str
    sharp: Path | None
    blurry: Path | None = None

    @property
    def path(self) -> Path:
        """The sharp file, or the blurry one if there is no sharp one."""
        path = self.blurry if self.sharp is None else self.sharp
        assert path is not None, "an image has a file"
        return path

    @property
    def block(self) -> int:
        """Crops begin at multiples of this many pixels. A blurry JPEG keeps its blocks of 8x8 where they are in the whole image:
        a network that undoes JPEG may depend on it (Jiang et al., arXiv:2109.14573, of double JPEG; not measured here)."""
        return 8 if self.blurry is not None and self.blurry.suffix.lower() in JPEG else 1

    def read(self) -> Triplet:
        """Raises ImageError for a file that cannot be used, and for a pair of different sizes."""
        sharp = None if self.sharp is None else read_image(self.sharp)
        if self.blurry is None:
            return Triplet(sharp)
        return self.with_blurry(sharp, read_image(self.blurry))

    def with_blurry(self, sharp: Pixels | None, blurry: Pixels) -> Triplet:
        """The triplet of the two files' pixels. Raises ImageError if their sizes differ."""
        assert self.blurry is not None
        return Triplet(sharp, blurry if sharp is None else check_size(blurry, self.blurry, sharp.shape[:2], self))


def check_size(pixels: Pixels, path: Path, size: tuple[int, ...], image: ImageFile) -> Pixels:
    """Returns the pixels if they have the height and width `size` of the image that they belong to. Raises ImageError if not."""
    if pixels.shape[:2] != size:
        partner = f"{'blurry' if image.sharp is None else 'sharp'} image {image.path}"
        raise ImageError(f"{pixels.shape[1]}x{pixels.shape[0]} pixels, but its {partner} has {size[1]}x{size[0]}", path)
    return pixels


class TripletReader(Protocol):
    """Reads images with their teacher images, as a teacher cache does. A triplet without one has a teacher image that is not
    computed yet."""

    def read(self, image: ImageFile) -> Triplet:
        """Raises ImageError for an image that cannot be used."""
