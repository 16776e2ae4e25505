"""Filling a teacher cache: whole blurry images through the teacher, 8-bit PNGs and manifest lines out."""

from __future__ import annotations

import logging
import threading
import zlib
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from distill.config import Config, TeacherConfig
from distill.data.datasets import Batch, cut, to_tensor
from distill.data.images import ImageError, ImageFile, Pixels, encode_png, read_image, unreadable
from distill.data.loader import load
from distill.networks.teacher import Teacher, identify
from distill.networks.tiles import apply_in_tiles
from distill.runtime.files import locked, write_bytes
from distill.runtime.progress import progress_bar
from distill.synthesis.degrade import to_float, to_uint8
from distill.teacher_cache.manifest import CacheError, Entry, Stamp
from distill.teacher_cache.store import TeacherCache, new_header, read_checked

logger = logging.getLogger(__name__)

# Images that wait for others of their size; beyond so many tiles' worth of pixels the largest group goes ahead.
MAX_WAITING_TILES = 64
WRITERS = 2
MAX_QUEUED_WRITES = 16


def restore(teacher: Teacher, images: Tensor, tile: int, device: torch.device) -> tuple[Tensor, list[bool]]:
    """The teacher's images of whole blurry ones, (B, 3, H, W) uint8 on the CPU both, and whether each was finite; in tiles where
    one has more than tile x tile pixels."""

    def on_device(part: Tensor) -> Tensor:
        return teacher(to_float(part.to(device)))

    if images.shape[-2] * images.shape[-1] <= tile * tile:
        restored = on_device(images)
    else:
        restored = torch.cat([apply_in_tiles(lambda part: on_device(part).cpu(), image[None], tile) for image in images])
    return to_uint8(restored).cpu(), restored.isfinite().flatten(1).all(dim=1).tolist()


NOT_FINITE = "the teacher's image of it is not finite; teacher.precision: fp32 is the one that can mend this"


@dataclass(frozen=True)
class _Input:
    """One blurry image as a loader worker read it."""

    image: ImageFile
    stamp: Stamp
    pixels: Pixels | None
    """None for what cannot be read. No tensor: each would hold a file descriptor while it waits for others of its size."""
    unreadable: str | None = None


class _Inputs(Dataset[_Input]):
    def __init__(self, images: Sequence[ImageFile]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> _Input:
        return _read_input(self.images[index])


def _read_input(image: ImageFile) -> _Input:
    """Raises ImageError for a file that cannot even be opened; damage inside it is part of the result."""
    assert image.blurry is not None, "a cache is of blurry images on disk"
    try:
        stamp, data = Stamp.of(image.blurry)
    except OSError as error:
        raise unreadable(image.blurry, error) from error
    try:
        return _Input(image, stamp, read_image(image.blurry, data))
    except ImageError as error:
        return _Input(image, stamp, None, unreadable=error.reason)


def fill(
    cache: TeacherCache, teacher: Teacher, images: Sequence[ImageFile], tile: int, workers: int, device: torch.device
) -> Generator[Entry]:
    """Computes and stores the teacher images of these images, in an order of its own, and yields each line as it is written.

    Reading happens in `workers` processes and writing in threads, so that the device does not wait. Raises ImageError
    for a file that cannot be opened, WriteError for one that cannot be written.
    """
    writes: deque[Future[Entry]] = deque()
    lock = threading.Lock()

    def write(result: _Result) -> Entry:
        entry = _store(cache, result)
        with lock:
            cache.manifest.append([entry])
        return entry

    with ThreadPoolExecutor(WRITERS) as writers, closing(load(_Inputs(images), workers, batch_size=None)) as inputs:
        for group in _groups(inputs, tile):
            writes.extend(writers.submit(write, result) for result in _restore_group(teacher, group, tile, device))
            while len(writes) > MAX_QUEUED_WRITES or (writes and writes[0].done()):
                yield writes.popleft().result()
        while writes:
            yield writes.popleft().result()


@dataclass(frozen=True)
class _Result:
    """What became of one input: the teacher's image, or why there is none."""

    source: _Input
    pixels: Pixels | None
    unreadable: str | None


def _restore_group(teacher: Teacher, group: Sequence[_Input], tile: int, device: torch.device) -> list[_Result]:
    """Of inputs of one size, or one that cannot be read."""
    tensors = [to_tensor(source.pixels) for source in group if source.pixels is not None]
    if not tensors:
        return [_Result(source, None, source.unreadable) for source in group]
    restored, finite = restore(teacher, torch.cat(tensors), tile, device)
    images = restored.permute(0, 2, 3, 1).contiguous().numpy()
    return [
        _Result(source, pixels if good else None, None if good else NOT_FINITE)
        for source, pixels, good in zip(group, images, finite, strict=True)
    ]


def _groups(inputs: Iterator[_Input], tile: int) -> Iterator[list[_Input]]:
    """Inputs of one size each, as many as together have at most tile x tile pixels; one at a time of larger and of unreadable
    ones."""
    waiting: dict[tuple[int, ...], list[_Input]] = {}
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


def _store(cache: TeacherCache, result: _Result) -> Entry:
    """Writes the teacher's image, if there is one, and returns its line, which is still to be appended. Raises WriteError."""
    stem, stamp = result.source.image.stem, result.source.stamp
    if result.pixels is None:
        return Entry(stem=stem, blurry=stamp, unreadable=result.unreadable)
    path, data = cache.png_path(stem), encode_png(result.pixels)
    write_bytes(path, data)
    return Entry(stem=stem, blurry=stamp, output=Stamp(size=len(data), mtime_ns=path.stat().st_mtime_ns, crc32=zlib.crc32(data)))


class OnlineFiller:
    """Completes batches while training, so that the first epoch fills the cache.

    Images are restored one by one: a target then has the same bits whatever batch first asks for it, and a run that was stopped
    and resumed the same result.
    """

    def __init__(self, cache: TeacherCache, teacher: Teacher, tile: int, patch: int, device: torch.device) -> None:
        self.cache, self.teacher, self.tile, self.patch, self.device = cache, teacher, tile, patch, device
        self.computed: dict[str, Entry] = {}

    def complete(self, batch: Batch) -> None:
        """Fills the empty rows of `batch.teacher`, in place. Raises ImageError and WriteError."""
        for row, hole in batch.uncached.items():
            assert batch.teacher is not None
            pixels = self._stored(hole.image)
            if pixels is None:
                pixels = self._compute(hole.image)
            batch.teacher[row] = to_tensor(cut(pixels, self.patch, hole.top, hole.left))[0]
        batch.uncached.clear()

    def _stored(self, image: ImageFile) -> Pixels | None:
        """What was computed after a loader worker had looked for it; None where it was not, or is damaged since."""
        entry = self.computed.get(image.stem)
        if entry is None or entry.output is None:
            return None
        path = self.cache.path_of(entry)
        try:
            return read_image(path, read_checked(path, entry.output, "damaged since it was cached"))
        except ImageError:
            return None

    def _compute(self, image: ImageFile) -> Pixels:
        (result,) = _restore_group(self.teacher, [_read_input(image)], self.tile, self.device)
        entry = _store(self.cache, result)
        self.cache.manifest.append([entry])
        if result.pixels is None:
            assert result.unreadable is not None
            raise ImageError(result.unreadable, image.blurry)
        self.computed[image.stem] = entry
        return result.pixels


def cache_lock(config: TeacherConfig) -> AbstractContextManager[None]:
    """Held by a run that may fill its cache, from before it looks at it: it must stay the cache that was compared. Raises
    WriteError."""
    fills = config.mode == "cached" and config.on_missing == "compute"
    return locked(Path(config.cache)) if fills else nullcontext()


def open_for_training(
    config: Config, teacher: Teacher, images: Sequence[ImageFile], device: torch.device
) -> tuple[TeacherCache, OnlineFiller | None]:
    """The cache of mode `cached`, compared with the configuration, and what completes it where `teacher.on_missing` is `compute`
    and the cache is not bare or packed.

    To be called under `cache_lock`. Raises CacheError where it is of another teacher or of other images, ImageError where bare
    files cannot be told apart, and WriteError.
    """
    settings = config.teacher
    compute = settings.on_missing == "compute"
    cache, identity = TeacherCache(settings.cache, recompute=compute), identify(teacher)
    if cache.manifest.header is None and cache.bare is None:
        if not compute:
            raise CacheError(f"{cache.folder}: there are no cached teacher images", mend="")
        cache.manifest.write_header(new_header(config, identity, images))
    cache.check_identity(identity)
    with progress_bar(len(images), "image", desc="checking the cache", leave=False) as bar:
        found = cache.compare(images, advance=bar.update)
    if cache.bare is not None:
        doubt = "no manifest: nothing tells whether these images are of this teacher and of these inputs"
        logger.warning("%s: %s", cache.folder, doubt)
    if not compute or cache.storage != "png":
        cache.refuse(found)
        return cache, None
    if found.to_compute:
        count = f"{len(found.to_compute)} of {len(images)}"
        logger.info("%s: %s teacher images are computed when they first come", cache.folder, count)
    cache.forget(found.to_compute)
    return cache, OnlineFiller(cache, teacher, settings.tile, config.data.patch, device)
