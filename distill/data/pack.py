"""Packing a PNG cache into shards: the same triplets, found without decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch.utils.data import Dataset

from distill.data.images import ImageError, ImageFile, Triplet
from distill.data.loader import load
from distill.data.manifest import CacheError, Entry, Stamp
from distill.data.shards import SHARD_BYTES, checksum, shard_name, shard_number, write_shard
from distill.data.teacher_cache import TeacherCache


class _Triplets(Dataset[tuple[Entry, Triplet | None]]):
    """Each image's line without its shard, and its pixels, where it can be read."""

    def __init__(self, cache: TeacherCache, images: Sequence[ImageFile]) -> None:
        self.cache, self.images = cache, images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Entry, Triplet | None]:
        image = self.images[index]
        known = self.cache.manifest.entries[image.stem]
        try:
            sharp = Stamp.of(image.sharp, image.sharp.read_bytes())
        except OSError as error:
            raise ImageError(f"{image.sharp}: {error.strerror}") from error
        entry = Entry(stem=image.stem, blurry=known.blurry, sharp=sharp)
        try:
            return entry, self.cache.read(image)
        except ImageError as error:
            return entry.model_copy(update={"unreadable": str(error)}), None


def pack(cache: TeacherCache, images: Sequence[ImageFile], packed: TeacherCache, workers: int) -> Iterator[list[Entry]]:
    """Copies these images and their teacher images from a complete PNG cache into shards, and yields the lines of each shard as
    it is written. Raises ImageError and CacheError for a file that cannot be opened or written."""
    used = [shard_number(entry.shard) for entry in packed.manifest.entries.values() if entry.shard is not None]
    number = max(used, default=-1) + 1
    entries: list[Entry] = []
    triplets: dict[str, Triplet] = {}

    def flush() -> list[Entry]:
        path = packed.folder / shard_name(number)
        try:
            if triplets:
                write_shard(path, triplets)
                status = path.stat()
        except OSError as error:
            raise CacheError(f"{path}: cannot be written: {error.strerror}") from error
        written = []
        for entry in entries:
            if (triplet := triplets.get(entry.stem)) is not None:
                stamp = Stamp(size=status.st_size, mtime_ns=status.st_mtime_ns, crc32=checksum(triplet))
                entry = entry.model_copy(update={"output": stamp, "shard": path.name})
            written.append(entry)
        packed.manifest.append(written)
        entries.clear()
        triplets.clear()
        return written

    for entry, triplet in load(_Triplets(cache, images), workers, batch_size=None):
        entries.append(entry)
        if triplet is not None:
            triplets[entry.stem] = triplet
        if sum(3 * t.sharp.nbytes for t in triplets.values()) >= SHARD_BYTES:
            yield flush()
            number += 1
    if entries:
        yield flush()
