"""Packs a PNG cache into shards: safetensors files that hold the pixels of many triplets (sharp, if there is one, blurry and
teacher image). Reading a triplet from a shard needs no decoding."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

from torch.utils.data import Dataset

from distill.data.decoding.versions import READER
from distill.data.image_files import ImageError, unreadable
from distill.data.loader import load
from distill.data.triplets import ImageFile, Triplet
from distill.teacher_cache.manifest import CacheError, Entry, Stamp
from distill.teacher_cache.shards import SHARD_BYTES, checksum, shard_name, shard_number, write_shard
from distill.teacher_cache.store import TeacherCache


@dataclass(frozen=True)
class _Packable:
    """What is packed of one image: its manifest line, which does not name a shard yet, and its triplet."""

    entry: Entry
    triplet: Triplet | None
    """None if there is no teacher image to pack. The shard then holds nothing of the image, and only its line is written."""
    damaged: str | None = None
    """Why the cache cannot give this triplet, although the input images can be read."""


class _Packables(Dataset[_Packable]):
    def __init__(self, cache: TeacherCache, images: Sequence[ImageFile]) -> None:
        self.cache, self.images = cache, images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> _Packable:
        image = self.images[index]
        known = self.cache.manifest.entries[image.stem]
        sharp = None
        if image.sharp is not None:
            try:
                sharp, _ = Stamp.of(image.sharp)
            except OSError as error:
                raise unreadable(image.sharp, error) from error
        entry = Entry(stem=image.stem, blurry=known.blurry, sharp=sharp, reader=READER, unreadable=known.unreadable)
        if known.output is None:
            return _Packable(entry, None)
        try:
            return _Packable(entry, self.cache.read(image))
        except ImageError as error:
            complaint = str(error)
        try:
            image.read()  # tells a bad input, which is recorded in the line, from a bad teacher image, which stops packing
        except ImageError as error:
            # Whoever reads the line puts the blurry file's path before the reason. Another file's path must be in the reason.
            reason = error.reason if error.path == image.blurry else str(error)
            return _Packable(entry.model_copy(update={"unreadable": reason}), None)
        return _Packable(entry, None, damaged=complaint)


def pack(cache: TeacherCache, images: Sequence[ImageFile], packed: TeacherCache, workers: int) -> Generator[list[Entry]]:
    """Copies `images` and their teacher images from a complete PNG cache into shards. Yields the lines of each shard once it is
    written. Raises ImageError for a file that cannot be opened, WriteError for a file that cannot be written, and CacheError for
    a damaged teacher image."""
    used = [shard_number(entry.shard) for entry in packed.manifest.entries.values() if entry.shard is not None]
    number = max(used, default=-1) + 1
    waiting: list[_Packable] = []
    size = 0
    with closing(load(_Packables(cache, images), workers, batch_size=None)) as packables:
        for packable in packables:
            if packable.damaged is not None:
                raise CacheError(packable.damaged, mend="--repair")
            waiting.append(packable)
            size += 0 if packable.triplet is None else packable.triplet.nbytes
            if size >= SHARD_BYTES:
                yield _write(packed, number, waiting)
                number, waiting, size = number + 1, [], 0
        if waiting:
            yield _write(packed, number, waiting)


def _write(packed: TeacherCache, number: int, packables: Sequence[_Packable]) -> list[Entry]:
    """Writes a shard, then its lines."""
    path = packed.folder / shard_name(number)
    triplets = {packable.entry.stem: packable.triplet for packable in packables if packable.triplet is not None}
    entries = {packable.entry.stem: packable.entry for packable in packables}
    if triplets:
        write_shard(path, triplets)
        status = path.stat()
        for stem, triplet in triplets.items():
            stamp = Stamp(size=status.st_size, mtime_ns=status.st_mtime_ns, crc32=checksum(triplet))
            entries[stem] = entries[stem].model_copy(update={"output": stamp, "shard": path.name})
    packed.manifest.append(entries.values())
    return list(entries.values())
