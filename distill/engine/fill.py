"""Filling a teacher cache: whole blurry images through the teacher, 8-bit PNGs and manifest lines out."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from distill.config import Config
from distill.data.datasets import Batch, cut, to_tensor
from distill.data.degrade import to_float, to_uint8
from distill.data.files import locked, write_bytes
from distill.data.images import ImageError, ImageFile, Pixels, encode_png, read_image
from distill.data.loader import load
from distill.data.manifest import CacheError, Entry, Header, Stamp
from distill.data.teacher_cache import TeacherCache, describe_inputs
from distill.engine.teacher import Teacher, identify
from distill.engine.tiles import apply_in_tiles

logger = logging.getLogger(__name__)

# Images that wait for others of their size; beyond so many tiles' worth of pixels the largest group goes ahead.
MAX_WAITING_TILES = 64
WRITERS = 2
MAX_QUEUED_WRITES = 16


def restore(teacher: Teacher, images: Tensor, tile: int, device: torch.device) -> Tensor:
    """The teacher's images of whole blurry ones, (B, 3, H, W) uint8 on the CPU both; in tiles where one has more than tile x tile
    pixels."""

    def on_device(part: Tensor) -> Tensor:
        return teacher(to_float(part.to(device)))

    if images.shape[-2] * images.shape[-1] <= tile * tile:
        return to_uint8(on_device(images)).cpu()
    return torch.cat([to_uint8(apply_in_tiles(lambda part: on_device(part).cpu(), image[None], tile)) for image in images])


@dataclass(frozen=True)
class _Input:
    """One blurry image as a loader worker read it."""

    image: ImageFile
    stamp: Stamp
    pixels: Tensor | None
    """(1, 3, H, W) uint8; None for what cannot be read."""
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
        data = image.blurry.read_bytes()
        stamp = Stamp.of(image.blurry, data)
    except OSError as error:
        raise ImageError(f"{image.blurry}: {error.strerror}") from error
    try:
        return _Input(image, stamp, to_tensor(read_image(image.blurry, data)))
    except ImageError as error:
        return _Input(image, stamp, None, unreadable=str(error).removeprefix(f"{image.blurry}: "))


def fill(
    cache: TeacherCache, teacher: Teacher, images: Sequence[ImageFile], tile: int, workers: int, device: torch.device
) -> Generator[Entry]:
    """Computes and stores the teacher images of these images, in an order of its own, and yields each line as it is written.

    Reading happens in `workers` processes and writing in threads, so that the device does not wait. Raises ImageError
    for a file that cannot be opened, WriteError for one that cannot be written.
    """
    writes: deque[Future[Entry]] = deque()
    lock = threading.Lock()

    def write(source: _Input, pixels: Pixels | None) -> Entry:
        entry = _store(cache, source, pixels)
        with lock:
            cache.manifest.append([entry])
        return entry

    with ThreadPoolExecutor(WRITERS) as writers, closing(load(_Inputs(images), workers, batch_size=None)) as inputs:
        for group in _groups(inputs, tile):
            pixels = _restore_group(teacher, group, tile, device)
            writes.extend(writers.submit(write, source, row) for source, row in zip(group, pixels, strict=True))
            while len(writes) > MAX_QUEUED_WRITES or (writes and writes[0].done()):
                yield writes.popleft().result()
        while writes:
            yield writes.popleft().result()


def _restore_group(teacher: Teacher, group: Sequence[_Input], tile: int, device: torch.device) -> list[Pixels | None]:
    tensors = [source.pixels for source in group if source.pixels is not None]
    if not tensors:
        return [None] * len(group)
    return list(restore(teacher, torch.cat(tensors), tile, device).permute(0, 2, 3, 1).contiguous().numpy())


def _groups(inputs: Iterator[_Input], tile: int) -> Iterator[list[_Input]]:
    """Inputs of one size each, as many as together have at most tile x tile pixels; one at a time of larger and of unreadable
    ones."""
    waiting: dict[tuple[int, ...], list[_Input]] = {}
    for source in inputs:
        if source.pixels is None:
            yield [source]
            continue
        size = tuple(source.pixels.shape[-2:])
        group = waiting.setdefault(size, [])
        group.append(source)
        if (len(group) + 1) * size[0] * size[1] > tile * tile:
            yield waiting.pop(size)
        elif sum(len(g) * h * w for (h, w), g in waiting.items()) > MAX_WAITING_TILES * tile * tile:
            yield waiting.pop(max(waiting, key=lambda s: len(waiting[s]) * s[0] * s[1]))
    yield from waiting.values()


def _store(cache: TeacherCache, source: _Input, pixels: Pixels | None) -> Entry:
    """Writes the teacher's image, if there is one, and returns its line, which is still to be appended."""
    if pixels is None:
        return Entry(stem=source.image.stem, blurry=source.stamp, unreadable=source.unreadable)
    path, data = cache.png_path(source.image.stem), encode_png(pixels)
    write_bytes(path, data)
    return Entry(stem=source.image.stem, blurry=source.stamp, output=Stamp.of(path, data))


class OnlineFiller:
    """Completes batches while training, so that the first epoch fills the cache; `with filler.lock():` around it.

    Images are restored one by one: a target then has the same bits whatever batch first asks for it, and a run that was stopped
    and resumed the same result.
    """

    def __init__(self, cache: TeacherCache, teacher: Teacher, tile: int, patch: int, device: torch.device) -> None:
        self.cache, self.teacher, self.tile, self.patch, self.device = cache, teacher, tile, patch, device
        self.computed: dict[str, Path] = {}

    def lock(self) -> AbstractContextManager[None]:
        """Keeps other processes from writing the cache. Raises WriteError where one does."""
        return locked(self.cache.folder)

    def complete(self, batch: Batch) -> None:
        """Fills the empty rows of `batch.teacher`, in place. Raises ImageError and WriteError."""
        for row, hole in batch.uncached.items():
            assert batch.teacher is not None
            batch.teacher[row] = to_tensor(cut(self._teacher_image(hole.image), self.patch, hole.top, hole.left))[0]
        batch.uncached.clear()

    def _teacher_image(self, image: ImageFile) -> Pixels:
        if image.stem in self.computed:  # read by a loader worker before it was written
            return read_image(self.computed[image.stem])
        source = _read_input(image)
        (pixels,) = _restore_group(self.teacher, [source], self.tile, self.device)
        if pixels is None:
            raise ImageError(f"{image.blurry}: {source.unreadable}")
        entry = _store(self.cache, source, pixels)
        self.cache.manifest.append([entry])
        self.computed[image.stem] = self.cache.path_of(entry)
        return pixels


def open_for_training(
    config: Config, teacher: Teacher, images: Sequence[ImageFile], device: torch.device
) -> tuple[TeacherCache, OnlineFiller | None]:
    """The cache of mode `cached`, compared with the configuration, and what completes it where `teacher.on_missing` is `compute`.

    Raises CacheError where it is of another teacher or of other images.
    """
    settings = config.teacher
    compute = settings.on_missing == "compute"
    cache = TeacherCache(settings.cache, recompute=compute)
    if cache.manifest.header is None and cache.bare is None:
        if not compute:
            raise CacheError(f"{cache.folder}: there are no cached teacher images", mend="")
        inputs = describe_inputs(config.data, images)
        cache.manifest.write_header(Header(storage="png", teacher=identify(teacher), inputs=inputs))
    cache.check_identity(identify(teacher))
    with tqdm(total=len(images), unit="image", desc="checking the cache", leave=False, dynamic_ncols=True) as bar:
        found = cache.compare(images, advance=bar.update)
    if not compute or cache.storage != "png":
        cache.refuse(found)
    if cache.bare is not None:
        doubt = "no manifest: nothing tells whether these images are of this teacher and of these inputs"
        logger.warning("%s: %s", cache.folder, doubt)
    if found.to_compute:
        logger.info(
            "%s: %d of %d teacher images are computed when they first come", cache.folder, len(found.to_compute), len(images)
        )
    cache.forget(found.to_compute)
    filler = OnlineFiller(cache, teacher, settings.tile, config.data.patch, device) if compute else None
    return cache, filler
