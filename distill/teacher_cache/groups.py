"""Blurry images read from disk, and put together in groups of one size for the teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch.utils.data import Dataset

from distill.data.image_files import ImageError, read_image, unreadable
from distill.data.pixels import Pixels
from distill.data.triplets import ImageFile
from distill.teacher_cache.manifest import Stamp

# Images that wait for others of their size; beyond so many tiles' worth of pixels the largest group goes ahead.
MAX_WAITING_TILES = 64


@dataclass(frozen=True)
class BlurryImage:
    """One blurry image as a loader worker read it."""

    image: ImageFile
    stamp: Stamp
    pixels: Pixels | None
    """None for what cannot be read. No tensor: each would hold a file descriptor while it waits for others of its size."""
    unreadable: str | None = None


class BlurryImages(Dataset[BlurryImage]):
    def __init__(self, images: Sequence[ImageFile]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> BlurryImage:
        return read_input(self.images[index])


def read_input(image: ImageFile) -> BlurryImage:
    """Raises ImageError for a file that cannot even be opened; damage inside it is part of the result."""
    assert image.blurry is not None, "a cache is of blurry images on disk"
    try:
        stamp, data = Stamp.of(image.blurry)
    except OSError as error:
        raise unreadable(image.blurry, error) from error
    try:
        return BlurryImage(image, stamp, read_image(image.blurry, data))
    except ImageError as error:
        return BlurryImage(image, stamp, None, unreadable=error.reason)


def group_by_size(inputs: Iterator[BlurryImage], tile: int) -> Iterator[list[BlurryImage]]:
    """Images of one size in each group, as many as have at most tile x tile pixels together. A larger image is alone in its
    group, and so is an unreadable one."""
    waiting: dict[tuple[int, ...], list[BlurryImage]] = {}
    waiting_pixels = 0
    for source in inputs:
        if source.pixels is None:
            yield [source]
            continue
        size = source.pixels.shape[:2]
        pixels = size[0] * size[1]
        group = waiting.setdefault(size, [])
        group.append(source)
        waiting_pixels += pixels
        if (len(group) + 1) * pixels > tile * tile:
            waiting_pixels -= len(group) * pixels
            yield waiting.pop(size)
        elif waiting_pixels > MAX_WAITING_TILES * tile * tile:
            size = max(waiting, key=lambda s: len(waiting[s]) * s[0] * s[1])
            waiting_pixels -= len(waiting[size]) * size[0] * size[1]
            yield waiting.pop(size)
    yield from waiting.values()
