"""Differences between a cache's manifest and its files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from distill.data.decoding.versions import READER, was_misread
from distill.data.image_files import ImageError
from distill.data.triplets import ImageFile
from distill.errors import listed, shown
from distill.teacher_cache.manifest import CacheError, Entry, Stamp
from distill.teacher_cache.shards import checksum, read_triplet
from distill.teacher_cache.store import TeacherCache

State = Literal["valid", "touched", "missing", "changed", "damaged"]


@dataclass
class Differences:
    """Image stems (paths below the folder, without suffix), listed by what is wrong with their teacher image. If nothing changed,
    all lists are empty."""

    missing: list[str] = field(default_factory=list)
    """Never computed, or deleted."""
    changed: list[str] = field(default_factory=list)
    """An input changed after the teacher image was computed or packed."""
    misread: list[str] = field(default_factory=list)
    """An earlier version read another picture in an input than this one does."""
    damaged: list[str] = field(default_factory=list)
    """The stored teacher image is not what was written."""
    unread: list[str] = field(default_factory=list)
    """An earlier version, which read fewer kinds of files, made no teacher image. Training goes on without it."""
    removed: list[str] = field(default_factory=list)
    """The image is no longer among the inputs."""
    touched: list[str] = field(default_factory=list)
    """Valid, but a file's modification time is not the one in the manifest, as after a copy, or an earlier version wrote its
    line. Until `TeacherCache.restamp` records both, every comparison must checksum its files, or read its inputs' headers."""

    @property
    def to_compute(self) -> list[str]:
        return sorted([*self.missing, *self.changed, *self.misread, *self.unread, *self.damaged])

    def complaint(self) -> str | None:
        """All differences that make the cache wrong, in one line. None if there are none: `touched` and
        `unread` do not count."""
        words = {
            "have no teacher image": self.missing,
            "changed since their teacher image was computed": self.changed,
            "were read wrongly by the version that computed their teacher image": self.misread,
            "have a damaged teacher image": self.damaged,
            "have a teacher image, but are no longer there": self.removed,
        }
        found = [f"{len(stems)} images {what} ({listed([*map(shown, stems)], 3)})" for what, stems in words.items() if stems]
        return "; ".join(found) if found else None


def find_differences(
    cache: TeacherCache, images: Sequence[ImageFile], thorough: bool = False, advance: Callable[[], object] = lambda: None
) -> Differences:
    """Finds what is wrong with the teacher images of `images`. An image is trusted if all its files have the size and time in
    the manifest. The files of all other images are checksummed. If `thorough`, no image is trusted. `advance` is called after
    each image. In a cache of bare files, a file only has to exist, and `advance` is not called."""
    found = Differences()
    if cache.bare is not None:
        found.missing = [image.stem for image in images if image.stem not in cache.bare]
        return found
    found.unread = [image.stem for image in images if _was_unread(cache, image)]
    found.misread = [image.stem for image in images if _was_misread(cache, image)]
    known = {*found.unread, *found.misread}
    suspects = [image for image in images if image.stem not in known and (thorough or not _is_trusted(cache, image))]
    for _ in range(len(images) - len(suspects)):
        advance()
    with ThreadPoolExecutor() as threads:  # reading and zlib.crc32 release the GIL
        for image, state in zip(suspects, threads.map(partial(_state, cache), suspects), strict=True):
            if state != "valid":
                getattr(found, state).append(image.stem)
            advance()
    known |= {*found.to_compute, *found.touched}
    valid = [image.stem for image in images if image.stem not in known]
    found.touched += [stem for stem in valid if cache.manifest.entries[stem].reader != READER]
    found.removed = sorted(cache.manifest.entries.keys() - {image.stem for image in images})
    return found


def _files_of(cache: TeacherCache, image: ImageFile, entry: Entry) -> list[tuple[Path, Stamp]]:
    """[(path, stamp)] of an entry's input files, then of its output if there is one."""
    assert image.blurry is not None, "a cache is of blurry images on disk"
    files = [(image.blurry, entry.blurry), (image.sharp, entry.sharp), (cache.path_of(entry), entry.output)]
    return [(path, stamp) for path, stamp in files if path is not None and stamp is not None]


def _is_trusted(cache: TeacherCache, image: ImageFile) -> bool:
    entry = cache.manifest.entries.get(image.stem)
    if entry is None or _packed_otherwise(image, entry):
        return False
    return all(stamp.looks_like(path) for path, stamp in _files_of(cache, image, entry))


def _was_misread(cache: TeacherCache, image: ImageFile) -> bool:
    """Whether an earlier version read other pictures in an image's input files."""
    entry = cache.manifest.entries.get(image.stem)
    if entry is None or entry.reader == READER or entry.unreadable is not None:
        return False
    inputs = (image.blurry, image.sharp if entry.sharp is not None else None)
    return any(was_misread(path) for path in inputs if path is not None)


def _was_unread(cache: TeacherCache, image: ImageFile) -> bool:
    entry = cache.manifest.entries.get(image.stem)
    return entry is not None and entry.reader != READER and entry.unreadable is not None


def _state(cache: TeacherCache, image: ImageFile) -> State:
    """The state of an image, found by reading and checksumming its files."""
    entry = cache.manifest.entries.get(image.stem)
    if entry is None:
        return "missing"
    files = _files_of(cache, image, entry)
    inputs = files if entry.output is None else files[:-1]  # the output is the last of the files
    if _packed_otherwise(image, entry) or not all(stamp.equals(path) for path, stamp in inputs):
        return "changed"
    if entry.output is not None and not cache.path_of(entry).exists():
        return "missing"
    if entry.output is not None and not _holds(cache, entry, entry.output):
        return "damaged"
    return "valid" if all(stamp.looks_like(path) for path, stamp in files) else "touched"


def _holds(cache: TeacherCache, entry: Entry, output: Stamp) -> bool:
    """Whether the entry's file still holds what was written: for a PNG the whole file, for a shard this image's triplet."""
    if entry.shard is None:
        return output.equals(cache.path_of(entry))
    try:
        return checksum(read_triplet(cache.path_of(entry), entry.stem, entry.sharp is not None)) == output.crc32
    except ImageError:
        return False


def _packed_otherwise(image: ImageFile, entry: Entry) -> bool:
    """Whether an image was packed with a sharp one that it does not have now, or the other way round."""
    return entry.shard is not None and (entry.sharp is None) != (image.sharp is None)


def refuse(cache: TeacherCache, found: Differences, thorough: bool = False) -> None:
    """Raises CacheError if the differences make the cache wrong. The error says how to mend the cache."""
    complaint = found.complaint()
    if complaint is None:
        return
    if cache.manifest.header is not None:
        inputs = cache.manifest.header.inputs
        complaint += f"; it was filled for {shown(inputs.count)} images of {shown(inputs.folder)}"
    if cache.bare is not None:
        advice = "without a manifest it cannot be completed: give another teacher.cache, and distill.cache fills it"
        raise CacheError(f"{cache.folder}: {complaint}; {advice}")
    if cache.storage == "safetensors":
        advice = f"set teacher.cache to the PNG cache it was packed from, and run distill.cache --pack {cache.folder} again"
        raise CacheError(f"{cache.folder}: {complaint}; {advice}")
    # The plain command does not read a file whose size and time are as recorded, and does not remove teacher images. So it
    # may not see what a thorough comparison found.
    raise CacheError(f"{cache.folder}: {complaint}", mend="--repair" if found.removed or thorough else "")
