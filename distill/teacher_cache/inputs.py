"""Reads blurry images from disk, and groups them by size for the teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch.utils.data import Dataset

from distill.data.image_files import ImageError, read_image, unreadable
from distill.data.pixels import Pixels
from distill.data.triplets import ImageFile
from distill.teacher_cache.manifest import Stamp

# Images wait for others of their size, until their group is full. All waiting images may have this many times tile x tile pixels.
# If they have more, the group with the most pixels is yielded although it is not full.
MAX_WAITING_TILES = 64


@dataclass(frozen=True)
class BlurryImage:
    """One blurry image as a loader worker read it."""

    image: ImageFile
    stamp: Stamp
    pixels: Pixels | None
    """None if the file cannot be read. An array, because a tensor from a loader worker lies in shared memory, and keeps a file
    descriptor open for as long as the image waits for its group."""
    unreadable: str | None = None


class BlurryImages(Dataset[BlurryImage]):
    def __init__(self, images: Sequence[ImageFile]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> BlurryImage:
        return read_input(self.images[index])


def read_input(image: ImageFile) -> BlurryImage:
    """Raises ImageError if the file cannot be opened. If it opens but cannot be used, the result's `unreadable` says why."""
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
    """Yields groups of images of equal height and width. The images of a group have at most tile x tile pixels together. An image
    with more pixels forms a group alone, and so does an unreadable image."""
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
        if (len(group) + 1) * pixels > tile * tile:  # one more image would not fit
            waiting_pixels -= len(group) * pixels
            yield waiting.pop(size)
        elif waiting_pixels > MAX_WAITING_TILES * tile * tile:
            size = max(waiting, key=lambda s: len(waiting[s]) * s[0] * s[1])
            waiting_pixels -= len(waiting[size]) * size[0] * size[1]
            yield waiting.pop(size)
    yield from waiting.values()
