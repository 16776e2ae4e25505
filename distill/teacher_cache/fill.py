"""Fills a teacher cache: restores whole blurry images with the teacher, and writes 8-bit PNGs and manifest lines."""

from __future__ import annotations

import threading
import zlib
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.data.batch import to_tensor
from distill.data.decoding.versions import READER
from distill.data.image_files import encode_png
from distill.data.loader import load
from distill.data.pixels import Pixels
from distill.data.triplets import ImageFile
from distill.networks.teacher import NOT_FINITE, Teacher
from distill.networks.tiles import apply_in_tiles
from distill.runtime.files import write_bytes
from distill.synthesis.eight_bit import to_float, to_uint8
from distill.teacher_cache.inputs import BlurryImage, BlurryImages, group_by_size
from distill.teacher_cache.manifest import Entry, Stamp
from distill.teacher_cache.store import TeacherCache

WRITERS = 2
MAX_QUEUED_WRITES = 16


def restore(teacher: Teacher, images: Tensor, tile: int, device: torch.device) -> tuple[Tensor, list[bool]]:
    """Restores whole blurry images, in tiles if an image has more than tile x tile pixels.

    Images and results are (B, 3, H, W) uint8 on the CPU. Also returns whether each restored image was finite.
    """

    def on_device(part: Tensor) -> Tensor:
        return teacher(to_float(part.to(device)))

    if images.shape[-2] * images.shape[-1] <= tile * tile:
        restored = on_device(images)
    else:
        # Tiles are put together in the CPU's memory, so that the device never holds a whole large image.
        restored = torch.cat([apply_in_tiles(lambda part: on_device(part).cpu(), image[None], tile) for image in images])
    return to_uint8(restored).cpu(), restored.isfinite().flatten(1).all(dim=1).tolist()


def fill(
    cache: TeacherCache, teacher: Teacher, images: Sequence[ImageFile], tile: int, workers: int, device: torch.device
) -> Generator[Entry]:
    """Computes and stores the teacher images of `images`. Yields each manifest line once it is written, in no fixed order.

    `workers` processes read and threads write, so that the device does not wait. Raises ImageError for a file that cannot be
    opened, and WriteError for a file that cannot be written.
    """
    writes: deque[Future[Entry]] = deque()
    lock = threading.Lock()

    def write(result: _Result) -> Entry:
        entry = store_result(cache, result)
        with lock:
            cache.manifest.append([entry])
        return entry

    with ThreadPoolExecutor(WRITERS) as writers, closing(load(BlurryImages(images), workers, batch_size=None)) as inputs:
        for group in group_by_size(inputs, tile):
            writes.extend(writers.submit(write, result) for result in restore_group(teacher, group, tile, device))
            # Yields what is written already, and waits for a write only if too many images are queued in memory.
            while len(writes) > MAX_QUEUED_WRITES or (writes and writes[0].done()):
                yield writes.popleft().result()
        while writes:
            yield writes.popleft().result()


@dataclass(frozen=True)
class _Result:
    """The teacher's image of one input, or the reason why there is none."""

    source: BlurryImage
    pixels: Pixels | None
    unreadable: str | None


def restore_group(teacher: Teacher, group: Sequence[BlurryImage], tile: int, device: torch.device) -> list[_Result]:
    """One result for each input of a group: readable inputs of one size, or a single unreadable input."""
    tensors = [to_tensor(source.pixels) for source in group if source.pixels is not None]
    if not tensors:
        return [_Result(source, None, source.unreadable) for source in group]
    restored, finite = restore(teacher, torch.cat(tensors), tile, device)
    images = restored.permute(0, 2, 3, 1).contiguous().numpy()
    return [
        _Result(source, pixels if good else None, None if good else NOT_FINITE)
        for source, pixels, good in zip(group, images, finite, strict=True)
    ]


def store_result(cache: TeacherCache, result: _Result) -> Entry:
    """Writes the teacher's image, if there is one. Returns the input's manifest line, which the caller appends to the manifest.
    Raises WriteError."""
    stem, stamp = result.source.image.stem, result.source.stamp
    if result.pixels is None:
        return Entry(stem=stem, blurry=stamp, reader=READER, unreadable=result.unreadable)
    path, data = cache.png_path(stem), encode_png(result.pixels)
    write_bytes(path, data)
    output = Stamp(size=len(data), mtime_ns=path.stat().st_mtime_ns, crc32=zlib.crc32(data))
    return Entry(stem=stem, blurry=stamp, output=output, reader=READER)
